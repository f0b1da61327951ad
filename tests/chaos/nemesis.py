"""What goes wrong, and when: a schedule out of a seed, and the hand that carries it out.

Owns the processes' misfortunes only; the launcher starts again what has ended.
"""

import asyncio
import os
import random
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from tests.chaos.history import Recorder, Struck

Action = Literal["kill", "stop", "drain"]


class Target(Protocol):
    """The cluster, as far as it can be harmed."""

    @property
    def pids(self) -> dict[str, int]: ...


@dataclass(frozen=True, slots=True)
class Strike:
    """After `wait_s`, do `action` to process `number` of `role`; a stopped one goes on after `lasting_s`."""

    wait_s: float
    action: Action
    role: str
    number: int
    lasting_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Odds:
    """How often a role meets which fate, compared with the others, and how long it stays stopped."""

    role: str
    kill: int
    stop: int
    drain: int
    stopped_s: tuple[float, float]


ODDS = (
    Odds("worker", kill=10, stop=8, drain=6, stopped_s=(0.5, 4.0)),
    Odds("api", kill=5, stop=3, drain=4, stopped_s=(0.5, 3.0)),
    Odds("tool_runner", kill=5, stop=4, drain=3, stopped_s=(0.5, 4.0)),
    Odds("valkey", kill=2, stop=1, drain=2, stopped_s=(0.3, 1.5)),
)
"""`drain` is SIGTERM: for Valkey an orderly restart."""


def schedule(
    rng: random.Random,
    counts: dict[str, int],
    odds: tuple[Odds, ...] = ODDS,
    wait_s: tuple[float, float] = (0.5, 3.5),
) -> Iterator[Strike]:
    """Strikes without end. `counts`: how many processes each role has."""
    fates: list[tuple[Odds, Action]] = []
    weights: list[int] = []
    for of_role in odds:
        fates += [(of_role, "kill"), (of_role, "stop"), (of_role, "drain")]
        weights += [of_role.kill, of_role.stop, of_role.drain]
    while True:
        ((of_role, action),) = rng.choices(fates, weights)
        lasting_s = rng.uniform(*of_role.stopped_s) if action == "stop" else 0.0
        number = rng.randrange(counts[of_role.role])
        yield Strike(rng.uniform(*wait_s), action, of_role.role, number, lasting_s)


class Nemesis:
    def __init__(self, target: Target, recorder: Recorder) -> None:
        self._target = target
        self._recorder = recorder
        self._stopped: dict[int, asyncio.Task[None]] = {}

    async def run(self, strikes: Iterator[Strike]) -> None:
        """Strikes until cancelled, or the schedule ends; then everything that stands still goes on."""
        try:
            for strike in strikes:
                await asyncio.sleep(strike.wait_s)
                self._strike(strike)
            await asyncio.gather(*self._stopped.values())
        finally:
            for pid, going_on in list(self._stopped.items()):
                _send(pid, signal.SIGCONT)
                going_on.cancel()

    def _strike(self, strike: Strike) -> None:
        """One that hits a process which does not run, or stands still, misses."""
        pid = self._target.pids.get(f"{strike.role}-{strike.number}", 0)
        has_hit = pid != 0 and pid not in self._stopped and _send(pid, _SIGNALS[strike.action])
        action = strike.action if has_hit else "miss"
        at_s = self._recorder.now_s()
        self._recorder.note(Struck(at_s, action, strike.role, strike.number, pid, strike.lasting_s))
        if action == "stop":
            going_on = asyncio.create_task(self._continue_later(pid, strike.lasting_s))
            self._stopped[pid] = going_on
            going_on.add_done_callback(lambda _: self._stopped.pop(pid, None))

    async def _continue_later(self, pid: int, after_s: float) -> None:
        await asyncio.sleep(after_s)
        _send(pid, signal.SIGCONT)


_SIGNALS: Mapping[Action, signal.Signals] = {
    "kill": signal.SIGKILL,
    "stop": signal.SIGSTOP,
    "drain": signal.SIGTERM,
}


def _send(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
