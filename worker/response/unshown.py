"""Packs an item of which clients are shown less for the log, and unpacks it.

Pure. An entry without tokens has it in place of a token record. Otherwise, nobody who has the log but not the
tool journal could tell the model what a tool returned.
"""

from collections.abc import Iterable

import msgspec

from shared.responses import ServerCall
from shared.store.log.event_log import Entry

_decoder = msgspec.msgpack.Decoder(tuple[int, ServerCall])


def pack_unshown(output_index: int, item: ServerCall) -> bytes:
    return msgspec.msgpack.encode((output_index, item))


def unshown_records(entries: Iterable[Entry]) -> list[bytes]:
    return [entry.token_record for entry in entries if entry.token_record and not entry.tokens]


def read_unshown(records: Iterable[bytes]) -> dict[int, ServerCall]:
    """Returns the items by output_index."""
    return dict(map(_decoder.decode, records))
