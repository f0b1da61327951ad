"""What is to be done about a call whose result has not come: wait, have it made again, or give it up.

Pure: it is told how far the call is, the time, and whether Redis has answered steadily. Looking, and doing
what comes of it, is `remote_tools`' business.
"""

from dataclasses import dataclass

from shared.responses import McpProtocolError
from shared.store.tools.tool_journal import CallState
from shared.tool_calls import ToolFailure, ToolResult

_GRACE_S = 5.0
"""A runner ends a call at `tool_timeout_s` itself; only past that and this is it given up here."""
TIMED_OUT, LOST = -32001, -32002


@dataclass(frozen=True, slots=True)
class Answered:
    result: ToolResult


@dataclass(frozen=True, slots=True)
class KeepWaiting:
    """Somebody is at the call, or it is not known that nobody is."""


@dataclass(frozen=True, slots=True)
class MakeAgain:
    """Nobody is at the call, and making it again does no harm."""

    lost_after_s: float
    """For how long its claim must have lapsed; see `tool_journal.retry`."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No result will come, or nobody knows whether the tool ran: that is the worker's own verdict."""

    failure: ToolFailure
    judged: str
    """The claim that was judged; see `tool_journal.settle`."""
    lost_after_s: float = 0.0


Outlook = Answered | KeepWaiting | MakeAgain | GiveUp


class CallPatience:
    """How long one call is waited for. A runner has all of `timeout_s`, from when it took the call."""

    def __init__(self, timeout_s: float, claim_ttl_s: float, *, is_repeatable: bool, now_s: float) -> None:
        self._timeout_s = timeout_s
        self._claim_ttl_s = claim_ttl_s
        self._is_repeatable = is_repeatable
        self._runner = ""
        self._deadline_s = now_s + timeout_s + _GRACE_S

    def excuse(self, away_s: float) -> None:
        """Redis was away this long: that is not the call's time."""
        self._deadline_s += away_s

    def judge(self, state: CallState, now_s: float, *, is_steady: bool) -> Outlook:
        """`is_steady`: Redis has answered this worker for as long as a claim lasts."""
        if state.result is not None:
            return Answered(state.result)
        if state.runner != self._runner:
            self._runner, self._deadline_s = state.runner, now_s + self._timeout_s + _GRACE_S
        if _is_lost(state, is_steady=is_steady):
            # What a runner has given back is lost at once.
            lost_after_s = 0.0 if state.standing in ("returned", "unbegun") else self._claim_ttl_s
            if self._is_repeatable or state.standing in ("unbegun", "unqueued"):
                return MakeAgain(lost_after_s)
            message = "the tool runner was lost; whether the tool ran is unknown"
            return GiveUp(_failure(LOST, message), state.claim, lost_after_s)
        if now_s > self._deadline_s:
            message = f"no result within {self._timeout_s:g} s"
            return GiveUp(_failure(TIMED_OUT, message), f"{self._runner} " if self._runner else "")
        return KeepWaiting()


def _is_lost(state: CallState, *, is_steady: bool) -> bool:
    """Whether nobody is at the call any more, though it is not done.

    A claim can lapse, and an intent, a claim or a job vanish, because Redis was away or another primary has
    taken over: then the runner lives, and says so as soon as it can. It is lost when it does not, although
    Redis has been there for a whole claim.
    """
    match state.standing:
        case "returned" | "unbegun":
            return True
        case "lapsed" | "unknown" | "unqueued":
            return is_steady and state.is_steady
        case "queued" | "running" | "answered":
            return False


def _failure(code: int, message: str) -> ToolFailure:
    return ToolFailure(McpProtocolError(code, message))
