"""What was seen and done while a cluster was disturbed, a JSON line each, and what Redis held afterwards.

Owns the shapes and the file. `clients`, `nemesis` and `dump` make the observations, `checker` judges them.
"""

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import msgspec

Operation = Literal["create", "read", "poll", "cancel", "delete"]
Way = Literal[
    "stream", "background", "poll", "wait", "cancel", "abandon", "delete", "unstored", "chat", "socket"
]
"""How a client reads its response; `chat` and `socket` say also by which door it asks."""


class _Observation(msgspec.Struct, frozen=True, tag_field="kind"):
    at_s: float
    """Seconds since the run began, by one clock."""


class _OfCall(_Observation, frozen=True):
    call: int
    """The number of its create call, which repetitions of the call share."""


class Asked(_OfCall, frozen=True, tag="asked"):
    """A create call begins. `plan`: what it asks for; `way`: how it is read; `key`: unique to the call."""

    client: int
    plan: str
    way: Way
    key: str
    parent: int | None = None
    conversation: str | None = None
    is_undisturbed: bool = False
    tenant: str = "default"
    tier: str = "auto"
    model: str = "default"


class Accepted(_OfCall, frozen=True, tag="accepted"):
    response_id: str


class Refused(_OfCall, frozen=True, tag="refused"):
    """An HTTP status other than 200."""

    operation: Operation
    node: int
    status: int
    body: str


class Unreached(_OfCall, frozen=True, tag="unreached"):
    """There was no answer, or only a part of it."""

    operation: Operation
    node: int
    why: str


class ViewOpened(_OfCall, frozen=True, tag="view_opened"):
    """A stream is requested, from the number after `after` on. `view`: unique within its call."""

    view: int
    node: int
    after: int


class EventSeen(_OfCall, frozen=True, tag="event"):
    view: int
    number: int
    sha: str
    """A digest of the frame's bytes as received."""


class ViewEnded(_OfCall, frozen=True, tag="view_ended"):
    """`closed`: the server ended it in order; `dropped`: this client did; `broken`: neither."""

    view: int
    how: Literal["closed", "dropped", "broken"]


class Beyond(_OfCall, frozen=True, tag="beyond"):
    """A client asked for what follows an event that never existed. Once the response had ended, that reader
    got an answer of some kind, or none."""

    after: int
    has_learned: bool


class Reported(_OfCall, frozen=True, tag="reported"):
    """A whole response as JSON, from a create call that waits, a poll, or a cancel."""

    operation: Operation
    node: int
    status: str
    sha: str
    """A digest of the response that does not depend on the order of its fields."""


class GaveUp(_OfCall, frozen=True, tag="gave_up"):
    """The client's own time limit has passed before the response ended."""


class Deleted(_OfCall, frozen=True, tag="deleted"):
    """The response was deleted."""


class Chatted(_OfCall, frozen=True, tag="chatted"):
    """A chat completion was complete, and this is its text."""

    text: str


class Replayed(_OfCall, frozen=True, tag="replayed"):
    """At the end of the run, this view reads the whole log again."""

    view: int


class Struck(_Observation, frozen=True, tag="struck"):
    """The nemesis did something to the process with this `number` and `pid`."""

    action: str
    role: str
    number: int
    pid: int
    lasting_s: float = 0.0


class Ended(_Observation, frozen=True, tag="ended"):
    """A process ended some time before. `how`: as the launcher describes it."""

    process: str
    how: str


class Conversed(_Observation, frozen=True, tag="conversed"):
    """The content of a conversation after the calls in it, in order, have all ended."""

    conversation: str
    calls: tuple[int, ...]
    item_ids: tuple[str, ...]


class Looked(_Observation, frozen=True, tag="looked"):
    """An operator, or a client that wants a list, was answered. `what`: the path."""

    what: str
    status: int
    lacks: tuple[str, ...] = ()
    """The models that a list of models should have, and has not."""


class Delivered(_Observation, frozen=True, tag="delivered"):
    """A webhook arrived. `is_taken`: the receiver counts it as its own, whether or not it could say so."""

    response_id: str
    event_type: str
    event_id: str
    is_signed: bool
    is_taken: bool
    status_then: str = ""
    """The status of the response as an API node reported it then; empty if none did."""


OfCall = (
    Asked
    | Accepted
    | Refused
    | Unreached
    | ViewOpened
    | EventSeen
    | ViewEnded
    | Beyond
    | Deleted
    | Reported
    | GaveUp
    | Chatted
    | Replayed
)
Observation = OfCall | Struck | Ended | Conversed | Looked | Delivered

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Observation] = msgspec.json.Decoder(Observation)


class Recorder:
    """Records observations as they are made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin_s = time.monotonic()
        self._file: IO[bytes] = path.open("wb")

    def now_s(self) -> float:
        return round(time.monotonic() - self._begin_s, 4)

    def note(self, observation: Observation) -> None:
        self._file.write(_encoder.encode(observation) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self) -> list[Observation]:
        """Returns everything recorded so far, from the file."""
        self._file.flush()
        return [_decoder.decode(line) for line in self._path.read_bytes().splitlines()]


def write_lines(observations: Iterable[Observation]) -> str:
    return "\n".join(_encoder.encode(observation).decode() for observation in observations)


def sha_of_bytes(frame: bytes) -> str:
    return hashlib.sha256(frame).hexdigest()[:16]


def sha_of_response(response: Mapping[str, Any]) -> str:
    return sha_of_bytes(msgspec.json.encode(response, order="deterministic"))


@dataclass(frozen=True, slots=True)
class Log:
    """One response as Redis holds it at the end of a run."""

    response_id: str
    numbers: tuple[int, ...]
    frames: tuple[bytes, ...]
    closed: str
    attempt: int = 1
    deaths: int = 0
    is_archived: bool = False
    journal: frozenset[str] | None = None
    """The names of the tool journal's fields when the log was closed; None if it was archived before they
    were read."""


@dataclass(frozen=True, slots=True)
class Store:
    """Everything that Redis holds at the end of a run."""

    logs: Mapping[str, Log]
    leftovers: tuple[str, ...] = ()
    """Keys that belong to no closed response, and what they are."""
    without_ttl: tuple[str, ...] = ()
    counted: Mapping[str, int] = field(default_factory=dict)
    """Key of a call -> number of executions of a tool with it, as counted by the tool."""
    turns: Mapping[str, str] = field(default_factory=dict)
    """Key of a call -> the session in which a server with sessions executed it last."""
    has_webhooks: bool = False
    """The ends of responses in the background were to be delivered."""
    traces: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Response -> the ids of the traces to which the spans of its attempts belong."""
