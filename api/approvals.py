"""Holds what a client approves against what the model asked: a call that the model did not make never runs.

Owns the comparison, and which approvals of a context still count. A client may send a question back itself,
in place of its id, and items of a conversation are the client's to write, so neither is believed. What was
asked is kept apart from the items, also for a response that is not stored (`shared/approvals.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from api.bodies.validation import spell
from api.context import read_outputs
from api.errors import ClientError, invalid_value
from api.offload import Offload
from shared.approvals import approved_in, find_difference, fingerprint
from shared.input_items import AskedItem, InputMcpApprovalRequest, McpApprovalResponse
from shared.responses import McpApprovalRequest, ResponseRequest
from shared.settings import Settings
from shared.store.redis.client import RedisClient
from shared.store.tools.approvals import read_asked

Questions = Mapping[str, str | None]
"""Id -> the fingerprint of the question that was asked under it, None if there is none."""

_UNKNOWN = "nothing was asked under this id, or longer ago than responses are kept"
_CHANGED = "it is not what was asked"


@dataclass(frozen=True, slots=True)
class Unread:
    """The ids of approved questions of which it has not been read whether they were asked."""

    ids: Sequence[str]


async def read_questions(
    redis: RedisClient, offload: Offload, settings: Settings, tenant: str, ids: Sequence[str]
) -> Questions:
    """Returns what was asked under each id. Raises ClientError if too much would have to be read."""
    kept: dict[str, str | None] = dict(await read_asked(redis, tenant, ids))
    if missing := [id_ for id_, found in kept.items() if found is None]:
        # A version before this one left nothing apart from the response's record. Goes when none is kept.
        found = await read_outputs(redis, offload, settings, tenant, missing)
        kept |= {id_: _fingerprint_of(id_, item) for id_, item in found.items()}
    return kept


def _fingerprint_of(id_: str, item: bytes) -> str | None:
    try:
        return fingerprint(id_, msgspec.json.decode(item, type=McpApprovalRequest))
    except msgspec.ValidationError:  # an item of another type
        return None


def confirm(
    request: ResponseRequest, sent: Sequence[AskedItem], asked: Questions
) -> ResponseRequest | Unread:
    """Returns the request with the approvals that count, or which questions are to be read first.

    `sent`: the items of the call as its client sent them. Raises ClientError if it approves now what was not
    asked. What it said so before, of a call that was not made, counts no more.
    """
    approved = approved_in([*request.context, *request.input])
    if unread := [id_ for id_ in approved if id_ not in asked]:
        return Unread(unread)
    given_now = {item.approval_request_id for item in sent if isinstance(item, McpApprovalResponse)}
    counting: list[str] = []
    for id_, question in approved.items():
        kept = asked[id_]
        changed = find_difference(id_, question, kept) if kept is not None else "id"
        if changed is None:
            counting.append(id_)
        elif id_ in given_now:
            raise _refusal(sent, id_, changed)
    return msgspec.structs.replace(request, approved=counting)


def _refusal(sent: Sequence[AskedItem], id_: str, changed: str) -> ClientError:
    """Names the member of the question that was changed; if the question was not sent, its answer."""
    reason = _UNKNOWN if changed == "id" else _CHANGED
    answer = ""
    for index, item in enumerate(sent):
        if isinstance(item, InputMcpApprovalRequest) and item.id == id_:
            return invalid_value(spell(("input", index, changed)), reason)
        if isinstance(item, McpApprovalResponse) and item.approval_request_id == id_:
            answer = spell(("input", index, "approval_request_id"))
    return invalid_value(answer, reason)
