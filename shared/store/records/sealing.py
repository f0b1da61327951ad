"""The only importer of cryptography: what a request brought for its tool servers is stored sealed.

The key that Redis keeps is deleted when the response closes, but Redis's own file and backups remember
it; without the deployment's key they tell nothing. Does not know what it seals.
"""

import logging

from cryptography.fernet import Fernet, InvalidToken

from shared.settings import Settings

_log = logging.getLogger(__name__)


def seal(settings: Settings, plain: bytes) -> bytes:
    """Sealed with `secrets_key`; without one, as it is."""
    fernet = _fernet(settings)
    return fernet.encrypt(plain) if fernet else plain


def unseal(settings: Settings, sealed: bytes) -> bytes | None:
    """None: sealed with another key, as after this deployment's key was changed. Without a key, as it is."""
    fernet = _fernet(settings)
    if fernet is None:
        return sealed
    try:
        return fernet.decrypt(sealed)
    except InvalidToken:
        _log.warning("secrets were sealed with another key")
        return None


def _fernet(settings: Settings) -> Fernet | None:
    if settings.secrets_key is None:
        return None
    return Fernet(settings.secrets_key.get_secret_value())
