"""Checks the `container` of a code interpreter: where its code is to run.

Owns what is refused. Containers are made as they are needed, without files, network or a choice of memory;
their variables follow a response and those that continue it (`shared/containers.py`). Source: the public
OpenAI types, `CodeInterpreter`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from api.bodies.validation import ClosedShape, Path, check_kind, spell
from api.errors import (
    ClientError,
    invalid_prefix,
    invalid_type,
    invalid_value,
    unsupported_parameter,
)
from shared import hosted_tools
from shared.containers import continued_container
from shared.hosted_tools import PYTHON
from shared.responses import ResponseRequest

_PREFIX = "cntr"
_UNSUPPORTED = {
    "file_ids": "The code has no files; put what it needs into the input.",
    "memory_limit": "Every container has the limits of this server.",
    "network_policy": "The code has no network.",
    "skills": "This server has no skills.",
}


class _Auto(ClosedShape):
    """A container that is made as it is needed."""

    type: str
    file_ids: Any = None
    memory_limit: Any = None
    network_policy: Any = None
    skills: Any = None


def check_container(value: object, path: Path) -> None:
    """Raises ClientError for a container that cannot be had, whatever the request continues."""
    match value:
        case None:
            pass
        case str():
            if not value.startswith(_PREFIX):
                raise invalid_prefix(spell(path), value, _PREFIX)
        case dict():
            _check_members(check_kind({"auto": _Auto}, value, path), path)
        case _:
            raise invalid_type(spell(path), "a container's id or an object", value)


def _check_members(container: Mapping[str, Any], path: Path) -> None:
    for name, reason in _UNSUPPORTED.items():
        value = container.get(name)
        if value and (name, value) != ("network_policy", {"type": "disabled"}):
            raise unsupported_parameter(spell((*path, name)), reason)


def check_continued(request: ResponseRequest, places: Sequence[int]) -> None:
    """Raises ClientError for a tool in a container that the request does not continue.

    `places`: where each of the request's tools stood in the body.
    """
    for index, tool in zip(places, request.tools, strict=True):
        container = tool.get("container")
        if hosted_tools.by_type(str(tool.get("type"))) is not PYTHON or not isinstance(container, str):
            continue
        if container != continued_container(request):
            raise _not_continued(container, spell(("tools", index, "container")))


def _not_continued(container: str, param: str) -> ClientError:
    reason = (
        f"'{container}' is not the container of what this request continues by 'previous_response_id' or "
        '\'conversation\'; with {"type": "auto"}, it is continued as well'
    )
    return invalid_value(param, reason)
