"""Says what the type of a JSON schema is made of: literals, types, other schemas, variants. Pure.

Owns how keywords apply together; `typescript.py` writes the parts, `schema_notes.py` what else a schema says.
Source: JSON Schema 2020-12, with the tuples of earlier drafts and OpenAPI's `nullable`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from worker.harmony.schema_notes import literal

_NULLS: tuple[Any, ...] = ({"type": "null"}, {"const": None}, {"enum": [None]})
_OF_OBJECTS = ("properties", "required", "patternProperties", "additionalProperties")
_OF_ARRAYS = ("items", "prefixItems")


@dataclass(frozen=True, slots=True)
class Literals:
    """Literals, of which the value is one."""

    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Own:
    """What the schema itself says of each type in its list."""

    schema: Mapping[str, Any]
    types: Sequence[str]
    is_list: bool


@dataclass(frozen=True, slots=True)
class Other:
    """Another schema that applies as well: a reference, or one of `allOf`."""

    schema: Any
    types: Sequence[str]
    """The types around it, for a schema that names none."""


@dataclass(frozen=True, slots=True)
class Variants:
    """Schemas of which one applies."""

    schemas: Sequence[Any]
    types: Sequence[str]
    """The types around them, for a schema that names none."""


TypePart = Literals | Own | Other | Variants


@dataclass(slots=True)
class Entered:
    """A schema at its place, with those for which it stands: a reference, one `allOf`, or an optional one."""

    layers: list[Mapping[str, Any]] = field(default_factory=list)
    """From the schema at this place to the one that says the type, if that has not been written before."""
    parts: Sequence[TypePart] = ()
    """All of which apply; none: anything."""
    name: str | None = None
    """The name of the type, if it has been written before."""
    begins: list[str] = field(default_factory=list)
    """The names by which the type is referred to later."""
    is_nullable: bool = False

    @property
    def object(self) -> Mapping[str, Any] | None:
        """The schema, if its type is that of an object and nothing else."""
        match self.parts:
            case [Own(schema, ["object"], is_list)] if not is_list or has_members(schema):
                return schema
            case _:
                return None

    @property
    def variants(self) -> Variants | None:
        """The variants, if there is nothing else."""
        match self.parts:
            case [Variants() as variants]:
                return variants
            case _:
                return None

    @property
    def is_compound(self) -> bool:
        """Whether the type needs brackets before `[]`."""
        return self.is_nullable or len(self.parts) > 1 or any(map(is_choice, self.parts))

    @property
    def has_null(self) -> bool:
        return any(map(_admits_null, self.parts))


def is_choice(part: TypePart) -> bool:
    match part:
        case Literals(texts):
            return len(texts) > 1
        case Own(types=types):
            return len(types) > 1
        case Variants():
            return True
        case Other():
            return False
        case never:
            assert_never(never)


def _admits_null(part: TypePart) -> bool:
    match part:
        case Literals(texts):
            return "null" in texts
        case Own(types=types):
            return "null" in types
        case Variants(schemas, _):
            return any(schema in _NULLS for schema in schemas)
        case Other():
            return False
        case never:
            assert_never(never)


def types_of(schema: Mapping[str, Any]) -> list[str]:
    kind = schema.get("type")
    return [name for name in (kind if isinstance(kind, list) else [kind]) if isinstance(name, str)]


def parts_of(
    schema: Mapping[str, Any], targets: Mapping[str, Any], inherited: Sequence[str]
) -> list[TypePart]:
    """Returns what a schema says of its type. `targets`: what each of its references means.

    `inherited`: the types of a schema around this one, for one that names none.
    """
    parts: list[TypePart] = []
    if "const" in schema:
        parts.append(Literals([literal(schema["const"])]))
    if isinstance(values := schema.get("enum"), list) and values:
        parts.append(Literals([literal(value) for value in values]))
    types, shape = types_of(schema), _shape_of(schema)
    others = [*_others_of(schema, targets, types or inherited)]
    if shape or (types and not parts and not others):
        parts.insert(0, Own(schema, types or shape, isinstance(schema.get("type"), list)))
    parts += others
    if not parts and inherited:
        parts.append(Own(schema, inherited, len(inherited) > 1))
    return parts


def _shape_of(schema: Mapping[str, Any]) -> list[str]:
    """Returns the types of which the schema says more than their name."""
    types = types_of(schema) or ["object", "array"]
    shape = []
    if "object" in types and has_members(schema):
        shape.append("object")
    if "array" in types and any(schema.get(keyword) is not None for keyword in _OF_ARRAYS):
        shape.append("array")
    return shape


def has_members(schema: Mapping[str, Any]) -> bool:
    named = any(schema.get(keyword) and schema[keyword] is not True for keyword in _OF_OBJECTS)
    return named or schema.get("additionalProperties") in (True, {})


def _others_of(
    schema: Mapping[str, Any], targets: Mapping[str, Any], types: Sequence[str]
) -> Iterator[TypePart]:
    yield from (Other(target, types) for target in targets.values())
    if isinstance(every := schema.get("allOf"), list):
        yield from (Other(one, types) for one in every)
    for keyword in ("anyOf", "oneOf"):
        variants = schema.get(keyword)
        if isinstance(variants, list) and variants:
            is_one = keyword == "anyOf" and len(variants) == 1
            yield Other(variants[0], types) if is_one else Variants(variants, types)


def optional(parts: Sequence[TypePart]) -> Any:
    """Returns the schema that the only part makes nullable, or None: `anyOf` of a schema and null."""
    match parts:
        case [Variants(schemas, _)]:
            others = [schema for schema in schemas if schema not in _NULLS]
            return others[0] if len(others) == 1 < len(schemas) else None
        case _:
            return None
