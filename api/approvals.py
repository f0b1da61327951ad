"""Holds what a client approves against what the model asked: a call that the model did not make never runs.

Owns the comparison, and which approvals of a context still count. A client may send a question back itself,
in place of its id, and items of a conversation are the client's to write, so neither is believed. What was
asked is kept apart from the items, also for a response that is not stored (`shared/approvals.py`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from api.bodies.validation import spell
from api.context import read_outputs
from api.errors import ClientError, invalid_value
from api.offload import Offload
from shared.approvals import approved_in, find_difference, fingerprint
from shared.hosted_tools import HostedToolCall
from shared.input_items import AskedItem, InputMcpApprovalRequest, InputMcpCall, McpApprovalResponse
from shared.responses import McpApprovalRequest, ResponseRequest
from shared.settings import Settings
from shared.store.redis.client import RedisClient
from shared.store.tools.approvals import read_asked
from shared.turns import answers_in

Questions = Mapping[str, str | None]
"""Id -> the fingerprint of the question that was asked under it, None if there is none."""

_UNKNOWN = "nothing was asked under this id, or longer ago than responses are kept"
_CHANGED = "it is not what was asked"


@dataclass(frozen=True, slots=True)
class Unread:
    """The ids of approved questions of which it has not been read whether they were asked."""

    ids: Sequence[str]


def is_approval(item: AskedItem) -> bool:
    return isinstance(item, McpApprovalResponse) and item.approve


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
    asked. What was said to an earlier response, of a call that was not made, counts no more.
    """
    given = _given_to_it(request)
    approved = {
        id_: question
        for id_, question in approved_in([*request.context, *request.input]).items()
        if id_ in given
    }
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
    return msgspec.structs.replace(request, approved=_as_asked(request, counting))


def _as_asked(request: ResponseRequest, approved: Collection[str]) -> list[str]:
    """Returns the ids in the order in which the model asked, in which their calls are made."""
    asked = [
        item.id for item in (*request.context, *request.input) if isinstance(item, InputMcpApprovalRequest)
    ]
    return [id_ for id_ in dict.fromkeys(asked) if id_ and id_ in approved]


def _given_to_it(request: ResponseRequest) -> set[str]:
    """Returns the ids of the questions whose answers were given to this response, and to none before it.

    Those in the context of a previous response were given to that one, however it ended. Among the items of a
    conversation, or of the call itself, an answer has been read if an approved call, or the end of a turn,
    follows it. What a compaction stands for has been read.
    """
    own = request.sent or request.input
    items = own if not request.response.conversation else [*request.context, *own]
    made = [
        place
        for place, item in enumerate(items)
        if isinstance(item, InputMcpCall | HostedToolCall) and item.approval_request_id
    ]
    read = max([*made, *answers_in(items)], default=-1)
    return {item.approval_request_id for item in items[read + 1 :] if isinstance(item, McpApprovalResponse)}


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
