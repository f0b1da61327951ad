"""What Prometheus reads of a running cluster, and what asking for it costs Redis."""

import asyncio
import re
from contextlib import suppress
from dataclasses import replace

import httpx
import pytest

from api import cluster_metrics
from local import ports
from shared import metrics, metrics_listener
from shared.ids import new_response_id
from shared.service_tiers import TURN_COST
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.overview.figures import REST, ClusterFigures, Waiting, read_figures
from shared.store.overview.waiting_work import read_queues, read_tenants
from shared.store.owning import fleet
from shared.store.owning.fleet import AboutWorker, Served
from shared.store.records import response_store
from shared.store.records.admission import NewResponse
from shared.store.redis.client import RedisClient
from tests.patience import PATIENCE_S, until
from tests.requests import accept, make_request
from tests.running import RunningCluster
from tests.unit.test_metrics import value

SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
ASKED = {
    "model": "default",
    "stream": True,
    "input": "Multiply 123*456 using the mcp.code_interpreter tool.",
    "tools": [{"type": "mcp", "server_label": "code_interpreter", "server_url": "IGNORED"}],
}


def read(port: int) -> dict[str, float]:
    """`name{labels}` -> value, as the process of a port tells it."""
    answer = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {f"{name}{{{labels}}}": float(number) for name, labels, number in SAMPLE.findall(answer.text)}


def count(samples: dict[str, float], name: str, *labels: str) -> float:
    return sum(
        number
        for sample, number in samples.items()
        if sample.partition("{")[0] == name and all(label in sample for label in labels)
    )


async def test_a_response_with_a_tool_is_counted_by_every_role(cluster: RunningCluster) -> None:
    of_role = {role["name"]: role["metrics_port"] for role in cluster.record["roles"]}
    wanted = {
        "api-0": (
            ("antiphon_deliveries_total", 'outcome="completed"', 'delivery="delivered"'),
            ("antiphon_http_requests_total", 'route="/v1/responses"', 'status="200"'),
        ),
        "worker-0": (
            ("antiphon_responses_total", 'outcome="completed"', 'gen_ai_request_model="'),
            ("antiphon_tokens_total", 'kind="output"'),
            ("gen_ai_server_request_duration_seconds_count",),
            ("gen_ai_server_time_to_first_token_seconds_count",),
            ("gen_ai_server_time_per_output_token_seconds_count",),
            ("antiphon_queue_wait_seconds_count", 'tier="default"'),
            ("antiphon_appends_total",),
            ("antiphon_appended_bytes_total",),
        ),
        "tool_runner-0": (
            ("antiphon_tool_calls_total", 'server="code_interpreter"', 'outcome="completed"'),
            ("mcp_client_operation_duration_seconds_count", 'mcp_method_name="tools/call"'),
        ),
    }
    before = {name: await asyncio.to_thread(read, of_role[name]) for name in wanted}
    assert count(before["api-0"], "antiphon_processes", 'role="worker"') == 1
    async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
        answer = await client.post(f"{cluster.urls[0]}/v1/responses", json=ASKED)
        assert "event: response.completed" in answer.text
        refused = await client.get(f"{cluster.urls[0]}/metrics")
        assert refused.status_code == 404, "clients reach that port"

    for name, counted in wanted.items():

        async def has_grown(name: str = name, counted: tuple[tuple[str, ...], ...] = counted) -> bool:
            now = await asyncio.to_thread(read, of_role[name])
            return all(count(now, *each) > count(before[name], *each) for each in counted)

        await until(has_grown)


async def test_the_queue_is_told_by_model_and_tier_whatever_waits(
    redis: RedisClient, settings: Settings
) -> None:
    await accept(redis, settings, tenant="acme")
    await accept(redis, settings, make_request("Hello", service_tier="flex"), tenant="other")
    adapter = Served("pirate", keys.queue_of("pirate"), 8_192, is_adapter=True)
    await fleet.announce(redis, "worker-a", AboutWorker([adapter], "scripted", capacity=1))
    for number in range(3):
        await redis.command("ZADD", adapter.queue, 100 + number, f"unplaced-{number}")
    await redis.command("PEXPIRE", adapter.queue, 60_000)
    found = await read_figures(redis)
    jobs = {model: {tier: of.jobs for tier, of in tiers.items()} for model, tiers in found.waiting.items()}
    assert jobs == {"default": {"default": 1, "flex": 1, REST: 0}, "pirate": {REST: 3}}
    assert all(0 <= of.oldest_s < PATIENCE_S for tiers in found.waiting.values() for of in tiers.values())
    assert found.open_responses == 2
    await cluster_metrics.refresh(redis)
    assert value("antiphon_queue_depth", gen_ai_request_model="default", tier="flex") == 1
    assert value("antiphon_queue_depth", gen_ai_request_model="pirate", tier=REST) == 3
    assert value("antiphon_queue_depth", tier="priority") == 0


async def test_what_waits_for_a_pinned_model_is_told_although_nobody_has_served_it_yet(
    redis: RedisClient, settings: Settings
) -> None:
    """As while a worker that is started on demand cannot start."""
    draft = NewResponse.of(ResponseKey("acme", new_response_id("0")), make_request(), {})
    draft = replace(draft, queue=keys.queue_of("large"))
    await response_store.create(redis, settings, draft)
    await cluster_metrics.refresh(redis, ["large", "pirate"])
    assert value("antiphon_queue_depth", gen_ai_request_model="large", tier="default") == 1
    named = [each.name for each in await read_queues(redis, 1, ["large", "pirate"]) if each.waiting]
    assert named == ["responses@large"]
    (tenant,) = await read_tenants(redis, [], 10, ["large"])
    assert (tenant.tenant, tenant.waiting) == ("acme", 1)
    # One that is served may wait in the queue of another name of its model.
    alias = Served("pirate", keys.queue_of("captain"), 8_192)
    await fleet.announce(redis, "worker-a", AboutWorker([alias], "scripted", capacity=1))
    assert (await read_figures(redis, ["large", "pirate"])).waiting.keys() == {"default", "large", "captain"}
    names = [each.name for each in await read_queues(redis, 1, ["large", "pirate"])]
    assert names == ["responses", "responses@captain", "responses@large", "tools"]


def test_the_queues_of_models_that_are_served_now_are_told_apart_whatever_was_served_before() -> None:
    for month in ("old", "new"):
        waiting = {f"{month}-{number}": {"default": Waiting(1, 2.0)} for number in range(64)}
        cluster_metrics.show(ClusterFigures(waiting, 64, {}))
    assert value("antiphon_queue_depth", gen_ai_request_model="new-63", tier="default") == 1
    assert value("antiphon_queue_depth", tier="default") == 64


async def test_figures_read_a_bounded_number_of_flows(redis: RedisClient) -> None:
    queue = keys.RESPONSES_QUEUE
    for number in range(300):
        flow = keys.flow(f"tenant-{number}", "default")
        await redis.transaction(
            ("ZADD", queue, number, f"job-{number}"),
            ("ZADD", keys.turns(queue), TURN_COST, flow),
            ("RPUSH", keys.waiting(queue, flow), f"job-{number}"),
            ("PEXPIRE", keys.waiting(queue, flow), 60_000),
        )
    await redis.transaction(("PEXPIRE", queue, 60_000), ("PEXPIRE", keys.turns(queue), 60_000))
    await redis.command("CONFIG", "RESETSTAT")
    (found,) = (await read_figures(redis)).waiting.values()
    assert {tier: waiting.jobs for tier, waiting in found.items()} == {"default": 200, REST: 100}
    stats = await redis.command("INFO", "commandstats")
    assert stats["cmdstat_llen"]["calls"] == 200


async def test_while_redis_is_away_nothing_old_is_told(settings: Settings) -> None:
    away = RedisClient.connect("redis://127.0.0.1:1/0", timeout_s=1.0)
    try:
        await cluster_metrics.refresh(away)
    finally:
        await away.close()
    assert value("antiphon_queue_depth") == 0
    assert value("antiphon_open_responses") != value("antiphon_open_responses"), "it is not a number"
    assert "\nantiphon_webhook_dead_letters_total " not in (await metrics.render("api")).decode()


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"GET /metrics?x=1 HTTP/1.1\r\nhost: x\r\n\r\n", b"200"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"x" * 10_000, b""),
        (b"GET /metrics", b""),
    ],
)
async def test_the_listener_answers_one_request_and_drops_what_is_none(asked: bytes, status: bytes) -> None:
    (port,) = ports.find_free(1)
    settings = Settings(metrics_port=port)
    running = [asyncio.create_task(each) for each in metrics_listener.services(settings, "webhooks", "w-1")]
    try:
        writer = None
        while writer is None:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(ports.HOST, port)
            await asyncio.sleep(0)
        with suppress(OSError):
            writer.write(asked)
            if not asked.endswith(b"\r\n\r\n"):
                writer.write_eof()
            answer = await reader.read()
            assert answer[9:12] == status
            assert (b"antiphon_process_info" in answer) == (status == b"200" and asked.startswith(b"GET"))
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def test_without_a_port_nothing_listens() -> None:
    assert metrics_listener.services(Settings(), "worker", "w-1") == []
