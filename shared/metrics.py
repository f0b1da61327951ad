"""Every metric of every role: what a process counts about itself, in the form that Prometheus reads.

The only importer of prometheus_client. Owns the names, labels and bounds of metrics; the code that does the
work counts it, at most once for each step, append, call or response, never for a token. A label's values are
few, and none names a tenant, a response or a client (docs/adr/0059-metrics.md, docs/metrics.md).
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, product

from prometheus_client import REGISTRY, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
OTHER = "other"
"""Stands for what is beyond the bound of a label."""
URL = "url"
"""Stands for the tool servers that requests give by their addresses: their labels are the clients' choice."""
_VALUES_MAX, _VALUE_CHARACTERS_MAX = 64, 128

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
# The next three are those that OpenTelemetry's GenAI conventions advise, and some for what takes longer.
_FIRST_TOKEN_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0)
_PER_TOKEN_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_REQUEST_S = (0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 327.68, 1310.72)
_DELAY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

EVERY = ("api", "worker", "tool_runner", "webhooks")
_Roles = tuple[str, ...]
_WITH_ROUTER: _Roles = (*EVERY, "router")


@dataclass(frozen=True, slots=True)
class KnownMetric:
    """A metric, and who has it."""

    collector: Collector
    labels: tuple[str, ...]
    roles: _Roles


OURS: dict[str, KnownMetric] = {}
"""Name -> entry, in the order of docs/metrics.md."""


class Bounded:
    """Bounds the values of a label: the first few stay as they are, all further ones are `other`."""

    def __init__(self, values_max: int = _VALUES_MAX) -> None:
        self._values_max = values_max
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._known:
            return value
        if len(self._known) >= self._values_max or len(value) > _VALUE_CHARACTERS_MAX:
            return OTHER
        self._known.add(value)
        return value


model_label, server_label = Bounded(), Bounded()


class Number:
    """What is counted for one set of labels. Without a lock: one thread counts, the loop's."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, by: float = 1) -> None:
        self.value += by


class LabelledCount(Number, Collector):
    """A counter, with labels or without. Prometheus_client's takes ten times as long."""

    __slots__ = ("_labels", "_name", "_numbers", "_says")

    def __init__(self, name: str, says: str, labels: tuple[str, ...]) -> None:
        super().__init__()
        self._name, self._says, self._labels = name, says, labels
        self._numbers: dict[tuple[object, ...], Number] = {} if labels else {(): self}

    def labels(self, *values: object) -> Number:
        return self._numbers.get(values) or self._numbers.setdefault(values, Number())

    def tell(self, value: float | None) -> None:
        """Takes over what is counted elsewhere, without labels; None while it is not known: a 0 in between
        would be an increase afterwards."""
        self._numbers.pop((), None)
        if value is not None:
            self.value, self._numbers[()] = value, self

    @property
    def total(self) -> float:
        """What was counted for all labels together."""
        return sum(number.value for number in self._numbers.values())

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._says, labels=self._labels)
        for values, number in list(self._numbers.items()):
            family.add_metric([str(value) for value in values], number.value)
        return [family]


class Spread:
    """What is observed for one set of labels: how many values are at most each bound, and their sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Histogram(Spread, Collector):
    """A histogram, with labels or without, as `LabelledCount` is."""

    __slots__ = ("_labels", "_name", "_says", "_spreads")

    def __init__(self, name: str, says: str, bounds: tuple[float, ...], labels: tuple[str, ...]) -> None:
        super().__init__(bounds)
        self._name, self._says, self._labels = name, says, labels
        self._spreads: dict[tuple[str, ...], Spread] = {} if labels else {(): self}

    def labels(self, *values: str) -> Spread:
        return self._spreads.get(values) or self._spreads.setdefault(values, Spread(self._bounds))

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._says, labels=self._labels)
        ends = [*map(floatToGoString, self._bounds), "+Inf"]
        for values, spread in list(self._spreads.items()):
            buckets = list(zip(ends, map(float, accumulate(spread.counts)), strict=True))
            family.add_metric(list(values), buckets, spread.total)
        return [family]


def _count(
    roles: _Roles, name: str, says: str, *labels: str, values: Sequence[Sequence[str]] = ()
) -> LabelledCount:
    """`values`: all values of each label, if they are known; then each series is told from the start, as 0.
    Prometheus sees no increase in one that begins with 1, so an alert would miss the first fault."""
    metric = LabelledCount(name, says, labels)
    for each in product(*values) if values else ():
        metric.labels(*each)
    OURS[f"{name}_total"] = KnownMetric(metric, labels, roles)
    return metric


def _gauge(roles: _Roles, name: str, says: str, *labels: str) -> Gauge:
    metric = Gauge(name, says, labels, registry=None)
    OURS[name] = KnownMetric(metric, labels, roles)
    return metric


def _histogram(roles: _Roles, name: str, says: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
    metric = Histogram(name, says, bounds, labels)
    OURS[name] = KnownMetric(metric, labels, roles)
    return metric


_API, _WORKER, _TOOL_RUNNER, _WEBHOOKS = ((role,) for role in EVERY)
_ROUTER: _Roles = ("router",)
_ENDING = ("api", "worker")
MODEL = "gen_ai_request_model"
"""The label that has a model's name, as OpenTelemetry calls it."""
_ENDS = ("completed", "incomplete", "failed", "cancelled")

# --- every role -----------------------------------------------------------------------------------

PROCESS = _gauge(
    _WITH_ROUTER, "antiphon_process_info", "1, for the process of this role and name.", "role", "name"
)
LOOP_DELAY = _histogram(
    _WITH_ROUTER,
    "antiphon_loop_delay_seconds",
    "How late the event loop ran a timer, four times a second.",
    _DELAY_S,
)
REDIS_UP = _gauge(
    EVERY, "antiphon_redis_up", "Whether Redis answered last, when this process announced itself."
)
REDIS_OUTAGES = _count(EVERY, "antiphon_redis_outages", "Times that Redis became unavailable.")
REDIS_AWAY_SECONDS = _count(
    EVERY, "antiphon_redis_away_seconds", "Time for which Redis was unavailable, in all."
)

# --- the cluster, as an API node sees it when it is asked ---------------------------------------------

QUEUE_DEPTH = _gauge(_API, "antiphon_queue_depth", "Responses and counts that wait.", MODEL, "tier")
QUEUE_AGE = _gauge(_API, "antiphon_queue_oldest_age_seconds", "How long the oldest waits.", MODEL, "tier")
OPEN_RESPONSES = _gauge(_API, "antiphon_open_responses", "Responses that have not ended, waiting or owned.")
PRESENT = _gauge(_API, "antiphon_processes", "Processes that are present.", "role")
OUTBOX_DEPTH = _gauge(_API, "antiphon_webhook_outbox_depth", "Deliveries to webhooks that wait.")
OUTBOX_AGE = _gauge(
    _API, "antiphon_webhook_outbox_oldest_age_seconds", "How long the first of them has been due."
)
DEAD_LETTERS = _count(_API, "antiphon_webhook_dead_letters", "Deliveries that were given up, by any process.")

# --- API --------------------------------------------------------------------------------------------

HTTP_REQUESTS = _count(_API, "antiphon_http_requests", "Requests that were answered.", "route", "status")
DELIVERIES = _count(
    _API,
    "antiphon_deliveries",
    "Calls that followed a response, by how the response had ended and whether the client got the end.",
    "outcome",
    "delivery",
    values=[("open", *_ENDS), ("delivered", "disconnected", "cut")],
)
HUB_READERS = _gauge(_API, "antiphon_hub_readers", "Clients, waiting calls included, that follow a response.")
HUB_BEHIND = _gauge(_API, "antiphon_hub_readers_behind", "Those that have not been given all that there is.")
HUB_BUFFERED = _gauge(_API, "antiphon_hub_buffered_bytes", "What waits in this node for slow clients.")
HUB_GAPS = _count(_API, "antiphon_hub_gaps", "Times that all readers had to read their logs again.")
SOCKETS = _gauge(_API, "antiphon_sockets", "WebSockets that are open.")

# --- responses: workers, and API nodes for what they cancel -------------------------------------------

RESPONSES = _count(_ENDING, "antiphon_responses", "Responses that this process has ended.", MODEL, "outcome")
TOKENS = _count(_WORKER, "antiphon_tokens", "Tokens of ended responses.", MODEL, "kind")
REQUEST_DURATION = _histogram(
    _WORKER,
    "gen_ai_server_request_duration_seconds",
    "From acceptance to the end of a response that was completed or cut off.",
    _REQUEST_S,
    MODEL,
)
FIRST_TOKEN = _histogram(
    _WORKER,
    "gen_ai_server_time_to_first_token_seconds",
    "From acceptance to the first token of a response, waiting included.",
    _FIRST_TOKEN_S,
    MODEL,
)
PER_TOKEN = _histogram(
    _WORKER,
    "gen_ai_server_time_per_output_token_seconds",
    "Time between two tokens, as the mean of one turn of the model.",
    _PER_TOKEN_S,
    MODEL,
)
QUEUE_WAIT = _histogram(
    _WORKER, "antiphon_queue_wait_seconds", "From acceptance to the first owner.", _SECONDS, MODEL, "tier"
)

# --- worker -------------------------------------------------------------------------------------------

IN_FLIGHT = _gauge(_WORKER, "antiphon_responses_in_flight", "Responses that this worker owns.")
GENERATIONS = _gauge(_WORKER, "antiphon_generations", "Turns that the engine is generating.")
STALLED = _gauge(_WORKER, "antiphon_generations_stalled", "Those without a token for some seconds.")
STALLS = _count(_WORKER, "antiphon_stalls", "Times that a turn stayed without a token for some seconds.")
TAKEOVERS = _count(
    _WORKER,
    "antiphon_takeovers",
    "Responses continued after another owner.",
    "cause",
    values=[("lapsed", "handed_over")],
)
LEASE_LOSSES = _count(
    _WORKER,
    "antiphon_lease_losses",
    "Attempts that were stopped.",
    "cause",
    values=[("lost", "fenced", "abandoned", "cancelled")],
)
_FAILURES = (
    *("refused", "crashed", "diverged", "tail_lost", "unloadable", "owners_lost", "too_old"),
    *("engine_died", "redis_away"),
)
ATTEMPT_FAILURES = _count(
    _WORKER,
    "antiphon_attempt_failures",
    "Attempts that could not go on.",
    "cause",
    values=[_FAILURES],
)
APPENDS = _count(_WORKER, "antiphon_appends", "Writes to logs.")
ENTRIES = _count(_WORKER, "antiphon_appended_entries", "Events in these writes.")
APPENDED_BYTES = _count(_WORKER, "antiphon_appended_bytes", "What was sent to Redis for them.")
APPEND_BATCHES = _count(_WORKER, "antiphon_append_batches", "Round trips that these writes took together.")
ENGINE_REQUESTS = _gauge(_WORKER, "antiphon_engine_requests", "Requests that the engine has.", "state")
ENGINE_CACHE_USAGE = _gauge(
    _WORKER, "antiphon_engine_kv_cache_usage_ratio", "The part of the KV cache in use."
)
PREFIX_LOOKED_UP = _count(
    _WORKER,
    "antiphon_engine_prefix_looked_up_tokens",
    "Prompt tokens that the engine looked up in its prefix cache.",
)
PREFIX_FOUND = _count(_WORKER, "antiphon_engine_prefix_found_tokens", "Those that it found there.")

# --- tool runner --------------------------------------------------------------------------------------

TOOL_CALLS = _count(
    _TOOL_RUNNER, "antiphon_tool_calls", "Calls and listings of tools that have ended.", "server", "outcome"
)
TOOL_DURATION = _histogram(
    _TOOL_RUNNER,
    "mcp_client_operation_duration_seconds",
    "How long they took, waiting for a share not included.",
    _SECONDS,
    "mcp_method_name",
    "server",
)
TOOL_CALLS_IN_FLIGHT = _gauge(
    _TOOL_RUNNER, "antiphon_tool_calls_in_flight", "Calls that this tool runner has, by state.", "state"
)

# --- webhooks -----------------------------------------------------------------------------------------

WEBHOOK_DELIVERIES = _count(
    _WEBHOOKS,
    "antiphon_webhook_deliveries",
    "Attempts to deliver.",
    "outcome",
    values=[("delivered", "failed", "given_up")],
)
WEBHOOKS_IN_FLIGHT = _gauge(
    _WEBHOOKS, "antiphon_webhook_deliveries_in_flight", "Deliveries that are being made."
)

# --- router -------------------------------------------------------------------------------------------

ROUTED = _count(_ROUTER, "antiphon_routed_requests", "Requests that cells were asked.", "cell", "outcome")
CELL_NODES = _gauge(_ROUTER, "antiphon_cell_nodes", "API nodes of a cell, by their state.", "cell", "state")


def begin_models(names: Iterable[str]) -> None:
    """Has the counts of these models told from the start, as `_count` does where all values are known."""
    for label in map(model_label, names):
        for outcome in _ENDS:
            RESPONSES.labels(label, outcome)
        for kind in ("input", "cached", "output", "reasoning"):
            TOKENS.labels(label, kind)


def begin_servers(labels: Iterable[str]) -> None:
    """The same for tool servers that the operator has named, and for those that requests give."""
    outcomes = ("completed", "tool_error", "protocol_error", "http_error", "timed_out", "cancelled")
    for server, outcome in product([URL, *map(server_label, labels)], outcomes):
        TOOL_CALLS.labels(server, outcome)


def begin_cells(names: Iterable[str]) -> None:
    """The same for the cells of a router."""
    for cell, outcome in product(names, ("answered", "unanswered", "unreached")):
        ROUTED.labels(cell, outcome)


async def render(role: str) -> bytes:
    """Returns a role's metrics as text, also those of the process and of libraries, such as vLLM's.

    Yields to the loop between two metrics, so that a token waits for one of them at most.
    """
    parts = list[bytes]()
    for entry in OURS.values():
        if role not in entry.roles:
            continue
        parts.append(generate_latest(entry.collector))
        await asyncio.sleep(0)
    parts.append(generate_latest(REGISTRY))
    return b"".join(parts)


def follow(gauge: Gauge, read: Callable[[], float], *labels: str) -> None:
    """Has a gauge read its value when it is asked."""
    (gauge.labels(*labels) if labels else gauge).set_function(read)
