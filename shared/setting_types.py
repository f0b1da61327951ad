"""The forms of settings that need more than a type: keys, and ranges of ports. Pure."""

import base64
from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, SecretStr


def _check_range(text: str) -> str:
    ports = [int(end) for end in text.split("-")]
    if not 1 <= ports[0] <= ports[-1] <= 65_535:
        raise ValueError("ports are 1 to 65535, the lower one first")
    return text


KeepAliveForm = Literal["comment", "event"]

ModelName = Annotated[str, Field(pattern=r"^[^\s@{}]{1,256}$")]
"""A name that requests may use for a model; it is part of a key."""

PortRange = Annotated[str, Field(pattern=r"^[0-9]{1,5}(-[0-9]{1,5})?$"), AfterValidator(_check_range)]
"""A port, or the first and the last of a range: `443`, `1024-65535`."""


def _check_node(url: str) -> str:
    """Raises ValueError for what looks like an address but can be none."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.port == 0:
        raise ValueError("ports are 1 to 65535")
    if ":" in host:
        ip_address(host)
    elif not all(1 <= len(label) <= 63 for label in host.removesuffix(".").split(".")):
        raise ValueError(f"{host} is not the name of a host")
    return url


NodeUrl = Annotated[
    str,
    Field(pattern=r"^https?://([A-Za-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?$"),
    AfterValidator(_check_node),
]
CellName = Annotated[str, Field(pattern=r"^[a-z0-9]{1,8}$")]


class CellNodes(BaseModel, frozen=True, extra="forbid"):
    """A cell as a router sees it."""

    nodes: tuple[NodeUrl, ...] = Field(min_length=1)
    """Where its API nodes answer, or a proxy in front of them."""
    weight: float = Field(1.0, ge=0, le=1_000)
    """Its share of what names no cell; 0: it takes no new responses."""


def check_key(key: SecretStr) -> None:
    """Raises ValueError unless a key has its form."""
    if len(base64.urlsafe_b64decode(key.get_secret_value().encode())) != 32:
        raise ValueError("it must be 32 bytes in URL-safe base64")
