"""Encrypts what this deployment alone is to read again. The only importer of cryptography.

Does not know what it seals. There are two kinds, each with keys of its own:

- What Redis holds for a while, with `secrets_key`: the secrets that a request brings for its tool servers.
  Their key in Redis is deleted when the response closes, but Redis's own file and backups keep it; without
  the deployment's key they reveal nothing.
- What clients carry, with `seal_keys` (`Seal`): texts that come back with a later request, to any node
  (docs/adr/0044-sealed-texts.md).
"""

import logging
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from shared.settings import Settings

_log = logging.getLogger(__name__)

# --- what Redis holds -----------------------------------------------------------------------------


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


# --- what clients carry ---------------------------------------------------------------------------

REASONING, COMPACTION = "reasoning", "compaction"
"""Purposes of sealed texts: what the model thought, and what a compaction stands for."""
_MARK = "antiphon1"
"""What every sealed text begins with: whose it is, and the version of its form."""


class Seal:
    """Seals texts that a client of one tenant carries, and opens them again on any node with the keys.

    A sealed text is `antiphon1.KEY.TEXT`: the name of the key, and AES-SIV (RFC 5297) of the UTF-8 text in
    URL-safe base64. Mark, purpose and tenant are authenticated with it, so that a text opens only for what it
    was sealed for. The same text always becomes the same bytes, so a takeover makes them again.
    """

    def __init__(self, keys: Sequence[SecretStr], tenant: str, purpose: str) -> None:
        """`keys`: the first one seals, all open; at least one."""
        self._ciphers = dict(_cipher_of(key.get_secret_value()) for key in reversed(keys))
        self._name, _ = _cipher_of(keys[0].get_secret_value())
        self._bound_to = [part.encode() for part in (_MARK, purpose, tenant)]

    def seal(self, text: str) -> str:
        sealed = self._ciphers[self._name].encrypt(text.encode(), self._bound_to)
        return f"{_MARK}.{self._name}.{urlsafe_b64encode(sealed).decode().rstrip('=')}"

    def open(self, sealed: str) -> str | None:
        """Returns the text, or None if this is not a text sealed here for the same tenant and purpose."""
        mark, _, rest = sealed.partition(".")
        name, _, encoded = rest.partition(".")
        cipher = self._ciphers.get(name)
        if mark != _MARK or cipher is None:
            return None
        try:
            raw = b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True)
            return cipher.decrypt(raw, self._bound_to).decode()
        except (InvalidTag, ValueError):
            return None


def is_sealed_here(sealed: str) -> bool:
    """Returns True for the form of a text that was sealed here, with whatever key and for whomever."""
    return sealed.startswith(f"{_MARK}.")


@lru_cache(maxsize=32)
def _cipher_of(key: str) -> tuple[str, AESSIV]:
    """Returns the key's name, which reveals nothing of it, and its cipher."""
    made = HKDF(SHA256(), length=68, salt=None, info=_MARK.encode()).derive(urlsafe_b64decode(key))
    return made[64:].hex(), AESSIV(made[:64])
