"""A hanging engine is distinguished from an idle one."""

import pytest

from worker.engines.vllm import pulse
from worker.engines.vllm.pulse import Pulse


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pulse, "time", clock)
    return clock


def test_an_engine_without_requests_may_be_silent(clock: Clock) -> None:
    beating = Pulse(10)
    clock.now_s += 1_000
    assert not beating.has_stopped
    beating.begin("a")
    clock.now_s += 9
    assert not beating.has_stopped
    beating.end("a")
    clock.now_s += 9
    assert not beating.has_stopped


def test_a_request_without_any_token_for_too_long_is_a_stop(clock: Clock) -> None:
    beating = Pulse(10)
    beating.begin("a")
    clock.now_s += 9
    beating.begin("b")  # one more that waits is no sign of life
    clock.now_s += 2
    assert beating.has_stopped


def test_a_token_of_any_request_is_a_sign_of_life(clock: Clock) -> None:
    beating = Pulse(10)
    beating.begin("a")
    beating.begin("b")
    for _ in range(5):
        clock.now_s += 9
        beating.beat()
        assert not beating.has_stopped
    clock.now_s += 11
    assert beating.has_stopped
