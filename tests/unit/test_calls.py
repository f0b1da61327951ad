"""Which calls are made, how the others are answered, and when the response fails."""

import pytest

from shared.responses import McpCall, McpProtocolError
from shared.tool_calls import ToolCall
from worker.asking.routing import McpTarget
from worker.response.calls import Refuse, Run, Tally, complain_of_unknown, decide, describe_unknown
from worker.response.hopeless import Hopeless
from worker.response.running_call import RunningCall

ASK = McpTarget("wiki.ask", "wiki", "ask", "https://wiki.example/mcp", is_repeatable=True)
PYTHON = McpTarget("python", "code_interpreter", "python")
OFFERED = {"wiki.ask": ASK, "python": PYTHON}


def call(target: McpTarget, arguments: str) -> RunningCall:
    item = McpCall("mcp_1", "in_progress", target.server_label, target.name, arguments)
    return RunningCall.of(0, item, target, arguments)


def failure_of(decision: Run | Refuse) -> str:
    assert isinstance(decision, Refuse)
    assert isinstance(decision.failure.error, McpProtocolError)
    return decision.failure.error.message


def test_a_call_runs_where_its_target_says_with_its_arguments_as_one_object() -> None:
    assert decide(call(ASK, '{"q": 1}'), Tally(5), OFFERED) == Run(
        ToolCall("wiki", "ask", '{"q":1}', "https://wiki.example/mcp"), is_repeatable=True
    )


def test_the_trained_python_gets_what_was_written_as_its_code() -> None:
    assert decide(call(PYTHON, "1+1"), Tally(5), OFFERED) == Run(
        ToolCall("code_interpreter", "python", '{"code":"1+1"}'), is_repeatable=False
    )


def test_arguments_that_are_no_object_are_refused_and_the_tool_named() -> None:
    decision = decide(call(ASK, "[1]"), Tally(5), OFFERED)
    assert failure_of(decision) == "the arguments are not a JSON object"
    assert isinstance(decision, Refuse)
    assert decision.complaint is not None
    assert "wiki.ask" in decision.complaint


def test_an_approved_call_of_a_tool_that_is_not_offered_is_refused_and_no_fault_of_the_model() -> None:
    decision = decide(call(ASK, "{}"), Tally(5), {"python": PYTHON})
    assert failure_of(decision) == "the tool is not offered in this request"
    tally = Tally(5, refused=3)
    assert tally.after(decision) == tally


def test_an_approved_call_does_not_reach_a_tool_by_the_name_under_which_the_model_calls_another() -> None:
    alias = McpTarget("wiki.a_b_1234", "wiki", "a_b_1234")
    offered = {"wiki.a_b_1234": McpTarget("wiki.a_b_1234", "wiki", "a b")}
    assert (
        failure_of(decide(call(alias, "{}"), Tally(5), offered)) == "the tool is not offered in this request"
    )
    other = McpTarget("python", "code_interpreter", "shell")
    assert isinstance(decide(call(other, "1"), Tally(5), OFFERED), Refuse)


def test_the_limit_refuses_whatever_the_call_is() -> None:
    for made in (2, 3):
        for arguments in ("{}", "no object"):
            decision = decide(call(ASK, arguments), Tally(2, made=made), OFFERED)
            assert failure_of(decision) == "no more than 2 tool calls are allowed in this response"


@pytest.mark.parametrize("calls_max", [0, 1, 4])
def test_as_many_calls_run_as_the_limit_says(calls_max: int) -> None:
    tally = Tally(calls_max)
    for _ in range(calls_max):
        decision = decide(call(ASK, "{}"), tally, OFFERED)
        assert isinstance(decision, Run)
        tally = tally.after(decision)
    assert tally.is_spent
    assert isinstance(decide(call(ASK, "{}"), tally, OFFERED), Refuse)


def test_three_refusals_in_a_row_are_borne_and_the_fourth_ends_the_response() -> None:
    tally = Tally(5)
    bad = decide(call(ASK, "["), tally, OFFERED)
    for _ in range(3):
        tally = tally.after(bad)
    assert isinstance(bad, Refuse)
    with pytest.raises(Hopeless) as hopeless:
        tally.after(bad)
    assert hopeless.value.error.code == "server_error"
    assert hopeless.value.error.message == bad.complaint


def test_a_call_that_runs_begins_the_count_of_refusals_anew() -> None:
    good, bad = (decide(call(ASK, arguments), Tally(5), OFFERED) for arguments in ("{}", "["))
    tally = Tally(5)
    for _ in range(3):
        tally = tally.after(bad)
    tally = tally.after(good)
    assert (tally.made, tally.refused) == (1, 0)


def test_what_reaches_no_tool_counts_as_a_refusal_too() -> None:
    tally = Tally(5)
    for _ in range(3):
        tally = tally.after_complaint(complain_of_unknown("wiki.edit"))
    with pytest.raises(Hopeless, match=r"'wiki\.edit', which does not exist"):
        tally.after_complaint(complain_of_unknown("wiki.edit"))
    with pytest.raises(Hopeless, match="name no tool"):
        tally.after_complaint(complain_of_unknown(""))


def test_the_model_reads_which_tools_there_are() -> None:
    assert describe_unknown("wiki.edit", OFFERED) == "There is no tool 'wiki.edit'. Tools: python, wiki.ask."
    assert describe_unknown("", {}) == "This call names no tool; nothing was run. Tools: none."
