"""Writes the log of a process, as text or as JSON lines, and says in each line which response it is about.

Owns the form of a line, and which response a task works for; whoever logs owns the message. Content of
responses belongs into no message.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a task works for. `attempt`: the fencing token of its owner, 0 if it is not the owner's work;
    `trace_id`: of the response's trace, '' if it has none or that is not known."""

    tenant: str
    response_id: str
    attempt: int = 0
    trace_id: str = ""


_subject: ContextVar[Subject | None] = ContextVar("subject", default=None)


def note_subject(tenant: str, response_id: str, attempt: int = 0, trace_id: str = "") -> None:
    """Says what the current task works for, and the tasks that it starts from now on."""
    _subject.set(Subject(tenant, response_id, attempt, trace_id))


def current_subject() -> Subject | None:
    """Returns what the current task works for, if that is known."""
    return _subject.get()


def forget_subject() -> None:
    """Says that the current task has not yet come to know what it works for."""
    _subject.set(None)


@contextmanager
def about(tenant: str, response_id: str, attempt: int = 0, trace_id: str = "") -> Iterator[None]:
    """Says what the block is about, within a task that serves many responses."""
    before = _subject.set(Subject(tenant, response_id, attempt, trace_id))
    try:
        yield
    finally:
        _subject.reset(before)


def _no_trace() -> str:
    return ""


def words_of(error: BaseException) -> str:
    """Returns what an error says; for one that says nothing, what it means or else its class."""
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)


class WithSubject(logging.Filter):
    """Adds to each record what its task works for: the fields that `FIELDS` names, if there are any.

    Gives words to errors in its message that have none, as a TimeoutError.
    """

    read_trace_id: Callable[[], str] = staticmethod(_no_trace)
    """Returns the id of the trace that the current task works in; set if there are traces."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                words_of(each) if isinstance(each, BaseException) else each for each in record.args
            )
        subject = _subject.get()
        if subject is not None:
            record.response_id, record.tenant = subject.response_id, subject.tenant
            if subject.attempt:
                record.attempt = subject.attempt
        trace_id = type(self).read_trace_id() or (subject.trace_id if subject is not None else "")
        if trace_id:
            record.trace_id = trace_id
        return True


FIELDS = ("response_id", "tenant", "attempt", "trace_id", "request")
"""What a line says besides its message, where it is known. `request`: the name of a request of the API."""


_ESCAPES = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        0x2028,
        0x2029,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    )
} | {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}
"""What would end a line, or tell a terminal to do something."""


class TextLines(logging.Formatter):
    """A line of text; what is known besides the message follows it as `name=value`.

    What others have said, as tool servers, cannot begin a line of its own or reach a terminal: control
    characters are escaped, and the lines of a traceback are indented.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  named by logging
        known = [f"{name}={vars(record)[name]}" for name in FIELDS[:-1] if name in vars(record)]
        return " ".join([super().formatMessage(record), *known]).translate(_ESCAPES)

    def formatException(self, ei: Any) -> str:  # noqa: N802  named by logging
        lines = super().formatException(ei).split("\n")
        return "\n".join("    " + line.translate(_ESCAPES) for line in lines)


class JsonLines(logging.Formatter):
    """One JSON object on one line. `error`: the traceback, if there is one."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname,
            "role": self._role,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: vars(record)[name] for name in FIELDS if name in vars(record)}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr(role: str, level: str, form: LogFormat) -> None:
    """Writes what is logged from `level` on to stderr, unless the process's log has a place already."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(role) if form == "json" else TextLines())
    handler.addFilter(WithSubject())
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("arq").setLevel(logging.WARNING)
