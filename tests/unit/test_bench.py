"""What the measurements reckon, draw and write, and the engine that tells the time. Nothing is measured."""

import asyncio
import os
import time
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import fleet, page, plots, tables, words
from bench.__main__ import MEASUREMENTS, MORE
from bench.clock_engine import ClockEngine, Order, next_step_ms
from bench.page import Result, Unmarked
from bench.plots import Axis, Line
from bench.readers import Meter, StreamReader, make_request
from bench.step import time_steps
from bench.usage import Usage, parts_of, read_cpu_s
from shared.events import OutputTextDelta
from shared.frames import frame
from tests.engines import read_chunks
from worker.engines.protocol import Sampling
from worker.harmony.tokens import MESSAGE, RETURN, ChatMessage, render, text_of

SVG = "{http://www.w3.org/2000/svg}"


# --- reckoning ------------------------------------------------------------------------------------


def test_the_cost_of_an_event_is_what_was_used_beyond_idling() -> None:
    begun, ended = Usage(10.0, {"api": 1.0}), Usage(14.0, {"api": 1.5})
    idle = Usage(2.0, {"api": 0.05})
    assert ended.since(begun).without(idle).per_event_us(1_000)["api"] == pytest.approx(400)
    assert idle.per_second()["api"] == pytest.approx(0.025)


def test_all_nodes_of_a_role_are_one_part() -> None:
    pids = {"api-0": 1, "api-1": 2, "worker-0": 3, "tool_runner-0": 4, "valkey-0": 5}
    cluster: Any = SimpleNamespace(pids=pids)
    assert parts_of(cluster) == {"api": [1, 2], "worker": [3], "redis": [5]}


def test_the_cpu_time_of_a_process_is_read_to_the_nanosecond() -> None:
    before = time.process_time()
    read = read_cpu_s(os.getpid())
    assert before <= read <= time.process_time()


def test_a_number_has_three_significant_digits_and_a_spread_its_ends() -> None:
    assert tables.show_spread([0.5, 123.4, 12.34]) == "12.3 (0.50-123)"


# --- the page -------------------------------------------------------------------------------------


def test_a_result_replaces_what_its_marks_enclose_and_nothing_else() -> None:
    before = (
        "# Title\n<!-- bench: lag -->\nold\n<!-- end -->\nprose\n<!-- bench: idle -->\nkept\n<!-- end -->\n"
    )
    after = page.insert(before, "lag", "| new \\1 |")
    assert after == before.replace("old", "| new \\1 |")
    assert page.insert(after, "lag", "old") == before


@pytest.mark.parametrize("text", ["no mark", "<!-- bench: lag -->\nwithout an end"])
def test_a_page_without_a_place_for_a_result_is_refused(text: str) -> None:
    with pytest.raises(Unmarked):
        page.insert(text, "lag", "new")


@pytest.mark.parametrize("name", [*MEASUREMENTS, *MORE, "vllm"])
def test_the_page_has_a_place_for_every_measurement(name: str) -> None:
    page.insert(page.PAGE.read_text(), name, "")


def test_a_result_is_written_with_its_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PAGE", tmp_path / "performance.md")
    monkeypatch.setattr(page, "PLOTS", tmp_path / "plots")
    page.PAGE.write_text("<!-- bench: lag -->\n\n<!-- end -->")
    page.write("lag", Result("| a |", {"lag.svg": "<svg/>"}))
    assert page.PAGE.read_text() == "<!-- bench: lag -->\n| a |\n<!-- end -->"
    assert (tmp_path / "plots" / "lag.svg").read_text() == "<svg/>"


# --- plots ----------------------------------------------------------------------------------------


def test_a_plot_is_an_svg_with_its_lines_and_what_they_are_called() -> None:
    lines = [Line("ours", [(1, 2.0), (100, 4.0)]), Line("<theirs>", [(1, 8.0), (100, 16.0)])]
    drawn = plots.draw("Cost & more", Axis("streams", 1, 100, is_log=True), Axis("µs", 0, 16), lines)
    root = ElementTree.fromstring(drawn)
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"Cost & more", "streams", "µs", "ours", "<theirs>", "100", "15"} <= {*texts}
    paths = [line.attrib["points"].split() for line in root.iter(f"{SVG}polyline")]
    assert [len(path) for path in paths] == [2, 2]
    ours, theirs = ([float(place.split(",")[1]) for place in path] for path in paths)
    assert ours[0] > ours[1] > theirs[0] > theirs[1], "more is higher up"
    assert "prefers-color-scheme:dark" in drawn


def test_what_lies_beyond_an_axis_is_drawn_at_its_end() -> None:
    axis = Axis("ms", 1, 100, is_log=True)
    assert [axis.share(value) for value in (0.001, 1, 10, 100, 1e9)] == pytest.approx([0, 0, 0.5, 1, 1])


def test_ticks_are_round_numbers_within_their_axis() -> None:
    assert Axis("", 0, 37).ticks == [0, 10, 20, 30]
    assert Axis("", 1, 60, is_log=True).ticks == [1, 2, 5, 10, 20, 50]


def test_a_distribution_ends_with_the_greatest_value_at_a_hundred_per_cent() -> None:
    line = plots.distribution("ages", [5.0, 1.0, 2.0, 4.0, 3.0])
    assert line.points[0] == (1.0, 20.0)
    assert line.points[-1] == (5.0, 100.0)


# --- the clock ------------------------------------------------------------------------------------


def test_each_moment_has_one_token_of_its_own_with_letters_only() -> None:
    tokens, moments = words.all_tokens(), words.all_moments()
    assert len(tokens) == len(moments) == words.MOMENTS
    for moment in (0, 17, words.MOMENTS - 1):
        text = text_of(tokens[moment])
        assert text is not None
        assert text.isalpha()
        assert moments[text.encode()] == moment


def test_an_age_is_right_when_the_words_begin_again() -> None:
    assert words.age_of(words.moment_of(6_550), words.moment_of(6_550 + 12)) == 12 * words.MOMENTS_PER_MS
    assert words.age_of(words.MOMENTS - 1, 4) == 1 * words.MOMENTS_PER_MS


def test_an_order_says_itself() -> None:
    order = Order(1_000, 2_000, 20, 3, 10)
    assert Order.parse(f"Please. {order.text}") == order
    with pytest.raises(ValueError, match="no order"):
        Order.parse("Hello")


def test_steps_of_a_phase_come_at_their_own_times_and_missed_ones_are_left_out() -> None:
    order = Order(0, 10_000, every_ms=20, phase=3, phases=10)
    assert next_step_ms(order, 0) == 6
    assert next_step_ms(order, 6) == 26
    assert next_step_ms(order, 26 + 95) == 126


def prompt_of(order: Order) -> list[int]:
    return render([ChatMessage("user", order.text)])


async def test_the_clock_opens_a_message_and_says_when_each_token_was_due() -> None:
    engine = ClockEngine()
    await engine.start()
    begin_ms = int(1000 * time.monotonic())
    order = Order(begin_ms, begin_ms + 3_600_000, every_ms=10)
    chunks = []
    async with aclosing(read_chunks(engine, prompt_of(order), Sampling(max_tokens=1_000))) as generated:
        async for chunk in generated:
            chunks.append(chunk)
            if len(chunks) == 4:
                break
    assert chunks[0].token_ids[-1] == MESSAGE
    moments = [words.all_tokens().index(token) for chunk in chunks[1:] for token in chunk.token_ids]
    ages = [words.age_of(words.moment_of(begin_ms), moment) for moment in moments]
    after_ms = [age / words.MOMENTS_PER_MS for age in ages]
    assert len(after_ms) == 3
    assert after_ms == sorted(after_ms)
    assert {(begin_ms + after) % 10 for after in after_ms} == {0}
    await engine.stop()


async def test_the_clock_ends_its_message_when_it_was_told_to() -> None:
    now_ms = int(1000 * time.monotonic())
    engine = ClockEngine()
    await engine.start()
    order = Order(now_ms - 1, now_ms)
    chunks = [chunk async for chunk in read_chunks(engine, prompt_of(order), Sampling(max_tokens=1_000))]
    assert chunks[-1].token_ids == (RETURN,)
    assert chunks[-1].finish_reason == "stop"
    await engine.stop()


async def test_a_quiet_message_is_open_until_its_end() -> None:
    end_ms = int(1000 * time.monotonic()) + 50
    engine = ClockEngine()
    chunks = [
        chunk
        async for chunk in read_chunks(engine, prompt_of(Order(end_ms, end_ms)), Sampling(max_tokens=1_000))
    ]
    assert [chunk.finish_reason for chunk in chunks] == [None, "stop"]
    await engine.stop()


async def test_a_step_of_the_engine_leaves_a_packed_append_for_each_sequence() -> None:
    """`time_steps` raises if there are fewer, or if the worker refuses the answers."""
    await asyncio.to_thread(time_steps, 3, 4, 5)


# --- readers --------------------------------------------------------------------------------------


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_aborted = False

    def write(self, data: Any) -> None:
        self.written += data

    def abort(self) -> None:
        self.is_aborted = True


def read(*pieces: bytes) -> Meter:
    meter = Meter(is_recording=True)
    reader = StreamReader(meter, make_request("/v1/responses/x?stream=true", None))
    transport = Transport()
    reader.connection_made(transport)
    assert transport.written.startswith(b"GET /v1/responses/x?stream=true HTTP/1.1\r\n")
    for piece in pieces:
        reader.data_received(piece)
    return meter


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
OPEN = b"event: response.content_part.added\nid: 0\ndata: {}\n\n"
COMPLETED = b"event: response.completed\nid: %d\ndata: {}\n\n"


def delta(number: int) -> bytes:
    word = words.all_tokens()[words.moment_of(int(1000 * time.monotonic()))]
    text = text_of(word)
    assert text is not None
    event = OutputTextDelta(item_id="msg", output_index=0, content_index=0, delta=text)
    return frame(event, number)


def test_a_reader_counts_events_and_their_ages_however_the_bytes_are_cut() -> None:
    whole = HEAD + OPEN + delta(1) + delta(2) + COMPLETED % 3
    for size in (1, 7, len(whole)):
        meter = read(*(whole[at : at + size] for at in range(0, len(whole), size)))
        assert (meter.events, meter.opened, meter.whole, len(meter.ages)) == (4, 1, 1, 2)
        assert meter.broken == []


def test_a_reader_reports_a_missing_event_and_a_refusal() -> None:
    assert read(HEAD + OPEN + COMPLETED % 2).broken == ["2 events came, the last one is 2"]
    assert len(read(b"HTTP/1.1 503 Service Unavailable\r\n\r\n" + b'{"error": {}}\n\n').broken) == 1


def test_fair_shares_leave_to_those_who_ask_for_more_what_others_do_not_need() -> None:
    assert fleet.share_fairly(10, {"much": 20, "little": 1, "some": 6}) == {
        "little": 1,
        "much": 4.5,
        "some": 4.5,
    }
    assert fleet.share_fairly(10, {"a": 2, "b": 3}) == {"a": 2, "b": 3}


def test_the_fairness_index_is_one_if_all_have_the_same_and_a_part_if_one_has_all() -> None:
    assert fleet.jains_index([0.5, 0.5, 0.5]) == pytest.approx(1)
    assert fleet.jains_index([1, 0, 0, 0]) == pytest.approx(0.25)
