"""What a list shows of a response: everything about it except what it was asked and what it said.

Pure. Owns which fields those are, and how members of metadata are named in the index
(`shared/store/records/listed.lua`). The whole response is `Response` (`shared/responses.py`).
"""

import hashlib
from collections.abc import Mapping
from typing import Literal, Self

import msgspec
from msgspec import UNSET, UnsetType

from shared.responses import (
    ConversationReference,
    IncompleteDetails,
    Response,
    ResponseError,
    ResponseStatus,
    Usage,
)


class ResponseHead(msgspec.Struct, frozen=True, kw_only=True):
    """A response without its texts, items and tools, whose fields mean what they do there."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: ResponseStatus
    conversation: ConversationReference | None | UnsetType = UNSET
    completed_at: int | None = None
    background: bool = False
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    model: str
    previous_response_id: str | None = None
    usage: Usage | None = None
    metadata: dict[str, str] = {}

    @classmethod
    def of(cls, response: Response) -> Self:
        return cls(**{name: getattr(response, name) for name in cls.__struct_fields__})


def name_member(key: str, value: str) -> str:
    """Returns what stands for one member of metadata in the index."""
    return hashlib.sha256(f"{key}\0{value}".encode("utf-8", "replace")).hexdigest()[:32]


def name_members(metadata: Mapping[str, str]) -> str:
    """Returns what stands for all members, with blanks between them."""
    return " ".join(name_member(key, value) for key, value in metadata.items())
