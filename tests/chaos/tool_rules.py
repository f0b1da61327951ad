"""The rules of tool calls: how often they may have been executed, and with what results. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from shared.hosted_tools import CodeInterpreterCall, WebSearchCall
from shared.responses import McpCall, McpListTools, McpProtocolError, Response
from shared.tool_calls import describe
from tests.chaos.history import Log
from tests.chaos.judging import CallHistory, Findings, Run
from tests.chaos.plans import KEPT, PLANS, REPEATABLE, TURN
from tests.chaos.reasons import span_of
from tool_runner.run_tool import NEW_SESSION

_MADE_HERE = (McpCall, McpListTools, CodeInterpreterCall, WebSearchCall)


def check_tools(history: CallHistory, log: Log, response: Response, run: Run) -> Findings:
    asked, counted = history.asked, run.store.counted
    lost = run.strikes.count(("tool_runner",), span_of(history.seen))
    calls = [item for item in response.output if isinstance(item, McpCall)]
    for number, tool in enumerate(PLANS[asked.plan].tools, start=1):
        count = counted.get(f"{asked.key}-{number}", 0)
        if count > 1 + (lost if tool in REPEATABLE else 0):
            yield "no call runs twice", f"{tool} {asked.key}-{number} was executed {count} times, {lost} lost"
    results = Counter(call.output for call in calls if call.output is not None)
    for output, times in results.items():
        if times > 1:
            yield "each result is there once", f"{output!r} is there {times} times"
    for call in calls:
        yield from _check_tool_call(call, counted, lost)
    yield from _check_sessions(history, calls, run.store.turns, lost)
    for item in response.output:
        if isinstance(item, McpListTools) and item.error:
            yield "what may be repeated succeeds", f"the listing failed: {item.error}"
        if isinstance(item, CodeInterpreterCall | WebSearchCall) and item.status == "failed":
            yield "what may be repeated succeeds", f"{item}"
    if response.status in ("completed", "incomplete"):
        yield from _check_journal(log, response)


def _check_tool_call(call: McpCall, counted: Mapping[str, int], lost: int) -> Findings:
    """Checks executions. `lost`: the number of strikes on tool runners while the client waited."""
    key = str(msgspec.json.decode(call.arguments).get("key")) if call.arguments.endswith("}") else ""
    times = counted.get(key, 0)
    if call.status == "completed" and (times < 1 or (times > 1 and call.name not in REPEATABLE)):
        yield "a result has its call", f"{key} has a result, and was executed {times} times"
    if call.status != "failed" or call.error is None:
        return
    why = describe(call.error)
    if call.name in REPEATABLE:
        yield "what may be repeated succeeds", f"{call.name}: {why}"
    elif not isinstance(call.error, McpProtocolError) or "unknown" not in call.error.message:
        yield "a failed call says why", f"{call.name}: {why}"
    elif not lost:
        yield "an unknown outcome has its cause", f"{call.name}: {why}; no tool runner was harmed"


def _check_sessions(
    history: CallHistory, calls: Sequence[McpCall], turns: Mapping[str, str], lost: int
) -> Findings:
    """Checks that a response stays in its session with a server, unless a tool runner that held it was
    harmed; and that the model is told of a new one, whatever became of the call before."""
    before = ""
    for place, call in enumerate(call for call in calls if call.name == TURN):
        key = str(msgspec.json.decode(call.arguments).get("key")) if call.arguments.endswith("}") else ""
        now, is_told = turns.get(key, ""), (call.output or "").startswith(NEW_SESSION)
        if before and now and now != before and call.output is not None and not is_told:
            yield "a new session is told", f"{key} ran in another session than the call before it"
        if is_told and (call.server_label == KEPT or before == now):
            yield "a new session has its cause", f"{key}: its server never ended the session"
        elif is_told and not lost and (place > 0 or history.asked.parent is None):
            yield "a new session has its cause", f"{key}: no tool runner was harmed"
        before = now or before


def _check_journal(log: Log, response: Response) -> Findings:
    """Checks that every intent has a result, and every call one; of an archived log, as read before the
    archiving."""
    if log.journal is None:
        return
    intents = {name.partition(":")[0] for name in log.journal if name.endswith(":intent")}
    results = {name.partition(":")[0] for name in log.journal if name.endswith(":result")}
    made = {str(index) for index, item in enumerate(response.output) if isinstance(item, _MADE_HERE)}
    if not intents == results == made:
        yield "a journal entry for every call", f"intents {intents}, results {results}, calls {made}"
