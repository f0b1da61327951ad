"""Ends a response's log: what its last event is, and what is kept besides.

Owns what an attempt ends with; `attempt.py` owns when, `shared/store/log/closing.py` what closing sets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from shared import lifecycle
from shared.frames import frame
from shared.lifecycle import TerminalEvent
from shared.responses import Response
from shared.store.log.closing import WholeAnswer, closing_of
from shared.store.owning.lease import Lease
from worker.harmony.tokens import HarmonyMessage, to_wire
from worker.response.history import LoadedRecord
from worker.response.log_writer import LogWriter
from worker.response.meter import count_end
from worker.response.resources import Resources
from worker.response.turn_notes import TurnNotes
from worker.response.turn_reader import TurnReader
from worker.response.usage import usage_of

_T = TypeVar("_T")
_ENCODED_PER_READ = 4
"""How much is encoded in the time in which one byte is read and rendered."""


@dataclass(slots=True)
class Ending:
    resources: Resources
    lease: Lease
    record: LoadedRecord
    reader: TurnReader
    writer: LogWriter
    read: Sequence[HarmonyMessage]
    """What the model has read before its first token."""
    notes: TurnNotes = field(default_factory=TurnNotes)

    async def close(self, *, is_cut: bool) -> None:
        """Appends the terminal event and closes the log. Raises what `LogWriter.close` does."""
        request, event = self.record.request, await self._last_event(is_cut=is_cut)
        settings, tenant = self.resources.settings, self.lease.key.tenant
        unshown, turns = self.reader.translation.unshown, self.notes.of(self.reader.items)
        last, closing = await self._call(
            lambda: (
                frame(event, self.writer.next),
                closing_of(event, tenant, settings, request.input, unshown, turns),
            )
        )
        await self.writer.close(last, closing)
        count_end(event.response, self.record.accepted_s)

    async def note_answer(self, *, is_cut: bool) -> None:
        """Leaves the answer to whoever ends the response before `close` does: it is whole, although there is
        more to do."""
        event = await self._last_event(is_cut=is_cut)
        joining = self.record.request.input if event.response.conversation is not None else []
        unshown, turns = self.reader.translation.unshown, self.notes.of(self.reader.items)
        answer = WholeAnswer(event.response, self.writer.next, joining, unshown, turns)
        await self.writer.note_answer(await self._call(answer.encode))

    async def _last_event(self, *, is_cut: bool) -> TerminalEvent:
        response = await self._call(self._final_response)
        usage = usage_of(self.reader.turns, with_turns=self.record.request.enable_response_messages)
        if is_cut:
            return lifecycle.cut_short(response, usage, "max_output_tokens")
        return lifecycle.complete(response, usage, self.resources.now_s())

    def _final_response(self) -> Response:
        request, wanted = self.record.request, dict[str, Any]()
        if request.enable_response_messages:
            is_exact = self.record.format > 4
            wanted["input_messages"] = [to_wire(each, has_formats_last=is_exact) for each in self.read]
            wanted["output_messages"] = [to_wire(message) for message in self.reader.messages]
        return msgspec.structs.replace(request.response, output=tuple(self.reader.items), **wanted)

    async def _call(self, work: Callable[[], _T]) -> _T:
        """Runs work whose duration grows with the sizes of the request and of the output, which the tools
        decide; the output is only encoded, which is fast."""
        size = max(self.record.size, self.writer.told_bytes // _ENCODED_PER_READ)
        return await self.resources.stepper.call(work, size)
