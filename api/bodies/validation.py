"""Checks values against pydantic and msgspec types, and names the first invalid field.

Owns the translation of their errors into the client's `param` and message; knows no field of any request.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import inspect
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from api.errors import (
    ClientError,
    invalid_type,
    invalid_value,
    missing_parameter,
    mistyped_value,
    out_of_bounds,
    shorten,
    too_long,
    unknown_parameter,
    unmatched_pattern,
    unsupported_value,
)

Path = tuple[str | int, ...]
"""The place of a value in the body: `("input", 0, "content")`."""

_PARAM_LENGTH_MAX = 200


class Shape(BaseModel):
    """The rules for a JSON object. Types are not converted; unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)


class ClosedShape(Shape):
    """The rules for a JSON object that may have no other members: an unknown one is refused by name, unless
    it is null, which asks for nothing."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _keep_one_unknown(cls, value: object) -> object:
        """Leaves at most one member to be refused: reporting a million of them would block the process."""
        if not isinstance(value, dict):
            return value
        known = {field.alias or name for name, field in cls.model_fields.items()}
        kept = {name: member for name, member in value.items() if name in known}
        unknown = (name for name, member in value.items() if name not in known and member is not None)
        return {**kept, **{name: value[name] for name in islice(unknown, 1)}}


NAME_PATTERN = r"^[A-Za-z0-9_-]{1,128}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""A function's name, which becomes part of a Harmony recipient, and so must not end a header."""

LABEL_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
Label = Annotated[str, Field(pattern=LABEL_PATTERN)]
"""An MCP server's label: a Harmony namespace."""

S = TypeVar("S", bound=Shape)
T = TypeVar("T")

Checked = Annotated[list[T], Field(fail_fast=True)]
"""A list that is checked only up to its first invalid entry: collecting a million errors would block the
process for half a minute. Every list whose entries are checked is one of these."""


def at_most(length_max: int) -> BeforeValidator:
    """Limits a mapping, so that one that is too long is refused before its entries are checked."""

    def check_number(value: object) -> object:
        if isinstance(value, dict) and len(value) > length_max:
            raise PydanticCustomError(
                "object_above_max_properties",
                f"too many properties. Expected an object with at most {length_max} properties, "
                f"but got an object with {len(value)} properties instead",
            )
        return value

    return BeforeValidator(check_number)


_Key = Annotated[str, Field(max_length=64)]
_Value = Annotated[str, Field(max_length=512)]

Metadata = Annotated[dict[_Key, _Value], at_most(16)]
"""A client's own notes on an object."""


def spell(path: Path) -> str:
    """Returns a path as text: `("input", 0, "content")` -> `input[0].content`."""
    text = ""
    for step in path:
        match step:
            case int():
                text += f"[{step}]"
            case _:
                text += f".{step}" if text else step
    return text[:_PARAM_LENGTH_MAX]


def check(shape: type[S], value: object, path: Path = ()) -> S:
    """Returns the value as `shape`. Raises ClientError naming the first invalid field below `path`."""
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise _complaint(error, path) from None


def check_object(value: object, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid_type(spell(path), "an object", value)
    return value


def check_list(value: object, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise invalid_type(spell(path), "an array", value)
    return value


def check_length(value: object, length_max: int, path: Path) -> None:
    """Raises ClientError, in the hosted API's wording, for a list that is too long, whatever its members."""
    if isinstance(value, list) and len(value) > length_max:
        raise too_long(spell(path), "array", len(value), length_max)


def check_kind(shapes: Mapping[str, type[Shape]], value: object, path: Path) -> dict[str, Any]:
    """Returns an object unchanged.

    Raises ClientError unless its `type` is a key of `shapes` and it has that shape.
    """
    item = check_object(value, path)
    check(shapes[check_type(frozenset(shapes), item, path)], item, path)
    return item


def check_type(types: frozenset[str], item: Mapping[str, Any], path: Path) -> str:
    """Returns the object's `type`. Raises ClientError unless it is one of `types`."""
    match item.get("type"):
        case None:
            raise missing_parameter(spell((*path, "type")))
        case str(kind) if kind in types:
            return kind
        case kind:
            raise unsupported_value(spell((*path, "type")), kind, sorted(types))


def parse(kind: type[T], value: object, path: Path) -> T:
    """Returns the value as a msgspec type. Raises ClientError naming the first invalid field below `path`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), kind, value, path) from None


_REFUSED = re.compile(r"(?P<reason>.*?)(?: - at `\$(?P<place>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")
_BELOW_OR_ABOVE = re.compile(r"Expected `(?:int|float)` (?P<sign>[<>]=) (?P<bound>\S+)")
_TOO_LONG = re.compile(r"Expected `(?P<kind>str|array)` of length <= (?P<length_max>[0-9]+)")
_UNMATCHED = re.compile(r"Expected `str` matching regex '(?P<pattern>.*)'", re.DOTALL)
_LIMITED = re.compile(r"Expected `(?P<kind>\w+)` (?P<limit>.*)", re.DOTALL)
_MISTYPED = re.compile(r"Expected `(?P<expected>.*)`, got `(?P<got>.*)`")
_STEP = re.compile(r"\[(?P<index>[0-9]+)\]|\.?(?P<name>[^.\[]+)")
_KINDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a decimal number",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
"""msgspec's names of types -> the hosted API's."""


def _refusal(text: str, kind: object, value: object, path: Path) -> ClientError:
    """Returns msgspec's error in the hosted API's wording, which repeats a value only if that is a number out
    of bounds, or none of a list."""
    refused = _REFUSED.fullmatch(text)
    assert refused is not None
    place = _read_steps(refused["place"] or "")
    param = spell((*path, *place))
    reason = refused["reason"]
    if missing := _MISSING.fullmatch(reason):
        return missing_parameter(spell((*path, *place, missing["name"])))
    mistyped = _MISTYPED.fullmatch(reason)
    if mistyped and place[-1:] == ("type",) and mistyped["got"] == "NoneType":
        return missing_parameter(param)
    if bounded := _BELOW_OR_ABOVE.fullmatch(reason):
        bound = float(bounded["bound"]) if "." in bounded["bound"] else int(bounded["bound"])
        bounds = {"least" if bounded["sign"] == ">=" else "most": bound}
        return out_of_bounds(param, _value_at(value, place), **bounds)
    if too_long_by := _TOO_LONG.fullmatch(reason):
        sent, name = _value_at(value, place), _KINDS[too_long_by["kind"]].split()[-1]
        assert isinstance(sent, str | list)
        return too_long(param, name, len(sent), int(too_long_by["length_max"]))
    if unmatched := _UNMATCHED.fullmatch(reason):
        return unmatched_pattern(param, unmatched["pattern"])
    if limited := _LIMITED.fullmatch(reason):
        kind_of_value = _KINDS.get(limited["kind"], limited["kind"])
        return invalid_value(param, f"it should be {kind_of_value} {limited['limit']}")
    if values := _values_at(kind, place):
        return unsupported_value(param, _value_at(value, place), values)
    if mistyped is None:
        return invalid_value(param, "it is out of range")
    kinds = [_KINDS.get(kind, kind) for kind in mistyped["expected"].split(" | ") if kind != "null"]
    return mistyped_value(param, " or ".join(kinds), _KINDS.get(mistyped["got"], "something else"))


def _read_steps(text: str) -> Path:
    """`.content[0].type` -> `("content", 0, "type")`; the inverse of `spell`."""
    return tuple(int(step["index"]) if step["index"] else step["name"] for step in _STEP.finditer(text))


def _value_at(value: Any, place: Path) -> object:
    for step in place:
        value = value[step]
    return value


def _values_at(kind: object, place: Path) -> list[str]:
    """Returns the closed list of values that a type allows at a place within it; empty if there is none."""
    types = _alternatives(inspect.type_info(kind))
    for step in place:
        types = [inner for outer in types for inner in _types_within(outer, step)]
    literals = (inner for inner in types if isinstance(inner, inspect.LiteralType))
    return sorted({str(value) for inner in literals for value in inner.values})


def _types_within(outer: inspect.Type, step: str | int) -> list[inspect.Type]:
    match outer:
        case inspect.ListType(item_type=inner):
            return _alternatives(inner)
        case inspect.StructType(tag_field=tag_field, tag=tag) if step == tag_field:
            return [inspect.LiteralType((tag,))]
        case inspect.StructType(fields=fields):
            named = (field.type for field in fields if field.encode_name == step)
            return [inner for outer in named for inner in _alternatives(outer)]
        case _:
            return []


def _alternatives(kind: inspect.Type) -> list[inspect.Type]:
    return list(kind.types) if isinstance(kind, inspect.UnionType) else [kind]


def first_of(refusals: Sequence[ClientError], value: object, path: Path) -> ClientError:
    """Returns the error of the field that comes first in `value` as sent. `path`: the place of `value`.

    Within an object, its `type` comes first, because that decides what the rest should be, and then missing
    fields.
    """
    begin = len(spell(path))
    return min(refusals, key=lambda refusal: _order(_read_steps((refusal.param or "")[begin:]), value))


def _order(place: Path, value: Any) -> list[int]:
    """Returns a key that sorts places in `value` in the order in which they were sent."""
    order: list[int] = []
    for step in place:
        is_there = step in value if isinstance(value, dict) else isinstance(value, list)
        if step == "type":
            order.append(-2)
        elif not is_there:
            order.append(-1)
        else:
            order.append(step if isinstance(step, int) else list(value).index(step))
        value = value[step] if is_there else None
    return order


_QUOTED = re.compile(r"'([^']*)'")
_EXPECTED = {
    "int_type": "an integer",
    "float_type": "a decimal number",
    "string_type": "a string",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
}


def _complaint(error: ValidationError, path: Path) -> ClientError:
    """Returns pydantic's error for the client.

    Of what was sent it repeats numbers that are out of bounds, what is none of a list of values, and names:
    the rest may be secret.
    """
    first = error.errors(include_url=False)[0]
    kind, bounds, sent = first["type"], first.get("ctx", {}), first["input"]
    param = spell((*path, *(step for step in first["loc"] if step != "[key]")))
    if kind == "missing":
        return missing_parameter(param)
    if kind == "extra_forbidden":
        return unknown_parameter(param)
    if kind in _EXPECTED:
        return invalid_type(param, _EXPECTED[kind], sent)
    if kind == "greater_than_equal":
        return out_of_bounds(param, sent, least=bounds["ge"])
    if kind == "less_than_equal":
        return out_of_bounds(param, sent, most=bounds["le"])
    if kind == "literal_error":
        return unsupported_value(param, sent, _QUOTED.findall(bounds["expected"]))
    if kind == "object_above_max_properties":
        return ClientError(400, f"Invalid '{param}': {first['msg']}.", kind, param)
    if kind == "string_too_long" and first["loc"][-1] == "[key]":
        return _name_too_long(spell((*path, *first["loc"][:-2])), sent, bounds["max_length"])
    if kind == "string_too_long":
        return too_long(param, "string", len(sent), bounds["max_length"])
    if kind == "too_long" and isinstance(sent, list):
        return too_long(param, "array", len(sent), bounds["max_length"])
    if kind == "string_pattern_mismatch":
        return unmatched_pattern(param, bounds["pattern"])
    return invalid_value(param, first["msg"][:1].lower() + first["msg"][1:])


def _name_too_long(owner: str, name: str, length_max: int) -> ClientError:
    """Reports the name of a member of the object `owner`."""
    message = (
        f"Invalid property name in '{owner}': '{shorten(name)}' is too long. Expected a string with maximum "
        f"length {length_max}, but got a string with length {len(name)} instead."
    )
    return ClientError(400, message, "property_name_above_max_length", f"{owner}.{shorten(name)}")
