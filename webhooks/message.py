"""What a delivery sends: the event, and the headers that prove who sent it. Pure.

Owns the signature. Source: the Standard Webhooks specification, and OpenAI's webhook events.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterable

import msgspec

from shared.ids import event_id
from shared.store.webhooks.outbox import OutboxEntry
from shared.tenants_file import secret_bytes


class _EventData(msgspec.Struct):
    id: str


class WebhookEvent(msgspec.Struct):
    id: str
    object: str
    created_at: int
    type: str
    data: _EventData


def event_type(entry: OutboxEntry) -> str:
    """Returns `response.completed`, `failed`, `incomplete` or `cancelled`."""
    return f"response.{entry.status}"


def body_of(entry: OutboxEntry) -> bytes:
    """Returns the JSON of the event, the same bytes for each delivery."""
    kind, response_id = event_type(entry), entry.response_id
    made = WebhookEvent(
        event_id(response_id, kind), "event", entry.closed_ms // 1000, kind, _EventData(response_id)
    )
    return msgspec.json.encode(made)


def headers_of(entry: OutboxEntry, body: bytes, secrets: Iterable[str], now_s: int) -> dict[str, str]:
    """Returns the headers of one delivery. `now_s`: its time, which receivers compare with theirs."""
    name = event_id(entry.response_id, event_type(entry))
    signed = f"{name}.{now_s}.".encode() + body
    return {
        "content-type": "application/json",
        "user-agent": "antiphon-webhooks",
        "accept-encoding": "identity",
        "webhook-id": name,
        "webhook-timestamp": str(now_s),
        "webhook-signature": " ".join(_sign(signed, secret) for secret in secrets),
    }


def _sign(signed: bytes, secret: str) -> str:
    digest = hmac.new(secret_bytes(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
