"""Reads the envelope of a message that a client sends on a WebSocket: what it asks for, and on which lane.

Pure. The rest of a `response.create` is the body of a create call, which `requests.py` reads. Source: the
public OpenAI types, `ResponsesClientEvent`, and the guide to WebSocket mode.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from api.bodies.json_body import decode_object
from api.bodies.requests import Birth, Creation, RequestLimits, read_fields
from api.errors import (
    ClientError,
    invalid_type,
    invalid_value,
    missing_parameter,
    shorten,
    unknown_parameter,
    unsupported_parameter,
)
from shared.json_values import count_values

_STREAM_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}")


@dataclass(frozen=True, slots=True)
class Create:
    """`response.create`. `generates`: False to keep the input without an answer to it."""

    stream_id: str | None
    generates: bool
    previous_response_id: str | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """`response.cancel`: ends a response of this connection; without an id, the one that its lane is at."""

    stream_id: str | None
    response_id: str | None


@dataclass(frozen=True, slots=True)
class Steer:
    """`response.steer`: puts input into a response that is in progress. `input`: its JSON."""

    previous_response_id: str
    input: bytes


@dataclass(frozen=True, slots=True)
class Processed:
    """`response.processed`: a client says that it has read a response. Nothing is expected of anybody."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """A message that is refused; `stream_id`: the lane that it names, if that can be read."""

    error: ClientError
    stream_id: str | None = None


ClientMessage = Create | Cancel | Steer | Processed | Invalid

_ENVELOPE = frozenset({"type", "stream_id", "generate"})
"""The members of a `response.create` that are not fields of a create call."""


def read_message(raw: bytes, values_max: int) -> ClientMessage:
    """Returns what a message asks for."""
    stream_id: str | None = None
    try:
        members = _members_of(raw, values_max)
        stream_id = _read_stream_id(members)
        return _read_kind(members, stream_id)
    except ClientError as error:
        return Invalid(error, stream_id)


def call_of(members: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of the create call that a `response.create` makes. Raises ClientError for what a
    WebSocket cannot do: it streams, to a client that stays."""
    if members.get("stream") is False:
        raise invalid_value("stream", "a WebSocket carries nothing but streams")
    if members.get("background") is True:
        raise unsupported_parameter("background", "A response on a WebSocket runs in the foreground.")
    return {name: value for name, value in members.items() if name not in _ENVELOPE}


def read_call(raw: bytes, birth: Birth, models: Sequence[str], limits: RequestLimits) -> Creation:
    """Reads the create call that a `response.create` makes, as `read_create` does a body."""
    fields = call_of(decode_object(raw, limits.values_max))
    return replace(read_fields(fields, birth, models, limits), is_streamed=True)


def _members_of(raw: bytes, values_max: int) -> dict[str, msgspec.Raw]:
    """Returns the members of the message, not decoded. Raises ClientError unless it is a JSON object."""
    if count_values(raw, values_max) > values_max:
        message = f"The message has too many JSON values: at most {values_max} are accepted."
        raise ClientError(400, message, "too_many_values")
    try:
        return msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except RecursionError:
        raise _invalid("it is nested too deeply") from None
    except msgspec.ValidationError:
        raise _invalid("it must be an object") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _invalid(str(error)) from None


def _invalid(reason: str) -> ClientError:
    return ClientError(400, f"The message is not valid JSON: {reason}.", "invalid_json")


def _read_kind(members: dict[str, msgspec.Raw], stream_id: str | None) -> ClientMessage:
    match _text(members, "type"):
        case None:
            raise missing_parameter("type")
        case "response.create":
            return Create(stream_id, _read_generate(members), _previous_of(members))
        case "response.cancel":
            _refuse_others(members, {"type", "stream_id", "response_id"})
            return Cancel(stream_id, _text(members, "response_id"))
        case "response.steer":
            previous = _text(members, "previous_response_id") or ""
            return Steer(previous, bytes(members.get("input", msgspec.Raw(b"[]"))))
        case "response.processed":
            return Processed()
        case kind:
            message = f"Unknown event type: '{shorten(kind)}'."
            raise ClientError(400, message, "unknown_event_type", "type")


def _read_stream_id(members: dict[str, msgspec.Raw]) -> str | None:
    value = _value(members, "stream_id")
    if value is None:
        return None
    if not isinstance(value, str) or not _STREAM_ID.fullmatch(value):
        message = (
            "The 'stream_id' field must be a non-empty string with at most 256 characters and may only "
            "contain letters, numbers, underscores, hyphens, and periods."
        )
        raise ClientError(400, message, "invalid_stream_id", "stream_id")
    return value


def _read_generate(members: dict[str, msgspec.Raw]) -> bool:
    match _value(members, "generate"):
        case None:
            return True
        case bool(value):
            return value
        case value:
            raise invalid_type("generate", "a boolean", value)


def _previous_of(members: dict[str, msgspec.Raw]) -> str | None:
    """Returns the id of the response that is continued, or None; `requests.py` says what is wrong with it."""
    value = _value(members, "previous_response_id")
    return value if isinstance(value, str) else None


def _refuse_others(members: dict[str, msgspec.Raw], known: set[str]) -> None:
    for name in members.keys() - known:
        raise unknown_parameter(name)


def _text(members: dict[str, msgspec.Raw], name: str) -> str | None:
    value = _value(members, name)
    if value is not None and not isinstance(value, str):
        raise invalid_type(name, "a string", value)
    return value


def _value(members: dict[str, msgspec.Raw], name: str) -> Any:
    """Returns a short member, decoded; a long one is of no type that is expected."""
    raw = bytes(members.get(name, msgspec.Raw(b"null")))
    if raw[:1] in b"[{":
        return [] if raw[:1] == b"[" else {}
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _invalid(str(error)) from None
