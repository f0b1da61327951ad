"""Parses `redis_url`: the address of one server, or of the Sentinels that know which server it is.

Owns the syntax and its error messages, which never contain a password; connects to nothing.
"""

from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

_SENTINEL_SCHEME = "redis+sentinel"
_SENTINEL_PORT = 26379
_SENTINEL_FORM = "redis+sentinel://[user:password@]host:port[,host:port…]/MASTER_NAME[/DB]"


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """The addresses of Sentinels.

    User and password are those of the server; Sentinels are used without any.
    """

    sentinels: tuple[tuple[str, int], ...]
    master_name: str
    db: int
    username: str | None
    password: str | None


def read_sentinel_url(url: str) -> SentinelUrl | None:
    """Parses the URL of Sentinels; returns None if it is that of a server, which redis-py parses.

    Raises ValueError if it is neither.
    """
    scheme = url.partition("://")[0]
    if scheme in ("redis", "rediss", "unix"):
        if scheme != "unix":
            _check_server(urlsplit(url))
        return None
    if scheme != _SENTINEL_SCHEME:
        raise ValueError("must begin with redis://, rediss://, unix:// or redis+sentinel://")
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    master_name, _, db = parts.path.lstrip("/").partition("/")
    if not master_name or parts.query or parts.fragment:
        raise ValueError(f"must have the form {_SENTINEL_FORM}")
    return SentinelUrl(
        tuple(_read_host(host) for host in hosts.split(",")),
        unquote(master_name),
        _read_db(db),
        unquote(username) or None,
        unquote(password) or None,
    )


def _check_server(parts: SplitResult) -> None:
    try:
        is_valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValueError("must have the form redis://[user:password@]host[:port][/DB]")
    _read_db(parts.path.lstrip("/"))


def _read_host(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0:
        raise ValueError(f"names a Sentinel {text!r}, which is not host:port; the form is {_SENTINEL_FORM}")
    return host, port or _SENTINEL_PORT


def _read_db(text: str) -> int:
    if text and not text.isdecimal():
        raise ValueError(f"names the database {text!r}, which is not a number")
    return int(text or 0)


def redact(url: str) -> str:
    """Returns the URL without its user and password."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
