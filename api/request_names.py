"""The names of requests, ours and the client's, and how they come into the log.

Owns the name of the request that a task works for, and the filter that adds it to log lines.
"""

import logging
import re
from contextvars import ContextVar

from starlette.datastructures import Headers

from api.errors import invalid_value
from shared.logs import JsonLines

CLIENT_HEADER = "X-Client-Request-Id"
_VALID = re.compile(r"[\x20-\x7e]{1,512}")
"""As in the hosted API, which accepts ASCII; without control characters, as it is written to the log."""

_name: ContextVar[str] = ContextVar("request", default="")


def check_client_name(headers: Headers) -> None:
    """Raises ClientError for a name that cannot be logged as it is."""
    name = headers.get(CLIENT_HEADER)
    if name is not None and not _VALID.fullmatch(name):
        raise invalid_value(CLIENT_HEADER, "it should be 1 to 512 printable ASCII characters")


def begin_request(request_id: str, headers: Headers) -> bool:
    """Names the request that this task works for; returns True if its client has named it, too."""
    name = headers.get(CLIENT_HEADER, "")
    is_named = _VALID.fullmatch(name) is not None
    _name.set(f"{request_id}, client's {name}" if is_named else request_id)
    return is_named


class WithRequest(logging.Filter):
    """Adds the request's name to what is logged while it is served, once for however many handlers.

    `is_said`: the message names it too; a line of JSON has a field for it.
    """

    def __init__(self, *, is_said: bool = True) -> None:
        super().__init__()
        self._is_said = is_said

    def filter(self, record: logging.LogRecord) -> bool:
        name = _name.get()
        if name and "request" not in vars(record):
            record.request = name
            if self._is_said:
                record.msg, record.args = f"{record.getMessage()} [{name}]", ()
        return True


def name_requests_in_log() -> None:
    """Adds the filter to the handlers of the process's log."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(WithRequest(is_said=not isinstance(handler.formatter, JsonLines)))
