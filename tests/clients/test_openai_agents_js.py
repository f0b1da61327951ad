"""`@openai/agents`: every usage is validated, and a run's state is text and comes back."""

from tests.clients.answers import ADDED, WEATHER
from tests.clients.conftest import Ask


def test_a_streamed_run_with_a_tool_and_its_state_there_and_back(node: Ask) -> None:
    assert node("openai_agents", "streamed_run") == {"text": WEATHER, "turns": 2, "sums": True}


def test_runs_that_go_on_by_id_and_by_their_whole_history(node: Ask) -> None:
    assert node("openai_agents", "chained_runs") == [ADDED] * 3


def test_a_run_that_waits_for_leave_goes_on_from_its_state_as_text(node: Ask) -> None:
    assert node("openai_agents", "approval") == {"asked": 1, "text": ADDED}
