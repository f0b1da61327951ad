"""Who is calling: a bearer key becomes a tenant. Owns the key file; keeps no key, only hashes."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from api.errors import ClientError

OPEN_TENANT = "default"
"""Whose the responses are where no keys are configured."""

_HASH = re.compile(r"[0-9a-f]{64}")
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""A tenant's name is part of Redis keys and of their hash tag: no braces, no slash, no space."""


class KeyFileInvalid(ValueError):
    """The file of keys cannot be read, or is not {sha256 hex of a key: tenant}."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """The tenants by the SHA-256 of their keys; None: any key will do, and none too."""

    tenants: Mapping[str, str] | None = None

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Reads the key file once. Raises KeyFileInvalid."""
        if path is None:
            return cls(None)
        try:
            tenants = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise KeyFileInvalid(f"the key file {path} cannot be read: {error}") from error
        for digest, tenant in tenants.items():
            if not _HASH.fullmatch(digest):
                raise KeyFileInvalid(
                    f"the key file {path} has {digest[:12]!r}…, not 64 lower-case hex digits"
                )
            if not _TENANT.fullmatch(tenant):
                raise KeyFileInvalid(f"the key file {path} has a tenant {tenant!r}, not {_TENANT.pattern}")
        return cls(tenants)

    @property
    def is_open(self) -> bool:
        return self.tenants is None

    def tenant_of(self, authorization: str | None) -> str:
        """The tenant that an `authorization` header stands for. Raises ClientError, a 401.

        What is looked up is a digest, so that its timing tells nothing of the keys that exist.
        """
        if self.tenants is None:
            return OPEN_TENANT
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _unauthorized("No API key was given: send it as 'Authorization: Bearer KEY'.")
        tenant = self.tenants.get(hashlib.sha256(key.strip().encode()).hexdigest())
        if tenant is None:
            raise _unauthorized("Incorrect API key provided.")
        return tenant


def _unauthorized(message: str) -> ClientError:
    return ClientError(401, message, "invalid_api_key", headers={"www-authenticate": "Bearer"})
