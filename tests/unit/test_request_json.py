"""A request decoded piece by piece equals the request that was encoded."""

import msgspec
import pytest

from shared.request_json import InPieces, decode_request
from shared.responses import ResponseRequest, SamplingOptions
from tests.items import items_of
from tests.requests import make_request


def test_a_request_is_read_as_it_was_written() -> None:
    request = msgspec.structs.replace(
        make_request("Hello", tools=[{"type": "function", "name": "f"}], instructions="Be brief."),
        context=items_of([{"type": "message", "role": "user", "content": "ก"}]),
        include=["a"],
        enable_response_messages=True,
        sampling=SamplingOptions(seed=7, logit_bias={5: 1.5}),
    )
    text = msgspec.json.encode(request)
    assert decode_request(text) == decode_request(text.decode()) == request


def test_no_field_of_a_request_is_left_out() -> None:
    assert InPieces.__struct_fields__ == ResponseRequest.__struct_fields__
    shortest = msgspec.json.encode({"response": make_request().response, "input": []})
    assert decode_request(shortest) == msgspec.json.decode(shortest, type=ResponseRequest)


@pytest.mark.parametrize("text", ["", "{}", '{"input": [1]}', '{"response": {}, "input": 1}', "[" * 100_000])
def test_what_is_no_request_is_refused(text: str) -> None:
    with pytest.raises((msgspec.DecodeError, RecursionError)):
        decode_request(text)
