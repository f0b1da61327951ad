"""The texts of a script: templates with filters, long texts generated piece by piece, and their tokens.

Knows nothing of scenes, prompts or files.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice, repeat

from worker.harmony.tokens import encode

Values = Mapping[str, str]
"""The values of the names in a template; a missing name has an empty value."""

TIMES_MAX = 1_000_000
_SHORT_CHARS = 500
_BRACES_TRIED_MAX = 16
_NUMBERS_PER_PIECE = 64

_FIELD = re.compile(r"\{\{(?P<literal>\w+)\}\}|\{(?P<name>[a-z_]\w*)(?P<filters>(?:\|\w+(?::[^|{}]*)?)*)\}")
_NUMBER = re.compile(r"[-+\N{MINUS SIGN}]?(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")

_DISPLAY = re.compile(r"\[([0-9]{1,9})\] ([^\n]*?)(?: \([^()\n]*\))?(?:\n|\Z)")


# --- filters ----------------------------------------------------------------------------------


def last_number(text: str) -> str:
    """Returns the last number in the text, as written, or the stripped text if it contains none."""
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else text.strip()


def plain_number(text: str) -> str:
    """Returns a typed number as a program writes it: `1,234` → `1234`, `007` → `7`, `.5` → `0.5`."""
    if not _NUMBER.fullmatch(text.strip()):
        return text
    digits = text.strip().replace(",", "").replace("\N{MINUS SIGN}", "-").lstrip("+")
    sign, unsigned = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    unsigned = unsigned.lstrip("0")
    return sign + (unsigned if unsigned[:1].isdigit() else "0" + unsigned)


def with_thousands(text: str) -> str:
    """Returns the last number in the text with separators: `56088\\n` → `56,088`. Calculates nothing."""
    number = last_number(text)
    if not re.fullmatch(r"[-+]?[0-9]+(\.[0-9]+)?", number):
        return number or "(no output)"
    whole, point, fraction = number.partition(".")
    return re.sub(r"(?<=[0-9])(?=(?:[0-9]{3})+$)", ",", whole) + point + fraction


def shorten(text: str) -> str:
    """Returns the text, stripped and cut to a maximum length."""
    stripped = text.strip()
    return stripped if len(stripped) <= _SHORT_CHARS else stripped[:_SHORT_CHARS] + " …"


def json_object_in(text: str) -> str:
    """Returns the first JSON object in the text, as written, or `{}` if there is none."""
    decoder = json.JSONDecoder()
    for begin in islice(re.finditer(r"\{", text), _BRACES_TRIED_MAX):
        try:
            _, end = decoder.raw_decode(text, begin.start())
        except (ValueError, RecursionError):
            continue
        return text[begin.start() : end]
    return "{}"


def list_facts(text: str) -> str:
    """Returns a JSON object as `name: value, name: value`, and any other text shortened."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return shorten(text)
    if not isinstance(value, dict):
        return shorten(text)
    facts = {name: fact if isinstance(fact, str) else json.dumps(fact) for name, fact in value.items()}
    return shorten(", ".join(f"{name}: {fact}" for name, fact in facts.items()))


def cursor_of(text: str) -> str:
    """Returns the cursor of a display of the browser: `[3] A page (…)` → `3`; -1 if the text is none."""
    found = _DISPLAY.match(text)
    return found[1] if found else "-1"


def page_of(text: str) -> str:
    """Returns the title in a display of the browser; the shortened text, if it is none."""
    found = _DISPLAY.match(text)
    return found[2] if found else shorten(text)


Filter = Callable[[str], str]

FILTERS: Mapping[str, Filter] = {
    "number": last_number,
    "plain": plain_number,
    "thousands": with_thousands,
    "short": shorten,
    "strip": str.strip,
    "lower": str.lower,
    "upper": str.upper,
    "title": str.title,
    "quoted": lambda text: "\n".join(f"> {line}" for line in text.splitlines()),
    "json": lambda text: json.dumps(text, ensure_ascii=False),
    "json_object": json_object_in,
    "facts": list_facts,
    "cursor": cursor_of,
    "page": page_of,
}


# --- templates --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Field:
    """`{name|filter|or:text}`: the value of the name, passed through the filters from left to right.

    `or:text` gives the text if the value is empty.
    """

    name: str
    filters: tuple[Filter, ...]

    def expand(self, values: Values) -> str:
        text = values.get(self.name, "")
        for change in self.filters:
            text = change(text)
        return text


@dataclass(frozen=True, slots=True)
class Template:
    """Text with fields. Braces without a name are ordinary text; `{{name}}` is the text `{name}`."""

    parts: tuple[str | Field, ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(part.name for part in self.parts if isinstance(part, Field))

    def expand(self, values: Values) -> str:
        return "".join(part if isinstance(part, str) else part.expand(values) for part in self.parts)

    def pieces(self, values: Values) -> Iterator[list[int]]:
        """Yields the text's tokens, encoded as a whole."""
        if text := self.expand(values):
            yield encode(text)


def parse_template(text: str) -> Template:
    """Parses a template. Raises ValueError for an unknown filter."""
    parts: list[str | Field] = []
    end = 0
    for found in _FIELD.finditer(text):
        parts.append(text[end : found.start()])
        parts.append(f"{{{found['literal']}}}" if found["literal"] else _field(found))
        end = found.end()
    return Template(tuple(part for part in (*parts, text[end:]) if part != ""))


def _field(found: re.Match[str]) -> Field:
    return Field(found["name"], tuple(map(_filter, found["filters"].split("|")[1:])))


def _filter(written: str) -> Filter:
    name, colon, argument = written.partition(":")
    if name == "or" and colon:
        return lambda text: text or argument
    if name not in FILTERS or colon:
        raise ValueError(f"no filter is called {written!r}; use or:TEXT, {', '.join(sorted(FILTERS))}")
    return FILTERS[name]


# --- long texts -------------------------------------------------------------------------------


def count_in(text: str) -> int:
    """Returns the integer in an expanded template, at most a million, or 0 if it is not one."""
    digits = plain_number(text)
    return min(int(digits), TIMES_MAX) if re.fullmatch(r"[0-9]{1,18}", digits) else 0


@dataclass(frozen=True, slots=True)
class RepeatedText:
    """`before`, then `unit` repeated `times` with `join` between, then `after`."""

    unit: Template
    times: Template
    join: Template
    before: Template
    after: Template

    @property
    def names(self) -> frozenset[str]:
        templates = (self.unit, self.times, self.join, self.before, self.after)
        return frozenset(chain.from_iterable(template.names for template in templates))

    def pieces(self, values: Values) -> Iterator[list[int]]:
        """Yields the tokens; the unit is encoded once and by itself."""
        yield from self.before.pieces(values)
        times, unit = count_in(self.times.expand(values)), self.unit.expand(values)
        if times > 0:
            yield encode(unit)
            yield from repeat(encode(self.join.expand(values) + unit), times - 1)
        yield from self.after.pieces(values)


@dataclass(frozen=True, slots=True)
class Counting:
    """The numbers from `first` to `last`, up or down, with `join` between."""

    first: Template
    last: Template
    join: Template
    before: Template
    after: Template

    @property
    def names(self) -> frozenset[str]:
        templates = (self.first, self.last, self.join, self.before, self.after)
        return frozenset(chain.from_iterable(template.names for template in templates))

    def pieces(self, values: Values) -> Iterator[list[int]]:
        """Yields the tokens of a few numbers at a time, so that a long count costs nothing in advance."""
        yield from self.before.pieces(values)
        first, last = count_in(self.first.expand(values)), count_in(self.last.expand(values))
        numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
        join = self.join.expand(values)
        for begin in range(0, len(numbers), _NUMBERS_PER_PIECE):
            text = join.join(map(str, numbers[begin : begin + _NUMBERS_PER_PIECE]))
            yield encode(join + text if begin else text)
        yield from self.after.pieces(values)


ScriptText = Template | RepeatedText | Counting
