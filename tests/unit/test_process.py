"""How a role's process starts and ends, and who wins a race."""

import asyncio
import gc
import os
import signal

import pytest

from shared import process
from shared.race import race
from shared.settings import Settings


class ServerGone(Exception):
    pass


class BadFile(Exception):
    pass


def start(raising: Exception | None) -> int:
    def main(_settings: Settings) -> None:
        if raising is not None:
            raise raising

    return process.start("role", main, misuses=(BadFile,), failures=(ServerGone,))


@pytest.mark.parametrize(
    ("raised", "code"),
    [(None, 0), (ServerGone("no answer"), 1), (BadFile("line 3"), 2), (process.Misuse("no key"), 2)],
)
def test_a_process_says_why_it_ends_and_its_exit_code_says_whose_fault_it_was(
    capsys: pytest.CaptureFixture[str], raised: Exception | None, code: int
) -> None:
    assert start(raised) == code
    assert capsys.readouterr().err == ("" if raised is None else f"role: {raised}\n")


def test_a_wrong_setting_is_named_and_nothing_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTIPHON_LEASE_TTL_S", "soon")
    assert start(AssertionError("it must not run")) == 2
    said = capsys.readouterr().err
    assert said.startswith("role: 1 validation error")
    assert "lease_ttl_s" in said


def test_a_setting_that_is_not_json_is_named_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTIPHON_CELLS", "{a: 1}")
    assert start(AssertionError("it must not run")) == 2
    said = capsys.readouterr().err
    assert said.startswith("role: ANTIPHON_CELLS is not JSON: ")
    assert said.count("\n") == 1


def test_a_bug_is_not_hidden_in_an_exit_code() -> None:
    with pytest.raises(ZeroDivisionError):
        start(ZeroDivisionError())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event_and_the_role_ends_itself(number: signal.Signals) -> None:
    ended = []

    async def run(stopped: asyncio.Event) -> None:
        os.kill(os.getpid(), number)
        await stopped.wait()
        ended.append("in order")

    process.run_until_stopped(run)
    assert ended == ["in order"]


async def test_the_first_one_wins_and_the_others_have_ended_when_the_race_has() -> None:
    ended = []

    async def lose() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")
        return "lost"

    async def win() -> str:
        return "won"

    assert await race(lose(), win(), lose()) == "won"
    assert ended == ["cancelled"] * 2


async def test_of_two_that_end_at_once_the_one_named_first_counts() -> None:
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    second.set_result("second")
    first.set_result("first")
    assert await race(first, second) == "first"


async def test_the_first_to_fail_fails_the_race() -> None:
    async def fail() -> None:
        raise ServerGone

    with pytest.raises(ServerGone):
        await race(asyncio.Event().wait(), fail())


async def test_a_race_that_is_cancelled_ends_those_who_run() -> None:
    ended, running = asyncio.Event(), asyncio.Event()

    async def run() -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    racing = asyncio.create_task(race(run()))
    await running.wait()
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert ended.is_set()


def test_what_a_role_has_made_when_it_has_started_is_never_walked_again() -> None:
    """Full collections of everything had made tokens late (ADR 35)."""
    thresholds = gc.get_threshold()
    held = [{"made": number} for number in range(1_000)]
    try:
        process.collect_rarely()
        assert gc.get_freeze_count() >= len(held)
        assert not any(made is held[0] for made in gc.get_objects())
        assert gc.get_threshold() >= (10_000, 100, 100)
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
