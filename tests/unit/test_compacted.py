"""The answer of the compact endpoint, made of the response that made the compaction."""

import base64

import msgspec
import pytest
from pydantic import SecretStr

from api.compacted import answer_of
from api.errors import ClientError
from shared.compaction import Compacted, read_compacted
from shared.frames import encode
from shared.responses import Compaction, ResponseError
from shared.sealing import COMPACTION, Seal
from tests.items import items_of
from tests.requests import make_request

KEYS = [SecretStr(base64.urlsafe_b64encode(bytes([n] * 32)).decode()) for n in (1, 2)]
SEAL = Seal(KEYS[:1], "acme", COMPACTION)
WHOLE = Compacted(
    "A summary.",
    kept=items_of([{"type": "message", "role": "user", "content": [], "id": "msg_1"}]),
    waiting=items_of(
        [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc_1"}]
    ),
    is_whole=True,
)


def ended(**fields: object) -> bytes:
    item = Compaction("cmp_1", SEAL.seal(WHOLE.encode()))
    response = make_request(status="completed", output=(item,)).response
    return encode(msgspec.structs.replace(response, **fields))


def test_messages_are_shown_and_the_item_stands_for_the_rest() -> None:
    answer = msgspec.json.decode(answer_of(ended(), SEAL))
    message, item = answer["output"]
    assert message["id"] == "msg_1"
    text = SEAL.open(item["encrypted_content"])
    assert text is not None
    rest = read_compacted(text)
    assert (rest.summary, rest.kept, rest.waiting, rest.is_whole) == ("A summary.", [], WHOLE.waiting, False)


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"status": "failed", "error": ResponseError("server_error", "It failed.")}, 500, "server_error"),
        ({"status": "failed", "error": ResponseError("invalid_prompt", "No.")}, 400, "invalid_prompt"),
        ({"status": "cancelled", "output": ()}, 400, "response_cancelled"),
    ],
)
def test_a_compaction_that_was_not_made_is_an_error(
    fields: dict[str, object], status: int, code: str
) -> None:
    with pytest.raises(ClientError) as refused:
        answer_of(ended(**fields), SEAL)
    assert (refused.value.status, refused.value.code) == (status, code)


def test_a_key_that_only_the_workers_have_is_a_fault_of_ours() -> None:
    with pytest.raises(ClientError) as refused:
        answer_of(ended(), Seal(KEYS[1:], "acme", COMPACTION))
    assert refused.value.status == 500
