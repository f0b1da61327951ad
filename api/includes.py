"""`include` of a query: what a listing is asked to tell beside the rest.

Pure. Items are told with all that is kept of them, so there is nothing to add; owns only that a wish which
no item here could ever answer is refused, and not passed over. Source: the public OpenAI API, `include`.
"""

import re
from collections.abc import Iterable
from typing import get_args

from api.errors import invalid_value, shorten, unsupported_parameter
from api.requests import Include

_NAME = re.compile(r"include(\[[0-9]*\])?")
"""Clients write lists as `include=a&include=b`, `include[]=a` or `include[0]=a`."""
_NEVER_THERE = frozenset({"file_search_call.results", "computer_call_output.output.image_url"})
"""Of kinds of items that are neither made nor taken here."""


def check_include(query: Iterable[tuple[str, str]]) -> None:
    """Raises ClientError naming the value that is unknown, or that no item here has."""
    for name, value in query:
        if not _NAME.fullmatch(name):
            continue
        if value not in get_args(Include):
            raise invalid_value("include", f"'{shorten(value)}' is none of its values")
        if value in _NEVER_THERE:
            raise unsupported_parameter("include", f"No item of this server has '{value}'.")
