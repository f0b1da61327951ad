"""Who has a place among the deliveries in flight. Pure.

Owns that no webhook holds up another; `sender.py` makes the deliveries, and reports how they went.
docs/adr/0052-an-outbox-written-by-the-close.md.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal

from shared.settings import Settings
from shared.store.webhooks.outbox import Rooms
from shared.tenants_file import Webhook

ReceiverHealth = Literal["swift", "slow", "failing"]
"""How the last delivery of a webhook went: it was taken soon, or late, or not at all."""

SWIFT_S = 1.0
"""A receiver that takes longer is slow."""
_AILING_SHARE = 2
"""Webhooks that are slow or failing have at most one part in this many of the places."""
_UNKNOWN_ROOM = 1
"""Places of a webhook that has no delivery in flight: it gets its others with the next claim."""


class Places:
    """A tenant has a part of the places, and at least one for each of its webhooks, among which they are
    divided evenly. A webhook that is failing, or not known yet, has one of them. All that are slow or failing
    together have half of the places, so that those that answer soon always find one.

    `clock`: seconds that only grow.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._places_max = settings.webhooks_in_flight_max
        self._tenant_max = settings.tenant_webhooks_in_flight_max
        self._clock = clock
        self._in_flight: Counter[str] = Counter()
        """`tenant/name` -> deliveries."""
        self._health: dict[str, ReceiverHealth] = {}
        self._left_alone: dict[str, float] = {}
        """Webhooks whose receivers want to be left alone -> until when."""

    @property
    def free(self) -> int:
        return self._places_max - self._in_flight.total()

    def rooms(self, registered: Mapping[str, Mapping[str, Webhook]]) -> Rooms:
        """Returns who has room for further deliveries. `registered`: the webhooks of each tenant."""
        now = self._clock()
        self._left_alone = {name: until for name, until in self._left_alone.items() if until > now}
        ailing = frozenset(name for name, health in self._health.items() if health != "swift")
        named: dict[str, int] = {}
        for name, count in self._in_flight.items():
            tenant = name.partition("/")[0]
            tenant_max = max(self._tenant_max, len(registered.get(tenant, ())))
            named[tenant] = max(0, named.get(tenant, tenant_max) - count)
        for name in {*self._in_flight, *ailing, *self._left_alone}:
            named[name] = self._room_of(name, registered)
        ailing_max = max(1, self._places_max // _AILING_SHARE) - sum(self._in_flight[name] for name in ailing)
        return Rooms(self._tenant_max, _UNKNOWN_ROOM, max(0, ailing_max), named, ailing)

    def _room_of(self, name: str, registered: Mapping[str, Mapping[str, Webhook]]) -> int:
        if name in self._left_alone:
            return 0
        has_proved_itself = self._health.get(name, "failing") != "failing"
        webhooks = len(registered.get(name.partition("/")[0], ()))
        places = self._tenant_max // max(1, webhooks) if has_proved_itself else 1
        return max(0, max(1, places) - self._in_flight[name])

    def take(self, name: str) -> None:
        self._in_flight[name] += 1

    def leave(self, name: str) -> None:
        self._in_flight[name] -= 1
        if not self._in_flight[name]:
            del self._in_flight[name]

    def note_waiting(self, name: str) -> None:
        """Notes that a delivery has taken longer than `SWIFT_S`, and goes on."""
        if self._health.get(name) == "swift":
            self._health[name] = "slow"

    def note(self, name: str, health: ReceiverHealth) -> None:
        """Notes how a webhook's last delivery went."""
        self._health[name] = health

    def leave_alone(self, name: str, wait_s: float) -> None:
        """Gives a webhook no place for so long."""
        self._left_alone[name] = self._clock() + wait_s

    def forget_waits(self) -> None:
        """Lets all webhooks be tried again that are left alone."""
        self._left_alone.clear()
