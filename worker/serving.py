"""What this worker serves, under which names and from which queues, and how much of it at once. Pure."""

from shared.settings import Settings
from shared.store import keys
from shared.store.owning.fleet import Served
from worker.engines.protocol import Engine


def describe_served(settings: Settings, engine: Engine) -> list[Served]:
    """Returns the names of the model, and then its adapters. `engine` has been started.

    The default model's responses wait where those of versions before do, whatever its names.
    """
    context = min(settings.context_tokens_max, engine.context_tokens_max)
    if settings.served_models:
        names, queue = settings.served_models, keys.queue_of(settings.served_models[0])
    else:
        names, queue = list(engine.names) or settings.models, keys.RESPONSES_QUEUE
    adapters = (Served(name, keys.queue_of(name), context, is_adapter=True) for name in engine.adapters)
    return [*(Served(name, queue, context) for name in names), *adapters]


def capacity_of(settings: Settings, engine: Engine) -> int:
    """Returns how many responses the worker can run at once, not counting those that wait for tools."""
    return min(settings.responses_in_flight_max, engine.sequences_max())


def engine_room(engine: Engine, running: int, waiting: int) -> int:
    """Returns how many further responses the engine can run. `running`: those that the worker has; `waiting`:
    those of them that wait for tools, and so use nothing of the engine but its cache."""
    return max(0, engine.sequences_max() - (running - waiting))
