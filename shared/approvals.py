"""What the model asked to be approved, and which of it a client has approved.

Pure. Owns what makes a question: the tool that is called and its arguments. The end of a response leaves that
for `api/approvals.py`, which compares it with what a client sends.
"""

import hashlib
from collections.abc import Sequence

import msgspec

from shared.hosted_tools import HostedToolCall
from shared.input_items import InputItem, InputMcpApprovalRequest, InputMcpCall, McpApprovalResponse
from shared.responses import McpApprovalRequest

_MEMBERS = ("server_label", "name", "arguments")


Question = McpApprovalRequest | InputMcpApprovalRequest
"""A request for approval, as an item of an output or of an input."""


def approved_in(items: Sequence[InputItem]) -> dict[str, InputMcpApprovalRequest]:
    """Returns the questions that a client has approved and that have no call yet, by id.

    Each is listed once even if it was answered several times, as in a conversation; the last answer counts.
    """
    requests = {item.id: item for item in items if isinstance(item, InputMcpApprovalRequest)}
    done = {item.approval_request_id for item in items if isinstance(item, InputMcpCall | HostedToolCall)}
    answers = {
        item.approval_request_id: item.approve for item in items if isinstance(item, McpApprovalResponse)
    }
    return {
        request_id: request
        for request_id, is_approved in answers.items()
        if is_approved and (request := requests.get(request_id)) and request_id not in done
    }


def fingerprint(request_id: str, question: Question) -> str:
    """Returns a digest of each member of a question, from which nothing can be guessed without its id."""
    return " ".join(_digest(request_id, name, str(getattr(question, name))) for name in _MEMBERS)


def find_difference(request_id: str, question: Question, kept: str) -> str | None:
    """Returns the first member that is not what was asked, or None. `kept`: the fingerprint of that."""
    digests = zip(_MEMBERS, fingerprint(request_id, question).split(), kept.split(), strict=True)
    return next((name for name, given, asked in digests if given != asked), None)


def _digest(request_id: str, name: str, text: str) -> str:
    said = _canonical(text) if name == "arguments" else text
    hashed = hashlib.sha256("\0".join((request_id, name, said)).encode("utf-8", "replace"))
    return hashed.hexdigest()[:32]


def _canonical(arguments: str) -> str:
    """Returns arguments without what makes no difference to the tool: blanks, and the order of members."""
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return arguments
    return msgspec.json.encode(value, order="deterministic").decode()
