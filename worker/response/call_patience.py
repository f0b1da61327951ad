"""Decides what to do about a call that has no result yet: keep waiting, make it again, or give it up.

Pure: takes the call's state, the time, and whether Redis has answered steadily. `remote_tools.py` reads the
state and acts on the decision.
"""

from dataclasses import dataclass

from shared.responses import McpProtocolError
from shared.store.tools.tool_journal import CallState
from shared.tool_calls import ToolFailure, ToolResult

_GRACE_S = 5.0
"""A runner ends a call in time itself; the worker gives it up this much later."""
TIMED_OUT, LOST = -32001, -32002


@dataclass(frozen=True, slots=True)
class Answered:
    result: ToolResult


@dataclass(frozen=True, slots=True)
class KeepWaiting:
    """A runner has the call, or may still have it."""


@dataclass(frozen=True, slots=True)
class MakeAgain:
    """No runner has the call, and making it again does no harm."""

    lost_after_s: float
    """How long ago its claim must have lapsed; see `tool_journal.retry`."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The worker's verdict: no result will come, or whether the tool ran is unknown."""

    failure: ToolFailure
    judged: str
    """The claim that the verdict is about; see `tool_journal.resolve`."""
    lost_after_s: float = 0.0


Outlook = Answered | KeepWaiting | MakeAgain | GiveUp


class CallPatience:
    """Decides how long to wait for one call: `timeout_s` for a runner to claim it, and from then on
    `run_max_s`, within which the runner ends it, sooner if the server reports no progress."""

    def __init__(
        self, timeout_s: float, run_max_s: float, claim_ttl_s: float, *, is_repeatable: bool, now_s: float
    ) -> None:
        self._timeout_s = timeout_s
        self._run_max_s = run_max_s
        self._claim_ttl_s = claim_ttl_s
        self._is_repeatable = is_repeatable
        self._runner = ""
        self._deadline_s = now_s + timeout_s + _GRACE_S

    def excuse(self, away_s: float) -> None:
        """Extends the deadline by the time for which Redis was unavailable."""
        self._deadline_s += away_s

    def judge(self, state: CallState, now_s: float, *, is_steady: bool) -> Outlook:
        """Returns what to do now.

        `is_steady`: Redis has answered this worker for as long as a claim lasts.
        """
        if state.result is not None:
            return Answered(state.result)
        if state.runner != self._runner:
            self._runner, self._deadline_s = state.runner, now_s + self._patience_s(state.runner) + _GRACE_S
        if _is_lost(state, is_steady=is_steady):
            # A call that its runner has given back counts as lost at once.
            lost_after_s = 0.0 if state.standing in ("returned", "unbegun") else self._claim_ttl_s
            if self._is_repeatable or state.standing in ("unbegun", "unqueued"):
                return MakeAgain(lost_after_s)
            message = "the tool runner was lost; whether the tool ran is unknown"
            return GiveUp(_failure(LOST, message), state.claim, lost_after_s)
        if now_s > self._deadline_s:
            message = f"no result within {self._patience_s(self._runner):g} s"
            return GiveUp(_failure(TIMED_OUT, message), f"{self._runner} " if self._runner else "")
        return KeepWaiting()

    def _patience_s(self, runner: str) -> float:
        return self._run_max_s if runner else self._timeout_s


def _is_lost(state: CallState, *, is_steady: bool) -> bool:
    """Returns True if no runner has the call any more, although it is not done.

    An outage or a failover of Redis can let a claim lapse, or lose an intent, a claim or a job. The runner is
    alive then and renews as soon as it can, so the call counts as lost only if that has not happened after
    Redis has answered for the length of a claim.
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
