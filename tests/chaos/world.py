"""What all clients of a disturbed cluster share: its addresses, their calls, the record of what they see."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from tests.chaos.fleet import PLAIN, Fleet, key_of
from tests.chaos.history import Asked, Observation, Recorder, Way

ANSWER_S = 30.0


@dataclass
class World:
    urls: Sequence[str]
    recorder: Recorder
    http: httpx.AsyncClient
    seed: str
    plans: Mapping[str, int]
    """The relative frequency of each plan."""
    ways: Mapping[Way, int]
    """The relative frequency of each way to read a response."""
    fleet: Fleet = PLAIN
    calls: Iterator[int] = field(default_factory=lambda: iter(()))
    """The numbers of the create calls still to be made."""
    response_ids: dict[int, str] = field(default_factory=dict)
    tenants: dict[int, str] = field(default_factory=dict)
    """Call -> the tenant that makes it."""

    def note(self, observation: Observation) -> None:
        self.recorder.note(observation)

    def now_s(self) -> float:
        return self.recorder.now_s()

    def begin(self, asked: Asked) -> None:
        self.tenants[asked.call] = asked.tenant
        self.note(asked)

    def authorization(self, call: int) -> dict[str, str]:
        """Returns the header of the tenant whose call that is."""
        return authorization_of(self.tenants[call])

    def open_ids(self) -> Iterator[tuple[str, str]]:
        """Yields tenant and id of every response that can still be found."""
        for call, response_id in list(self.response_ids.items()):
            yield self.tenants[call], response_id


def authorization_of(tenant: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key_of(tenant)}"}


def open_http() -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=2.0)
    return httpx.AsyncClient(
        limits=limits, timeout=httpx.Timeout(ANSWER_S, connect=3.0, pool=None), verify=False
    )
