"""Runs the commands: asks Redis through the store, and returns answers.

Owns which response or worker is meant, and what is asked; `answers.py` and `checks.py` own what is said.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from admin import answers, checks
from admin.answers import AdminAnswer
from shared import ids, tenants_file
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import closing, event_log
from shared.store.overview import one_response, open_responses, processes, server, waiting_work
from shared.store.overview.waiting_work import QueueView
from shared.store.owning import draining
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.sentinels import read_sentinels
from shared.store.redis.subscription import Subscription
from shared.tenants_file import OPEN_TENANT

_POLL_S, _POLLS = 0.2, 150
"""How often, and how many times, it is looked whether a worker has handed over what it ran."""
_OWNED_MAX = 1_000
"""The number of open responses whose owners are counted for the list of workers."""

_T = TypeVar("_T")


class CannotBeDone(Exception):
    """The command cannot be done; the message says why, for the operator."""


@dataclass(frozen=True, slots=True)
class Admin:
    """What the commands need. `tenants`: those of the tenants file, or the one that there is without it."""

    redis: RedisClient
    settings: Settings
    tenants: Sequence[str]

    async def ps(self, tenant: str, count_max: int) -> AdminAnswer:
        return answers.responses_answer(await open_responses.read_open(self.redis, count_max, tenant))

    async def show(self, name: str, tenant: str) -> AdminAnswer:
        key = await self._find(name, tenant)
        detail = await one_response.read_detail(self.redis, self.settings, key)
        if detail is None:
            raise self._unknown(key.response_id, [key.tenant])
        return answers.detail_answer(detail)

    async def cancel(self, name: str, tenant: str) -> AdminAnswer:
        key = await self._find(name, tenant)
        owner = ids.new_owner("admin")
        match await closing.cancel(self.redis, self.settings, key, owner, _at_once):
            case "ended":
                value = {"tenant": key.tenant, "response_id": key.response_id, "status": "cancelled"}
                return AdminAnswer(value, [f"{key} is cancelled"])
            case "closed":
                raise CannotBeDone(f"{key} has ended already")
            case "missing":
                raise self._unknown(key.response_id, [key.tenant])

    async def drain(self, worker: str) -> AdminAnswer:
        """Asks a worker to drain; waits until it has."""
        if not await processes.is_present(self.redis, draining.DRAINED, worker):
            if not await processes.is_present(self.redis, "worker", worker):
                raise CannotBeDone(f"no worker {worker} is present; `workers` lists those that are")
            await draining.ask(self.redis, worker)
        for _ in range(_POLLS):
            if await processes.is_present(self.redis, draining.DRAINED, worker):
                break
            await asyncio.sleep(_POLL_S)
        else:
            raise CannotBeDone(f"{worker} was asked, but has not handed over within {_POLLS * _POLL_S:g} s")
        value = {"worker": worker, "state": "drained"}
        return AdminAnswer(value, [f"{worker} has handed over, and takes nothing more; it can be stopped"])

    async def workers(self) -> AdminAnswer:
        found = await open_responses.read_open(self.redis, _OWNED_MAX)
        return answers.processes_answer(await processes.read_processes(self.redis, found.responses))

    async def queue(self, count_max: int) -> AdminAnswer:
        return answers.queues_answer(await self._read_queues(count_max))

    async def _read_queues(self, count_max: int) -> list[QueueView]:
        return await waiting_work.read_queues(self.redis, count_max, self.settings.pinned_models)

    async def list_tenants(self, count_max: int) -> AdminAnswer:
        return answers.tenants_answer(
            await waiting_work.read_tenants(
                self.redis, self.tenants[:count_max], count_max, self.settings.pinned_models
            )
        )

    async def check(self, keys_max: int) -> AdminAnswer:
        return checks.findings_answer(
            checks.judge(
                self.settings,
                await server.read_server(self.redis),
                await server.find_lasting_keys(self.redis, keys_max),
                await processes.read_processes(self.redis, []),
                await read_sentinels(self.redis),
                await self._read_queues(1),
                has_webhooks=_has_webhooks(self.settings),
            )
        )

    async def follow(self, name: str, tenant: str, after: int) -> AsyncGenerator[bytes, None]:
        """Yields the frames of a log after an event, as they are stored, until it is closed.

        An outage of Redis that ends in time is a pause."""
        key = await self._find(name, tenant)
        listener = RedisClient.connect_listener(self.settings.redis_url)
        clock = asyncio.get_running_loop().time
        news, heard_s = asyncio.Event(), clock()
        subscription = Subscription(listener)
        await subscription.add(keys.live(key))
        listening = asyncio.create_task(subscription.listen(lambda *_: news.set(), news.set))
        try:
            while True:
                news.clear()
                try:
                    async for page in event_log.pages(self.redis, key, after):
                        if page.is_missing:
                            raise CannotBeDone(f"{key} is gone")
                        for entry in page.entries:
                            yield entry.frame
                        after += len(page.entries)
                        if page.is_closed:
                            return
                    heard_s = clock()
                except REDIS_AWAY:
                    if clock() - heard_s > self.settings.redis_outage_max_s:
                        raise
                await _wait(news)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await listener.close()

    async def _find(self, name: str, tenant: str) -> ResponseKey:
        """Returns the response that is meant. `name`: its id, or `tenant/id`. Raises CannotBeDone."""
        if "/" in name:
            tenant, name = ResponseKey.parse(name)
        if not ids.is_response_id(name):
            raise CannotBeDone(f"{name} is no id of a response")
        tenants = [tenant] if tenant else self.tenants
        key = await open_responses.find(self.redis, name, tenants)
        if key is None:
            raise self._unknown(name, tenants)
        return key

    def _unknown(self, response_id: str, tenants: Sequence[str]) -> CannotBeDone:
        owner = f"tenant {tenants[0]}" if len(tenants) == 1 else f"{len(tenants)} tenants"
        cell = ids.cell_of(response_id)
        elsewhere = (
            f"; it is of the cell {cell}, whose Redis may know it" if cell != self.settings.cell else ""
        )
        return CannotBeDone(
            f"there is no response {response_id} of {owner}; --tenant names another{elsewhere}"
        )


async def _wait(news: asyncio.Event) -> None:
    """Waits for news, but not for ever: a message may be lost, and the log decides."""
    try:
        async with asyncio.timeout(1.0):
            await news.wait()
    except TimeoutError:
        pass


def read_tenants(settings: Settings) -> Sequence[str]:
    """Returns the tenants that there are. Raises FileInvalid."""
    if settings.api_keys is None:
        return [OPEN_TENANT]
    roster = tenants_file.read(settings.api_keys)
    return sorted({*roster.keys.values(), *roster.limits})


def _has_webhooks(settings: Settings) -> bool:
    """Returns True if a tenant has registered a webhook. Raises FileInvalid."""
    return settings.api_keys is not None and bool(tenants_file.read(settings.api_keys).webhooks)


async def _at_once(_size_bytes: int, work: Callable[[], _T]) -> _T:
    """Runs work on the loop, since a command has nothing else to do meanwhile."""
    return work()
