"""Each line of the log says which response it is about, in a form that programs read too."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from shared import logs
from shared.logs import JsonLines, TextLines, WithSubject
from shared.process import start

_log = logging.getLogger("tests.logs")


class Written:
    def __init__(self, formatter: logging.Formatter) -> None:
        self._stream = io.StringIO()
        self.handler = logging.StreamHandler(self._stream)
        self.handler.setFormatter(formatter)
        self.handler.addFilter(WithSubject())

    @property
    def lines(self) -> list[str]:
        return self._stream.getvalue().splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def written(request: pytest.FixtureRequest) -> Iterator[Written]:
    kept = Written(request.param)
    _log.addHandler(kept.handler)
    _log.setLevel(logging.INFO)
    yield kept
    _log.removeHandler(kept.handler)


as_json = pytest.mark.parametrize("written", [JsonLines("worker")], indirect=True)
as_text = pytest.mark.parametrize("written", [TextLines()], indirect=True)


@as_json
def test_a_line_of_json_has_its_fields_and_no_others(written: Written) -> None:
    _log.info("%d leases are\nrenewed: \N{SNOWMAN}", 3)
    with logs.about("acme", "resp_1", 2):
        _log.warning("stopped")
    first, second = written.objects
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "INFO",
        "role": "worker",
        "logger": "tests.logs",
        "message": "3 leases are\nrenewed: \N{SNOWMAN}",
    }
    assert (second["tenant"], second["response_id"], second["attempt"]) == ("acme", "resp_1", 2)
    assert len(written.lines) == 2


@as_json
def test_a_traceback_is_a_field(written: Written) -> None:
    try:
        raise ValueError("a bug")
    except ValueError:
        _log.exception("crashed")
    (line,) = written.objects
    assert line["message"] == "crashed"
    assert line["error"].endswith("ValueError: a bug")


@as_text
def test_text_names_what_is_known_after_the_message(written: Written) -> None:
    _log.info("begins")
    with logs.about("acme", "resp_1"):
        _log.info("goes on")
    begins, goes_on = written.lines
    assert begins.endswith("INFO tests.logs: begins")
    assert goes_on.endswith("INFO tests.logs: goes on response_id=resp_1 tenant=acme")


@as_text
def test_what_others_say_begins_no_line_and_reaches_no_terminal(written: Written) -> None:
    said = "boom\n2026-01-01 INFO worker: forged \x1b[31m\x9b2J \u2028 \u202e\r\ttail"
    _log.warning("a server says %s", said)
    try:
        raise ValueError(said)
    except ValueError:
        _log.exception("crashed")
    line, crashed, *traceback = written.lines
    escaped = r"boom\n2026-01-01 INFO worker: forged \x1b[31m\x9b2J \u2028 \u202e\r\ttail"
    assert line.endswith(escaped)
    assert crashed.endswith("crashed")
    assert all(each.startswith("    ") and each.isprintable() for each in traceback)


@as_json
def test_a_line_names_the_trace_of_its_response_where_no_span_is_open(written: Written) -> None:
    with logs.about("acme", "resp_1", 2, "0af7"):
        _log.info("stopping")
    (line,) = written.objects
    assert line["trace_id"] == "0af7"


@as_json
async def test_tasks_that_run_beside_each_other_keep_their_responses_apart(written: Written) -> None:
    both_begun = asyncio.Barrier(2)

    async def report(name: str) -> None:
        _log.info(name)

    async def own(name: str) -> None:
        logs.note_subject("acme", name)
        await both_begun.wait()
        await asyncio.create_task(report(name))

    await asyncio.gather(own("resp_1"), own("resp_2"))
    _log.info("neither")
    assert all(line["response_id"] == line["message"] for line in written.objects[:2])
    assert "response_id" not in written.objects[2]


def test_a_process_logs_in_the_form_that_is_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANTIPHON_LOG_FORMAT", "json")
    root, handlers = logging.getLogger(), list(logging.getLogger().handlers)
    level, quiet = root.level, logging.getLogger("arq").level
    root.handlers.clear()
    try:
        assert start("worker", lambda _: _log.warning("here")) == 0
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.getLogger("arq").setLevel(quiet)
    assert json.loads(capsys.readouterr().err)["message"] == "here"


@as_text
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError(), "no answer in time"),
        (ConnectionResetError(), "ConnectionResetError"),
        (OSError("x"), "x"),
    ],
)
def test_an_error_without_words_is_given_some(written: Written, error: Exception, said: str) -> None:
    _log.warning("sweeper: Redis is unavailable (%s)", error)
    assert written.lines[0].endswith(f"Redis is unavailable ({said})")
