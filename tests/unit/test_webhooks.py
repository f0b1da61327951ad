import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from openai import OpenAI

from shared.ids import new_response_id
from shared.settings import Settings
from shared.store.webhooks.outbox import DeliveryClaim, OutboxEntry
from shared.tenants_file import EVENT_TYPES as TYPES
from shared.tenants_file import FileInvalid, Roster, Webhook, read
from tests.webhook_receiver import SECRET
from webhooks.message import body_of, headers_of
from webhooks.places import Places
from webhooks.verdict import Delivered, GivenUp, TryAgain, Undelivered, judge, read_answer

OTHER = "whsec_" + "b3RoZXJvdGhlcm90aGVyb3RoZXJvdGhlcm8="
RESPONSE_ID = new_response_id("0")
CLOSED_MS = 1_763_769_600_750
NOW = datetime.fromtimestamp(CLOSED_MS / 1000, UTC)


def entry_of(kind: str, failures: int = 0) -> OutboxEntry:
    return OutboxEntry(RESPONSE_ID, kind.removeprefix("response."), CLOSED_MS, failures)


def unwrap(entry: OutboxEntry, secrets: list[str], secret: str) -> Any:
    body = body_of(entry)
    headers = headers_of(entry, body, secrets, int(time.time()))
    with OpenAI(api_key="any", base_url="http://127.0.0.1:1") as client:
        return client.webhooks.unwrap(body, headers, secret=secret)


@pytest.mark.parametrize("kind", TYPES)
def test_openais_client_accepts_every_event(kind: str) -> None:
    event = unwrap(entry_of(kind), [SECRET], SECRET)
    assert (event.type, event.object, event.created_at) == (kind, "event", CLOSED_MS // 1000)
    assert event.data.id == RESPONSE_ID
    assert event.id.startswith("evt_")


def test_while_a_secret_is_replaced_either_one_is_accepted_and_no_other() -> None:
    entry = entry_of(TYPES[0])
    assert unwrap(entry, [OTHER, SECRET], SECRET) == unwrap(entry, [OTHER, SECRET], OTHER)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        unwrap(entry, [OTHER], SECRET)


def test_an_event_is_the_same_however_often_it_is_sent_and_has_a_name_of_its_own() -> None:
    first, again = entry_of(TYPES[0]), entry_of(TYPES[0]).failed()
    assert body_of(first) == body_of(again)
    headers = [headers_of(entry, body_of(entry), [SECRET], now) for entry, now in ((first, 1), (again, 2))]
    assert headers[0]["webhook-id"] == headers[1]["webhook-id"] == json.loads(body_of(first))["id"]
    assert headers[0]["webhook-timestamp"] != headers[1]["webhook-timestamp"]
    names = {json.loads(body_of(entry_of(kind)))["id"] for kind in TYPES}
    assert len(names) == len(TYPES)


@pytest.mark.parametrize("code", [200, 201, 204, 299])
def test_a_receiver_takes_an_event_with_2xx(code: int) -> None:
    assert read_answer(code, "60", NOW) == Delivered()


@pytest.mark.parametrize("code", [301, 302, 307, 308, 400, 401, 404, 429, 500, 503])
def test_anything_else_is_tried_again(code: int) -> None:
    claim = DeliveryClaim("acme", "main", entry_of(TYPES[0]), CLOSED_MS)
    failure = read_answer(code, "", NOW)
    assert isinstance(failure, Undelivered)
    assert isinstance(judge(claim, failure, Settings(), lambda low, _: low), TryAgain)


def test_a_receiver_that_is_gone_for_good_is_asked_once() -> None:
    claim = DeliveryClaim("acme", "main", entry_of(TYPES[0]), CLOSED_MS)
    failure = read_answer(410, "60", NOW)
    assert isinstance(failure, Undelivered)
    assert judge(claim, failure, Settings(), lambda low, _: low) == GivenUp("HTTP 410; tried once")


@examples(max_examples=30)
@given(st.randoms(use_true_random=False))
def test_a_delivery_is_tried_for_72_hours_ever_more_rarely_and_then_given_up(rng: Any) -> None:
    settings = Settings()
    entry, now_ms, waits = entry_of(TYPES[0]), float(CLOSED_MS), []
    for _ in range(100):
        verdict = judge(
            DeliveryClaim("acme", "main", entry, int(now_ms)), Undelivered("no"), settings, rng.uniform
        )
        if isinstance(verdict, GivenUp):
            break
        waits.append(verdict.in_s)
        entry, now_ms = verdict.entry, now_ms + verdict.in_s * 1000
    assert isinstance(verdict, GivenUp)
    assert now_ms - CLOSED_MS == pytest.approx(72 * 3_600_000, abs=1_000)
    assert verdict.reason == f"no; tried {len(waits) + 1} times"
    assert 3.75 <= waits[0] <= 6.25
    assert max(waits) <= 1.25 * 6 * 3_600
    assert all(later >= earlier for earlier, later in itertools.pairwise(waits[:10]))
    assert 15 < len(waits) < 40


def test_the_time_that_a_role_was_away_does_not_lengthen_the_first_waits() -> None:
    late = DeliveryClaim("acme", "main", entry_of(TYPES[0]), CLOSED_MS + 40 * 3_600_000)
    verdict = judge(late, Undelivered("no"), Settings(), lambda low, high: high)
    assert isinstance(verdict, TryAgain)
    assert verdict.in_s < 10


@pytest.mark.parametrize(
    ("code", "retry_after", "wait_s"),
    [
        (429, "60", 60.0),
        (503, " 60 ", 60.0),
        (429, format_datetime(NOW + timedelta(seconds=60), usegmt=True), pytest.approx(60, abs=1)),
        (429, "1", 5.0),  # sooner than it would be tried anyway
        (429, "0", 5.0),
        (429, "-1", 5.0),
        (429, "soon", 5.0),
        (429, "9" * 500, 5.0),
        (429, "999999999", 6 * 3_600.0),
        (429, "Fri, 31 Dec 9999 23:59:59 GMT", 6 * 3_600.0),
        (500, "60", 5.0),
    ],
)
def test_a_busy_receiver_is_tried_no_sooner_than_it_asks(code: int, retry_after: str, wait_s: Any) -> None:
    claim = DeliveryClaim("acme", "main", entry_of(TYPES[0]), CLOSED_MS)
    failure = read_answer(code, retry_after, NOW)
    assert isinstance(failure, Undelivered)
    verdict = judge(claim, failure, Settings(), lambda _low, _high: 1.0)
    assert isinstance(verdict, TryAgain)
    assert verdict.in_s == wait_s


def test_a_busy_receiver_does_not_put_off_the_last_try() -> None:
    claim = DeliveryClaim("acme", "main", entry_of(TYPES[0]), CLOSED_MS + (72 * 3_600 - 10) * 1000)
    failure = read_answer(429, "3600", NOW)
    assert isinstance(failure, Undelivered)
    verdict = judge(claim, failure, Settings(), lambda _low, _high: 1.0)
    assert isinstance(verdict, TryAgain)
    assert verdict.in_s == 10


WEBHOOK = Webhook("https://app.example/", (SECRET,))


def registered(**counts: int) -> dict[str, dict[str, Webhook]]:
    """So many webhooks of each tenant: `w0`, `w1` …"""
    return {tenant: {f"w{number}": WEBHOOK for number in range(count)} for tenant, count in counts.items()}


def make_places(clock: Callable[[], float] = lambda: 0.0) -> Places:
    return Places(Settings(webhooks_in_flight_max=12, tenant_webhooks_in_flight_max=6), clock)


def fill(places: Places, hooks: dict[str, dict[str, Webhook]], due: Sequence[str]) -> list[str]:
    """Claims places for as much as is due of each webhook, as claim.lua does; returns who has them."""
    taken: list[str] = []
    while True:
        rooms, before = places.rooms(hooks), len(taken)
        of_tenant, ailing_left = dict(rooms.named), rooms.ailing_max
        for name in due:
            tenant = name.partition("/")[0]
            left = of_tenant.get(tenant, rooms.tenant_max)
            room = min(rooms.named.get(name, rooms.webhook_max), left, places.free)
            room = min(room, ailing_left) if name in rooms.ailing else room
            for _ in range(room):
                places.take(name)
                taken.append(name)
            of_tenant[tenant] = left - room
            ailing_left -= room if name in rooms.ailing else 0
        if len(taken) == before:
            return taken


def test_a_tenant_has_its_part_of_the_places_divided_evenly_among_its_webhooks() -> None:
    places, hooks = make_places(), registered(acme=2, lab=1)
    for name in ("acme/w0", "acme/w1", "lab/w0"):
        places.note(name, "swift")
    assert Counter(fill(places, hooks, ["acme/w0", "lab/w0"])) == {"acme/w0": 3, "lab/w0": 6}
    assert Counter(fill(places, hooks, ["acme/w0", "acme/w1"])) == {"acme/w1": 3}
    places.leave("acme/w0")
    assert fill(places, hooks, ["acme/w0", "acme/w1"]) == ["acme/w0"]


def test_each_webhook_of_a_tenant_has_a_place_however_many_there_are() -> None:
    places, hooks = make_places(), registered(acme=9)
    names = [f"acme/w{number}" for number in range(9)]
    for name in names:
        places.note(name, "swift")
    assert fill(places, hooks, names) == names


def test_a_webhook_that_is_not_known_yet_or_fails_has_one_place() -> None:
    places, hooks = make_places(), registered(acme=1, lab=1)
    places.note("lab/w0", "failing")
    assert sorted(fill(places, hooks, ["acme/w0", "lab/w0"])) == ["acme/w0", "lab/w0"]
    places.note("acme/w0", "swift")
    assert fill(places, hooks, ["acme/w0", "lab/w0"]) == ["acme/w0"] * 5


@pytest.mark.parametrize("health", ["slow", "failing"])
def test_webhooks_that_do_not_answer_soon_have_half_of_all_places_together(health: Any) -> None:
    ailing = [f"t{number}/w0" for number in range(8)]
    places, hooks = make_places(), registered(well=1, **{f"t{number}": 1 for number in range(8)})
    for name in ailing:
        places.note(name, health)
    places.note("well/w0", "swift")
    taken = fill(places, hooks, [*ailing, "well/w0"])
    assert Counter(name == "well/w0" for name in taken) == {False: 6, True: 6}
    places.leave(taken[0])
    places.note(taken[0], "swift")
    assert len(fill(places, hooks, [ailing[7]])) == 1


def test_a_webhook_is_slow_as_soon_as_a_delivery_takes_long() -> None:
    places, hooks = make_places(), registered(acme=1, lab=1, well=1)
    for name in ("acme/w0", "lab/w0", "well/w0"):
        places.note(name, "swift")
    fill(places, hooks, ["acme/w0"])
    places.note_waiting("acme/w0")
    places.note_waiting("lab/w0")
    assert fill(places, hooks, ["lab/w0"]) == []
    assert len(fill(places, hooks, ["well/w0"])) == 6


def test_a_webhook_that_wants_to_be_left_alone_has_no_place_until_then() -> None:
    now = 0.0
    places, hooks = make_places(lambda: now), registered(acme=1, lab=1)
    for name in ("acme/w0", "lab/w0"):
        places.note(name, "failing")
        places.leave_alone(name, 60.0)
    now = 59.0
    assert fill(places, hooks, ["acme/w0", "lab/w0"]) == []
    now = 61.0
    assert fill(places, hooks, ["acme/w0"]) == ["acme/w0"]
    places.leave_alone("lab/w0", 60.0)
    assert fill(places, hooks, ["lab/w0"]) == []
    places.forget_waits()
    assert fill(places, hooks, ["lab/w0"]) == ["lab/w0"]


HOOK: dict[str, Any] = {"url": "https://app.example/hook", "secrets": [SECRET]}


def parse(**hook: Any) -> Roster:
    return Roster.parse(json.dumps({"tenants": {"acme": {"webhooks": {"main": HOOK | hook}}}}).encode())


def test_the_tenants_file_names_webhooks(tmp_path: Any) -> None:
    assert parse().webhooks == {"acme": {"main": Webhook(HOOK["url"], (SECRET,), TYPES)}}
    assert parse(event_types=[TYPES[1]]).webhooks["acme"]["main"].event_types == (TYPES[1],)
    assert Roster.parse(b'{"tenants": {"acme": {}}}').webhooks == {}


@pytest.mark.parametrize(
    "hook",
    [
        {"url": "ftp://app.example/"},
        {"url": "https:///hook"},
        {"url": "https://user:s3cret-s3cret@app.example/"},
        {"url": "https://app.example/#part"},
        {"url": "https://app.example/s3cret-s3cret hook"},
        {"url": "https://app.example:99999/s3cret-s3cret"},
        {"url": "https://app.example/" + "s3cret-s3cret" * 200},
        {"secrets": []},
        {"secrets": [SECRET] * 9},
        {"secrets": ["s3cret-s3cret"]},
        {"secrets": ["whsec_s3cret-s3cret"]},
        {"secrets": ["whsec_czNjcmV0"]},
        {"event_types": ["response.s3cret-s3cret"]},
        {"event_types": []},
        {"events": []},
    ],
)
def test_a_fault_in_a_webhook_is_refused_and_no_secret_is_repeated(tmp_path: Any, hook: Any) -> None:
    path = tmp_path / "tenants.json"
    path.write_text(json.dumps({"tenants": {"acme": {"webhooks": {"main": HOOK | hook}}}}))
    with pytest.raises(FileInvalid, match=r"tenants\.json") as refused:
        read(path)
    assert "s3cret-s3cret" not in str(refused.value) or "event_types" in str(hook)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a" * 33, "ä"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        Roster.parse(json.dumps({"tenants": {"acme": {"webhooks": {name: HOOK}}}}).encode())


def test_no_message_shows_a_url_or_a_secret() -> None:
    assert repr(parse().webhooks["acme"]["main"]) == "Webhook(…)"
    assert SECRET not in repr(parse())
    assert "app.example" not in repr(parse())
