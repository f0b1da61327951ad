"""Makes one delivery: a POST to the address that a tenant's webhook names, within limits.

Owns the HTTP client and its bounds; where it may connect to is decided by `shared/egress.py`. Follows no
redirect, keeps no cookie, reads little of an answer, and uses no connection twice.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from shared import traces
from shared.egress import TENANT, Egress, GuardedTransport, RefusedByRule
from shared.settings import Settings
from shared.store.webhooks.outbox import OutboxEntry
from shared.tenants_file import Webhook
from webhooks.message import body_of, headers_of
from webhooks.verdict import Delivered, Undelivered, read_answer

_ANSWER_BYTES_MAX = 64 * 1024
_ANSWER_TIMEOUT_S = 1.0
"""A receiver that has answered with a status, which is all that counts, may finish its answer meanwhile."""
_CONNECT_TIMEOUT_S = 5.0
_NOTHING_KEPT = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
"""The client knows a connection by its address. Two receivers may share one, and TLS has proved the name of
only one of them."""


class Post:
    def __init__(self, settings: Settings, egress: Egress, clock: Callable[[], float] = time.time) -> None:
        """`clock`: seconds since the epoch."""
        self._clock = clock
        self._timeout_s = settings.webhook_timeout_s
        way_out = httpx2.AsyncHTTPTransport(
            verify=httpx2.create_ssl_context(), trust_env=False, limits=_NOTHING_KEPT
        )
        connect_s = min(_CONNECT_TIMEOUT_S, self._timeout_s)
        self._client = httpx2.AsyncClient(
            transport=GuardedTransport(egress, way_out),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(self._timeout_s, connect=connect_s),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    async def deliver(self, tenant: str, webhook: Webhook, entry: OutboxEntry) -> Delivered | Undelivered:
        """Sends an event once. Never raises for what the receiver does; a reason names no address."""
        body = body_of(entry)
        headers = headers_of(entry, body, webhook.secrets, int(self._clock())) | traces.current().headers()
        outcome: Delivered | Undelivered | None = None
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream(
                    "POST", webhook.url, content=body, headers=headers, extensions={TENANT: tenant}
                ) as answer,
            ):
                now = datetime.fromtimestamp(self._clock(), UTC)
                outcome = read_answer(answer.status_code, answer.headers.get("retry-after", ""), now)
                await _read_some(answer)
        except (TimeoutError, httpx2.TimeoutException):
            failure = Undelivered(f"no answer within {self._timeout_s:g} s")
        except RefusedByRule:
            failure = Undelivered("its address is not allowed")
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, ValueError) as error:
            failure = Undelivered(f"no answer ({type(error).__name__})")
        # A receiver that has taken the event need not finish its answer.
        return failure if outcome is None else outcome

    async def close(self) -> None:
        await self._client.aclose()


async def _read_some(answer: httpx2.Response) -> None:
    """Reads an answer within limits, because one that is cut off looks like a fault to its receiver."""
    left = _ANSWER_BYTES_MAX
    async with asyncio.timeout(_ANSWER_TIMEOUT_S):
        async for chunk in answer.aiter_raw():
            left -= len(chunk)
            if left < 0:
                return
