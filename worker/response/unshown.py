"""Packs an item of which clients are shown less for the log, and unpacks it.

Pure. An entry without tokens has it in place of a token record. Otherwise, nobody who has the log but not the
tool journal could tell the model what a tool returned.
"""

from collections.abc import Iterable

import msgspec

from shared.responses import ServerCall

_decoder = msgspec.msgpack.Decoder(tuple[int, ServerCall])


def pack_unshown(output_index: int, item: ServerCall) -> bytes:
    return msgspec.msgpack.encode((output_index, item))


def read_unshown(records: Iterable[bytes]) -> dict[int, ServerCall]:
    """Returns the items by output_index."""
    return dict(map(_decoder.decode, records))
