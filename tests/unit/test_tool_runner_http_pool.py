from datetime import UTC, datetime

import httpx2
import pytest

from tool_runner.http_pool import find_redirect, is_same_place, read_wait_s
from tool_runner.servers import HttpServer

NOW = datetime(2026, 7, 28, 12, tzinfo=UTC)
HERE = httpx2.URL("https://a.example/mcp?x=1")


def answer(status: int, **headers: str) -> httpx2.Response:
    return httpx2.Response(status, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("method", "status", "location", "leads_to"),
    [
        ("POST", 307, "/mcp/", "https://a.example/mcp/"),
        ("POST", 308, "https://b.example/mcp#part", "https://b.example/mcp"),
        ("POST", 301, "//b.example:444/", "https://b.example:444/"),
        ("GET", 303, "/other", "https://a.example/other"),
        ("POST", 303, "/other", None),
        ("POST", 307, "http://a.example/mcp", None),
        ("POST", 307, "ftp://b.example/", None),
        ("POST", 307, "https://user:pass@b.example/", None),
        ("POST", 307, "https://[::1/", None),
        ("POST", 300, "/mcp/", None),
        ("POST", 200, "/mcp/", None),
    ],
)
def test_where_a_redirect_may_lead(method: str, status: int, location: str, leads_to: str | None) -> None:
    found = find_redirect(method, HERE, answer(status, location=location))
    assert (str(found) if found else None) == leads_to


def test_a_redirect_without_a_location_leads_nowhere() -> None:
    assert find_redirect("POST", HERE, answer(307)) is None


@pytest.mark.parametrize(
    ("url", "other", "is_same"),
    [
        ("http://a.example/x", "http://a.example/y", True),
        ("http://a.example/x", "https://a.example/x", True),
        ("https://a.example", "http://a.example", False),
        ("http://a.example:81", "https://a.example", False),
        ("http://a.example", "http://b.example", False),
        ("http://a.example", "http://a.example:81", False),
    ],
)
def test_only_the_same_origin_gets_the_headers(url: str, other: str, is_same: bool) -> None:
    assert is_same_place(httpx2.URL(url), httpx2.URL(other)) is is_same


@pytest.mark.parametrize(
    ("status", "retry_after", "wait_s"),
    [
        (429, "7", 7.0),
        (429, " 0 ", 0.0),
        (429, "Tue, 28 Jul 2026 12:00:05 GMT", 5.0),
        (429, "Tue, 28 Jul 2026 11:00:00 GMT", 0.0),
        (429, "soon", None),
        (429, "", None),
        (429, "-1", None),
        (429, "9" * 4_000, None),
        (503, "7", None),
        (200, "7", None),
    ],
)
def test_how_long_a_busy_server_is_left_alone(status: int, retry_after: str, wait_s: float | None) -> None:
    assert read_wait_s(answer(status, retry_after=retry_after), NOW) == wait_s


def test_servers_share_a_pool_only_with_the_same_origin_and_credentials() -> None:
    one = HttpServer("https://a.example/mcp", {"x-key": "1"})
    same = HttpServer("https://a.example/other", {"x-key": "1"})
    others = (
        HttpServer("https://a.example/mcp", {"x-key": "2"}),
        HttpServer("https://a.example:444/mcp", {"x-key": "1"}),
        HttpServer("https://a.example/mcp", {"x-key": "1"}, is_of_request=True),
    )
    assert one.pool_name == same.pool_name
    assert one.digest != same.digest
    assert all(other.pool_name != one.pool_name for other in others)
