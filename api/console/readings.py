"""What the console shows, from `shared/store/overview`, and who may see it.

Owns the key's check and the bounds of each reading; the routes own addresses and forms.
"""

import asyncio
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from api.errors import ClientError, response_not_found
from shared import ids
from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.overview.one_response import ResponseDetail, read_detail
from shared.store.overview.open_responses import OpenResponses, find, read_open
from shared.store.overview.processes import ProcessView, read_processes
from shared.store.overview.waiting_work import QueueView, read_queues
from shared.store.owning.fleet import read_workers
from shared.store.redis.client import RedisClient

LISTED_MAX, _FLOWS_MAX = 200, 20


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A reading of everything. `is_local`: it is a launcher's, so that the console may kill its workers."""

    cell: str
    is_local: bool
    processes: Sequence[ProcessView]
    queues: Sequence[QueueView]
    open: OpenResponses


def no_console() -> ClientError:
    return ClientError(404, "This node has no console: ANTIPHON_CONSOLE_KEY is not set.", "console_not_found")


class Console:
    def __init__(self, redis: RedisClient, settings: Settings, tenants: Callable[[], Sequence[str]]) -> None:
        """`tenants`: returns those of which a response is looked for if no tenant is named."""
        self._redis = redis
        self._settings = settings
        self._tenants = tenants

    def check_key(self, authorization: str | None) -> None:
        """Raises ClientError: 404 if there is no console, 401 if the key is not its own."""
        key = self._settings.console_key
        if key is None:
            raise no_console()
        given = (authorization or "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(given.encode(), key.get_secret_value().encode()):
            challenge = {"www-authenticate": "Bearer"}
            raise ClientError(401, "Incorrect console key provided.", "invalid_api_key", headers=challenge)

    async def read_cluster(self) -> ClusterView:
        """Returns what runs and what waits. Raises REDIS_AWAY."""
        async with asyncio.timeout(self._settings.redis_timeout_s):
            opened = await read_open(self._redis, LISTED_MAX)
            return ClusterView(
                self._settings.cell,
                self._settings.console_cluster is not None,
                await read_processes(self._redis, opened.responses),
                await read_queues(self._redis, _FLOWS_MAX, self._settings.pinned_models),
                opened,
            )

    async def read_response(self, tenant: str, response_id: str) -> ResponseDetail:
        """Returns what is kept about a response; without a tenant, of any that is known.

        Raises ClientError if there is none, and REDIS_AWAY."""
        key = self.key_of(tenant, response_id)
        async with asyncio.timeout(self._settings.redis_timeout_s):
            known = key if tenant else await find(self._redis, response_id, self._tenants())
            found = await read_detail(self._redis, self._settings, known) if known else None
        if found is None:
            raise response_not_found(response_id)
        return found

    async def find_pid(self, worker: str) -> int:
        """Returns the pid that a present worker announces; 0 if there is none. Raises REDIS_AWAY."""
        about = (await read_workers(self._redis)).get(worker)
        return about.pid if about else 0

    def key_of(self, tenant: str, response_id: str) -> ResponseKey:
        """Raises ClientError if it is no id of a response."""
        if not ids.is_response_id(response_id):
            raise response_not_found(response_id)
        return ResponseKey(tenant, response_id)
