"""Records what a client of `httpx` sends: the bodies of its requests, as hooks for the events of a client."""

import json
from collections.abc import Callable, Coroutine
from typing import Any


def recorder(sent: list[Any]) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """Returns a hook that adds each request's body to a list."""

    async def record(request: Any) -> None:
        sent.append(json.loads(request.content))

    return record
