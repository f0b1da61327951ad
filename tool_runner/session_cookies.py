"""The cookies of a server's session, by which load balancers lead its calls to the machine that has it.

Pure. Owns how many are taken and what is kept of one; `mcp_sessions.py` keeps them with the session's id, for
the same address and credentials. Connections, which several sessions share, never keep any.
"""

import time
from collections.abc import Iterable
from http.cookiejar import Cookie, CookieJar

import msgspec

_COOKIES_MAX = 16
_BYTES_MAX = 4_096
"""Of all cookies of a session together."""


class KeptCookie(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a client must know of a cookie to send it. `expires_s`: since the epoch; None for as long as the
    session lasts."""

    name: str
    value: str | None
    domain: str
    path: str = "/"
    is_of_domain: bool = False
    """The server has named the domain, instead of leaving it to be its own."""
    is_secure: bool = False
    expires_s: int | None = None


class SessionCookies(CookieJar):
    """The cookies of a session while it is in use. Those beyond the limits are not taken."""

    def __init__(self, kept: Iterable[KeptCookie] = ()) -> None:
        super().__init__()
        for cookie in kept:
            self.set_cookie(_restore(cookie))

    def set_cookie(self, cookie: Cookie) -> None:
        place = (cookie.domain, cookie.path, cookie.name)
        others = [other for other in self if (other.domain, other.path, other.name) != place]
        if len(others) < _COOKIES_MAX and sum(map(_size_of, (*others, cookie))) <= _BYTES_MAX:
            super().set_cookie(cookie)

    @property
    def kept(self) -> tuple[KeptCookie, ...]:
        """What is to be kept between two calls."""
        return tuple(_keep(cookie) for cookie in self if not cookie.is_expired(int(time.time())))


def _size_of(cookie: Cookie) -> int:
    return len(cookie.name) + len(cookie.value or "") + len(cookie.domain) + len(cookie.path)


def _keep(cookie: Cookie) -> KeptCookie:
    return KeptCookie(
        cookie.name,
        cookie.value,
        cookie.domain,
        cookie.path,
        cookie.domain_specified,
        cookie.secure,
        cookie.expires,
    )


def _restore(kept: KeptCookie) -> Cookie:
    return Cookie(
        version=0,
        name=kept.name,
        value=kept.value,
        port=None,
        port_specified=False,
        domain=kept.domain,
        domain_specified=kept.is_of_domain,
        domain_initial_dot=kept.domain.startswith("."),
        path=kept.path,
        path_specified=True,
        secure=kept.is_secure,
        expires=kept.expires_s,
        discard=kept.expires_s is None,
        comment=None,
        comment_url=None,
        rest={},
    )
