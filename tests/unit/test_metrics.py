"""What is counted, and that its page, its names and its bounds agree with the code."""

import asyncio
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from api.delivery import delivery
from shared import metrics
from shared.frames import encode, frame, status_at_end
from shared.lifecycle import cancel, complete
from shared.responses import InputTokensDetails, OutputTokensDetails, Response, Usage
from tests.requests import make_request
from worker.response.meter import STALL_S, Meter, count_end

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/metrics.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+?) \| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)
RESPONSE = make_request("Hello").response


def value(name: str, **labels: str) -> float:
    """The value that Prometheus reads now; 0 before the first count."""
    base = next(known for known in metrics.OURS if name.startswith(known))
    samples = [sample for family in metrics.OURS[base].collector.collect() for sample in family.samples]
    return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


def test_the_page_has_one_row_for_each_metric_as_it_is() -> None:
    rows = [(name, kind, set(re.findall(r"`(\w+)`", labels)), roles) for name, kind, labels, roles, _ in ROWS]
    assert rows == [
        (
            name,
            next(iter(entry.collector.collect())).type,
            set(entry.labels),
            "every" if entry.roles == metrics.EVERY else ", ".join(f"`{role}`" for role in entry.roles),
        )
        for name, entry in metrics.OURS.items()
    ]


def test_no_label_names_whom_it_is_about() -> None:
    labels = {label for entry in metrics.OURS.values() for label in entry.labels}
    assert labels == {
        *(
            "role",
            "name",
            "tier",
            "route",
            "status",
            "outcome",
            "delivery",
            "kind",
            "cause",
            "state",
            "server",
            "cell",
        ),
        *("gen_ai_request_model", "mcp_method_name"),
    }


def test_a_label_has_a_bounded_number_of_values() -> None:
    label = metrics.Bounded(2)
    assert [label(text) for text in ("a", "b", "c", "a", "x" * 129)] == ["a", "b", "other", "a", "other"]


def test_a_count_is_told_before_it_is_made_so_that_the_first_fault_is_an_increase() -> None:
    """In a process of its own, where nothing has been counted."""
    program = """
import asyncio
from shared import metrics
metrics.begin_models(["gpt"])
metrics.begin_servers(["wiki"])
metrics.begin_cells(["a"])
for role in (*metrics.EVERY, "router"):
    print(asyncio.run(metrics.render(role)).decode())
"""
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    begun = set(re.findall(r"^((?:antiphon|gen_ai)_\w+_total)(?:\{.*\})? 0\.0$", told.stdout, re.MULTILINE))
    counters = {name for name in metrics.OURS if name.endswith("_total")}
    assert counters - begun == {"antiphon_http_requests_total"}, "whose answers no alert asks for"
    for name in counters & begun:
        words = next(row[4] for row in ROWS if row[0] == name).split("`outcome`")[-1].split("`cause`")[-1]
        for series in re.findall(rf"^{name}\{{(.*)\}}", told.stdout, re.MULTILINE):
            for value in re.findall(r'(?:outcome|cause)="(\w+)"', series):
                assert f"`{value}`" in words, (name, value)


async def test_a_role_is_asked_for_its_own_metrics_only() -> None:
    worker, api = [(await metrics.render(role)).decode() for role in ("worker", "api")]
    own = {"antiphon_appends_total": worker, "antiphon_hub_readers": api}
    for name, text in own.items():
        assert [name in worker, name in api] == [text is worker, text is api]
        assert "process_cpu_seconds_total" in text
        assert "_created" not in text


def frames_of(response: Response, *, is_cancelled: bool = False) -> bytes:
    usage = Usage(5, InputTokensDetails(2), 7, OutputTokensDetails(3), 12)
    event = cancel(response) if is_cancelled else complete(response, usage, 1)
    return frame(event, 3)


def test_the_end_of_a_log_is_read_from_its_last_frame() -> None:
    said = b'event: response.output_text.delta\nid: 2\ndata: {"delta":"event: response.failed"}\n\n'
    assert status_at_end(said) is None
    assert status_at_end(said + frames_of(RESPONSE)) == status_at_end(frames_of(RESPONSE)) == "completed"
    assert status_at_end(said + frames_of(RESPONSE, is_cancelled=True)) == "cancelled"
    assert b"\n\nevent: " not in encode({"text": "\n\nevent: response.failed\n"})


@pytest.mark.parametrize(
    ("failure", "is_whole", "latest", "expected"),
    [
        (None, True, frames_of(RESPONSE), ("completed", "delivered")),
        (GeneratorExit(), False, b"event: response.created\n\n", ("open", "disconnected")),
        (asyncio.CancelledError(), False, frames_of(RESPONSE), ("completed", "disconnected")),
        (RuntimeError(), False, b"", ("open", "cut")),
    ],
)
def test_a_call_is_counted_by_the_outcome_and_by_what_the_client_got(
    failure: BaseException | None, is_whole: bool, latest: bytes, expected: tuple[str, str]
) -> None:
    labels = dict(zip(("outcome", "delivery"), expected, strict=True))
    before = value("antiphon_deliveries_total", **labels)
    with pytest.raises(type(failure)) if failure is not None else nullcontext(), delivery() as told:
        told.latest = latest
        if failure is not None:
            raise failure
        told.is_whole = is_whole
    assert value("antiphon_deliveries_total", **labels) == before + 1


async def test_a_turn_is_stalled_once_it_has_begun_and_stays_without_a_token() -> None:
    meter, generated, now_s = Meter(), list[int](), asyncio.get_running_loop().time()
    before = value("antiphon_stalls_total")
    with meter.turn("default", 10, generated, None) as pace:
        meter.look(now_s + 2 * STALL_S)
        assert (meter.generations, meter.stalled) == (1, 0), "before its first token, it only waits"
        pace.begin(4)
        generated += [1]
        meter.look(now_s)
        meter.look(now_s + STALL_S)
        meter.look(now_s + 2 * STALL_S)
        assert (meter.stalled, value("antiphon_stalls_total")) == (1, before + 1)
        generated += [2]
        meter.look(now_s + 3 * STALL_S)
        assert meter.stalled == 0
    assert meter.generations == 0


async def test_a_turn_and_an_end_are_counted_with_their_times_and_tokens() -> None:
    names = ("gen_ai_server_time_to_first_token_seconds", "gen_ai_server_time_per_output_token_seconds")
    before = [value(f"{name}_count") for name in names]
    found, tokens = (
        value("antiphon_engine_prefix_found_tokens_total"),
        value("antiphon_tokens_total", kind="cached"),
    )
    with Meter().turn("default", 10, [1, 2], asyncio.get_running_loop().time()) as pace:
        pace.begin(4)
    assert [value(f"{name}_count") for name in names] == [count + 1 for count in before]
    assert value("antiphon_engine_prefix_found_tokens_total") == found + 4
    usage = Usage(5, InputTokensDetails(2), 7, OutputTokensDetails(3), 12)
    count_end(complete(RESPONSE, usage, 1).response, asyncio.get_running_loop().time())
    assert value("antiphon_tokens_total", kind="cached") == tokens + 2
