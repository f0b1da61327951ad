"""What every response that a worker owns has in common. Made once, in `app`."""

from collections.abc import Callable
from dataclasses import dataclass, field

from shared.settings import Settings
from shared.store.appender import Appender
from shared.store.redis_client import RedisClient
from worker.engine import Engine
from worker.remote_tools import RemoteTools
from worker.stepper import Stepper


@dataclass(frozen=True, slots=True)
class Resources:
    settings: Settings
    redis: RedisClient
    appender: Appender
    engine: Engine
    tools: RemoteTools
    now_s: Callable[[], int]
    """Whole seconds since the epoch, for `completed_at` only."""
    stepper: Stepper = field(default_factory=Stepper)
