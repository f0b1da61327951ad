"""The composition root of the tool runner: creates its parts, runs them side by side, and shuts them down.

Owns the wiring and the order of startup and shutdown; contains no rule about calls.
"""

import asyncio
import logging

from shared import ids, metrics, metrics_listener
from shared.race import race
from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.owning import presence
from shared.store.redis.client import RedisClient
from shared.store.redis.subscription import Subscription
from tool_runner import servers
from tool_runner.calls_in_flight import CallsInFlight
from tool_runner.listing_requests import ListingRequests
from tool_runner.run_tool import Tools
from tool_runner.session_keeper import SessionKeeper
from tool_runner.stdio_servers import StdioServers

ROLE = "tool_runner"

_log = logging.getLogger(__name__)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serves tool calls until `stop` is set, then drains them and ends every process it started.

    Raises servers.BadServersFile before anything is started.
    """
    configured = servers.load(settings)
    name = ids.new_owner(ROLE, settings.place)
    redis = RedisClient.connect(
        settings.redis_url,
        timeout_s=settings.redis_timeout_s,
        durability=settings.durable_writes,
        replicas=settings.durable_replicas,
    )
    listener = RedisClient.connect_listener(settings.redis_url)
    stdio = StdioServers(settings.tool_timeout_s)
    tools = Tools(settings, configured, stdio, runner=name)
    calls = CallsInFlight(redis, settings, name, tools)
    listings = ListingRequests(redis, settings, tools)
    keeper = SessionKeeper(redis, settings, name, tools.sessions)
    beating = asyncio.create_task(calls.run())
    metrics.begin_servers(configured)
    _log.info("%s serves %s", name, ", ".join(sorted(configured)))
    try:
        stdio.start(configured)
        await race(
            job_queue.serve(
                settings.redis_url,
                keys.TOOLS_QUEUE,
                {"start_tool_call": calls.start, "list_tools": listings.start},
                lambda: calls.room() - listings.pending,
            ),
            presence.maintain(redis, ROLE, name),
            _relay_notifications(Subscription(listener), name, calls),
            keeper.run(),
            *metrics_listener.services(settings, ROLE, name, [calls.refresh_metrics]),
            stop.wait(),
            asyncio.shield(beating),
        )
        await calls.drain(settings.drain_grace_s)
        await keeper.close()
    finally:
        beating.cancel()
        await listings.close()
        await calls.close()
        await tools.close()
        await stdio.close()
        await listener.close()
        await redis.close()


async def _relay_notifications(subscription: Subscription, name: str, calls: CallsInFlight) -> None:
    """Relays cancels, of which a missed one is noticed at a claim's next renewal, and calls that are handed
    over, of which a missed one is noticed by its worker."""
    handed = keys.handed_over(name)

    def relay(channel: str, message: bytes) -> None:
        calls.on_handed_over(message) if channel == handed else calls.on_cancel(message)

    await subscription.add(keys.CANCELLED)
    await subscription.add(handed)
    await subscription.listen(relay, lambda: None)
