"""Reads and checks a script from its TOML file. The format is described in docs/scripted_engine.md.

Every mistake in a file is a ScriptError that names the file, the scene and the key. Knows nothing of prompts
and tokens.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import msgspec

from worker.engines.scripted.prompt import ToolKind
from worker.engines.scripted.scene import (
    Filled,
    JsonTemplate,
    OfferCondition,
    OnError,
    Pace,
    Raw,
    Scene,
    ScriptedCall,
    ScriptedTurn,
)
from worker.engines.scripted.text import Counting, RepeatedText, ScriptText, Template, parse_template
from worker.harmony.tokens import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    ENDOFTEXT,
    MESSAGE,
    RETURN,
    START,
    STOP_TOKENS,
)

SHIPPED = Path(__file__).parent / "scripts" / "default.toml"

_VALUES = frozenset({"conversation", "message", "results", "tools"})
_TOOL_VALUES = frozenset({"tool", "tool_name"})
_RESULT = re.compile(r"result|result_from|result_[1-9][0-9]*")
_PATTERN_USE = re.compile(r"\(\?&(\w+)\)")
_RAW_MARK = re.compile(r"<\|(\w+)(?::([0-9]+))?\|>")
_MARKS = {
    "start": START,
    "end": END,
    "message": MESSAGE,
    "channel": CHANNEL,
    "constrain": CONSTRAIN,
    "return": RETURN,
    "call": CALL,
    "endoftext": ENDOFTEXT,
}
_TOKEN_ID_MAX = 201_087
"""The last id of the model's vocabulary."""


class ScriptError(ValueError):
    """The script is invalid; the message says where and why."""


# --- the file's shape -------------------------------------------------------------------------


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _PaceTable(_Table, frozen=True):
    tokens_per_s: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    first_token_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    chunk_tokens: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1
    step_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0


class _LongTextTable(_Table, frozen=True):
    repeat: str | None = None
    times: int | str = "1"
    count_to: int | str | None = None
    count_from: int | str = "1"
    join: str = ""
    before: str = ""
    after: str = ""


_TextValue = str | _LongTextTable


class _CallTable(_Table, frozen=True):
    tool: str
    code: str | None = None
    arguments: str | dict[str, Any] | None = None
    fill: Annotated[dict[str, str], msgspec.Meta(min_length=1)] | None = None


class _TurnTable(_Table, frozen=True):
    analysis: _TextValue | None = None
    commentary: _TextValue | None = None
    final: _TextValue | None = None
    call: _CallTable | Annotated[list[_CallTable], msgspec.Meta(min_length=1)] | None = None
    raw: str | None = None
    times: int | str = "1"


class _ErrorTable(_Table, frozen=True):
    match: str
    final: _TextValue
    analysis: _TextValue | None = None


class _WhenTable(_Table, frozen=True):
    function: str | list[str] | None = None
    mcp_tool: str | list[str] | None = None
    trained_tool: str | list[str] | None = None


class _SceneTable(_Table, frozen=True):
    name: str
    turn: Annotated[list[_TurnTable], msgspec.Meta(min_length=1)]
    match: str | list[str] = []
    when: _WhenTable | None = None
    pace: dict[str, Any] = {}
    error: _ErrorTable | None = None


class _FileTable(_Table, frozen=True):
    scene: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    pace: dict[str, Any] = {}
    patterns: dict[str, str] = {}
    error: _ErrorTable | None = None


# --- reading it -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Script:
    """The scenes of a script; the last one answers every message that no other scene answers."""

    scenes: tuple[Scene, ...]

    @staticmethod
    def load(path: Path | str | None = None) -> "Script":
        """Returns the script in the file; without a path, the one shipped. Raises ScriptError."""
        file = SHIPPED if path is None else Path(path)
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ScriptError(f"script {file} cannot be read: {error}") from error
        return Script.parse(text, name=str(file))

    @staticmethod
    def parse(text: str, *, name: str = "script") -> "Script":
        """Returns the script in a TOML text. `name`: what errors call it. Raises ScriptError."""
        try:
            return Script(_read_file(tomllib.loads(text)))
        except RecursionError as error:
            raise ScriptError(f"script {name}: it is nested too deeply") from error
        except (ValueError, OverflowError) as error:  # OverflowError: a pattern's repeat count is too large
            raise ScriptError(f"script {name}: {error}") from error


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Prefixes the message of an error raised inside with the place."""
    try:
        yield
    except (ValueError, re.error) as error:
        raise ValueError(f"{place}: {error}") from error


def _read_file(data: dict[str, Any]) -> tuple[Scene, ...]:
    file = msgspec.convert(data, _FileTable)
    with _at("[pace]"):
        msgspec.convert(file.pace, _PaceTable)
    patterns = _expand_patterns(file.patterns)
    scenes: list[Scene] = []
    for index, table in enumerate(file.scene):
        name = table.get("name", f"number {index + 1}")
        with _at(f"scene {name!r}"):
            scenes.append(_SceneReader(file, patterns, msgspec.convert(table, _SceneTable)).read())
    names = [scene.name for scene in scenes]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"scene {repeated!r}: the name is used twice")
    if scenes[-1].patterns or scenes[-1].when:
        raise ValueError(
            f"scene {scenes[-1].name!r}: the last scene answers every message that no other one does, "
            "so it must have no `match` and no `when`"
        )
    return tuple(scenes)


def _expand_patterns(written: Mapping[str, str]) -> dict[str, str]:
    """Expands the named patterns in order; each may use those above it."""
    patterns: dict[str, str] = {}
    for name, text in written.items():
        with _at(f"[patterns] `{name}`"):
            patterns[name] = _expand_pattern(text, patterns)
            re.compile(patterns[name])
    return patterns


def _expand_pattern(text: str, patterns: Mapping[str, str]) -> str:
    """Replaces each `(?&name)` with the pattern of that name."""

    def insert(use: re.Match[str]) -> str:
        if use[1] not in patterns:
            raise ValueError(f"there is no pattern {use[1]!r} in [patterns] above")
        return f"(?:{patterns[use[1]]})"

    return _PATTERN_USE.sub(insert, text)


class _SceneReader:
    """Turns one scene's table into a Scene, with the file's defaults."""

    def __init__(self, file: _FileTable, patterns: Mapping[str, str], scene: _SceneTable) -> None:
        self._file, self._named_patterns, self._scene = file, patterns, scene
        with _at("`match`"):
            written = [scene.match] if isinstance(scene.match, str) else scene.match
            self._patterns = tuple(self._pattern(text) for text in written)
        groups = frozenset(name for pattern in self._patterns for name in pattern.groupindex)
        if taken := sorted(
            name for name in groups if name in _VALUES | _TOOL_VALUES or _RESULT.fullmatch(name)
        ):
            raise ValueError(f"`match`: a group cannot be called {taken[0]!r}; that name is reserved")
        self._groups = groups
        self._names = groups | _VALUES | (_TOOL_VALUES if scene.when else frozenset())

    def read(self) -> Scene:
        scene = self._scene
        turns = tuple(self._numbered_turn(index, table) for index, table in enumerate(scene.turn))
        if turns[-1].calls or (turns[-1].raw and CALL in turns[-1].raw.parts):
            raise ValueError("the last turn calls a tool; add a turn that answers once the result is there")
        error = scene.error or self._file.error
        with _at("`error`"):
            on_error = self._on_error(error) if error else None
        with _at("`pace`"):
            pace = msgspec.convert({**self._file.pace, **scene.pace}, _PaceTable)
        return Scene(
            name=scene.name,
            patterns=self._patterns,
            when=self._offer(scene.when) if scene.when else None,
            turns=turns,
            on_error=on_error,
            pace=Pace(pace.tokens_per_s, pace.first_token_s, pace.chunk_tokens, pace.step_s),
        )

    def _pattern(self, text: str) -> re.Pattern[str]:
        return re.compile(_expand_pattern(text, self._named_patterns))

    def _offer(self, when: _WhenTable) -> OfferCondition:
        kinds: dict[ToolKind, str | list[str] | None]
        kinds = {"function": when.function, "mcp": when.mcp_tool, "trained": when.trained_tool}
        given = [(kind, globs) for kind, globs in kinds.items() if globs]
        with _at("`when`"):
            if len(given) != 1:
                raise ValueError("give exactly one of `function`, `mcp_tool` and `trained_tool`")
            kind, globs = given[0]
            written = [globs] if isinstance(globs, str) else globs
            return OfferCondition(kind, tuple(self._template(glob, self._groups) for glob in written))

    def _on_error(self, table: _ErrorTable) -> OnError:
        turn = ScriptedTurn(
            analysis=self._text("analysis", table.analysis), final=self._text("final", table.final)
        )
        return OnError(self._pattern(table.match), turn)

    def _numbered_turn(self, index: int, table: _TurnTable) -> ScriptedTurn:
        with _at(f"turn {index + 1}"):
            return self._turn(table)

    def _turn(self, table: _TurnTable) -> ScriptedTurn:
        spoken = (table.analysis, table.commentary, table.final, table.call)
        if table.raw is not None and any(said is not None for said in spoken):
            raise ValueError("`raw` stands alone in its turn")
        if table.final is not None and table.call:
            raise ValueError("a turn ends with `final` or with `call`, not with both")
        if table.raw is None and all(said is None for said in spoken):
            raise ValueError("says nothing; give `analysis`, `commentary`, `call`, `final` or `raw`")
        calls = table.call if isinstance(table.call, list) else [table.call] if table.call else []
        with _at("`times`"):
            times = self._template(str(table.times))
        return ScriptedTurn(
            analysis=self._text("analysis", table.analysis),
            commentary=self._text("commentary", table.commentary),
            calls=tuple(map(self._call, calls)),
            final=self._text("final", table.final),
            raw=self._raw(table.raw) if table.raw is not None else None,
            times=times,
        )

    def _text(self, key: str, written: _TextValue | None) -> ScriptText | None:
        with _at(f"`{key}`"):
            match written:
                case None:
                    return None
                case str():
                    return self._template(written)
                case _LongTextTable():
                    return self._long_text(written)

    def _long_text(self, table: _LongTextTable) -> ScriptText:
        join, before, after = map(self._template, (table.join, table.before, table.after))
        if (table.repeat is None) == (table.count_to is None):
            raise ValueError("give either `repeat` or `count_to`")
        if table.repeat is not None:
            return RepeatedText(
                self._template(table.repeat), self._template(str(table.times)), join, before, after
            )
        first, last = self._template(str(table.count_from)), self._template(str(table.count_to))
        return Counting(first, last, join, before, after)

    def _template(self, text: str, names: frozenset[str] | None = None) -> Template:
        template = parse_template(text)
        known = self._names if names is None else names
        unknown = sorted(n for n in template.names - known if names is not None or not _RESULT.fullmatch(n))
        if unknown:
            raise ValueError(
                f"nothing is called {{{unknown[0]}}} here; write {{{{{unknown[0]}}}}} for the text"
            )
        return template

    def _call(self, table: _CallTable) -> ScriptedCall:
        with _at("`call`"):
            given = [value for value in (table.code, table.arguments, table.fill) if value is not None]
            if len(given) != 1:
                raise ValueError("give exactly one of `code`, `arguments` and `fill`")
            tool = self._template(table.tool)
            match given[0]:
                case str(text):
                    return ScriptedCall(tool, self._template(text))
                case fill if table.fill is not None:
                    if self._scene.when is None:
                        raise ValueError("`fill` needs a `when`: it uses the parameters of that tool")
                    named = ((self._pattern(name), self._template(value)) for name, value in fill.items())
                    return ScriptedCall(tool, Filled(tuple(named)))
                case tree:
                    return ScriptedCall(tool, JsonTemplate(self._tree(tree)))

    def _tree(self, value: object) -> object:
        match value:
            case str():
                return self._template(value)
            case dict():
                return {name: self._tree(branch) for name, branch in value.items()}
            case list():
                return [self._tree(branch) for branch in value]
            case leaf:
                return leaf

    def _raw(self, text: str) -> Raw:
        with _at("`raw`"):
            parts: list[int | Template] = []
            end = 0
            for mark in _RAW_MARK.finditer(text):
                if written := text[end : mark.start()]:
                    parts.append(self._template(written))
                parts.append(_token_of(mark))
                end = mark.end()
            if text[end:]:
                parts.append(self._template(text[end:]))
            _check_raw(parts)
            return Raw(tuple(parts))


def _token_of(mark: re.Match[str]) -> int:
    name, number = mark[1], mark[2]
    if name == "id" and number is not None and int(number) <= _TOKEN_ID_MAX:
        return int(number)
    if name not in _MARKS or number is not None:
        known = ", ".join(f"<|{known}|>" for known in _MARKS)
        raise ValueError(f"{mark[0]} is no token; use {known} or <|id:N|> with N up to {_TOKEN_ID_MAX}")
    return _MARKS[name]


def _check_raw(parts: list[int | Template]) -> None:
    """Raises ValueError for what no engine could generate, or what would make the assistant pass for another
    author when the prompt is read back. Any other breach of the format is allowed."""
    if any(part in STOP_TOKENS for part in parts[:-1]):
        raise ValueError("nothing comes after a stop token: <|return|>, <|call|>, <|endoftext|>")
    for part, following in pairwise(parts):
        if part == START and not _is_assistants_header(following):
            raise ValueError("only the assistant speaks: write <|start|>assistant")


def _is_assistants_header(part: int | Template) -> bool:
    """Returns True if the part after `<|start|>` is the assistant's name, or a special token in its place."""
    if isinstance(part, int):
        return part in _MARKS.values()
    words = part.parts[0]
    is_whole = len(part.parts) == 1
    return isinstance(words, str) and (words.startswith("assistant ") or (is_whole and words == "assistant"))
