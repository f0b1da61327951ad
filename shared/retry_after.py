"""Reads `retry-after`, with which a busy server says for how long it wants to be left alone. Pure.

Owns the forms of its value (RFC 9110, 10.2.3); who asks decides which answers count, and how long it waits.
"""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_DIGITS_MAX = 9


def read_retry_after_s(value: str, now: datetime) -> float | None:
    """Returns the seconds from now that a header's value names, as a number or as a date; 0 if the date has
    passed, and None if the value is neither. `now`: with a time zone."""
    text = value.strip()
    if text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX:
        return float(text)
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - now).total_seconds())
