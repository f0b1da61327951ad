"""A request's context: the items of the responses or the conversation that it continues.

Owns the resolution of ids to items, and the limits on them. Each response keeps its whole context, so one
read is enough however long the chain (docs/adr/0009-context-kept-whole.md). Reading and composing are
separate: what is read stays bytes until it is composed, off the loop if it is large (`offload.py`).
"""

import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from api.bodies import item_relations
from api.errors import ClientError, invalid_value, previous_not_found, reference_not_found
from api.offload import Offload
from shared import lifecycle
from shared.hosted_tools import AnyHostedToolCall, HostedToolCall
from shared.input_items import AskedItem, InputCompaction, InputItem, ItemReference
from shared.json_values import count_values
from shared.responses import Dialect, Response, ResponseRequest
from shared.sealing import COMPACTION, REASONING, Seal
from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.log import archive
from shared.store.records import response_store
from shared.store.records.admission import Membership
from shared.store.records.response_store import Stored
from shared.store.records.unshown import read_unshown
from shared.store.redis.client import RedisClient
from shared.turns import without_old_reasoning

_ITEM_ID = re.compile(r"[a-z]+_([a-z0-9]{1,8}_[0-9a-f]{32})_i?\d+")
_BATCH_BYTES, _BATCH_RECORDS = 4 * 2**20, 100
"""How much is read at once for references: these limits, but at least one record."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The parts from which a request's items are composed, as stored in Redis; all JSON."""

    parent: Stored | None = None
    """The response that it continues."""
    conversation: Sequence[bytes] = ()
    """The items of its conversation."""
    referenced: Mapping[str, bytes] = field(default_factory=dict)
    """Item id -> the item that an `item_reference` refers to."""
    membership: Membership | None = None
    """The conversation, and how far it was read."""
    kept: Mapping[str, bytes] = field(default_factory=dict)
    """Item id -> a call that the client sends back without its result, as it is kept here."""

    @property
    def size_bytes(self) -> int:
        parent = self.parent.size_bytes if self.parent else 0
        items = (*self.conversation, *self.referenced.values(), *self.kept.values())
        return parent + sum(map(len, items))


# --- reading ------------------------------------------------------------------------------------


async def read_parent(redis: RedisClient, parent: ResponseKey, dialect: Dialect) -> Stored:
    """Returns the response that a request continues. Raises ClientError if it is unknown or still open."""
    stored = await response_store.read_stored(redis, parent)
    if redis.is_confirming and (stored is None or not stored.state.closed):
        await redis.confirm()  # that may have been said by a server that has been replaced
        stored = await response_store.read_stored(redis, parent)
    if stored is None or not stored.state.is_stored:
        raise previous_not_found(parent.response_id, dialect)
    if not stored.state.closed:
        raise invalid_value("previous_response_id", f"response '{parent.response_id}' is still in progress")
    return stored


async def read_references(
    redis: RedisClient,
    offload: Offload,
    settings: Settings,
    tenant: str,
    items: Sequence[AskedItem],
    name: str,
) -> dict[str, bytes]:
    """Returns the JSON of every item that is referred to and found, by item id. `name`: the list's, for
    errors.

    Each record is read once, a batch at a time, and only the items referred to are kept. Raises ClientError
    if the records, or the items, exceed the limits of a request.
    """
    wanted = {item.id for item in items if isinstance(item, ItemReference)}
    found: dict[str, bytes] = {}
    async for records in _read_records(redis, settings, _homes(tenant, wanted), name):
        size_bytes = sum(record.size_bytes for record in records)
        found |= await offload.run(size_bytes, lambda records=records: _pick(records, wanted))  # type: ignore[misc]
        if sum(map(len, found.values())) > settings.context_bytes_max:
            raise _too_large(settings.context_bytes_max, name)
    return found


async def read_outputs(
    redis: RedisClient, offload: Offload, settings: Settings, tenant: str, item_ids: Sequence[str]
) -> dict[str, bytes]:
    """Returns the JSON of those items that stored responses have put out, by item id. Limited as
    `read_references`."""
    wanted = set(item_ids)
    found: dict[str, bytes] = {}
    async for records in _read_records(redis, settings, _homes(tenant, wanted), "input"):
        size_bytes = sum(record.size_bytes for record in records)
        found |= await offload.run(size_bytes, lambda records=records: _pick_outputs(records, wanted))  # type: ignore[misc]
    return found


def _pick_outputs(records: Sequence[Stored], wanted: Collection[str]) -> dict[str, bytes]:
    outputs = [raw for record in records for raw in _outputs_of(record.unpack())]
    ids = [msgspec.json.decode(raw, type=_StoredItem).id for raw in outputs]
    return {id_: bytes(raw) for id_, raw in zip(ids, outputs, strict=True) if id_ and id_ in wanted}


async def read_kept(
    redis: RedisClient, offload: Offload, settings: Settings, tenant: str, items: Sequence[AskedItem]
) -> dict[str, bytes]:
    """Returns the JSON of the calls that a client sends back without their results, by item id.

    Those that are not found here stay as they were sent, as do the earliest if there are many.
    """
    sent = [item.id for item in reversed(items) if isinstance(item, HostedToolCall) and item.lacks_result]
    homes = list(dict.fromkeys(home for item_id in sent for home in _homes(tenant, [item_id])))
    if not homes:
        return {}
    limits = _BATCH_BYTES, settings.references_bytes_max
    lists, archives = await read_unshown(redis, homes[:_BATCH_RECORDS], *limits)
    size_bytes = sum(map(len, lists)) + sum(map(archive.record_bytes, archives))
    return await offload.run(size_bytes, lambda: _pick_kept(lists, archives, set(sent)))


def _pick_kept(
    lists: Sequence[bytes], archives: Sequence[bytes], wanted: Collection[object]
) -> dict[str, bytes]:
    opened = (archive.open_record(packed).unshown for packed in archives)
    items = [item for each in (*lists, *opened) if each for item in msgspec.json.decode(each, type=_Raws)]
    ids = [msgspec.json.decode(item, type=_StoredItem).id for item in items]
    return {id_: bytes(item) for id_, item in zip(ids, items, strict=True) if id_ and id_ in wanted}


def _homes(tenant: str, item_ids: Collection[str]) -> list[ResponseKey]:
    """Returns the responses that the items belong to."""
    matches = (_ITEM_ID.fullmatch(item_id) for item_id in item_ids)
    return [ResponseKey(tenant, name) for name in sorted({f"resp_{match[1]}" for match in matches if match})]


async def _read_records(
    redis: RedisClient, settings: Settings, asked: Sequence[ResponseKey], name: str
) -> AsyncIterator[list[Stored]]:
    """Yields the records of the responses, in batches of limited size.

    Raises ClientError if they are too large.
    """
    left_bytes = settings.references_bytes_max
    async for batch in _batches(redis, asked, left_bytes, name):
        records = [
            record
            for record in await response_store.read_all_stored(redis, batch)
            if record is not None and record.state.is_stored
        ]
        left_bytes -= sum(
            record.size_bytes for record in records
        )  # unpacked, since an archive may unpack to far more
        if left_bytes < 0:
            raise _too_much_to_read(settings.references_bytes_max, name)
        yield records


async def _batches(
    redis: RedisClient, asked: Sequence[ResponseKey], bytes_max: int, name: str
) -> AsyncIterator[list[ResponseKey]]:
    """Yields responses to be read together.

    Raises ClientError at once if their stored sizes exceed the limit.
    """
    sizes: list[int] = []
    for i in range(0, len(asked), _BATCH_RECORDS):
        sizes += await response_store.read_sizes(redis, asked[i : i + _BATCH_RECORDS])
        if sum(sizes) > bytes_max:
            raise _too_much_to_read(bytes_max, name)
    batch: list[ResponseKey] = []
    batch_bytes = 0
    for key, size in zip(asked, sizes, strict=True):
        if batch and (batch_bytes + size > _BATCH_BYTES or len(batch) == _BATCH_RECORDS):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(key)
        batch_bytes += size
    if batch:
        yield batch


_Raws = list[msgspec.Raw]


class _Inputs(msgspec.Struct):
    input: list[msgspec.Raw] = []
    sent: list[msgspec.Raw] = []


class _Outputs(msgspec.Struct):
    output: list[msgspec.Raw] = []


class _StoredItem(msgspec.Struct):
    id: str | None = None


def _pick(records: Sequence[Stored], wanted: Collection[str]) -> dict[str, bytes]:
    """Returns the wanted items of the records, decoding nothing else of them."""
    found: dict[str, bytes] = {}
    for record in records:
        for raw in _items_of(record.unpack()):
            item_id = msgspec.json.decode(raw, type=_StoredItem).id
            if item_id is not None and item_id in wanted:
                found.setdefault(item_id, bytes(raw))
    return found


def _items_of(record: archive.ArchivedRecord) -> list[msgspec.Raw]:
    """Returns the items of a response; a call of which less was shown comes first as it is."""
    inputs = msgspec.json.decode(record.request, type=_Inputs)
    unshown = msgspec.json.decode(record.unshown, type=list[msgspec.Raw]) if record.unshown else []
    return [*inputs.sent, *inputs.input, *unshown, *_outputs_of(record)]


def _outputs_of(record: archive.ArchivedRecord) -> list[msgspec.Raw]:
    return msgspec.json.decode(record.snapshot, type=_Outputs).output if record.snapshot else []


# --- composing ----------------------------------------------------------------------------------


def compose(
    request: ResponseRequest, asked: Sequence[AskedItem], sources: Sources, settings: Settings, tenant: str
) -> ResponseRequest:
    """Returns the request with its input, references replaced by items, and with its context. Compactions,
    and sealed reasoning that the model reads, are opened.

    Pure. Raises ClientError for unknown items, items that do not fit together, and items that exceed the
    limits.
    """
    param = "conversation" if sources.membership else "previous_response_id" if sources.parent else "input"
    stored = [*sources.conversation, *sources.referenced.values(), *sources.kept.values()]
    _check_values(stored, settings, param)
    before = _items_before(sources)
    item_relations.check_unique(asked, before, "input")
    items = [_complete(item, sources.kept) for item in resolve(asked, sources.referenced, "input")]
    sent = items if any(isinstance(item, InputCompaction) for item in items) else []
    before, items = _open_compactions(before, items, param, unsealer_of(settings, tenant, COMPACTION))
    before = without_old_reasoning(before, items)
    opened = item_relations.open_reasoning([*before, *items], unsealer_of(settings, tenant, REASONING))
    before, items = opened[: len(before)], opened[len(before) :]
    _check_sizes(before, items, settings, param)
    item_relations.check_answers(items, before, "input")
    if not is_compaction_alone(request):  # which may come while the client runs its calls
        item_relations.check_calls([*before, *items], "input")
    return msgspec.structs.replace(request, input=items, context=before, sent=sent)


def is_compaction_alone(request: ResponseRequest) -> bool:
    """Returns True if nothing is asked for but a compaction."""
    return request.compaction is not None and request.compaction.threshold is None


def _open_compactions(
    before: Sequence[InputItem],
    items: Sequence[InputItem],
    param: str,
    unseal: Callable[[str], str | None],
) -> tuple[list[InputItem], list[InputItem]]:
    """Returns the items before a request's own, and its own, with what a model reads in place of
    compactions. `param`: where those before come from."""
    items, is_whole = item_relations.open_compactions(
        items, unseal, lambda place: f"input[{place}].encrypted_content"
    )
    if is_whole:
        return [], items
    before, _ = item_relations.open_compactions(before, unseal, lambda _: param)
    own = {item.id for item in items}
    return [item for item in before if item.id not in own], items


def unsealer_of(settings: Settings, tenant: str, purpose: str) -> Callable[[str], str | None]:
    """Returns what opens texts sealed for the tenant and the purpose, and returns None for any other text."""
    if not settings.seal_keys:
        return lambda _: None
    return Seal(settings.seal_keys, tenant, purpose).open


def _items_before(sources: Sources) -> list[InputItem]:
    if sources.parent is None:
        return [msgspec.json.decode(item, type=InputItem) for item in sources.conversation]
    record = sources.parent.open()
    response = msgspec.json.decode(record.snapshot, type=Response)
    kept = msgspec.json.decode(record.unshown, type=list[InputItem]) if record.unshown else []
    whole = {item.id: item for item in kept}
    if response.status == "cancelled":  # whose output is not shown
        output = kept
    else:
        read = [item for item in response.output if item.id in whole or lifecycle.lasting([item])]
        output = [whole.get(item.id, item) for item in lifecycle.as_input(lifecycle.without_unread(read))]
    return [*record.request.context, *record.request.input, *output]


def _complete(item: InputItem, kept: Mapping[str, bytes]) -> InputItem:
    """Returns a call that is kept here with its result, and any other item as it is."""
    if not isinstance(item, HostedToolCall) or not isinstance(item.id, str) or item.id not in kept:
        return item
    return item.complete(msgspec.json.decode(kept[item.id], type=AnyHostedToolCall))


def resolve(items: Sequence[AskedItem], referenced: Mapping[str, bytes], name: str) -> list[InputItem]:
    """Replaces references by the items that they refer to. Raises ClientError for unknown ones."""

    def find(item_id: str) -> InputItem:
        if item_id not in referenced:
            raise reference_not_found(item_id, name)
        item: InputItem = msgspec.json.decode(referenced[item_id], type=InputItem)
        return item

    return [find(item.id) if isinstance(item, ItemReference) else item for item in items]


def _check_sizes(
    context: Sequence[InputItem], items: Sequence[InputItem], settings: Settings, param: str
) -> None:
    """Raises ClientError if there are too many items or bytes. `param`: where most of the items come from."""
    if len(context) + len(items) > settings.items_max:
        reason = f"with what comes before it, the input has {len(context) + len(items)} items"
        raise invalid_value(param, f"{reason}; at most {settings.items_max} are read")
    encoded: list[bytes] = []
    size_bytes = 0
    for item in (*context, *items):
        encoded.append(msgspec.json.encode(item))
        size_bytes += len(encoded[-1])
        if size_bytes > settings.context_bytes_max:
            raise _too_large(settings.context_bytes_max, param)
    _check_values(encoded, settings, param)


def _check_values(items: Sequence[bytes], settings: Settings, param: str) -> None:
    """Raises ClientError if the items have too many JSON values: decoding them would block the process.

    Called before they are decoded.
    """
    values_max = settings.json_values_max
    for enough in (values_max, 0):  # the quick count, which may be too high, suffices for most requests
        if sum(count_values(item, enough) for item in items) <= values_max:
            return
    message = (
        f"The input, with what comes before it and what it refers to, has more than {values_max} values."
    )
    raise ClientError(400, message, "context_too_large", param)


def _too_large(bytes_max: int, param: str) -> ClientError:
    message = f"The input, with what comes before it and what it refers to, has more than {bytes_max} bytes."
    return ClientError(400, message, "context_too_large", param)


def _too_much_to_read(bytes_max: int, name: str) -> ClientError:
    message = f"The item references in '{name}' lead to responses of more than {bytes_max} bytes together."
    return ClientError(400, message, "context_too_large", name)
