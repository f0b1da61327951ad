import pytest

from shared.store.keys import ResponseKey
from shared.store.tools.tool_sessions import SessionStanding
from tool_runner.kept_session import McpSession
from tool_runner.mcp_sessions import HeldSession
from tool_runner.servers import HttpServer
from tool_runner.session_keeper import is_due, judge

NOW_S, IDLE_S = 1_000.0, 600.0
ME, OTHER = "runner-1", "runner-2"


def hold(*, used_s: float = NOW_S, closed_s: float | None = None, opened_by: str = "t/resp_1") -> HeldSession:
    session = McpSession("digest", "http", "2025-11-25", "name", opened_by, 0.0)
    return HeldSession(HttpServer("http://a.example"), session, ResponseKey("t", "resp_1"), used_s, closed_s)


@pytest.mark.parametrize(
    ("held", "standing", "verdict"),
    [
        (hold(), SessionStanding(False, True, ME), "keep"),
        (hold(used_s=0.0), SessionStanding(False, True, ""), "keep"),
        (hold(), SessionStanding(True, True, ME), "keep"),
        (hold(), SessionStanding(True, False, ME), "end"),
        (hold(opened_by="t/resp_0"), SessionStanding(True, False, ME), "keep"),
        (hold(), SessionStanding(True, False, OTHER), "leave"),
        (hold(used_s=399.0, closed_s=400.0), SessionStanding(True, True, ""), "end"),
        (hold(used_s=400.0, closed_s=399.0), SessionStanding(True, True, ""), "end"),
        (hold(used_s=400.0, closed_s=400.0), SessionStanding(True, True, OTHER), "leave"),
        (hold(used_s=0.0, closed_s=401.0), SessionStanding(True, True, ""), "keep"),
    ],
)
def test_a_session_ends_when_nobody_can_use_it_or_has_for_long(
    held: HeldSession, standing: SessionStanding, verdict: str
) -> None:
    assert judge(held, standing, ME, NOW_S, IDLE_S) == verdict


def test_a_session_waits_from_the_end_of_its_response_not_from_its_last_use() -> None:
    held = hold(used_s=0.0)
    assert judge(held, SessionStanding(True, True, ""), ME, NOW_S, IDLE_S) == "keep"
    assert held.closed_s == NOW_S
    assert not is_due(held, NOW_S + IDLE_S - 1, IDLE_S)
    assert is_due(held, NOW_S + IDLE_S, IDLE_S)
