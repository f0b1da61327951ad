"""Encrypts the secrets that a request brings for its tool servers. The only importer of cryptography.

The Redis key with the secrets is deleted when the response closes, but Redis's own file and backups keep it;
without the deployment's key they reveal nothing. Does not know what it seals.
"""

import logging

from cryptography.fernet import Fernet, InvalidToken

from shared.settings import Settings

_log = logging.getLogger(__name__)


def seal(settings: Settings, plain: bytes) -> bytes:
    """Returns the bytes encrypted with `secrets_key`, or unchanged if there is no key."""
    fernet = _fernet(settings)
    return fernet.encrypt(plain) if fernet else plain


def unseal(settings: Settings, sealed: bytes) -> bytes | None:
    """Returns the decrypted bytes, or None if sealed with another key; unchanged if there is no key."""
    fernet = _fernet(settings)
    if fernet is None:
        return sealed
    try:
        return fernet.decrypt(sealed)
    except InvalidToken:
        _log.warning("the secrets of a response were sealed with another key")
        return None


def _fernet(settings: Settings) -> Fernet | None:
    if settings.secrets_key is None:
        return None
    return Fernet(settings.secrets_key.get_secret_value())
