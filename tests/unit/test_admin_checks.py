"""What `python -m admin check` says of Sentinels, of queues and of processes that lack."""

from dataclasses import replace

import pytest

from admin.checks import judge
from shared.settings import Settings
from shared.store import keys
from shared.store.overview.processes import ProcessView
from shared.store.overview.server import KeysView, ServerView
from shared.store.overview.waiting_work import QueueView
from shared.store.owning.fleet import AboutWorker, Served
from shared.store.redis.sentinels import SentinelView

SERVER = ServerView(
    version="8",
    role="master",
    is_append_only=True,
    last_append_failed=False,
    last_save_failed=False,
    replicas=2,
    replica_lags_bytes=[0, 0],
    used_bytes=1,
    memory_bytes_max=10,
    eviction="noeviction",
    is_cluster=False,
    does_need_replicas=True,
    clock_ahead_ms=0,
    clock_error_ms=1,
)
SEES = SentinelView("", True, "10.0.0.1:6379", False, 2, 0, 2, 2)
ALL = [replace(SEES, address=f"10.0.0.{n}:26379") for n in (4, 5, 6)]
SILENT = [SentinelView(each.address) for each in ALL]


def said(sentinels: list[SentinelView], server: ServerView = SERVER) -> dict[str, str]:
    """Returns verdict -> what is said of the Sentinels and replicas."""
    found = judge(Settings(), server, KeysView(1, 1, 0, []), [], sentinels)
    about = [each for each in found if each.subject in ("sentinels", "replicas")]
    verdicts = {each.verdict for each in about}
    return {each: "; ".join(one.said for one in about if one.verdict == each) for each in verdicts}


def test_sentinels_that_agree_are_fine() -> None:
    assert said(ALL) == {
        "ok": "2 connected; 3 of 3 answer; all name 10.0.0.1:6379 as the primary",
    }


def test_a_url_of_a_server_has_none_to_ask() -> None:
    assert said([]) == {"ok": "2 connected"}


@pytest.mark.parametrize(
    ("sentinels", "verdict", "words"),
    [
        ([*ALL[:2], SILENT[2]], "warning", "10.0.0.6:26379 does not answer"),
        ([ALL[0], *SILENT[1:]], "bad", "1 of 3 answer: no failover comes about"),
        (ALL[:2], "warning", "2 in the URL"),
        ([*ALL[:2], replace(ALL[2], primary="10.0.0.2:6379")], "bad", "10.0.0.1:6379, 10.0.0.2:6379"),
        ([*ALL[:2], replace(ALL[2], primary="")], "bad", "different primaries: 10.0.0.1:6379, none"),
        ([*ALL[:2], replace(ALL[2], is_primary_down=True)], "bad", "sees the primary as down"),
        ([*ALL[:2], replace(ALL[2], objection="NOQUORUM 1 usable")], "bad", "failover: NOQUORUM 1 usable"),
        ([*ALL[:2], replace(ALL[2], replicas_up=1, replicas_down=1)], "warning", "1 replicas up, 1 down"),
        ([*ALL[:2], replace(ALL[2], replicas_up=1)], "warning", "1 replicas up, 0 down; the primary has 2"),
    ],
)
def test_what_would_keep_a_failover_from_its_end_is_found(
    sentinels: list[SentinelView], verdict: str, words: str
) -> None:
    assert words in said(sentinels)[verdict]


def test_a_primary_that_writes_alone_is_doubtful_with_sentinels_and_replicas() -> None:
    alone = replace(SERVER, does_need_replicas=False)
    assert "min-replicas-to-write" in said(ALL, alone)["warning"]


def worker(*models: str) -> ProcessView:
    served = [Served(model, keys.queue_of(model), 8_192) for model in models]
    return ProcessView("worker", "worker-a", True, 0, AboutWorker(served, "scripted", 1))


def queue(name: str, waiting: int) -> QueueView:
    return QueueView(name, waiting, 0, 0, 0, [])


def found_about(
    subject: str, queues: list[QueueView], processes: list[ProcessView], **fields: bool
) -> list[tuple[str, str]]:
    found = judge(Settings(), SERVER, KeysView(1, 1, 0, []), processes, ALL, queues, **fields)
    return [(each.verdict, each.said) for each in found if each.subject == subject]


def test_what_waits_for_a_model_that_nobody_serves_is_named() -> None:
    queues = [queue("responses", 1), queue("responses@a", 2), queue("responses@b", 3), queue("tools", 4)]
    lacking = [("warning", "3 wait in responses@b, and no worker that is present serves b")]
    assert found_about("queue", queues, [worker("a")]) == lacking
    assert found_about("queue", queues, [worker("a", "b")]) == []
    assert found_about("queue", [queue("responses@b", 0)], [worker("a")]) == []
    assert found_about("queue", queues, [replace(worker("a"), about=None)]) == []


def test_deliveries_without_a_process_that_makes_them_are_named() -> None:
    assert found_about("webhooks", [], []) == []
    lacking = [("warning", "none present: deliveries wait")]
    assert found_about("webhooks", [], [], has_webhooks=True) == lacking
    present = ProcessView("webhooks", "webhooks-a", True, None)
    assert found_about("webhooks", [], [present], has_webhooks=True) == [("ok", "1 present")]
