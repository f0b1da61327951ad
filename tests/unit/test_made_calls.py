"""What a cancel reads of a log that large outputs of tools have filled."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import pytest

from shared.events import (
    CodeInterpreterCallCodeDone,
    OutputItemAdded,
    OutputItemDone,
    OutputTextDelta,
    StreamEvent,
)
from shared.frames import decode, frame
from shared.hosted_tools import CodeInterpreterCall, CodeOutput
from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.log import event_log, made_calls
from shared.store.log.event_log import Entry, Page
from shared.store.log.made_calls import MadeCalls
from shared.store.log.unshown import pack_unshown

KEY = ResponseKey("tenant", "resp_1")
_T = TypeVar("_T")


class Log:
    """A log of pages, and a journal of begun calls. Counts what is read, and what is decoded off and on the
    loop."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, pages: Sequence[Sequence[Entry]], begun: int = 0
    ) -> None:
        self._pages = pages
        self._journal = [b"%d:claim" % index for index in range(begun)]
        self._is_off_loop = False
        self.reads = self.decoded_off_loop = self.decoded_on_loop = 0
        self.sizes_bytes: list[int] = []
        monkeypatch.setattr(event_log, "read", self._read)
        monkeypatch.setattr(made_calls, "decode", self._decode)

    async def _read(self, _redis: object, _key: object, after: int, **_: object) -> Page:
        self.reads += 1
        place = next(i for i, page in enumerate(self._pages) if page[0].sequence_number == after + 1)
        return Page(list(self._pages[place]), False, False, has_more=place < len(self._pages) - 1)

    def _decode(self, stored: bytes) -> StreamEvent:
        if self._is_off_loop:
            self.decoded_off_loop += 1
        else:
            self.decoded_on_loop += 1
        return decode(stored)

    async def command(self, *_: object) -> list[bytes]:
        return self._journal

    async def off_loop(self, size_bytes: int, work: Callable[[], _T]) -> _T:
        self.sizes_bytes.append(size_bytes)
        self._is_off_loop = True
        try:
            return work()
        finally:
            self._is_off_loop = False

    def calls(self, settings: Settings, now_s: Callable[[], float] = lambda: 0.0) -> MadeCalls:
        redis: Any = self
        return MadeCalls(redis, settings, KEY, self.off_loop, now_s)


def call(index: int, printed: str | None = None) -> CodeInterpreterCall:
    outputs = [CodeOutput(logs=printed)] if printed is not None else None
    return CodeInterpreterCall(
        id=f"ci_{index}",
        container_id="cntr_1",
        code="x" * (printed is not None),
        outputs=outputs,
        status="completed",
    )


def page_of(index: int, printed: str, *, is_over: bool = True) -> list[Entry]:
    """The entries of one call, which prints something, and of a word after it."""
    begun = msgspec.structs.replace(call(index), status="in_progress", code="")
    events: list[StreamEvent] = [
        OutputItemAdded(index, begun),
        CodeInterpreterCallCodeDone(index, begun.id, "x"),
        OutputTextDelta(index, 0, "msg", "word"),
        OutputItemDone(index, msgspec.structs.replace(call(index), code="x")),
    ]
    kept = events if is_over else events[:-1]
    first = 4 * index
    return [
        Entry(
            first + i,
            frame(event, first + i),
            (),
            pack_unshown(index, call(index, printed)) if isinstance(event, OutputItemDone) else b"",
        )
        for i, event in enumerate(kept)
    ]


def told(raws: Sequence[msgspec.Raw]) -> list[tuple[str, str, int]]:
    """The id, the status, and the length of what was printed, of each call."""
    items = [msgspec.json.decode(raw, type=CodeInterpreterCall) for raw in raws]
    return [
        (
            item.id,
            str(item.status),
            sum(len(each.logs or "") for each in item.outputs) if isinstance(item.outputs, list) else 0,
        )
        for item in items
    ]


async def test_what_tells_of_calls_is_decoded_once_and_off_the_loop_a_page_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Log(monkeypatch, [page_of(i, "p" * 200_000) for i in range(40)])
    calls = log.calls(Settings())
    assert told(await calls.read_on()) == [(f"ci_{i}", "completed", 200_000) for i in range(40)]
    assert (log.decoded_on_loop, log.decoded_off_loop) == (0, 3 * 40)
    assert max(log.sizes_bytes) < 2 * 200_000


async def test_no_more_is_kept_of_calls_than_a_context_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose output exceeds it was made all the same."""
    log = Log(monkeypatch, [page_of(i, "p" * 1_000) for i in range(10)])
    kept = await log.calls(Settings(context_bytes_max=5_000)).read_on()
    assert 4_000 < sum(map(len, kept)) <= 5_000
    found = told(kept)
    whole = sum(printed == 1_000 for _, _, printed in found)
    assert found[:whole] == [(f"ci_{i}", "completed", 1_000) for i in range(whole)]
    assert found[whole:] == [(f"ci_{i}", "incomplete", 0) for i in range(whole, len(found))]
    assert 0 < whole < len(found) < 10


async def test_reading_stops_in_time_for_the_response_to_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch, [page_of(i, "p") for i in range(40)])
    settings = Settings(redis_timeout_s=20)
    calls = log.calls(settings, lambda: float(log.reads))
    assert len(await calls.read_on()) == log.reads == 10
    assert len(await calls.read_on()) == log.reads == 10  # also if the lease has to be seized again


async def test_what_is_open_where_reading_stops_is_told_as_not_completed_if_it_was_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for begun, found in ((0, []), (1, [("ci_0", "incomplete", 0)])):
        log = Log(monkeypatch, [page_of(0, "p", is_over=False)], begun)
        assert told(await log.calls(Settings()).read_on()) == found
