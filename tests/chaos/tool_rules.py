"""The rules of tool calls: how often they may have been executed, and with what results. Pure."""

from collections import Counter
from collections.abc import Mapping

import msgspec

from shared.responses import McpCall, McpListTools, McpProtocolError, Response
from shared.tool_calls import describe
from tests.chaos.history import Log
from tests.chaos.judging import CallHistory, Findings, Run
from tests.chaos.plans import PLANS, REPEATABLE
from tests.chaos.reasons import span_of


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
    for item in response.output:
        if isinstance(item, McpListTools) and item.error:
            yield "what may be repeated succeeds", f"the listing failed: {item.error}"
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


def _check_journal(log: Log, response: Response) -> Findings:
    """Checks that every intent has a result, and every call one; of an archived log, as read before the
    archiving."""
    if log.journal is None:
        return
    intents = {name.partition(":")[0] for name in log.journal if name.endswith(":intent")}
    results = {name.partition(":")[0] for name in log.journal if name.endswith(":result")}
    made = {
        str(index) for index, item in enumerate(response.output) if isinstance(item, McpCall | McpListTools)
    }
    if not intents == results == made:
        yield "a journal entry for every call", f"intents {intents}, results {results}, calls {made}"
