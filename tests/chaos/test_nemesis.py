"""The nemesis does what its seed says, and leaves nothing standing still."""

import asyncio
import os
import random
import subprocess
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.chaos.history import Recorder, Struck
from tests.chaos.nemesis import ODDS, Nemesis, Strike, schedule
from tests.failover import have_said_so

COUNTS = {"api": 3, "worker": 3, "tool_runner": 2, "valkey": 1}


def strikes_of(seed: int, count: int) -> list[Strike]:
    return list(islice(schedule(random.Random(seed), COUNTS), count))


def test_a_seed_gives_the_same_strikes_again() -> None:
    assert strikes_of(1, 50) == strikes_of(1, 50)
    assert strikes_of(1, 50) != strikes_of(2, 50)


def test_every_role_meets_every_fate() -> None:
    met = {(strike.role, strike.action) for strike in strikes_of(1, 2000)}
    assert met == {(odds.role, action) for odds in ODDS for action in odds.fates}
    assert {strike.number for strike in strikes_of(1, 2000) if strike.role == "worker"} == {0, 1, 2}


class OneProcess:
    """A target with a single worker."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(["sleep", "60"])

    @property
    def pids(self) -> dict[str, int]:
        return {"worker-0": self.process.pid}

    @property
    def is_stopped(self) -> bool:
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.fixture
def target() -> Iterator[OneProcess]:
    target = OneProcess()
    yield target
    target.process.kill()
    target.process.wait()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the state of a process is read in /proc")
async def test_what_was_stopped_goes_on_when_the_nemesis_ends(target: OneProcess, tmp_path: Path) -> None:
    with Recorder(tmp_path / "history.jsonl") as recorder:
        nemesis = Nemesis(target, recorder)
        strikes = [
            Strike(0, "stop", "worker", 0, 60.0),
            Strike(0, "kill", "worker", 0),
            Strike(60, "kill", "api", 0),
        ]
        running = asyncio.create_task(nemesis.run(iter(strikes)))
        async with asyncio.timeout(10):
            while not target.is_stopped:
                await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            while target.is_stopped:
                await asyncio.sleep(0.01)
        struck = [seen.action for seen in recorder.read() if isinstance(seen, Struck)]
    assert struck[:1] == ["stop"]
    assert "kill" not in struck, "one that stands still is not struck again"
    assert target.process.poll() is None


class Servers:
    """Sentinels whose servers follow the primary from the third question on."""

    asked = 0

    def fail_over(self) -> None:
        assert self.asked == 3

    def is_whole(self) -> bool:
        self.asked += 1
        return self.asked >= 3


async def test_a_strike_on_a_server_waits_until_the_others_follow_it(
    target: OneProcess, tmp_path: Path
) -> None:
    with Recorder(tmp_path / "history.jsonl") as recorder:
        servers = Servers()
        nemesis = Nemesis(target, recorder, watch=servers)
        await nemesis.run(iter([Strike(0, "failover", "valkey", 0)]))
        (struck,) = [seen.action for seen in recorder.read() if isinstance(seen, Struck)]
    assert (struck, servers.asked) == ("failover", 3)


def test_servers_are_whole_once_every_sentinel_has_heard_that_a_former_primary_follows() -> None:
    """Until then, one of them turns the next primary into a replica again if that is the former one."""
    follows = {"name": "127.0.0.1:1", "role-reported": "slave"}
    assert have_said_so([follows, follows])
    assert not have_said_so([follows, follows | {"role-reported": "master"}])
