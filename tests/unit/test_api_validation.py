"""What the API says of an item's field that breaks a bound: the reason, as for a tool's field."""

from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from api.bodies.validation import parse
from api.errors import ClientError


class Bounded(msgspec.Struct, frozen=True):
    whole: Annotated[int, Meta(ge=1, le=6)] = 1
    broken: Annotated[float, Meta(ge=0.5)] = 1.0
    many: list[Annotated[int, Meta(ge=1, le=6)]] = []
    short: Annotated[str, Meta(max_length=3)] = ""
    more: Annotated[float, Meta(gt=0)] = 1.0


@pytest.mark.parametrize(
    ("sent", "param", "code", "reason"),
    [
        ({"whole": 0}, "input[0].whole", "integer_below_min_value", "Expected a value >= 1, but got 0"),
        ({"whole": 7}, "input[0].whole", "integer_above_max_value", "Expected a value <= 6, but got 7"),
        ({"broken": 0.1}, "input[0].broken", "decimal_below_min_value", "Expected a value >= 0.5"),
        ({"many": [1, 9]}, "input[0].many[1]", "integer_above_max_value", "but got 9"),
        ({"short": "long"}, "input[0].short", "invalid_value", "it should be a string of length <= 3"),
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
