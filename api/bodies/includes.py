"""Checks `include`, which asks for additional fields of items, in a body and in a query.

Pure. Owns its values, and the refusal of those that no item here could ever have. Lists have complete items,
so there is nothing to add to them. Source: the public OpenAI types, `ResponseIncludable`.
"""

import re
from collections.abc import Collection, Iterable
from typing import Literal, get_args

from api.errors import unsupported_parameter, unsupported_value
from shared.responses import SEALED_REASONING

Include = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]

_NAME = re.compile(r"include(\[[0-9]*\])?")
"""Clients write lists as `include=a&include=b`, `include[]=a` or `include[0]=a`."""
_OF_UNSUPPORTED_TOOLS = frozenset({"file_search_call.results", "computer_call_output.output.image_url"})
"""Fields of items that are neither produced nor accepted here, since the tools are not."""
_NOT_A_FIELD = "web_search_call.results"
"""A value of the public types for which they define no field."""


def check_include(values: Iterable[str], *, ignores_tools: bool = False) -> None:
    """Raises ClientError naming a field that no item here has.

    `ignores_tools`: tools that are not supported are left out of the request, and so is what asks for their
    fields.
    """
    for value in values:
        if value == _NOT_A_FIELD:
            reason = "No item has it: the pages that a search found are `web_search_call.action.sources`."
            raise unsupported_parameter("include", f"'{value}': {reason}")
        if value in _OF_UNSUPPORTED_TOOLS and not ignores_tools:
            raise unsupported_parameter("include", f"No item of this server has '{value}'.")


def check_sealing(values: Collection[str], *, has_keys: bool) -> None:
    """Refuses to promise sealed reasoning without keys to seal it: agents that keep nothing else would lose
    what the model thought between two calls, without a word. Raises ClientError."""
    if SEALED_REASONING in values and not has_keys:
        reason = (
            f"This server cannot give '{SEALED_REASONING}': its operator has set no seal_keys "
            "(ANTIPHON_SEAL_KEYS; docs/deploy.md says how to make one)."
        )
        raise unsupported_parameter("include", reason)


def read_include(query: Iterable[tuple[str, str]]) -> set[str]:
    """Returns the values in a query. Raises ClientError naming one that is unknown, or a field that no item
    here has."""
    values = [value for name, value in query if _NAME.fullmatch(name)]
    for value in values:
        if value not in get_args(Include):
            raise unsupported_value("include", value, get_args(Include))
    check_include(values)
    return set(values)
