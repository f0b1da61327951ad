"""Packs an item of which clients are shown less for the log, and unpacks it.

Pure. The entry that ends the item has it in place of a token record; in older logs, another entry without
tokens may have it. Otherwise, nobody who has the log but not the tool journal could tell the model what a
tool returned.
"""

from collections.abc import Iterable

import msgspec

from shared.responses import ServerCall
from shared.store.log.event_log import Entry

_DONE = b"event: response.output_item.done\n"
"""No token that ends an item at once begins a turn or has log probabilities, so it needs no token record."""
_decoder = msgspec.msgpack.Decoder(tuple[int, ServerCall])


def pack_unshown(output_index: int, item: ServerCall) -> bytes:
    return msgspec.msgpack.encode((output_index, item))


def holds_unshown(entry: Entry) -> bool:
    """Returns True if the entry's token record is such an item."""
    return bool(entry.token_record) and (not entry.tokens or entry.frame.startswith(_DONE))


def unshown_records(entries: Iterable[Entry]) -> list[bytes]:
    return [entry.token_record for entry in entries if holds_unshown(entry)]


def read_unshown(records: Iterable[bytes]) -> dict[int, ServerCall]:
    """Returns the items by output_index."""
    return dict(map(_decoder.decode, records))
