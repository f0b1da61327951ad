"""Decodes a ResponseRequest from JSON, piece by piece. Pure.

Owns the division: a decoder's call holds the interpreter until it returns, in any thread, so no call decodes
more than one item or one tool. Their sizes were limited when the request was accepted.
"""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from shared.input_items import InputItem
from shared.responses import CompactionRules, Dialect, Response, ResponseRequest, SamplingOptions
from shared.trace_origin import TraceOrigin


class InPieces(msgspec.Struct, frozen=True, kw_only=True):
    """A ResponseRequest whose items and tools are not decoded yet."""

    response: Response
    input: list[msgspec.Raw]
    context: list[msgspec.Raw] = []
    tools: list[msgspec.Raw] = []
    enable_response_messages: bool = False
    include: list[str] = []
    sampling: SamplingOptions = SamplingOptions()
    dialect: Dialect = "openai"
    approved: list[str] | None = None
    compaction: CompactionRules | None = None
    sent: list[msgspec.Raw] = []
    trace: TraceOrigin | UnsetType = UNSET


_pieces = msgspec.json.Decoder(InPieces)
_item: msgspec.json.Decoder[InputItem] = msgspec.json.Decoder(InputItem)
_tool = msgspec.json.Decoder(dict[str, Any])


def decode_request(text: bytes | str) -> ResponseRequest:
    """Decodes a request. Raises msgspec.DecodeError."""
    pieces = _pieces.decode(text)
    fields = msgspec.structs.asdict(pieces)
    fields |= {
        "input": [_item.decode(each) for each in pieces.input],
        "context": [_item.decode(each) for each in pieces.context],
        "sent": [_item.decode(each) for each in pieces.sent],
        "tools": [_tool.decode(each) for each in pieces.tools],
    }
    return ResponseRequest(**fields)
