"""A backup of Redis that is taken while responses run, and what a cluster makes of it (docs/backup.md)."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from redis import Redis

from tests.patience import PATIENCE_S, wait_until
from tests.running import start_cluster

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "deploy/backup.sh"
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


CLIENT = f"""#!{sys.executable}
import os, sys, redis
assert sys.argv[1::2][:2] == ["-h", "-p"], sys.argv
server = redis.Redis(sys.argv[2], int(sys.argv[4]), password=os.environ["VALKEYCLI_AUTH"] or None)
connection = server.connection_pool.get_connection()
connection.send_command(*sys.argv[5:])
reply = connection.read_response()
for line in reply if isinstance(reply, list) else [reply]:
    print(line.decode())
"""
"""Stands for valkey-cli, which the tests' Valkey does not bring."""


def take_backup(
    redis_url: str, folder: Path, backup: Path, tools: Path
) -> "subprocess.CompletedProcess[bytes]":
    """Runs the script as docs/backup.md says: from standard input, where the server keeps its file."""
    tools.mkdir(exist_ok=True)
    (tools / "valkey-cli").write_text(CLIENT)
    (tools / "valkey-cli").chmod(0o755)
    (tools / "password").write_text("requirepass \n")
    parts = urlsplit(redis_url)
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "HOST": str(parts.hostname),
        "PORT": str(parts.port),
    }
    environment |= {"PASSWORD_FILE": str(tools / "password"), "FOLDER": str(folder)}
    with SCRIPT.open("rb") as script, backup.open("wb") as tar:
        return subprocess.run(
            ["sh", "-s"],
            stdin=script,
            stdout=tar,
            stderr=subprocess.PIPE,
            env=environment,
            check=False,
            timeout=PATIENCE_S,
        )


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
        Redis.from_url(first.redis_url, decode_responses=True) as redis,
    ):
        body = {"model": "default", "input": "hello", "metadata": {"kept": "yes"}}
        ended = client.post("/v1/responses", json=body).json()["id"]
        before = events_of(client, ended)
        slow = {"model": "default", "input": "say it slowly", "background": True}
        running = client.post("/v1/responses", json=slow).json()["id"]
        wait_until(lambda: client.get(f"/v1/responses/{running}").json()["output"])
        redis.bgrewriteaof()
        redis.config_set("auto-aof-rewrite-percentage", 70)
        tar, tools = tmp_path / "backup.tar", tmp_path / "tools"
        taken = take_backup(first.redis_url, first.data / "valkey", tar, tools)
        assert taken.returncode == 0, taken.stderr
        assert take_backup(first.redis_url, tmp_path / "nowhere", tmp_path / "none", tools).returncode != 0
        assert redis.config_get("auto-aof-rewrite-percentage") == {"auto-aof-rewrite-percentage": "70"}
        (tmp_path / "second" / "valkey").mkdir(parents=True)
        subprocess.run(
            ["tar", "-C", tmp_path / "second" / "valkey", "-xf", tar], check=True, timeout=PATIENCE_S
        )
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
