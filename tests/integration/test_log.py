"""The log and the lease on a real Valkey, against the plainest model there is: a list."""

import asyncio
import base64
import random

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr

from api.offload import Offload
from shared.events import ResponseFailed
from shared.frames import decode
from shared.responses import ServerSecrets
from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.keys import ResponseKey
from shared.store.log import archive, archiving, event_log
from shared.store.log.appender import Appender
from shared.store.log.closing import cancel
from shared.store.log.response_log import Closing, NewEntry
from shared.store.owning import lease, presence
from shared.store.owning.lease import Acquired, Lease, LeaseLost, Renewal
from shared.store.records import admission, response_store, server_secrets
from shared.store.records.watchers import Watchers
from shared.store.redis.client import RedisClient
from tests.appending import append_through
from tests.conftest import keys_without_ttl
from tests.patience import PATIENCE_S
from tests.requests import accept, make_request, read_record
from worker.archiver import archive_due


async def acquire(redis: RedisClient, settings: Settings, key: ResponseKey, owner: str = "a") -> Lease:
    acquired = await lease.acquire(redis, settings, key, owner)
    assert isinstance(acquired, Acquired)
    return acquired.lease


async def lapse(redis: RedisClient, key: ResponseKey) -> None:
    await redis.command("HSET", keys.state(key), "lease_until_ms", 0)


def draft(text: str, *tokens: int) -> NewEntry:
    return NewEntry(f"event: x\ndata: {text}\n\n".encode(), tokens)


async def frames_of(redis: RedisClient, key: ResponseKey, after: int = -1) -> list[bytes]:
    page = await event_log.read(redis, key, after)
    return [entry.frame for entry in page.entries]


CLOSING = Closing("completed", b"{}", 60)


async def test_what_was_appended_is_read_with_its_numbers_and_tokens(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    key = await accept(redis, settings)
    held = await acquire(redis, settings, key)
    await append_through(appender, held, 1, [draft("a", 7, 200_012), draft("b")])
    page = await event_log.read(redis, key, 0)
    assert [(e.sequence_number, e.tokens) for e in page.entries] == [(1, (7, 200_012)), (2, ())]
    assert not page.is_closed


async def test_logprobs_are_kept_beside_the_tokens_and_read_by_those_who_ask(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    key = await accept(redis, settings)
    held = await acquire(redis, settings, key)
    measured = NewEntry(b"event: x\ndata: b\n\n", (7, 8), b"\x00measured\xff")
    await append_through(appender, held, 1, [draft("a", 5), measured, draft("c")])
    await append_through(appender, held, 4, [measured], CLOSING)
    asked = await event_log.read(redis, key, 0, with_token_records=True)
    assert [(e.tokens, e.token_record) for e in asked.entries] == [
        ((5,), b""),
        ((7, 8), measured.token_record),
        ((), b""),
        ((7, 8), measured.token_record),
    ]
    others = await event_log.read(redis, key, 0)
    assert [(e.frame, e.tokens, e.token_record) for e in others.entries] == [
        (e.frame, e.tokens, b"") for e in asked.entries
    ]


async def test_what_an_entry_without_tokens_keeps_is_read_and_counts_for_the_size_of_a_page(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    key = await accept(redis, settings)
    held = await acquire(redis, settings, key)
    kept = NewEntry(b"event: x\ndata: b\n\n", (), b"r" * (event_log.PAGE_BYTES // 2))
    await append_through(appender, held, 1, [draft("a", 5), kept, kept, kept])
    pages = [page async for page in event_log.pages(redis, key, 0, with_token_records=True)]
    assert [[(e.tokens, len(e.token_record)) for e in page.entries] for page in pages] == [
        [((5,), 0), ((), len(kept.token_record))],
        [((), len(kept.token_record))],
        [((), len(kept.token_record))],
    ]
    (page,) = [page async for page in event_log.pages(redis, key, 0)]
    assert [e.frame for e in page.entries[1:]] == [kept.frame] * 3


async def test_a_stale_owner_cannot_append_or_close(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    key = await accept(redis, settings)
    stale = await acquire(redis, settings, key, "stale")
    await lapse(redis, key)
    fresh = await acquire(redis, settings, key, "fresh")
    for closing in (None, CLOSING):
        with pytest.raises(LeaseLost):
            await append_through(appender, stale, 1, [draft("stale")], closing)
    await append_through(appender, fresh, 1, [draft("fresh")])
    assert (await frames_of(redis, key, 0)) == [draft("fresh").frame]


async def test_nothing_is_appended_after_the_close(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    key = await accept(redis, settings)
    held = await acquire(redis, settings, key)
    await append_through(appender, held, 1, [draft("last")], CLOSING)
    with pytest.raises(LeaseLost):
        await append_through(appender, held, 2, [draft("more")])
    page = await event_log.read(redis, key, -1)
    assert page.is_closed
    assert len(page.entries) == 2
    assert await lease.acquire(redis, settings, key, "b") == "closed"


async def test_an_append_whose_reply_was_lost_is_recognised_when_sent_again(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    key = await accept(redis, settings)
    held = await acquire(redis, settings, key)
    await append_through(appender, held, 1, [draft("a"), draft("b")])
    await append_through(appender, held, 1, [draft("a"), draft("b")])
    assert len(await frames_of(redis, key)) == 3


async def test_a_number_that_is_not_the_next_one_is_refused(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    key = await accept(redis, settings)
    held = await acquire(redis, settings, key)
    with pytest.raises(RuntimeError, match="log is at 1"):
        await append_through(appender, held, 5, [draft("a")])
    assert len(await frames_of(redis, key)) == 1


async def test_a_lease_is_held_by_one_owner_until_it_lapses(redis: RedisClient, settings: Settings) -> None:
    key = await accept(redis, settings)
    first = await acquire(redis, settings, key, "a")
    assert await lease.acquire(redis, settings, key, "b") == "held"
    await lapse(redis, key)
    second = await acquire(redis, settings, key, "b")
    assert second.fencing_token == first.fencing_token + 1


async def test_the_beat_learns_which_leases_are_lost(redis: RedisClient, settings: Settings) -> None:
    kept, taken = await accept(redis, settings), await accept(redis, settings)
    leases = [await acquire(redis, settings, key) for key in (kept, taken)]
    await lapse(redis, taken)
    await acquire(redis, settings, taken, "b")
    assert await lease.renew_all(redis, [Renewal.of(settings, each) for each in leases]) == [
        (leases[1], "lost")
    ]


async def test_a_lapsed_lease_is_found_by_the_sweeper_and_a_held_one_is_not(
    redis: RedisClient, settings: Settings
) -> None:
    held, lapsed = await accept(redis, settings), await accept(redis, settings)
    for key in (held, lapsed):
        await acquire(redis, settings, key)
    await redis.command("ZADD", keys.ACTIVE, 0, str(lapsed))
    assert await lease.lapsed(redis, settings, 10) == []
    # Redis has been there for long: without a pulse nothing is known to have lapsed while it was.
    await redis.command("HSET", keys.PULSE, "since_ms", 0, "heard_ms", await lease.now_ms(redis))
    assert await lease.lapsed(redis, settings, 10) == [lapsed]


async def test_a_full_queue_refuses_and_writes_nothing(redis: RedisClient, settings: Settings) -> None:
    narrow = settings.model_copy(update={"queue_depth_max": 1})
    await accept(redis, narrow)
    before = sorted(await redis.command("KEYS", "*"))
    with pytest.raises(admission.QueueFull):
        await accept(redis, narrow)
    assert sorted(await redis.command("KEYS", "*")) == before


async def test_secrets_are_sealed_with_the_deployments_key_and_lost_without_it(
    redis: RedisClient, settings: Settings
) -> None:
    ours, others = (
        settings.model_copy(
            update={"secrets_key": SecretStr(base64.urlsafe_b64encode(bytes([n] * 32)).decode())}
        )
        for n in (1, 2)
    )
    request = make_request()
    key = ResponseKey("default", request.response.id)
    secrets = {"label": ServerSecrets({"x-key": "swordfish"}, "token")}
    await response_store.create(redis, ours, admission.NewResponse.of(key, request, secrets))
    assert b"swordfish" not in await redis.command("GET", keys.secrets(key))
    assert await server_secrets.read_secrets(redis, ours, key) == secrets
    assert await server_secrets.read_secrets(redis, others, key) is None
    assert await server_secrets.read_secrets(redis, settings, key) is None  # no key at all


async def test_secrets_are_gone_when_the_response_is_closed(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    request = make_request()
    key = ResponseKey("default", request.response.id)
    secrets = {"label": ServerSecrets({"x-key": "k"}, "token")}
    await response_store.create(redis, settings, admission.NewResponse.of(key, request, secrets))
    assert await server_secrets.read_secrets(redis, settings, key) == secrets
    held = await acquire(redis, settings, key)
    await append_through(appender, held, 1, [draft("end")], CLOSING)
    assert await server_secrets.read_secrets(redis, settings, key) == {}


operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2), st.integers(1, 3)),
        st.tuples(st.just("close"), st.integers(0, 2), st.integers(1, 2)),
        st.tuples(st.just("acquire"), st.booleans(), st.just(0)),
    ),
    max_size=25,
)


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(operations)
async def test_the_log_behaves_as_a_list_with_one_writer(
    redis: RedisClient, settings: Settings, appender: Appender, steps: list[tuple[str, int, int]]
) -> None:
    """Appends by any past or present owner: only the newest token's are there, in order, until the close."""
    key = await accept(redis, settings)
    model = await frames_of(redis, key)
    leases = [await acquire(redis, settings, key)]
    is_closed = False
    for name, who, count in steps:
        if name == "acquire":
            if who:
                await lapse(redis, key)
            got = await lease.acquire(redis, settings, key, "x")
            expected = "closed" if is_closed else ("acquired" if who else "held")
            assert expected == ("acquired" if isinstance(got, Acquired) else got)
            if isinstance(got, Acquired):
                assert got.next_sequence_number == len(model)
                leases.append(got.lease)
            continue
        writer = leases[-1 - who % len(leases)]
        drafts = [draft(f"{name}{len(model) + i}", *range(i)) for i in range(count)]
        may = writer is leases[-1] and not is_closed
        try:
            await append_through(appender, writer, len(model), drafts, CLOSING if name == "close" else None)
            assert may
            model += [d.frame for d in drafts]
            is_closed = name == "close"
        except LeaseLost:
            assert not may
    for cursor in range(-1, len(model) + 1):
        page = await event_log.read(redis, key, cursor, count_max=7)
        assert [e.frame for e in page.entries] == model[cursor + 1 : cursor + 8]
        assert [e.sequence_number for e in page.entries] == list(range(len(model)))[cursor + 1 : cursor + 8]
    assert await keys_without_ttl(redis) == []


# --- closing, cancelling, archiving -----------------------------------------------------------------


async def write_log(redis: RedisClient, settings: Settings, appender: Appender, entries: int) -> ResponseKey:
    """Writes a closed log with this many entries after the first."""
    key = await accept(redis, settings)
    held = await acquire(redis, settings, key)
    drafts = [draft(f"entry {i}", i) for i in range(entries)]
    closing = Closing("completed", b'{"id": "snapshot"}', 60)
    await append_through(appender, held, 1, drafts, closing)
    return key


async def read_whole(redis: RedisClient, key: ResponseKey, after: int = -1) -> list[tuple[int, bytes]]:
    entries: list[tuple[int, bytes]] = []
    while True:
        page = await event_log.read(redis, key, after, count_max=700)
        entries += [(entry.sequence_number, entry.frame) for entry in page.entries]
        if page.is_closed:
            return entries
        after = entries[-1][0]


@pytest.mark.parametrize("entries", [1, archive.CHUNK_ENTRIES - 1, archive.CHUNK_ENTRIES, 4_100])
async def test_an_archived_log_reads_as_before_from_every_cursor_and_is_smaller(
    redis: RedisClient, settings: Settings, appender: Appender, entries: int
) -> None:
    key = await write_log(redis, settings, appender, entries)
    whole = await read_whole(redis, key)
    record = await read_record(redis, key)
    size_bytes = await memory_of(redis, key)
    assert await archiving.archive_log(redis, key) == "archived"
    for cursor in (-1, 0, 1, entries - 1, entries, entries + 1, entries + 10_000):
        assert await read_whole(redis, key, cursor) == whole[cursor + 1 :]
    assert await read_record(redis, key) == record
    assert await redis.command("EXISTS", keys.log(key)) == 0
    assert entries < 100 or await memory_of(redis, key) < size_bytes / 5
    assert await archiving.archive_log(redis, key) == "archived"
    assert await read_whole(redis, key) == whole


async def memory_of(redis: RedisClient, key: ResponseKey) -> int:
    names = await redis.command("KEYS", f"antiphon:{{{key}}}:*")
    return sum([await redis.command("MEMORY", "USAGE", name, "SAMPLES", 0) for name in names])


async def test_an_open_log_is_not_archived(redis: RedisClient, settings: Settings) -> None:
    key = await accept(redis, settings)
    assert await archiving.archive_log(redis, key) == "changed"
    assert len(await frames_of(redis, key)) == 1


async def make_due(redis: RedisClient, key: ResponseKey) -> None:
    await redis.command("ZADD", keys.CLOSED, 0, str(key))


async def test_a_closed_log_falls_due_for_archiving_and_then_no_more(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    key = await write_log(redis, settings, appender, 3)
    assert await archiving.claim_due(redis, 10) == []
    await make_due(redis, key)
    assert await archiving.claim_due(redis, 10) == [key]
    await archiving.archive_log(redis, key)
    assert await redis.command("ZCARD", keys.CLOSED) == 0


async def test_a_due_log_is_one_workers_for_a_while_and_due_again_if_it_dies(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    due = [await write_log(redis, settings, appender, 1) for _ in range(9)]
    for key in due:
        await make_due(redis, key)
    claims = await asyncio.gather(*(archiving.claim_due(redis, 4) for _ in range(4)))
    assert sorted(key for claim in claims for key in claim) == sorted(due)
    again_at_ms = int(await redis.command("ZSCORE", keys.CLOSED, str(due[0])))
    left_ms = again_at_ms - await lease.now_ms(redis)
    assert 0.9 * archiving.CLAIM_S < left_ms / 1000 <= archiving.CLAIM_S


async def test_many_who_archive_one_log_at_once_leave_one_whole_archive(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    key = await write_log(redis, settings, appender, 4_100)
    whole = await read_whole(redis, key)
    outcomes = await asyncio.gather(*(archiving.archive_log(redis, key) for _ in range(5)))
    assert outcomes == ["archived"] * 5
    assert await read_whole(redis, key) == whole
    names = await redis.command("KEYS", f"antiphon:{{{key}}}:*")
    assert sorted(name.decode() for name in names) == [keys.archive(key), keys.state(key)]


async def test_a_log_whose_packed_chunks_were_lost_stays_a_log(
    redis: RedisClient, settings: Settings, appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await write_log(redis, settings, appender, 4_100)
    whole = await read_whole(redis, key)
    monkeypatch.setattr(archiving, "_CLAIM_MS", 0)  # each chunk expires as soon as it is kept
    assert await archiving.archive_log(redis, key) == "changed"
    assert await read_whole(redis, key) == whole
    assert await redis.command("EXISTS", keys.archive(key)) == 0


async def test_a_log_that_cannot_be_archived_stays_and_stops_no_other(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    damaged, broken, sound = [await write_log(redis, settings, appender, 3) for _ in range(3)]
    await redis.command("XADD", keys.log(damaged), "5-0", "e", b"no end of a frame")
    await redis.command("DEL", keys.log(broken))
    await redis.command("SET", keys.log(broken), "no stream", "PX", 60_000)
    for place, key in enumerate((damaged, broken, sound)):
        await redis.command("ZADD", keys.CLOSED, place, str(key))
    archiving_due = asyncio.create_task(archive_due(redis, settings))
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await redis.command("EXISTS", keys.archive(sound)):
                assert not archiving_due.done()
    finally:
        archiving_due.cancel()
    assert (await read_whole(redis, damaged))[-1] == (4, b"no end of a frame")
    assert await redis.command("ZCARD", keys.CLOSED) == 2


FAT_FRAME_BYTES = 100_000


async def write_fat_log(
    redis: RedisClient, settings: Settings, appender: Appender, *, entries: int
) -> ResponseKey:
    """A closed log of small and large frames by turns, which zstd cannot make smaller."""
    key = await accept(redis, settings)
    held = await acquire(redis, settings, key)
    fat = random.Random(7)
    drafts = [
        draft(fat.randbytes(FAT_FRAME_BYTES // 2).hex() if i % 20 == 0 else f"entry {i}", i)
        for i in range(entries)
    ]
    drafts.append(draft("x" * (archive.CHUNK_BYTES + 1)))
    await append_through(appender, held, 1, drafts, Closing("completed", b"{}", 60))
    return key


@pytest.mark.parametrize("is_archived", [False, True])
async def test_a_page_is_bounded_in_bytes_and_a_frame_that_is_larger_comes_alone(
    redis: RedisClient, settings: Settings, appender: Appender, is_archived: bool
) -> None:
    key = await write_fat_log(redis, settings, appender, entries=400)
    if is_archived:
        assert await archiving.archive_log(redis, key) == "archived"
    bound_bytes = archive.CHUNK_BYTES if is_archived else event_log.PAGE_BYTES
    frames: list[bytes] = []
    sizes_bytes: list[int] = []
    while True:
        page = await event_log.read(redis, key, len(frames) - 1)
        assert page.is_closed is not page.has_more
        frames += [entry.frame for entry in page.entries]
        sizes_bytes.append(sum(len(entry.frame) for entry in page.entries))
        assert sizes_bytes[-1] <= bound_bytes or len(page.entries) == 1
        if page.is_closed:
            break
    assert len(frames) == 402
    assert len(frames[-1]) > archive.CHUNK_BYTES
    assert sum(size > bound_bytes / 2 for size in sizes_bytes) > 3
    for cursor in range(0, 402, 7):
        page = await event_log.read(redis, key, cursor)
        assert page.entries[0].frame == frames[cursor + 1]


async def test_cancel_wins_over_an_owner_who_goes_on_and_stays_won(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    key = await accept(redis, settings)
    held = await acquire(redis, settings, key)
    await append_through(appender, held, 1, [draft("a")])
    assert await cancel(redis, settings, key, "api", Offload().run) == "ended"
    with pytest.raises(LeaseLost):
        await append_through(appender, held, 2, [draft("b")], CLOSING)
    assert await cancel(redis, settings, key, "api", Offload().run) == "closed"
    (state,) = await response_store.read_states(redis, [key])
    assert state is not None
    assert state.closed == "cancelled"
    last = decode((await frames_of(redis, key))[-1])
    assert isinstance(last, ResponseFailed)
    assert (last.response.status, last.response.output) == ("cancelled", ())


async def test_a_completion_that_comes_first_stays(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    key = await write_log(redis, settings, appender, 1)
    assert await cancel(redis, settings, key, "api", Offload().run) == "closed"
    assert len(await frames_of(redis, key)) == 2


async def test_twenty_cancels_at_once_write_one_terminal_event(
    redis: RedisClient, settings: Settings
) -> None:
    key = await accept(redis, settings)
    outcomes = await asyncio.gather(
        *(cancel(redis, settings, key, f"api-{i}", Offload().run) for i in range(20))
    )
    assert outcomes.count("ended") == 1
    assert len(await frames_of(redis, key)) == 2


async def test_a_tenants_open_responses_are_limited(redis: RedisClient, settings: Settings) -> None:
    narrow = settings.model_copy(update={"tenant_responses_max": 2})
    first = await accept(redis, narrow)
    await accept(redis, narrow)
    before = sorted(await redis.command("KEYS", "*"))
    with pytest.raises(admission.TenantBusy):
        await accept(redis, narrow)
    assert sorted(await redis.command("KEYS", "*")) == before
    await accept(redis, narrow, tenant="another")
    await cancel(redis, narrow, first, "api", Offload().run)
    await accept(redis, narrow)


async def test_the_same_idempotency_key_and_body_give_the_same_response(
    redis: RedisClient, settings: Settings
) -> None:
    async def create(body: str, name: str = "k") -> ResponseKey:
        request = make_request()
        key = ResponseKey("default", request.response.id)
        repetition = admission.Repetition(name, body)
        draft = admission.NewResponse.of(key, request, {}, None, repetition)
        return (await response_store.create(redis, settings, draft)).key

    first = await create("digest")
    before = sorted(await redis.command("KEYS", "*"))
    assert await create("digest") == first
    with pytest.raises(admission.KeyReused):
        await create("other")
    assert sorted(await redis.command("KEYS", "*")) == before
    assert await create("digest", "another key") != first


async def do_nothing(_: ResponseKey) -> None:
    pass


async def test_a_foreground_response_is_abandoned_when_its_last_reader_has_been_gone_for_the_grace(
    redis: RedisClient, settings: Settings
) -> None:
    hasty = settings.model_copy(update={"disconnect_grace_s": 0.0})
    foreground = await acquire(redis, hasty, await accept(redis, hasty))
    watched = await acquire(redis, hasty, await accept(redis, hasty))
    background = await acquire(redis, hasty, await accept(redis, hasty, make_request(background=True)))
    async with Watchers(redis, do_nothing).present(watched.key):
        await presence.announce(redis, "api", "node")
        assert await lease.renew_all(
            redis, [Renewal.of(hasty, each) for each in (foreground, watched, background)]
        ) == [(foreground, "abandoned")]
        assert (
            await lease.renew_all(
                redis, [Renewal.of(settings, each) for each in (foreground, watched, background)]
            )
            == []
        )


async def test_a_deleted_response_leaves_nothing(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    key = await write_log(redis, settings, appender, 3)
    still_open = await accept(redis, settings)
    assert await response_store.delete(redis, still_open) == "open"
    assert await response_store.delete(redis, key) == "deleted"
    assert await redis.command("KEYS", f"*{key}*") == []
    assert await response_store.delete(redis, key) == "missing"


async def test_a_short_retention_of_one_tenant_shortens_nothing_of_another(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    long = await write_log(redis, settings, appender, 1)
    short = await accept(redis, settings, tenant="short")
    held = await acquire(redis, settings, short)
    await append_through(appender, held, 1, [draft("end")], Closing("completed", b"{}", 1))
    assert await redis.command("PTTL", keys.CLOSED) > 50_000
    assert await redis.command("ZSCORE", keys.CLOSED, str(long)) is not None


async def test_what_waits_without_any_worker_is_kept_alive_by_sweepers(
    redis: RedisClient, settings: Settings
) -> None:
    key = await accept(redis, settings)
    for name in (keys.state(key), keys.log(key)):
        await redis.command("PEXPIRE", name, 1_000)
    await job_queue.ring_again(redis, settings, key)
    for name in (keys.state(key), keys.log(key)):
        assert await redis.command("PTTL", name) > 1_000
