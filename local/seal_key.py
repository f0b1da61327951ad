"""Keeps the key that seals what clients carry, in a local cluster's data folder: made once, then read.

Clients keep sealed texts for as long as they like, so the key outlives the launcher, as the log does.
"""

import base64
import os
from pathlib import Path

_FILE = "seal_key"


def keep_seal_key(data: Path) -> str:
    """Returns the folder's key, making it if there is none; readable by its owner only.

    The caller must hold the folder.
    """
    path = data / _FILE
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        key = base64.urlsafe_b64encode(os.urandom(32)).decode()
    beside = data / f".{_FILE}.{os.getpid()}"
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"{key}\n")
    os.replace(beside, path)
    return key
