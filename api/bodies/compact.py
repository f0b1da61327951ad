"""Reads the body of `POST /v1/responses/compact`: makes a request for nothing but a compaction.

Pure. Owns the fields of that call; what they mean is what they mean in a create call (`requests.py`). Source:
the public OpenAI types, `ResponseCompactParams`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from api.bodies.json_body import decode_object
from api.bodies.requests import Birth, Creation, RequestLimits, read_fields
from api.errors import missing_parameter, unknown_parameter, unsupported_parameter

SAME = frozenset({"input", "instructions", "model", "previous_response_id", "prompt_cache_key"})
"""Read as those of a create call."""
WITHOUT_EFFECT = frozenset(
    {
        "client_metadata",
        "parallel_tool_calls",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning",
        "service_tier",
        "text",
        "tools",
    }
)
"""Codex sends most of them, as it does with the turn before; nothing of them is needed for a summary."""
REFUSED = frozenset({"image"})
_OURS = {"store": False, "reasoning": {"effort": "low"}}
"""Nothing is stored: the answer holds all that the client needs."""


def read_compact(raw: bytes, birth: Birth, models: Sequence[str], limits: RequestLimits) -> Creation:
    """Reads a whole body. Raises ClientError naming the first invalid field."""
    fields = decode_object(raw, limits.values_max)
    _refuse_unknown(fields)
    if fields.get("model") is None:
        raise missing_parameter("model")
    wanted: dict[str, Any] = {name: fields[name] for name in SAME & fields.keys()} | _OURS
    creation = read_fields(wanted, birth, models, limits)
    rules = msgspec.structs.replace(limits.compaction, threshold=None)
    return replace(creation, request=msgspec.structs.replace(creation.request, compaction=rules))


def _refuse_unknown(fields: Mapping[str, Any]) -> None:
    for name in fields.keys() - SAME - WITHOUT_EFFECT:
        if fields[name] is None:
            continue
        if name in REFUSED:
            raise unsupported_parameter(name, "This server does not have it.")
        raise unknown_parameter(name)
