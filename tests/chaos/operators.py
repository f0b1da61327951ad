"""Operators of a disturbed cluster, and clients that ask for lists: they look all the time.

Records how they are answered. They read the console, the metrics of every process, the
models, and the responses of a tenant.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import httpx
import msgspec

from local import record
from local.cluster import Cluster
from local.ports import HOST
from tests.chaos.history import Looked
from tests.chaos.world import World, authorization_of

_EVERY_S = 0.5
_TIMEOUT = httpx.Timeout(10.0, connect=2.0)


@asynccontextmanager
async def looking(world: World, cluster: Cluster, rng: random.Random) -> AsyncGenerator[None, None]:
    """Looks at something twice a second until the context ends."""
    operator = Operator(world, cluster, rng)

    async def look() -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await operator.look()

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()


class Operator:
    def __init__(self, world: World, cluster: Cluster, rng: random.Random) -> None:
        self._world, self._cluster, self._rng = world, cluster, rng

    async def look(self) -> None:
        """Asks one process for one of the things that it shows; who is not answered looks elsewhere."""
        node, key = self._rng.choice(self._world.urls), self._cluster.consoles[0].partition("#")[2]
        operator = {"authorization": f"Bearer {key}"}
        tenant = self._rng.choice(list(self._world.fleet.tenants))
        match self._rng.randrange(5):
            case 0:
                await self._ask("/console/cluster", node, operator)
            case 1:
                if ids := list(self._world.open_ids()):
                    owner, response_id = self._rng.choice(ids)
                    params = {"tenant": owner}
                    await self._ask("/console/responses", node, operator, f"/{response_id}", params)
            case 2:
                await self._ask("/v1/models", node, authorization_of(tenant))
            case 3:
                await self._ask("/v1/responses", node, authorization_of(tenant), params={"limit": "20"})
            case _:
                found = record.read(self._cluster.data)
                ports = [role.metrics_port for role in (found.roles if found else ()) if role.metrics_port]
                if ports:
                    await self._ask("/metrics", f"http://{HOST}:{self._rng.choice(ports)}", {})

    async def _ask(
        self,
        what: str,
        node: str,
        headers: Mapping[str, str],
        rest: str = "",
        params: Mapping[str, str] | None = None,
    ) -> None:
        url = f"{node}{what}{rest}"
        try:
            answer = await self._world.http.get(url, params=params, headers=headers, timeout=_TIMEOUT)
        except httpx.HTTPError:
            return
        lacks: tuple[str, ...] = ()
        if what == "/v1/models" and answer.status_code == 200:
            named = {model["id"] for model in msgspec.json.decode(answer.content)["data"]}
            lacks = tuple(sorted(self._world.fleet.models.keys() - named))
        self._world.note(Looked(self._world.now_s(), what, answer.status_code, lacks))
