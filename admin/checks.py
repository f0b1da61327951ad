"""Judges what a doctor would ask about: settings, the Redis server and its clock, lasting keys, processes.

Pure. Owns what counts as good, doubtful or bad; `shared/store/overview` reads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from admin.answers import AdminAnswer
from shared.settings import Settings
from shared.store import keys
from shared.store.overview.processes import ProcessView
from shared.store.overview.server import KeysView, ServerView
from shared.store.overview.waiting_work import QueueView
from shared.store.redis.sentinels import SentinelView
from shared.table import lay_out

_CLOCK_MS = 1_000
"""How far clocks may be apart: times of Redis are compared with nothing but times of Redis, except that logs,
certificates and `created_at` come from each machine's own clock."""
_LAG_BYTES = 16 * 2**20
_FULL_SHARE = 0.8
_SENTINELS_MIN = 3
"""With fewer, the loss of one leaves no majority."""
Severity = Literal["ok", "warning", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    verdict: Severity
    subject: str
    said: str


def findings_answer(found: Sequence[Finding]) -> AdminAnswer:
    """Lists findings; it is fine unless one is bad."""
    rows = [(each.verdict, each.subject, each.said) for each in found]
    return AdminAnswer(found, lay_out(rows), is_fine=all(each.verdict != "bad" for each in found))


def judge(
    settings: Settings,
    server: ServerView,
    names: KeysView,
    processes: Sequence[ProcessView],
    sentinels: Sequence[SentinelView],
    queues: Sequence[QueueView] = (),
    *,
    has_webhooks: bool = False,
) -> list[Finding]:
    """Returns all findings. `has_webhooks`: whether there is something to deliver."""
    return [
        *_judge_settings(settings),
        *_judge_persistence(settings, server),
        *_judge_replicas(settings, server),
        *_judge_sentinels(server, sentinels),
        *_judge_memory(server),
        _judge_clock(server),
        _judge_keys(names),
        *_judge_processes(processes, has_webhooks=has_webhooks),
        *_judge_queues(queues, processes),
    ]


def _judge_settings(settings: Settings) -> Iterator[Finding]:
    yield _choose(
        settings.api_keys is not None,
        "settings",
        "the tenants file is valid",
        "no ANTIPHON_API_KEYS: any key is accepted, on loopback only",
    )
    yield _choose(
        settings.secrets_key is not None,
        "settings",
        "secrets of MCP servers are sealed",
        "no ANTIPHON_SECRETS_KEY: requests with secrets for MCP servers are refused, or stored unsealed",
    )
    yield _choose(
        bool(settings.seal_keys),
        "settings",
        "clients may carry sealed reasoning and compactions",
        "no ANTIPHON_SEAL_KEYS: encrypted reasoning and compaction are refused",
    )


def _judge_persistence(settings: Settings, server: ServerView) -> Iterator[Finding]:
    subject = "persistence"
    if server.role != "master":
        yield Finding("bad", "server", f"it is no primary but says {server.role}")
    if server.is_cluster:
        yield Finding("bad", "server", "it is a Redis Cluster, which is not supported (ADR 1)")
    if not server.is_append_only:
        verdict: Severity = "bad" if settings.durable_writes == "aof" else "warning"
        yield Finding(verdict, subject, "no append-only file: a restart of Redis loses everything")
    elif server.last_append_failed:
        yield Finding("bad", subject, "the last write to the append-only file failed")
    else:
        yield Finding("ok", subject, "the append-only file is written")
    if server.last_save_failed:
        yield Finding("warning", subject, "the last snapshot failed")


def _judge_replicas(settings: Settings, server: ServerView) -> Iterator[Finding]:
    needed = settings.durable_replicas if isinstance(settings.durable_replicas, int) else 1
    if settings.durable_writes == "replica" and server.replicas < needed:
        said = f"{server.replicas} replicas, and writes wait for {needed}"
        yield Finding("bad", "replicas", said)
    elif server.replicas == 0:
        yield Finding("warning", "replicas", "no replica: the server's machine is a single point of failure")
    else:
        yield Finding("ok", "replicas", f"{server.replicas} connected")
    if any(lag > _LAG_BYTES for lag in server.replica_lags_bytes):
        yield Finding("warning", "replicas", f"one is {max(server.replica_lags_bytes)} bytes behind")


def _judge_sentinels(server: ServerView, sentinels: Sequence[SentinelView]) -> Iterator[Finding]:
    """Yields whether a failover would come about, and find the right server."""
    if not sentinels:
        return
    subject, known = "sentinels", len(sentinels)
    answering = [each for each in sentinels if each.does_answer]
    for silent in (each for each in sentinels if not each.does_answer):
        yield Finding("warning", subject, f"{silent.address} does not answer")
    if len(answering) <= known // 2:
        yield Finding("bad", subject, f"{len(answering)} of {known} answer: no failover comes about")
    elif known < _SENTINELS_MIN:
        yield Finding("warning", subject, f"{known} in the URL: without one of them, no failover comes about")
    else:
        yield Finding("ok", subject, f"{len(answering)} of {known} answer")
    yield from _judge_views(server, answering)


def _judge_views(server: ServerView, views: Sequence[SentinelView]) -> Iterator[Finding]:
    subject = "sentinels"
    named = sorted({each.primary or "none" for each in views})
    yield _choose(
        len(named) == 1,
        subject,
        f"all name {', '.join(named)} as the primary",
        f"they name different primaries: {', '.join(named)}",
        otherwise="bad",
    )
    for each in views:
        if not each.primary:
            continue
        if each.is_primary_down:
            yield Finding("bad", subject, f"{each.address} sees the primary as down")
        if each.objection:
            yield Finding("bad", subject, f"{each.address} could not authorise a failover: {each.objection}")
        if each.replicas_up < server.replicas or each.replicas_down:
            seen = f"{each.replicas_up} replicas up, {each.replicas_down} down"
            said = f"{seen}; the primary has {server.replicas}"
            yield Finding("warning", subject, f"{each.address} sees {said}")
    if server.replicas > 1 and not server.does_need_replicas:
        said = "min-replicas-to-write is not set: a primary that is cut off takes writes that will be lost"
        yield Finding("warning", "replicas", said)


def _judge_memory(server: ServerView) -> Iterator[Finding]:
    yield _choose(
        server.eviction == "noeviction" or not server.memory_bytes_max,
        "memory",
        "nothing is evicted",
        f"the policy {server.eviction} lets Redis forget responses; it must be noeviction",
        otherwise="bad",
    )
    if server.memory_bytes_max:
        share = server.used_bytes / server.memory_bytes_max
        said = f"{share:.0%} of {server.memory_bytes_max} bytes are used"
        yield Finding("warning" if share > _FULL_SHARE else "ok", "memory", said)
    else:
        yield Finding("warning", "memory", f"{server.used_bytes} bytes are used, and maxmemory is not set")


def _judge_clock(server: ServerView) -> Finding:
    said = f"Redis is {server.clock_ahead_ms} ms ahead of this machine (±{server.clock_error_ms} ms)"
    is_near = abs(server.clock_ahead_ms) <= _CLOCK_MS + server.clock_error_ms
    return Finding("ok" if is_near else "warning", "clock", said)


def _judge_keys(names: KeysView) -> Finding:
    looked = f"{names.looked_at} of {names.total} keys looked at"
    if not names.lasting:
        return Finding("ok", "keys", f"each has a TTL ({looked})")
    examples = ", ".join(names.lasting_names)
    return Finding("bad", "keys", f"{names.lasting} have no TTL ({looked}): {examples}")


def _judge_processes(processes: Sequence[ProcessView], *, has_webhooks: bool) -> Iterator[Finding]:
    lacks = {"api": "nobody can call", "worker": "responses wait", "tool_runner": "calls of tools wait"}
    if has_webhooks:
        lacks["webhooks"] = "deliveries wait"
    for role, lack in lacks.items():
        number = sum(each.role == role and each.is_present for each in processes)
        said = f"{number} present" if number else f"none present: {lack}"
        yield Finding("ok" if number else "warning", role, said)


def _judge_queues(queues: Sequence[QueueView], processes: Sequence[ProcessView]) -> Iterator[Finding]:
    """Yields the models for which responses wait and nobody is there."""
    workers = [each for each in processes if each.role == "worker" and each.is_present]
    if any(each.about is None for each in workers):
        return  # one of an earlier version does not say what it serves
    served = {queue for each in workers if each.about for queue in each.about.queues}
    for queue in queues:
        model = keys.model_of(queue.name)
        if model and queue.waiting and keys.queue_of(model) not in served:
            said = f"{queue.waiting} wait in {queue.name}, and no worker that is present serves {model}"
            yield Finding("warning", "queue", said)


def _choose(
    is_good: bool, subject: str, good: str, otherwise_said: str, *, otherwise: Severity = "warning"
) -> Finding:
    return Finding("ok", subject, good) if is_good else Finding(otherwise, subject, otherwise_said)
