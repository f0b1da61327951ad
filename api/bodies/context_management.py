"""Reads `context_management`, which asks for compactions within a response, and checks that they can be
sealed.

Pure. Source: the public OpenAI types, `ContextManagement`.
"""

from typing import Annotated

import msgspec
from pydantic import Field

from api.bodies.validation import ClosedShape, Path, check, check_kind, check_list
from api.errors import ClientError, invalid_value, unsupported_parameter
from shared.responses import CompactionRules, ResponseRequest

_PARAM = "context_management"
_NO_KEYS = (
    "This server cannot compact a context: its operator has set no seal_keys (ANTIPHON_SEAL_KEYS; "
    "docs/deploy.md says how to make one)."
)


class _Compaction(ClosedShape):
    type: str
    compact_threshold: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None


def read_context_management(value: object, rules: CompactionRules) -> CompactionRules | None:
    """Returns how the context of the response is compacted, or None if it is not. `rules`: the operator's,
    with the threshold of an entry that names none. Raises ClientError."""
    entries = [] if value is None else check_list(value, (_PARAM,))
    if not entries:
        return None
    if len(entries) > 1:
        raise invalid_value(_PARAM, "it should have one entry at most")
    path: Path = (_PARAM, 0)
    entry = check(_Compaction, check_kind({"compaction": _Compaction}, entries[0], path), path)
    return msgspec.structs.replace(rules, threshold=entry.compact_threshold or rules.threshold)


def check_compaction(request: ResponseRequest, *, has_keys: bool) -> None:
    """Refuses to compact without keys to seal what a compaction stands for. Raises ClientError."""
    if request.compaction is None or has_keys:
        return
    if request.compaction.threshold is None:
        raise ClientError(400, _NO_KEYS, "unsupported_parameter")
    raise unsupported_parameter(_PARAM, _NO_KEYS)
