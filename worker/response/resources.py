"""What all responses of a worker share. Created once, in `worker/app.py`."""

from collections.abc import Callable
from dataclasses import dataclass, field

from shared.settings import Settings
from shared.store.job_queue import Room
from shared.store.log.appender import Appender
from shared.store.redis.client import RedisClient
from worker.engines.protocol import Engine
from worker.response.gathering import Gathering
from worker.response.meter import Meter
from worker.response.stepper import Stepper
from worker.response.tool_results import ToolCaller


@dataclass(frozen=True, slots=True)
class Resources:
    settings: Settings
    redis: RedisClient
    appender: Appender
    engine: Engine
    tools: ToolCaller
    now_s: Callable[[], int]
    """Whole seconds since the epoch, for `completed_at` only."""
    stepper: Stepper = field(default_factory=Stepper)
    gathering: Gathering = field(default_factory=lambda: Gathering(0.0))
    meter: Meter = field(default_factory=Meter)
    room: Callable[[], Room] = lambda: Room(1, 0, 0, rings_on=False)
    """What the worker has room for."""

    @property
    def context_tokens_max(self) -> int:
        """The limit on prompt and generated tokens together, for one response."""
        return min(self.settings.context_tokens_max, self.engine.context_tokens_max)
