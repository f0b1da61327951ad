"""Scenes and their turns, and the choice of the turn that answers a prompt.

Owns the choice; knows nothing of files, tokens or time.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain, islice

from worker.engines.scripted.prompt import ParsedPrompt, Tool, ToolKind
from worker.engines.scripted.text import ScriptText, Template, Values, count_in

MATCHED_CHARS_MAX = 8_000
"""Patterns see only this much of the user's message, so that no message can keep them busy for long."""
_OCCURRENCES_MAX = 50


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast tokens are generated. `tokens_per_s` 0 means as fast as they are read.

    If `step_s` is not 0, it is used instead: at each step, all generations get their next chunk together.
    """

    tokens_per_s: float = 0.0
    first_token_s: float = 0.0
    chunk_tokens: int = 1
    step_s: float = 0.0


@dataclass(frozen=True, slots=True)
class JsonTemplate:
    """Arguments as a JSON tree whose strings are templates."""

    tree: object


@dataclass(frozen=True, slots=True)
class Filled:
    """Arguments filled in by the names of the tool's parameters: name pattern -> value."""

    values: tuple[tuple[re.Pattern[str], Template], ...]


@dataclass(frozen=True, slots=True)
class ScriptedCall:
    """A call. `content`: what the tool receives: code or JSON as text, or a tree that becomes JSON."""

    tool: Template
    content: Template | JsonTemplate | Filled


@dataclass(frozen=True, slots=True)
class Raw:
    """Token ids and texts, verbatim; a stop token is added if the last part is not one."""

    parts: tuple[int | Template, ...]


ONCE = Template(("1",))


@dataclass(frozen=True, slots=True)
class ScriptedTurn:
    """What is said up to the next stop token, in the order of the fields; repeated `times` in a row."""

    analysis: ScriptText | None = None
    commentary: ScriptText | None = None
    calls: tuple[ScriptedCall, ...] = ()
    final: ScriptText | None = None
    raw: Raw | None = None
    times: Template = ONCE

    @property
    def names(self) -> frozenset[str]:
        """The names of the values in its texts."""
        texts = (self.analysis, self.commentary, self.final)
        return frozenset(chain.from_iterable(text.names for text in texts if text is not None))


@dataclass(frozen=True, slots=True)
class OnError:
    """The turn that answers a tool result matching `pattern`."""

    pattern: re.Pattern[str]
    turn: ScriptedTurn


@dataclass(frozen=True, slots=True)
class OfferCondition:
    """Holds if a tool of this kind is offered whose name matches one of the globs."""

    kind: ToolKind
    globs: tuple[Template, ...]

    def find(self, tools: tuple[Tool, ...], values: Values) -> Tool | None:
        """Returns the first matching tool, or None."""
        globs = [glob.expand(values).lower() for glob in self.globs]
        for tool in tools:
            name = tool.name if tool.kind == "function" else tool.recipient
            if tool.kind == self.kind and any(fnmatchcase(name.lower(), glob) for glob in globs):
                return tool
        return None


@dataclass(frozen=True, slots=True)
class Scene:
    """Plays if one of `patterns` is found in the message, or there are none, and if `when` holds."""

    name: str
    patterns: tuple[re.Pattern[str], ...]
    when: OfferCondition | None
    turns: tuple[ScriptedTurn, ...]
    on_error: OnError | None
    pace: Pace


@dataclass(frozen=True, slots=True)
class Cue:
    """What to say now: the turn, the values of its names, and the tool it may call."""

    scene: Scene
    turn: ScriptedTurn
    values: Values
    tool: Tool | None


def find_cue(scenes: tuple[Scene, ...], prompt: ParsedPrompt) -> Cue:
    """Returns the turn of the first scene that matches; the number of results selects its turn."""
    for scene in scenes:
        for groups in _occurrences(scene, prompt.user_text[:MATCHED_CHARS_MAX]):
            tool = scene.when.find(prompt.tools, groups) if scene.when else None
            if tool or not scene.when:
                values = {**groups, **_values_of(prompt, tool)}
                turn = _turn_of(scene, prompt, values)
                if "conversation" in turn.names:  # it takes a while to read
                    values["conversation"] = prompt.conversation()
                return Cue(scene, turn, values, tool)
    raise LookupError("no scene matches, although the last one should match every prompt")


def _occurrences(scene: Scene, text: str) -> Iterator[Mapping[str, str]]:
    """Yields the groups of each match of a pattern; the condition chooses among them."""
    if not scene.patterns:
        yield {}
    for pattern in scene.patterns:
        for found in islice(pattern.finditer(text), _OCCURRENCES_MAX):
            yield found.groupdict(default="")


def _values_of(prompt: ParsedPrompt, tool: Tool | None) -> dict[str, str]:
    values = {
        "message": prompt.user_text,
        "results": str(len(prompt.results)),
        "tools": ", ".join(offered.recipient for offered in prompt.tools) or "none",
    }
    if tool:
        values |= {"tool": tool.recipient, "tool_name": tool.name}
    for number, result in enumerate(prompt.results, start=1):
        values |= {f"result_{number}": result.text, "result": result.text, "result_from": result.author}
    return values


def _turn_of(scene: Scene, prompt: ParsedPrompt, values: Values) -> ScriptedTurn:
    """Returns the turn for the number of results; the last turn also answers any further ones. A turn with
    several calls has as many results."""
    results = prompt.results
    if results and scene.on_error and scene.on_error.pattern.search(results[-1].text[:MATCHED_CHARS_MAX]):
        return scene.on_error.turn
    played = 0
    for turn in scene.turns[:-1]:
        played += count_in(turn.times.expand(values)) * max(1, len(turn.calls))
        if len(results) < played:
            return turn
    return scene.turns[-1]
