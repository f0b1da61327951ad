"""How a response ends: what is set together with its terminal event, and how a cancel closes it.

Owns retention, what joins the conversation, and the order of a cancel: it seizes the lease first, so that no
owner's append can follow. Whichever closes the log first, a completion or a cancel, stands. A cancel that
comes after the answer, while the context is compacted, ends that alone, and the response completes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

import msgspec

from shared import lifecycle, metrics
from shared.approvals import fingerprint
from shared.compaction import as_shown
from shared.events import OutputItemDone, ResponseCompleted, ResponseCreated, ResponseIncomplete
from shared.frames import decode, encode, frame
from shared.heads import ResponseHead
from shared.in_turn import MEMBER, InTurn
from shared.input_items import InputItem
from shared.lifecycle import TerminalEvent
from shared.responses import (
    ConversationReference,
    Item,
    McpApprovalRequest,
    Response,
    ServerCall,
    Usage,
)
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ConversationKey, ResponseKey
from shared.store.log.made_calls import MadeCalls, OffLoop, may_have_calls
from shared.store.log.response_log import Closing, LogLimits, NewEntry, ResponseLog, write_now
from shared.store.owning import lease
from shared.store.owning.lease import Acquired, LeaseLost
from shared.store.redis.client import RedisClient
from shared.usage import complete_usage


class WholeAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A response whose answer is whole, while its owner does what may be left out: compacts the context."""

    response: Response
    """As it would end."""
    entries: int
    """The number of entries in its log so far."""
    input: Sequence[InputItem] = ()
    """What joins its conversation, if it has one."""
    unshown: Mapping[int, ServerCall] = {}
    turns: Mapping[int, InTurn] = {}

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


def closing_of(
    event: TerminalEvent,
    tenant: str,
    settings: Settings,
    input_items: Sequence[InputItem] = (),
    unshown: Mapping[int, ServerCall] = MappingProxyType({}),
    turns: Mapping[int, InTurn] = MappingProxyType({}),
    made: Sequence[InputItem | msgspec.Raw] = (),
) -> Closing:
    """Returns what closes a log besides its terminal event.

    Input and output join the conversation, unless the response is cancelled, failed or not stored. What the
    model asked to be approved is kept of any response, as digests, since its client may send it back.
    `unshown`: output_index -> a call of which the output shows less than later responses read; `turns`: how
    it stood in its turn; `made`: calls that the output does not have at all.
    """
    response = event.response
    whole = [unshown.get(index, item) for index, item in enumerate(response.output)]
    kept: dict[int, Item | InputItem] = dict(unshown)
    kept |= {index: _noted(whole[index], turn) for index, turn in turns.items()}
    noted = {item.id: item for item in kept.values()}
    conversation, items = None, []
    has_answer = response.status in ("completed", "incomplete")
    if isinstance(response.conversation, ConversationReference) and response.store and has_answer:
        conversation = ConversationKey(tenant, response.conversation.id)
        items = [(item.id or "", msgspec.json.encode(item)) for item in as_shown(input_items)]
        items += [
            (item.id, msgspec.json.encode(noted.get(item.id, item))) for item in lifecycle.lasting(whole)
        ]
    return Closing(
        response.status,
        encode(response),
        _retention_s(response, tenant, settings),
        msgspec.json.encode([*kept.values(), *made]) if kept or made else b"",
        conversation,
        items,
        response.usage.total_tokens if response.usage is not None else 0,
        [
            (keys.asked(tenant, item.id), fingerprint(item.id, item))
            for item in response.output
            if isinstance(item, McpApprovalRequest)
        ],
        max(_kept_s(tenant, settings), settings.live_ttl_s),
        encode(ResponseHead.of(response)) if response.store else b"",
        listed_s(tenant, settings),
    )


def _noted(item: Item, turn: InTurn) -> InputItem:
    (read,) = lifecycle.as_input(lifecycle.lasting([item]))
    return msgspec.structs.replace(read, **{MEMBER: turn})


def _retention_s(response: Response, tenant: str, settings: Settings) -> float:
    if response.store:
        return _kept_s(tenant, settings)
    return settings.unstored_background_s if response.background else settings.unstored_grace_s


def _kept_s(tenant: str, settings: Settings) -> float:
    """How long the tenant's responses are kept."""
    return settings.tenant_retention_s.get(tenant, settings.response_retention_s)


def listed_s(tenant: str, settings: Settings) -> float:
    """How long after it was created a response of the tenant's may still be kept, and so is listed."""
    return _kept_s(tenant, settings) + settings.live_ttl_s


async def cancel(
    redis: RedisClient, settings: Settings, key: ResponseKey, owner: str, off_loop: OffLoop
) -> Literal["ended", "closed", "missing"]:
    """Closes a response as cancelled. Returns the same as `end_at_once`."""
    made = MadeCalls(redis, settings, key, off_loop)
    return await end_at_once(redis, settings, key, owner, lifecycle.cancel, off_loop, made)


async def cancel_kept(
    redis: RedisClient, settings: Settings, key: ResponseKey, owner: str, off_loop: OffLoop
) -> bytes | None:
    """Closes a response as cancelled, if the API may report it. Takes two round trips, and as many
    more as its log has pages if its calls are kept, for at most half of `redis_timeout_s`.

    Returns JSON of the final response; or None, having done nothing, if it had ended already, does not exist,
    or may not be reported (`response_store.State.is_kept`).
    """
    made = MadeCalls(redis, settings, key, off_loop)
    while True:
        acquired = await lease.seize(redis, settings, key, owner, only_kept=True)
        if not isinstance(acquired, Acquired):
            return None
        try:
            return await _close(redis, settings, acquired, lifecycle.cancel, off_loop, made)
        except LeaseLost:
            continue  # another process closed it meanwhile


async def end_at_once(
    redis: RedisClient,
    settings: Settings,
    key: ResponseKey,
    owner: str,
    make_event: Callable[[Response], TerminalEvent],
    off_loop: OffLoop,
    made: MadeCalls | None = None,
) -> Literal["ended", "closed", "missing"]:
    """Closes a response without folding its log. `made`: finds the calls that later responses are to
    read of.

    `make_event` takes the response as accepted, with its usage so far, and returns the terminal event.
    `owner`: the name of this process. Returns `ended`; `closed` if it had ended already; or `missing`.
    """
    while True:
        acquired = await lease.seize(redis, settings, key, owner)
        match acquired:
            case Acquired():
                try:
                    await _close(redis, settings, acquired, make_event, off_loop, made)
                except LeaseLost:
                    continue  # another process closed it meanwhile
                return "ended"
            case "closed" | "missing":
                return acquired
            case "held" | "newer":
                raise RuntimeError(f"{key}: a lease could not be seized")


async def _close(
    redis: RedisClient,
    settings: Settings,
    acquired: Acquired,
    make_event: Callable[[Response], TerminalEvent],
    off_loop: OffLoop,
    made: MadeCalls | None,
) -> bytes:
    """Appends the terminal event and closes the log; returns the snapshot. Raises LeaseLost."""
    usage = complete_usage(acquired.usage, acquired.uncounted_tokens)
    held, first = acquired.lease, acquired.next_sequence_number
    if acquired.answered:
        event, last, closing = await _as_answered(redis, settings, acquired, usage, off_loop)
    else:
        event, last, closing = await _as_made(settings, acquired, usage, make_event, off_loop, made)
    if acquired.answered or closing.status == "cancelled":  # its owner may be alive, and is generating
        closing = replace(closing, tells_owner=True)
    log = ResponseLog(LogLimits.of(settings), held.key)
    await write_now(redis, log.close(held.proof, first, [NewEntry(last)], closing))
    metrics.RESPONSES.labels(metrics.model_label(event.response.model), closing.status).inc()
    return closing.snapshot


_Closed = tuple[TerminalEvent, bytes, Closing]
"""A terminal event, its frame, and what is set with it."""


async def _as_answered(
    redis: RedisClient, settings: Settings, acquired: Acquired, usage: Usage | None, off_loop: OffLoop
) -> _Closed:
    """Returns how a response ends that had its answer before it was ended."""
    stored, key = acquired.answered, acquired.lease.key
    answered = await off_loop(len(stored), lambda: msgspec.json.decode(stored, type=WholeAnswer))
    later = await redis.command("XRANGE", keys.log(key), f"{answered.entries + 1}-0", "+")
    frames = [fields[b"e"] for _, fields in later]

    def end() -> _Closed:
        event = end_with_answer(answered, frames, usage)
        last = frame(event, acquired.next_sequence_number)
        return event, last, closing_with_answer(answered, event, key.tenant, settings)

    return await off_loop(len(stored) + sum(map(len, frames)), end)


def end_with_answer(answered: WholeAnswer, later: Iterable[bytes], usage: Usage | None) -> TerminalEvent:
    """Returns the terminal event of a response whose answer is whole: it has that, and the compaction after
    it, if that is whole, too. `later`: the frames after the answer's."""
    done = [event.item for event in map(decode, later) if isinstance(event, OutputItemDone)]
    output = (*answered.response.output, *done)
    response = msgspec.structs.replace(answered.response, output=output, usage=usage)
    return ResponseIncomplete(response) if response.status == "incomplete" else ResponseCompleted(response)


def closing_with_answer(
    answered: WholeAnswer, event: TerminalEvent, tenant: str, settings: Settings
) -> Closing:
    """Returns what closes a log with `end_with_answer`'s event."""
    return closing_of(event, tenant, settings, answered.input, answered.unshown, answered.turns)


async def _as_made(
    settings: Settings,
    acquired: Acquired,
    usage: Usage | None,
    make_event: Callable[[Response], TerminalEvent],
    off_loop: OffLoop,
    made: MadeCalls | None,
) -> _Closed:
    """Returns how a response ends of which nothing but the calls is kept."""
    size_bytes = len(acquired.first_frame)
    accepted = await off_loop(size_bytes, lambda: _accepted(acquired))
    calls = await made.read_on() if made is not None and may_have_calls(accepted) else ()

    def end() -> _Closed:
        event = make_event(msgspec.structs.replace(accepted, usage=usage))
        last = frame(event, acquired.next_sequence_number)
        return event, last, closing_of(event, acquired.lease.key.tenant, settings, made=calls)

    return await off_loop(size_bytes + sum(map(len, calls)), end)


def _accepted(acquired: Acquired) -> Response:
    """Returns the response as accepted, without reading the request, which may be long."""
    event = decode(acquired.first_frame)
    if not isinstance(event, ResponseCreated):
        raise RuntimeError(f"{acquired.lease.key}: its log begins with {type(event).__name__}")
    return event.response
