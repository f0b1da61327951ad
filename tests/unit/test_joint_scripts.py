"""Which calls of a joint script share a run: few runs, and none that keeps Redis from others for long."""

import hiredis
import pytest

from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.log.response_log import LogLimits, NewEntry, ResponseLog
from shared.store.redis.joint_scripts import CALLS_MAX, WORDS_MAX, Gathered, JointCall
from shared.store.redis.scripts import Command, Packed

LOG = ResponseLog(LogLimits.of(Settings()), ResponseKey("default", "resp_1"))
KEYS = 2


def call(entries: int = 1) -> JointCall:
    made = LOG.append("1 owner", 1, [NewEntry(b"frame", (1,))] * entries).call
    assert isinstance(made, JointCall)
    return made


def words_of(command: Command) -> list[bytes]:
    """The words of a packed command."""
    reader = hiredis.Reader()
    (packed,) = command
    assert isinstance(packed, Packed)
    reader.feed(packed)
    words: list[bytes] = reader.gets()
    return words


def calls_in(command: Command) -> int:
    return int(words_of(command)[2]) // KEYS


def test_calls_share_as_few_runs_as_may_be_and_each_gets_its_own_reply() -> None:
    count = 3 * CALLS_MAX + 1
    gathered = Gathered([call() for _ in range(count)])
    assert [calls_in(command) for command in gathered.commands] == [CALLS_MAX] * 3 + [1]
    replies = list(range(count))
    answers = [replies[first : first + CALLS_MAX] for first in range(0, count, CALLS_MAX)]
    assert gathered.scatter(answers) == replies


@pytest.mark.parametrize("entries", [1, 5, 40])
def test_a_run_is_bounded_in_calls_and_in_words(entries: int) -> None:
    gathered = Gathered([call(entries) for _ in range(400)])
    assert sum(map(calls_in, gathered.commands)) == 400
    for command in gathered.commands:
        assert calls_in(command) <= CALLS_MAX
        assert len(words_of(command)) <= WORDS_MAX + 3  # EVALSHA, the digest, the number of keys


def test_a_call_that_is_larger_than_a_run_may_be_runs_alone() -> None:
    gathered = Gathered([call(), call(1_000), call()])
    assert [calls_in(command) for command in gathered.commands] == [1, 1, 1]
