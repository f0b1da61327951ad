"""Reads the `include` of a query, which asks for additional fields of items.

Pure. Owns the refusal of values that no item here could ever have. Lists have complete items, so there is
nothing to add to them; a response has what its create call asked for. Source: the public OpenAI API,
`include`.
"""

import re
from collections.abc import Iterable
from typing import get_args

from api.bodies.requests import Include
from api.errors import invalid_value, shorten, unsupported_parameter

_NAME = re.compile(r"include(\[[0-9]*\])?")
"""Clients write lists as `include=a&include=b`, `include[]=a` or `include[0]=a`."""
_NEVER_THERE = frozenset({"file_search_call.results", "computer_call_output.output.image_url"})
"""Fields of items that are neither produced nor accepted here."""


def read_include(query: Iterable[tuple[str, str]]) -> set[str]:
    """Returns the values. Raises ClientError naming one that is unknown, or a field that no item here has."""
    values: set[str] = set()
    for name, value in query:
        if not _NAME.fullmatch(name):
            continue
        if value not in get_args(Include):
            raise invalid_value("include", f"'{shorten(value)}' is not one of its values")
        if value in _NEVER_THERE:
            raise unsupported_parameter("include", f"No item of this server has '{value}'.")
        values.add(value)
    return values
