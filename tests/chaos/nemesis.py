"""What goes wrong, and when: a schedule made from a seed, and the nemesis that carries it out.

Owns the misfortunes of processes, of their ways to Redis and of the primary; the launcher starts again what
has ended.
"""

import asyncio
import os
import random
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from tests.chaos.history import Recorder, Struck

Action = Literal["kill", "stop", "drain", "cut", "reset", "hold", "slow", "failover"]
_SIGNALS: Mapping[Action, signal.Signals] = {
    "kill": signal.SIGKILL,
    "stop": signal.SIGSTOP,
    "drain": signal.SIGTERM,
}
ALL = -1
"""In place of a number: every process of the role."""
_SLOW_S = 0.1
_WHOLE_AFTER_MAX_S = 120.0
"""One way; a round trip takes twice as long."""


class Target(Protocol):
    """The parts of the cluster that can be harmed."""

    @property
    def pids(self) -> dict[str, int]: ...


@runtime_checkable
class Ways(Protocol):
    """The network between the processes and Redis."""

    def cut(self, name: str) -> None: ...

    def reset(self, name: str) -> None: ...

    def hold(self, name: str, lasting_s: float) -> None: ...

    def slow(self, delay_s: float, lasting_s: float) -> None: ...


@runtime_checkable
class Watch(Protocol):
    """The Sentinels."""

    def fail_over(self) -> None: ...

    def is_whole(self) -> bool:
        """Returns True if all servers follow the primary."""
        ...


@dataclass(frozen=True, slots=True)
class Strike:
    """After `wait_s`, apply `action` to process `number` of `role`, for `lasting_s` if the action lasts."""

    wait_s: float
    action: Action
    role: str
    number: int
    lasting_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Odds:
    """The relative frequency of an action on a role, and how long it lasts, if it does."""

    role: str
    fates: Mapping[Action, int]
    lasting_s: tuple[float, float] = (0.0, 0.0)
    is_met_by_all: bool = False


ODDS = (
    Odds("worker", {"kill": 10, "stop": 8, "drain": 6, "hold": 4, "cut": 3, "reset": 3}, (0.5, 4.0)),
    Odds("api", {"kill": 5, "stop": 3, "drain": 4, "hold": 2, "cut": 2, "reset": 2}, (0.5, 3.0)),
    Odds("tool_runner", {"kill": 5, "stop": 4, "drain": 3, "hold": 3, "cut": 2, "reset": 2}, (0.5, 4.0)),
    Odds("valkey", {"kill": 2, "stop": 2, "drain": 2, "slow": 1}, (0.3, 4.0)),
)
"""`drain` is SIGTERM: for Valkey an orderly restart. `hold`, `cut` and `reset`
befall a way to Redis, `slow` all."""


def schedule(
    rng: random.Random,
    counts: Mapping[str, int],
    odds: tuple[Odds, ...] = ODDS,
    wait_s: tuple[float, float] = (0.5, 3.5),
) -> Iterator[Strike]:
    """Yields strikes without end. `counts`: the number of processes of each role."""
    fates = [(of_role, action) for of_role in odds for action in of_role.fates]
    weights = [of_role.fates[action] for of_role, action in fates]
    while True:
        ((of_role, action),) = rng.choices(fates, weights)
        lasting_s = rng.uniform(*of_role.lasting_s) if action in ("stop", "hold", "slow") else 0.0
        number = ALL if of_role.is_met_by_all else rng.randrange(counts[of_role.role])
        yield Strike(rng.uniform(*wait_s), action, of_role.role, number, lasting_s)


class Nemesis:
    def __init__(
        self, target: Target, recorder: Recorder, ways: Ways | None = None, watch: Watch | None = None
    ) -> None:
        """Without `ways` or `watch`, strikes on those miss."""
        self.hits = 0
        self._target = target
        self._recorder = recorder
        self._ways = ways
        self._watch = watch
        self._stopped: dict[int, asyncio.Task[None]] = {}

    async def run(self, strikes: Iterator[Strike]) -> None:
        """Strikes until cancelled or the schedule ends; then lets everything that was stopped continue."""
        try:
            for strike in strikes:
                await asyncio.sleep(strike.wait_s)
                for number in self._numbers(strike):
                    await self._strike(strike, number)
            await asyncio.gather(*self._stopped.values())
        finally:
            for pid, going_on in list(self._stopped.items()):
                _send(pid, signal.SIGCONT)
                going_on.cancel()

    def _numbers(self, strike: Strike) -> list[int]:
        if strike.number != ALL:
            return [strike.number]
        names = (name.rpartition("-") for name in self._target.pids)
        return sorted(int(number) for role, _, number in names if role == strike.role)

    async def _strike(self, strike: Strike, number: int) -> None:
        """Makes one strike; a strike on a process that is not running, or stopped, misses."""
        name = f"{strike.role}-{number}"
        if strike.role == "valkey" and self._watch is not None:
            await _until_whole(self._watch)
        pid = self._target.pids.get(name, 0)
        if strike.action in _SIGNALS:
            has_hit = pid != 0 and pid not in self._stopped and _send(pid, _SIGNALS[strike.action])
        else:
            has_hit = await self._disturb(strike, name)
        self.hits += has_hit
        action = strike.action if has_hit else "miss"
        at_s = self._recorder.now_s()
        self._recorder.note(Struck(at_s, action, strike.role, number, pid, strike.lasting_s))
        if action == "stop":
            going_on = asyncio.create_task(self._continue_later(pid, strike.lasting_s))
            self._stopped[pid] = going_on
            going_on.add_done_callback(lambda _: self._stopped.pop(pid, None))

    async def _disturb(self, strike: Strike, name: str) -> bool:
        """Makes a strike on the network or the primary; returns whether it hit."""
        match strike.action, self._ways, self._watch:
            case "cut", Ways() as ways, _:
                ways.cut(name)
            case "reset", Ways() as ways, _:
                ways.reset(name)
            case "hold", Ways() as ways, _:
                ways.hold(name, strike.lasting_s)
            case "slow", Ways() as ways, _:
                ways.slow(_SLOW_S, strike.lasting_s)
            case "failover", _, Watch() as watch:
                await asyncio.to_thread(watch.fail_over)
            case _:
                return False
        return True

    async def _continue_later(self, pid: int, after_s: float) -> None:
        await asyncio.sleep(after_s)
        _send(pid, signal.SIGCONT)


async def _until_whole(watch: Watch) -> None:
    """Returns once all servers follow the primary. Raises TimeoutError."""
    async with asyncio.timeout(_WHOLE_AFTER_MAX_S):
        while not await asyncio.to_thread(watch.is_whole):
            await asyncio.sleep(0.2)


def _send(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
