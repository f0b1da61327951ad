"""Answers `POST /v1/responses/compact` from the response that made the compaction.

Pure. Owns the form of the answer: the messages that were kept, then one item for the rest. Source: the public
OpenAI types, `CompactedResponse`.
"""

from typing import Literal

import msgspec

from api.errors import ClientError
from shared.compaction import read_compacted
from shared.frames import encode
from shared.input_items import InputItem
from shared.responses import Compaction, Response, Usage
from shared.sealing import Seal

_STATUSES = {"rate_limit_exceeded": 429, "server_error": 500}
"""The status for each code of a response that failed; that of any other is 400."""


class CompactedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer as clients see it."""

    id: str
    object: Literal["response.compaction"] = "response.compaction"
    created_at: int
    output: tuple[InputItem | Compaction, ...]
    usage: Usage | None


def answer_of(snapshot: bytes, seal: Seal) -> bytes:
    """Returns JSON of the answer. `snapshot`: JSON of the response as it ended.

    What the response's own item holds is told apart: messages are shown as they are, and the item of the
    answer stands for what is not shown. Raises ClientError for a response that did not complete.
    """
    response = msgspec.json.decode(snapshot, type=Response)
    if response.status != "completed":
        raise _failure_of(response)
    (item,) = response.output
    assert isinstance(item, Compaction)
    text = seal.open(item.encrypted_content)
    if text is None:
        raise ClientError(500, "The compaction was sealed with a key that this node lacks.", "server_error")
    whole = read_compacted(text)
    rest = msgspec.structs.replace(whole, kept=[], instructions=0, is_whole=False)
    sealed = Compaction(item.id, seal.seal(rest.encode()))
    answer = CompactedResponse(
        id=response.id,
        created_at=response.created_at,
        output=(*whole.kept, sealed),
        usage=response.usage,
    )
    return encode(answer)


def _failure_of(response: Response) -> ClientError:
    if response.error is None:
        return ClientError(400, "The compaction was cancelled.", "response_cancelled")
    return ClientError(_STATUSES.get(response.error.code, 400), response.error.message, response.error.code)
