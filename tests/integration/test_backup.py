"""A backup of Redis that is taken while responses run, and what a cluster makes of it (docs/backup.md)."""

import shutil
from pathlib import Path

import httpx
import pytest
from redis import Redis

from tests.patience import PATIENCE_S, wait_until
from tests.running import start_cluster

pytestmark = pytest.mark.slow
SLOWLY = """
[[scene]]
name = "slow"
match = '(?i)say it slowly'
pace = { tokens_per_s = 20 }
[[scene.turn]]
final = { repeat = "Word", times = "200", join = " " }

[[scene]]
name = "quick"
[[scene.turn]]
final = "Hello."
"""


def is_rewriting(redis: Redis) -> bool:
    info = redis.info("persistence")
    assert isinstance(info, dict)
    return bool(info["aof_rewrite_in_progress"])


def take_backup(redis: Redis, folder: Path, backup: Path) -> None:
    """The steps of docs/backup.md."""
    redis.config_set("auto-aof-rewrite-percentage", 0)
    wait_until(lambda: not is_rewriting(redis))
    shutil.copytree(folder / "appendonlydir", backup / "appendonlydir")
    redis.config_set("auto-aof-rewrite-percentage", 100)


def events_of(client: httpx.Client, response_id: str) -> bytes:
    answer = client.get(f"/v1/responses/{response_id}", params={"stream": "true"})
    assert answer.status_code == 200, answer.text
    return answer.content


def test_a_restored_backup_has_what_had_ended_and_goes_on_with_what_had_not(tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text(SLOWLY)
    options = ("--script", str(script))
    first = start_cluster(tmp_path / "first", *options)
    with (
        httpx.Client(base_url=first.urls[0], timeout=PATIENCE_S) as client,
        Redis.from_url(first.redis_url) as redis,
    ):
        body = {"model": "default", "input": "hello", "metadata": {"kept": "yes"}}
        ended = client.post("/v1/responses", json=body).json()["id"]
        before = events_of(client, ended)
        slow = {"model": "default", "input": "say it slowly", "background": True}
        running = client.post("/v1/responses", json=slow).json()["id"]
        wait_until(lambda: client.get(f"/v1/responses/{running}").json()["output"])
        redis.bgrewriteaof()
        take_backup(redis, first.data / "valkey", tmp_path / "second" / "valkey")
        later = client.post("/v1/responses", json=body).json()["id"]
        whole = events_of(client, running)
    first.stop()

    second = start_cluster(tmp_path / "second", *options)
    with httpx.Client(base_url=second.urls[0], timeout=PATIENCE_S) as client:
        assert events_of(client, ended) == before
        events, expected = (each.split(b"\n\n") for each in (events_of(client, running), whole))
        assert events[:-2] == expected[:-2], "continued from the backup, the same to the byte"
        assert len(events) == len(expected), "the last one has its own time"
        assert client.get(f"/v1/responses/{later}").status_code == 404
        listed = client.get("/v1/responses", params={"metadata[kept]": "yes"}).json()["data"]
        assert [each["id"] for each in listed] == [ended]
    second.stop()
