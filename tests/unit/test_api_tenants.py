import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.__main__ import main
from api.door import is_loopback
from api.errors import ClientError
from api.tenants import Tenants
from shared.settings import Settings
from shared.tenants_file import OPEN_TENANT, FileInvalid, Roster, TenantLimits
from tests.patience import until


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


TENANTS = Tenants(Roster({digest("key-a"): "tenant-a", digest("key-b"): "tenant-b"}))


@pytest.mark.parametrize(
    ("authorization", "tenant"),
    [("Bearer key-a", "tenant-a"), ("bearer  key-b ", "tenant-b")],
)
def test_a_key_opens_its_tenant(authorization: str, tenant: str) -> None:
    assert TENANTS.tenant_of(authorization) == tenant


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
        TENANTS.tenant_of(authorization)
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")
    assert refused.value.headers == {"www-authenticate": "Bearer"}


@pytest.mark.parametrize("authorization", [None, "Bearer whatever", "nonsense"])
def test_without_a_key_file_everybody_is_one_tenant(authorization: str | None) -> None:
    assert Tenants.load(None).tenant_of(authorization) == OPEN_TENANT


FILE = {
    "defaults": {"limits": {"responses_max": 50}},
    "tenants": {
        "acme": {"keys": [digest("a1"), digest("a2")], "limits": {"responses_max": 7}},
        "lab": {"keys": [digest("b")]},
        "closed": {},
    },
}


def write(folder: Path, content: object) -> Path:
    path = folder / "tenants.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_file_names_tenants_their_keys_and_their_limits(tmp_path: Path) -> None:
    tenants = Tenants.load(write(tmp_path, FILE))
    assert [tenants.tenant_of(f"Bearer {key}") for key in ("a1", "a2", "b")] == ["acme", "acme", "lab"]
    settings = Settings(tenant_responses_max=1000)
    held = {name: tenants.limits_of(name).over(settings) for name in ("acme", "lab", "closed")}
    assert {name: own.tenant_responses_max for name, own in held.items()} == {
        "acme": 7,
        "lab": 50,
        "closed": 50,
    }


def test_what_the_file_does_not_say_is_as_the_settings_have_it(tmp_path: Path) -> None:
    settings = Settings(tenant_responses_max=1000)
    for content in ({"tenants": {"t": {"keys": [digest("k")]}}}, {digest("k"): "t"}):
        tenants = Tenants.load(write(tmp_path, content))
        assert tenants.limits_of(tenants.tenant_of("Bearer k")).over(settings) == settings
    assert Tenants().limits_of(OPEN_TENANT).over(settings) == settings


def test_every_limit_is_a_setting() -> None:
    assert {f"tenant_{name}" for name in TenantLimits.__struct_fields__} <= Settings.model_fields.keys()


def test_a_file_of_the_older_form_is_read(tmp_path: Path) -> None:
    assert Tenants.load(write(tmp_path, {digest("k"): "t"})).tenant_of("Bearer k") == "t"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "\xff",
        '{"k": 1}',
        {"not a hash": "t"},
        {digest("k").upper(): "t"},
        {digest("k"): ""},
        {digest("k"): "a/b"},
        {digest("k"): "a}b"},
        {"defaults": {}},
        {"tenants": {"a/b": {}}},
        {"tenants": {"t": {"keys": ["k"]}}},
        {"tenants": {"t": {"keys": digest("k")}}},
        {"tenants": {"t": {"key": [digest("k")]}}},
        {"tenants": {"t": {"limits": {"responses": 1}}}},
        {"tenants": {"t": {"limits": {"responses_max": 0}}}},
        {"tenants": {"a": {"keys": [digest("k")]}, "b": {"keys": [digest("k")]}}},
        {"tenants": {}, "default": {}},
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, content: object) -> None:
    with pytest.raises(FileInvalid, match=r"tenants\.json"):
        Tenants.load(write(tmp_path, content))


@pytest.fixture
async def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tenants]:
    """Tenants of a file in `tmp_path` that is looked at all the time."""
    monkeypatch.setattr("shared.tenants_file._POLL_INTERVAL_S", 0.01)
    tenants = Tenants.load(write(tmp_path, FILE))
    reading = asyncio.create_task(tenants.run())
    yield tenants
    reading.cancel()


def is_known(tenants: Tenants, key: str) -> bool:
    try:
        tenants.tenant_of(f"Bearer {key}")
    except ClientError:
        return False
    return True


async def test_a_key_that_is_taken_out_opens_nothing_any_more(watched: Tenants, tmp_path: Path) -> None:
    write(tmp_path, {"tenants": {"acme": {"keys": [digest("a2"), digest("a3")]}}})
    await until(lambda: is_known(watched, "a3"))
    assert [is_known(watched, key) for key in ("a1", "a2", "b")] == [False, True, False]
    assert watched.limits_of("acme") == TenantLimits()


async def test_a_file_that_breaks_or_goes_changes_nothing(
    watched: Tenants, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, json.dumps(FILE)[:-5])
    await until(lambda: "still holds" in caplog.text)
    caplog.clear()
    path.unlink()
    await until(lambda: "No such file" in caplog.text)
    assert is_known(watched, "a1")
    assert caplog.text.count("still holds") == 1, "said once, not every second"
    write(tmp_path, {digest("k"): "t"})
    await until(lambda: is_known(watched, "k"))


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
