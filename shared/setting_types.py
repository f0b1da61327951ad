"""The forms of settings that need more than a type: keys, and ranges of ports. Pure."""

import base64
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr


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


def check_key(key: SecretStr) -> None:
    """Raises ValueError unless a key has its form."""
    if len(base64.urlsafe_b64decode(key.get_secret_value().encode())) != 32:
        raise ValueError("it must be 32 bytes in URL-safe base64")
