"""The tenants that may call: looks up a call's tenant by its key, and what the tenants file says about it.

`shared/tenants_file.py` owns the file's form; stores only hashes of keys.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from api.errors import ClientError
from shared import tenants_file
from shared.responses import Response
from shared.settings import Settings
from shared.tenants_file import OPEN_TENANT, Roster, TenantLimits


class Tenants:
    """The tenants from the file, and the lookup of a call's tenant by its key."""

    def __init__(self, roster: Roster | None = None, path: Path | None = None) -> None:
        """Without a roster, any key is accepted, including no key. `path`: the file to reload it from."""
        self._roster = roster
        self._path = path

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Returns the tenants of a file; without a file, any key is accepted. Raises FileInvalid."""
        return cls() if path is None else cls(tenants_file.read(path), path)

    @property
    def is_open(self) -> bool:
        return self._roster is None

    @property
    def is_in_file(self) -> bool:
        """True if there is a file for `run` to reload."""
        return self._path is not None

    def tenant_of(self, authorization: str | None) -> str:
        """Returns the tenant of an `authorization` header. Raises ClientError, a 401.

        A digest is looked up, so the timing reveals nothing about the existing keys.
        """
        if self._roster is None:
            return OPEN_TENANT
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _unauthorized("No API key was given: send it as 'Authorization: Bearer KEY'.")
        tenant = self._roster.keys.get(hashlib.sha256(key.strip().encode()).hexdigest())
        if tenant is None:
            raise _unauthorized("Incorrect API key provided.")
        return tenant

    def limits_of(self, tenant: str) -> TenantLimits:
        """Returns a tenant's limits, or the file's defaults for one that is not in the file."""
        if self._roster is None:
            return TenantLimits()
        return self._roster.limits.get(tenant, self._roster.defaults)

    def webhooks_for(self, tenant: str, response: Response, settings: Settings) -> Sequence[str]:
        """Returns the names of the tenant's webhooks that deliver the end of a response."""
        is_delivered = response.background or settings.webhook_responses == "all"
        if self._roster is None or not response.store or not is_delivered:
            return ()
        return tuple(self._roster.webhooks.get(tenant, ()))

    async def run(self) -> None:
        """Reloads the file when it changes, until cancelled."""
        assert self._path is not None
        assert self._roster is not None
        await tenants_file.follow(self._path, self._roster, self._take)

    def names(self) -> list[str]:
        """Returns the tenants of the file; without a file, the only one that there is."""
        return (
            [OPEN_TENANT]
            if self._roster is None
            else sorted({*self._roster.keys.values(), *self._roster.limits})
        )

    def _take(self, roster: Roster) -> None:
        self._roster = roster


def _unauthorized(message: str) -> ClientError:
    return ClientError(401, message, "invalid_api_key", headers={"www-authenticate": "Bearer"})
