"""What the API says of a field that breaks a bound: the hosted API's code and sentence, whichever library
found it."""

from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta
from pydantic import Field

from api.bodies.validation import Checked, Metadata, Name, Shape, check, check_kind, parse
from api.errors import ClientError

TOO_LONG = "Expected a string with maximum length 3, but got a string with length 4 instead."
TOO_MANY = "Expected an array with maximum length 1, but got an array with length 2 instead."
PATTERN = "Expected a string that matches the pattern '^[a-z]+$'."


class Bounded(msgspec.Struct, frozen=True):
    whole: Annotated[int, Meta(ge=1, le=6)] = 1
    broken: Annotated[float, Meta(ge=0.5)] = 1.0
    many: list[Annotated[int, Meta(ge=1, le=6)]] = []
    short: Annotated[str, Meta(max_length=3)] = ""
    named: Annotated[str, Meta(pattern="^[a-z]+$")] = "a"
    few: Annotated[list[int], Meta(max_length=1)] = []
    more: Annotated[float, Meta(gt=0)] = 1.0


@pytest.mark.parametrize(
    ("sent", "param", "code", "reason"),
    [
        ({"whole": 0}, "input[0].whole", "integer_below_min_value", "Expected a value >= 1, but got 0"),
        ({"whole": 7}, "input[0].whole", "integer_above_max_value", "Expected a value <= 6, but got 7"),
        ({"broken": 0.1}, "input[0].broken", "decimal_below_min_value", "Expected a value >= 0.5"),
        ({"many": [1, 9]}, "input[0].many[1]", "integer_above_max_value", "but got 9"),
        ({"short": "long"}, "input[0].short", "string_above_max_length", f"string too long. {TOO_LONG}"),
        ({"named": "a b"}, "input[0].named", "invalid_value", f"string does not match pattern. {PATTERN}"),
        ({"few": [1, 2]}, "input[0].few", "array_above_max_length", f"array too long. {TOO_MANY}"),
        ({"more": 0.0}, "input[0].more", "invalid_value", "it should be a decimal number >"),
        ({"whole": 10**30}, "input[0].whole", None, ""),
    ],
)
def test_an_item_out_of_bounds_is_refused_with_the_bound(
    sent: dict[str, Any], param: str, code: str | None, reason: str
) -> None:
    with pytest.raises(ClientError) as refused:
        parse(Bounded, sent, ("input", 0))
    assert (refused.value.status, refused.value.param) == (400, param)
    assert code in (None, refused.value.code)
    assert reason in str(refused.value)


class Body(Shape):
    metadata: Metadata | None = None
    size: Literal["low", "medium", "high"] | None = None
    name: Name = "n"
    short: Annotated[str, Field(max_length=3)] = ""
    few: Annotated[Checked[int], Field(max_length=1)] | None = None


@pytest.mark.parametrize(
    ("sent", "param", "code", "said"),
    [
        (
            {"metadata": dict.fromkeys(map(str, range(17)), "v")},
            "metadata",
            "object_above_max_properties",
            "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, but got "
            "an object with 17 properties instead.",
        ),
        (
            {"metadata": {"k": "v" * 513}},
            "metadata.k",
            "string_above_max_length",
            "Invalid 'metadata.k': string too long. Expected a string with maximum length 512, but got a "
            "string with length 513 instead.",
        ),
        (
            {"metadata": {"k" * 65: "v"}},
            "metadata." + "k" * 65,
            "property_name_above_max_length",
            f"Invalid property name in 'metadata': '{'k' * 65}' is too long. Expected a string with maximum "
            "length 64, but got a string with length 65 instead.",
        ),
        (
            {"metadata": {"k" * 5_000: "v"}},
            "metadata." + "k" * 200 + "…",
            "property_name_above_max_length",
            f"Invalid property name in 'metadata': '{'k' * 200}…' is too long. Expected a string with "
            "maximum length 64, but got a string with length 5000 instead.",
        ),
        (
            {"size": "huge"},
            "size",
            "invalid_value",
            "Invalid value: 'huge'. Supported values are: 'low', 'medium', and 'high'.",
        ),
        (
            {"size": 5},
            "size",
            "invalid_type",
            "Invalid type for 'size': expected one of 'low', 'medium', or 'high', but got an integer "
            "instead.",
        ),
        (
            {"short": "long"},
            "short",
            "string_above_max_length",
            f"Invalid 'short': string too long. {TOO_LONG}",
        ),
        ({"few": [1, 2]}, "few", "array_above_max_length", f"Invalid 'few': array too long. {TOO_MANY}"),
        (
            {"name": "a b"},
            "name",
            "invalid_value",
            "Invalid 'name': string does not match pattern. Expected a string that matches the pattern "
            "'^[A-Za-z0-9_-]{1,128}$'.",
        ),
    ],
)
def test_a_field_of_a_body_is_refused_in_the_hosted_apis_words(
    sent: dict[str, Any], param: str, code: str, said: str
) -> None:
    with pytest.raises(ClientError) as refused:
        check(Body, sent)
    assert (refused.value.param, refused.value.code, str(refused.value)) == (param, code, said)


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("c", "invalid_value", "Invalid value: 'c'. Supported values are: 'a' and 'b'."),
        (
            5,
            "invalid_type",
            "Invalid type for 'type': expected one of 'a' or 'b', but got an integer instead.",
        ),
    ],
)
def test_an_unknown_type_is_refused_with_those_that_there_are(kind: object, code: str, said: str) -> None:
    with pytest.raises(ClientError) as refused:
        check_kind({"b": Body, "a": Body}, {"type": kind}, ())
    assert (refused.value.param, refused.value.code, str(refused.value)) == ("type", code, said)
