"""Seals the texts of a response that clients carry: its reasoning, for those that keep only that
(`include: reasoning.encrypted_content`), and what a compaction stands for.

Owns where a sealed text comes from: the log, as far as that reaches, and then the first of `seal_keys`. So a
response keeps its bytes if another worker takes it over while the keys are being replaced.
"""

from collections.abc import Callable, Iterable, Mapping

from shared.events import OutputItemDone
from shared.frames import decode
from shared.responses import SEALED_REASONING, Compaction, Reasoning, ResponseError
from shared.sealing import COMPACTION, REASONING, Seal
from shared.settings import Settings
from worker.response.history import LoadedRecord
from worker.response.hopeless import Hopeless

_NO_KEYS = ResponseError(
    "server_error", f"This worker cannot include {SEALED_REASONING}: its operator has set no seal_keys."
)
_NO_COMPACTION = ResponseError(
    "server_error", "This worker cannot compact a context: its operator has set no seal_keys."
)
_DONE = b"event: response.output_item.done\n"


def sealer_of(
    record: LoadedRecord, tenant: str, settings: Settings, frames: Iterable[bytes]
) -> Callable[[int, str], str] | None:
    """Returns what seals the text of a reasoning item, given its output_index, or None if none is wanted.

    `frames`: those that earlier attempts have written to the log. Raises Hopeless if this worker has no keys.
    """
    if SEALED_REASONING not in record.request.include or record.format < 3:
        return None
    if not settings.seal_keys:
        raise Hopeless(_NO_KEYS)
    return _seal_for(REASONING, tenant, settings, frames)


def compaction_sealer_of(
    record: LoadedRecord, tenant: str, settings: Settings, frames: Iterable[bytes]
) -> Callable[[int, str], str] | None:
    """Returns the same for the text of a compaction item."""
    if record.request.compaction is None:
        return None
    if not settings.seal_keys:
        raise Hopeless(_NO_COMPACTION)
    return _seal_for(COMPACTION, tenant, settings, frames)


def _seal_for(
    purpose: str, tenant: str, settings: Settings, frames: Iterable[bytes]
) -> Callable[[int, str], str]:
    seal, logged = Seal(settings.seal_keys, tenant, purpose), _logged_in(frames)
    return lambda index, text: logged.get(index) or seal.seal(text)


def _logged_in(frames: Iterable[bytes]) -> Mapping[int, str]:
    """Returns the sealed texts in a log by output_index."""
    logged: dict[int, str] = {}
    for frame in frames:
        if frame.startswith(_DONE) and b'"encrypted_content"' in frame:
            event = decode(frame)
            assert isinstance(event, OutputItemDone)
            item = event.item
            if isinstance(item, Reasoning | Compaction) and isinstance(item.encrypted_content, str):
                logged[event.output_index] = item.encrypted_content
    return logged
