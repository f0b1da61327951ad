"""Seals a response's reasoning for clients that keep only that (`include: reasoning.encrypted_content`).

Owns where a sealed text comes from: the log, as far as that reaches, and then the first of `seal_keys`. So a
response keeps its bytes if another worker takes it over while the keys are being replaced.
"""

from collections.abc import Callable, Iterable, Mapping

from shared.events import OutputItemDone, decode
from shared.responses import SEALED_REASONING, Reasoning, ResponseError
from shared.sealing import REASONING, Seal
from shared.settings import Settings
from worker.response.history import LoadedRecord
from worker.response.hopeless import Hopeless

_NO_KEYS = ResponseError(
    "server_error", f"This worker cannot include {SEALED_REASONING}: its operator has set no seal_keys."
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
    seal, logged = Seal(settings.seal_keys, tenant, REASONING), _logged_in(frames)
    return lambda index, text: logged.get(index) or seal.seal(text)


def _logged_in(frames: Iterable[bytes]) -> Mapping[int, str]:
    """Returns the sealed texts in a log by output_index."""
    logged: dict[int, str] = {}
    for frame in frames:
        if frame.startswith(_DONE) and b'"encrypted_content"' in frame:
            event = decode(frame)
            assert isinstance(event, OutputItemDone)
            if isinstance(event.item, Reasoning) and isinstance(event.item.encrypted_content, str):
                logged[event.output_index] = event.item.encrypted_content
    return logged
