"""What is kept of a session's cookies between two calls is what the next call sends."""

import time
from http.cookiejar import CookieJar
from urllib.request import Request

import httpx2
import msgspec
import pytest

from tool_runner.session_cookies import KeptCookie, SessionCookies

URL = "https://mcp.a.example/v1/mcp"


def take(*told: str, kept: tuple[KeptCookie, ...] = ()) -> SessionCookies:
    """Returns the cookies after an answer that sets these."""
    jar = SessionCookies(kept)
    response = httpx2.Response(
        200, headers=[(b"set-cookie", each.encode()) for each in told], request=httpx2.Request("POST", URL)
    )
    httpx2.Cookies(jar).extract_cookies(response)
    return jar


def sent(jar: CookieJar, url: str = URL) -> str:
    request = Request(url)
    jar.add_cookie_header(request)
    return request.get_header("Cookie") or ""


def again(jar: SessionCookies) -> SessionCookies:
    """Returns them as another tool runner reads them."""
    return SessionCookies(msgspec.json.decode(msgspec.json.encode(jar.kept), type=tuple[KeptCookie, ...]))


@pytest.mark.parametrize(
    "told",
    [
        "a=1",
        "a=1; Path=/v1",
        "a=1; Path=/v2",
        "a=1; Domain=a.example; Secure; HttpOnly; SameSite=Lax; Max-Age=60",
        "a=1; Domain=b.example",
        "a=1; Expires=Wed, 21 Oct 2065 07:28:00 GMT",
        "a=1; Max-Age=0",
        'a="x y"',
        "a",
        "",
        "é=é",
    ],
)
def test_a_kept_cookie_is_sent_as_it_would_have_been(told: str) -> None:
    jar = take(told)
    assert again(jar).kept == jar.kept
    for url in (URL, "http://mcp.a.example/v1/mcp", "https://mcp.a.example/other", "https://c.example/v1"):
        assert sent(again(jar), url) == sent(jar, url)


def test_a_cookie_is_replaced_and_removed_by_the_server_that_set_it() -> None:
    kept = take("a=1", "b=2").kept
    assert sent(take("a=3", kept=kept)) in ("a=3; b=2", "b=2; a=3")
    assert sent(take("a=; Max-Age=0", kept=kept)) == "b=2"


def test_an_expired_cookie_is_not_kept() -> None:
    past = KeptCookie("a", "1", "mcp.a.example", expires_s=int(time.time()) - 1)
    assert SessionCookies([past]).kept == ()


def test_cookies_beyond_the_limits_are_not_taken_and_known_ones_can_still_change() -> None:
    jar = take(*(f"c{number}=1" for number in range(1_000)))
    assert len(jar.kept) == 16
    assert "c0=2" in sent(take("c0=2", "new=1", kept=jar.kept))
    assert "new=1" not in sent(take("c0=2", "new=1", kept=jar.kept))
    assert take("a=" + "x" * 4_096).kept == ()
