import hashlib
import json
from pathlib import Path

import pytest

from api.__main__ import is_loopback, main
from api.auth import OPEN_TENANT, KeyFileInvalid, Keyring
from api.errors import ClientError


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


KEYRING = Keyring({digest("key-a"): "tenant-a", digest("key-b"): "tenant-b"})


@pytest.mark.parametrize(
    ("authorization", "tenant"),
    [("Bearer key-a", "tenant-a"), ("bearer  key-b ", "tenant-b")],
)
def test_a_key_opens_its_tenant(authorization: str, tenant: str) -> None:
    assert KEYRING.tenant_of(authorization) == tenant


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer key-c",
        "Basic key-a",
        "key-a",
        f"Bearer {digest('key-a')}",
        "Bearer \xff",
    ],
)
def test_anything_else_opens_nothing(authorization: str | None) -> None:
    with pytest.raises(ClientError) as refused:
        KEYRING.tenant_of(authorization)
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")
    assert refused.value.headers == {"www-authenticate": "Bearer"}


@pytest.mark.parametrize("authorization", [None, "Bearer whatever", "nonsense"])
def test_without_a_key_file_everybody_is_one_tenant(authorization: str | None) -> None:
    assert Keyring.load(None).tenant_of(authorization) == OPEN_TENANT


def test_a_key_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({digest("k"): "t"}))
    assert Keyring.load(path).tenant_of("Bearer k") == "t"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"k": 1}',
        json.dumps({"not a hash": "t"}),
        json.dumps({digest("k").upper(): "t"}),
        json.dumps({digest("k"): ""}),
        json.dumps({digest("k"): "a/b"}),
        json.dumps({digest("k"): "a}b"}),
    ],
)
def test_a_bad_key_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(KeyFileInvalid, match=r"keys\.json"):
        Keyring.load(path)


def test_a_missing_key_file_is_refused_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANTIPHON_API_KEYS", str(tmp_path / "none.json"))
    assert main([]) == 2
    assert "none.json" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com"])
def test_without_keys_only_a_loopback_host_is_served(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ANTIPHON_API_KEYS", raising=False)
    assert main(["--host", host]) == 2
    assert "ANTIPHON_API_KEYS" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_hosts_are_known(host: str) -> None:
    assert is_loopback(host)
