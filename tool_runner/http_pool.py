"""Keeps HTTP connections to servers open between calls: one pool for each server and its credentials.

Owns how many pools there are, when an idle one is closed, which redirects are followed, and how long a call
waits for a server that is busy. Knows nothing of MCP. docs/adr/0042-sessions-of-tool-servers.md.
"""

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from shared import traces
from shared.egress import TENANT, Egress, GuardedTransport
from shared.retry_after import read_retry_after_s
from shared.settings import Settings
from shared.tracer import PARENT_HEADER
from tool_runner.servers import HttpServer

_KEPT_PER_POOL = 16
_REST_BYTES_MAX = 64 * 1024
_REST_TIMEOUT_S = 1.0
"""What may follow the answer in an event stream until the server ends it, which leaves the connection usable
for the next call."""
_REDIRECTS_MAX = 5
_TRIES_MAX = 4
_WAIT_MIN_S = 0.5
"""Between two tries, so that `retry-after: 0` does not become a flood."""
_MOVED = (HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.FOUND)
_REPEATED = (HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.PERMANENT_REDIRECT)


@dataclass(eq=False, slots=True)
class _ServerPool:
    client: httpx2.AsyncClient
    users: int = 0
    timer: asyncio.TimerHandle | None = None
    """Closes the pool, which nobody uses."""


class HttpPools:
    """The pools of one tool runner. `close` ends every connection."""

    def __init__(self, settings: Settings, egress: Egress) -> None:
        self._settings = settings
        self._egress = egress
        self._pools: dict[str, _ServerPool] = {}
        """By `HttpServer.pool_name`; the one that was used last stands last."""
        self._tasks: set[asyncio.Task[None]] = set()

    def check(self, server: HttpServer) -> None:
        """Checks the URL of a server that a request names. Raises NotAllowed or httpx2.InvalidURL."""
        if server.is_of_request:
            self._egress.check(httpx2.URL(server.url))

    def way_to(self, server: HttpServer) -> "WayTo":
        """Returns a transport for the requests of one call or session; it is to be closed."""
        return WayTo(self, server, self._settings.tool_retry_after_max_s)

    @property
    def idle(self) -> int:
        return sum(not pool.users for pool in self._pools.values())

    @contextmanager
    def using(self, server: HttpServer) -> Iterator[httpx2.AsyncClient]:
        """Gives the server's pool, which stays open meanwhile."""
        name = server.pool_name
        pool = self._pools.pop(name, None) or _ServerPool(self._make_client(server))
        self._pools[name] = pool
        pool.users += 1
        if pool.timer is not None:
            pool.timer.cancel()
        try:
            yield pool.client
        finally:
            pool.users -= 1
            if not pool.users and self._pools.get(name) is pool:
                loop, idle_s = asyncio.get_running_loop(), self._settings.tool_connection_idle_s
                pool.timer = loop.call_later(idle_s, self._drop, name, pool)
                self._keep_within_limit()

    def _keep_within_limit(self) -> None:
        idle = [(name, pool) for name, pool in self._pools.items() if not pool.users]
        for name, pool in idle[: max(0, len(idle) - self._settings.tool_connections_idle_max)]:
            self._drop(name, pool)

    def _drop(self, name: str, pool: _ServerPool) -> None:
        if self._pools.get(name) is pool and not pool.users:
            del self._pools[name]
            self._start(_close(pool))

    def read_rest(self, chunks: AsyncIterator[bytes], body: httpx2.AsyncByteStream) -> None:
        """Reads what is left of an answer, within limits, and closes it, without waiting."""
        self._start(_read_rest(chunks, body))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        pools, self._pools = list(self._pools.values()), {}
        await asyncio.gather(*self._tasks)
        await asyncio.gather(*map(_close, pools))

    def _make_client(self, server: HttpServer) -> httpx2.AsyncClient:
        """To a server that a request names, every connection goes through `egress`.

        A proxy from the environment is used for the operator's own servers only, because it would do the
        resolving and connecting that `egress` controls.
        """
        limits = httpx2.Limits(
            max_keepalive_connections=_KEPT_PER_POOL,
            keepalive_expiry=self._settings.tool_connection_idle_s,
        )
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # they belong to a session
        if not server.is_of_request:
            return httpx2.AsyncClient(verify=_tls(), limits=limits, cookies=no_cookies)
        way_out = httpx2.AsyncHTTPTransport(verify=_tls(), trust_env=False, limits=limits)
        guarded = GuardedTransport(self._egress, way_out)
        return httpx2.AsyncClient(transport=guarded, trust_env=False, cookies=no_cookies)


async def pass_on_trace(request: httpx2.Request) -> None:
    """Tells the server which span a message belongs to, unless the client of the response says so itself."""
    if PARENT_HEADER not in request.headers:
        request.headers.update(traces.current().headers())


async def _close(pool: _ServerPool) -> None:
    if pool.timer is not None:
        pool.timer.cancel()
    await pool.client.aclose()


async def _read_rest(chunks: AsyncIterator[bytes], body: httpx2.AsyncByteStream) -> None:
    try:
        async with asyncio.timeout(_REST_TIMEOUT_S):
            left = _REST_BYTES_MAX
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    break
            await body.aclose()
    except (TimeoutError, httpx2.HTTPError, httpx2.StreamError):
        await body.aclose()


class _Body(httpx2.AsyncByteStream):
    """An answer whose connection is used again, even if the reader stops when it has what it waited for.

    If the reader was cancelled, the connection is closed at once: that is how a server learns of it.
    """

    def __init__(self, pools: HttpPools, body: httpx2.AsyncByteStream) -> None:
        self._pools = pools
        self._body = body
        self._chunks = aiter(body)
        self._is_read = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            yield chunk
        self._is_read = True

    async def aclose(self) -> None:
        task = asyncio.current_task()
        if self._is_read or task is None or task.cancelling():
            await self._body.aclose()
        else:
            self._pools.read_rest(self._chunks, self._body)


@functools.cache
def _tls() -> ssl.SSLContext:
    """Returns one context for all connections, since making one reads every trusted certificate."""
    return httpx2.create_ssl_context()


class WayTo(httpx2.AsyncBaseTransport):
    """Sends requests to one server; follows its redirects, and waits if it says that it is busy (429).

    Another origin gets none of the server's headers, and is subject to the rule for servers of requests,
    whoever named the server that leads there. Where a redirect may not be followed, it is the answer.
    """

    def __init__(self, pools: HttpPools, server: HttpServer, wait_max_s: float) -> None:
        self._pools = pools
        self._server = server
        self._wait_max_s = wait_max_s
        self._held = ExitStack()
        self._home = self._held.enter_context(pools.using(server))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        client, left_s = self._home, self._wait_max_s
        request.extensions = {**request.extensions, TENANT: self._server.tenant}
        tries = redirects = 0
        while True:
            response = await client.send(request, stream=True, follow_redirects=False)
            wait_s = read_wait_s(response, datetime.now(UTC))
            following = self._follow(request, response)
            if wait_s is not None and wait_s <= left_s and (tries := tries + 1) < _TRIES_MAX:
                await response.aclose()
                await asyncio.sleep(max(wait_s, _WAIT_MIN_S))
                left_s -= wait_s
            elif following is not None and (redirects := redirects + 1) <= _REDIRECTS_MAX:
                await response.aclose()
                if not is_same_place(request.url, following.url):
                    client = self._held.enter_context(self._pools.using(_stranger(following.url)))
                request = following
            else:
                if client is not self._home:
                    response.headers.pop("set-cookie", None)  # not a cookie of this server's
                assert isinstance(response.stream, httpx2.AsyncByteStream)
                response.stream = _Body(self._pools, response.stream)
                return response

    def _follow(self, sent: httpx2.Request, response: httpx2.Response) -> httpx2.Request | None:
        url = find_redirect(sent.method, sent.url, response)
        if url is None:
            return None
        headers = httpx2.Headers(sent.headers)
        headers["host"] = url.netloc.decode("ascii")
        if not is_same_place(sent.url, url):
            for name in ("authorization", "cookie", *self._server.headers):
                headers.pop(name, None)
        return httpx2.Request(
            sent.method, url, headers=headers, stream=sent.stream, extensions=dict(sent.extensions)
        )

    async def aclose(self) -> None:
        self._held.close()


def _stranger(url: httpx2.URL) -> HttpServer:
    return HttpServer(str(url.copy_with(path="/", query=None, fragment=None)), is_of_request=True)


def find_redirect(method: str, url: httpx2.URL, response: httpx2.Response) -> httpx2.URL | None:
    """Returns where a request is to be sent again, or None if the response is no redirect that may be
    followed: it must keep the method, must not lead from https to http, and must bring no user of its own.

    301 and 302 keep the method too, because a message that became a GET would be lost.
    """
    if response.status_code not in (*_MOVED, *_REPEATED, HTTPStatus.SEE_OTHER):
        return None
    if response.status_code == HTTPStatus.SEE_OTHER and method != "GET":
        return None
    try:
        found = url.join(response.headers["location"]).copy_with(fragment=None)
    except (KeyError, httpx2.InvalidURL, ValueError):
        return None
    is_downgrade = url.scheme == "https" and found.scheme != "https"
    if found.scheme not in ("http", "https") or not found.host or is_downgrade:
        return None
    is_bringing_user = found.userinfo and not (is_same_place(url, found) and found.userinfo == url.userinfo)
    return None if is_bringing_user else found


def is_same_place(url: httpx2.URL, other: httpx2.URL) -> bool:
    """Returns True for the same origin, and for https in place of http on the same host."""
    if (url.scheme, url.host, url.port) == (other.scheme, other.host, other.port):
        return True
    is_upgrade = url.scheme == "http" and other.scheme == "https"
    return is_upgrade and url.host == other.host and url.port is None and other.port is None


def read_wait_s(response: httpx2.Response, now: datetime) -> float | None:
    """Returns for how long a busy server (429) asks to be left alone, or None if it does not."""
    if response.status_code != HTTPStatus.TOO_MANY_REQUESTS:
        return None
    return read_retry_after_s(response.headers.get("retry-after", ""), now)
