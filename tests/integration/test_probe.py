"""The health check of containers whose processes have no port."""

from deploy.probe import is_announced
from shared.ids import new_owner
from shared.settings import Settings
from shared.store.owning import presence
from shared.store.redis.client import RedisClient


async def test_a_probe_finds_a_process_of_its_own_place_and_no_other(
    redis: RedisClient, settings: Settings
) -> None:
    assert not await is_announced(settings, "worker")
    await presence.announce(redis, "worker", new_owner("worker", "pod-1"))
    assert await is_announced(settings, "worker")
    at = {place: settings.model_copy(update={"place": place}) for place in ("pod-1", "pod", "1")}
    assert [place for place in at if await is_announced(at[place], "worker")] == ["pod-1"]
    assert not await is_announced(at["pod-1"], "tool_runner")
