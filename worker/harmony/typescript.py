"""Writes JSON schemas as TypeScript types, in the form on which the model was trained. Pure.

Owns the types, and where their comments stand; `schema_notes.py` owns what comments say, and
`schema_references.py` what is written by its name. What the library's renderer says correctly has the
library's bytes, which tests compare; what it leaves out stands in the same places
(docs/adr/0037-the-whole-schema.md). The length and the time grow with the schema's, without recursion.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Union, assert_never

from worker.harmony import schema_notes
from worker.harmony.schema_notes import Line, Notes, comment_lines, literal, property_name
from worker.harmony.schema_parts import (
    Entered,
    Literals,
    Other,
    Own,
    TypePart,
    Variants,
    has_members,
    is_choice,
    optional,
    parts_of,
    types_of,
)
from worker.harmony.schema_references import References

Written = Iterator[Union[str, "Written"]]
"""Parts of a text, in order: strings, and iterators over the parts that stand in their place."""

_INDENT_MAX = 128
"""Deeper lines are not indented further, because each line would cost its depth."""
_FEW_CHARS_MAX = 100
_ANY: Mapping[str, Any] = {}


def join(text: Written) -> Iterator[str]:
    """Yields the strings of a text. Goes down into its parts without recursion, however deep they are."""
    open_parts = [text]
    while open_parts:
        for part in open_parts[-1]:
            if not isinstance(part, str):
                open_parts.append(part)
                break
            yield part
        else:
            open_parts.pop()


def write_parameters(name: str, schema: Any) -> Iterator[str]:
    """Yields the declaration of a tool with these parameters, after its description."""
    yield from join(_Writer(schema).declare(name, schema))


class _Writer:
    """Writes the types of one tool; what is referred to again is written once, and named there."""

    def __init__(self, root: Any) -> None:
        self._references = References(root)
        self._begun: set[int] = set()
        self._short: dict[int, Sequence[TypePart]] = {}
        """id() of a schema with a name -> its few literals, which are written again in place of the name."""
        self._is_comment = False

    def declare(self, name: str, schema: Any) -> Written:
        entered = self._enter(schema)
        nothing = entered.object is not None and not has_members(entered.object)
        if entered.name is None and not entered.is_nullable and (nothing or not entered.parts):
            for line in self._all_lines(entered.layers, entered.begins, _title_of(schema)):
                yield "\n"
                yield self._line(line, "")
            yield f"\ntype {name} = () => any;\n"
            return
        yield f"\ntype {name} = (_: "
        yield self._type(entered, "", unsaid=_title_of(schema))
        yield "\n" if entered.variants is not None else ""
        yield ") => any;\n"

    def _enter(self, schema: Any, inherited: Sequence[str] = ()) -> Entered:
        """Returns a schema with those for which it stands. To be written now: each name is given once.

        `inherited`: the types around it, for a schema that names none.
        """
        entered, begun = Entered(), list[int]()
        while True:
            if isinstance(schema, dict) and (name := self._references.names.get(id(schema))):
                if id(schema) in self._begun:
                    entered.parts = self._short.get(id(schema), ())
                    entered.name = None if entered.parts else name
                    return entered
                self._begun.add(id(schema))
                begun.append(id(schema))
                entered.begins.append(name)
            if not isinstance(schema, dict):
                types = ["never"] if schema is False else inherited
                entered.parts = [Own(_ANY, types, len(types) > 1)] if types else ()
                return entered
            entered.layers.append(schema)
            entered.is_nullable |= schema.get("nullable") is True
            parts = parts_of(schema, self._references.targets_of(schema), inherited)
            inherited = types_of(schema) or inherited
            if (inner := optional(parts)) is not None:
                entered.is_nullable = True
            elif len(parts) == 1 and isinstance(parts[0], Other):
                inner = parts[0].schema
            else:
                entered.parts = parts
                if _are_few_literals(parts) and not entered.is_nullable:
                    self._short.update(dict.fromkeys(begun, parts))
                    entered.begins = []
                return entered
            schema = inner

    # --- comments -------------------------------------------------------------------------------

    def _line(self, line: Line, indent: str) -> Written:
        """Yields a line of a comment, and more if a type takes more."""
        if isinstance(line, str):
            yield line
            return
        yield f"// {line.label}: "
        if self._is_comment:
            yield self._type(self._enter(line.schema), indent)
            return
        self._is_comment = True
        for text in join(self._type(self._enter(line.schema), "")):
            yield text.replace("\n", f"\n{indent}// ")
        self._is_comment = False

    def _above(self, lines: Iterable[Line], indent: str) -> Written:
        for line in lines:
            yield indent
            yield self._line(line, indent)
            yield "\n"

    def _after(self, lines: Iterable[Line], indent: str) -> Written:
        for place, line in enumerate(lines):
            yield f"\n{indent}" if place else " "
            yield self._line(line, indent)

    def _all_lines(
        self, layers: Iterable[Mapping[str, Any]], begins: Sequence[str], unsaid: str | None = None
    ) -> list[Line]:
        """Returns all that schemas at one place say besides the type.

        `begins`: the type's names. `unsaid`: a title to leave out.
        """
        notes = self._notes(layers, [*begins, *([unsaid] if unsaid is not None else ())])
        named = [f"// type {name}" for name in begins]
        return [*named, *notes.titles, *notes.descriptions, *notes.more, *notes.facts_line]

    def _notes(
        self,
        layers: Iterable[Mapping[str, Any]],
        said: Iterable[str] = (),
        *,
        are_defaults_quoted: bool = False,
    ) -> Notes:
        notes = Notes({"\n".join(comment_lines(title)) for title in said}, are_defaults_quoted)
        for schema in layers:
            notes.add(schema, followed=self._references.targets_of(schema))
        return notes

    # --- types ----------------------------------------------------------------------------------

    def _type(
        self, entered: Entered, indent: str, *, is_operand: bool = False, unsaid: str | None = None
    ) -> Written:
        """Yields a type with its comments before it. `is_operand`: it needs brackets if it is compound."""
        lines = self._all_lines(entered.layers, entered.begins, unsaid)
        if entered.object is not None:
            yield "(" if is_operand and entered.is_nullable else ""
            yield self._core(entered, indent, lines)
            yield ")" if is_operand and entered.is_nullable else ""
            return
        has_brackets = bool(lines) or (is_operand and entered.is_compound)
        if not has_brackets:
            yield self._core(entered, indent)
            return
        yield "("
        for line in lines:
            yield f"\n{indent}"
            yield self._line(line, indent)
        if lines and entered.variants is None:
            yield f"\n{indent}"
        yield self._core(entered, indent)
        yield f"\n{indent})" if lines or entered.variants is not None else ")"

    def _core(self, entered: Entered, indent: str, lead: Iterable[Line] = ()) -> Written:
        """Yields a type without comments, except those at the head of an object (`lead`)."""
        if entered.name is not None or not entered.parts:
            yield entered.name or "any"
        elif entered.variants is not None:
            yield self._variants(entered.variants, indent)
        else:
            for place, part in enumerate(entered.parts):
                yield " & " if place else ""
                yield self._part(part, indent, lead, is_operand=len(entered.parts) > 1)
        if entered.is_nullable and not entered.has_null:
            yield " | null" if entered.variants is None else f"\n{indent} | null"

    def _part(self, part: TypePart, indent: str, lead: Iterable[Line], *, is_operand: bool) -> Written:
        has_brackets = is_operand and is_choice(part)
        yield "(" if has_brackets else ""
        match part:
            case Literals(texts):
                for place, text in enumerate(texts):
                    yield f" | {text}" if place else text
            case Own(schema, types, is_list):
                for place, kind in enumerate(types):
                    yield " | " if place else ""
                    yield self._own(kind, schema, indent, lead, is_list=is_list)
            case Other(schema, types):
                yield self._type(self._enter(schema, types), indent, is_operand=True)
            case Variants():
                yield self._variants(part, indent)
                yield f"\n{indent}"
            case never:
                assert_never(never)
        yield ")" if has_brackets else ""

    def _own(
        self, kind: str, schema: Mapping[str, Any], indent: str, lead: Iterable[Line], *, is_list: bool
    ) -> Written:
        match kind:
            case "object" if is_list and not has_members(schema):
                yield "object"
            case "object":
                yield self._object(schema, indent, lead)
            case "array":
                yield self._array(schema, indent)
            case "number" | "integer":
                yield "number"
            case "string" | "boolean" | "null" | "never":
                yield kind
            case _:
                yield "any"

    def _array(self, schema: Mapping[str, Any], indent: str) -> Written:
        items, first = schema.get("items"), schema.get("prefixItems")
        if isinstance(items, list):  # a tuple of an earlier draft
            first, items = items, schema.get("additionalItems")
        if isinstance(first, list):
            yield "["
            for place, item in enumerate(first):
                yield ", " if place else ""
                yield self._type(self._enter(item), indent, is_operand=True)
            if items is not False and (items is not None or schema.get("maxItems") != len(first)):
                yield ", ..." if first else "..."
                yield self._type(self._enter(items), indent, is_operand=True)
                yield "[]"
            yield "]"
        elif "items" in schema:
            yield self._type(self._enter(items), indent, is_operand=True)
            yield "[]"
        else:
            yield "Array<any>"

    def _variants(self, variants: Variants, indent: str, own: Sequence[str] | None = None) -> Written:
        """Yields each variant on a line, with its comment behind it.

        `own`: the description of their property, which is said already, or None for no property.
        """
        for schema in variants.schemas:
            yield f"\n{indent} | "
            yield self._variant(self._enter(schema, variants.types), _deeper(indent, 3), own)

    def _variant(self, entered: Entered, indent: str, own: Sequence[str] | None) -> Written:
        layers, begins = entered.layers, [f"// type {name}" for name in entered.begins]
        lead: list[Line] = []
        if entered.object is not None and len(layers) > 1:
            lead, layers, begins = self._all_lines(layers[-1:], entered.begins), layers[:-1], []
        notes = self._notes(layers, entered.begins, are_defaults_quoted=own is None)
        if entered.object is not None and layers == entered.layers:
            lead, begins = [*begins, *notes.titles, *notes.descriptions, *notes.more], []
            notes.titles, notes.examples, notes.words = [], [], []
        yield self._core(entered, indent, lead)
        said = [*begins, *notes.titles, *(notes.descriptions if notes.descriptions != own else ())]
        if notes.facts:
            facts = ", ".join(notes.facts)
            said = [*said[:-1], f"{said[-1]} {facts}"] if said else [f"// {facts}"]
        yield self._after([*said, *notes.more], indent)

    # --- objects --------------------------------------------------------------------------------

    def _object(self, schema: Mapping[str, Any], indent: str, lead: Iterable[Line]) -> Written:
        yield self._above(lead, indent)
        yield "{\n"
        properties, required = schema.get("properties"), schema.get("required")
        named = properties if isinstance(properties, dict) else {}
        needed = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
        must = set(needed)
        for name, value in named.items():
            yield self._property(property_name(name) + ("" if name in must else "?"), value, indent)
        for name in dict.fromkeys(needed):
            if name not in named:
                yield f"{indent}{property_name(name)}: any,\n"
        patterns = schema.get("patternProperties")
        for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
            yield f"{indent}// names that match {literal(pattern)}\n"
            yield self._property("[key: string]", value, indent)
        others = schema.get("additionalProperties")
        if others is True or isinstance(others, dict):
            yield self._property("[key: string]", others, indent)
        yield indent + "}"

    def _property(self, name: str, schema: Any, indent: str) -> Written:
        """Yields a property with its comments above it, and its default behind it."""
        entered = self._enter(schema)
        layers, begins = entered.layers, [f"// type {name}" for name in entered.begins]
        lead: list[Line] = []
        if entered.object is not None and len(layers) > 1:
            lead, layers, begins = self._all_lines(layers[-1:], entered.begins), layers[:-1], []
        elif entered.object is not None:
            lead, begins = [*begins, *schema_notes.description_lines(entered.object)], []
        notes = self._notes(layers, entered.begins)
        yield self._above([*notes.titles, "//"] if notes.titles else [], indent)
        yield self._above(begins, indent)
        if entered.variants is not None:
            described: list[Line] = [*notes.examples, *notes.descriptions, *notes.words]
            yield self._above([*described, *notes.facts_line], indent)
            yield f"{indent}{name}:"
            yield self._variants(entered.variants, indent, notes.descriptions)
            yield f"\n{indent} | null" if entered.is_nullable and not entered.has_null else ""
            yield f"\n{indent},\n"
            return
        yield self._above([*notes.descriptions, *notes.more], indent)
        yield f"{indent}{name}: "
        yield self._core(entered, _deeper(indent, 4), lead)
        yield f", // {', '.join(notes.facts)}\n" if notes.facts else ",\n"


def _title_of(parameters: Any) -> str | None:
    """Returns the title of a tool's parameters, which is the tool's name in another form."""
    title = parameters.get("title") if isinstance(parameters, dict) else None
    return title if isinstance(title, str) else None


def _are_few_literals(parts: Sequence[TypePart]) -> bool:
    match parts:
        case [Literals(texts)]:
            return sum(map(len, texts)) <= _FEW_CHARS_MAX
        case _:
            return False


def _deeper(indent: str, by: int) -> str:
    return indent + " " * by if len(indent) < _INDENT_MAX else indent
