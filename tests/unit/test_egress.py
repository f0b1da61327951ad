"""Where a server that a request names may be. Nothing is sent here: the tests check what would be sent."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError

from shared import lookups
from shared.egress import Egress, GuardedTransport, NotAllowed, RefusedByRule, Resolve, is_public
from shared.settings import Settings
from tests.patience import PATIENCE_S, until

PUBLIC = "93.184.215.14"
PUBLIC_6 = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"

NOT_PUBLIC = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255"),
    *("192.168.1.1", "169.254.169.254", "169.254.1.1", "100.64.0.1", "100.100.100.200", "100.127.255.255"),
    *("192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("168.63.129.16", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
    *("2001::1", "2001:db8::1", "3fff::1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1"),
    *("100::1", "4000::1"),
]


def resolving(*addresses: str) -> Resolve:
    async def resolve(_host: str, _port: int, _tenant: str) -> Sequence[str]:
        return addresses

    return resolve


def egress(resolve: Resolve | None = None, **settings: Any) -> Egress:
    return Egress.of(Settings(**settings), resolve)


async def find(url: str, *addresses: str, **settings: Any) -> list[str]:
    return await egress(resolving(*addresses), **settings).find(httpx2.URL(url))


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_an_address_that_is_not_public_is_never_called(address: str) -> None:
    assert not is_public(ip_address(address)) or address.startswith(("::ffff:", "64:ff9b::"))
    with pytest.raises(NotAllowed):
        await find("https://tools.example/mcp", address)


@pytest.mark.parametrize("address", [PUBLIC, PUBLIC_6, f"::ffff:{PUBLIC}", "64:ff9b::5db8:d70e"])
async def test_a_public_address_is_called(address: str) -> None:
    assert await find("https://tools.example/mcp", address) == [address]


async def test_of_several_addresses_only_those_that_are_allowed_are_called() -> None:
    assert await find("https://tools.example/mcp", "10.0.0.1", PUBLIC, "::1", PUBLIC) == [PUBLIC]


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0177.1", "127.1", "0x7f.1", "127.0.0.1", "[::1]", "[::ffff:7f00:1]"]
)
async def test_no_spelling_of_loopback_gets_through(host: str) -> None:
    """The system itself parses numeric addresses, without a lookup."""
    with pytest.raises(NotAllowed):
        await egress().find(httpx2.URL(f"http://{host}:8000/mcp"))


async def test_the_operator_allows_networks_and_hosts() -> None:
    url = "http://mcp.internal:8000/"
    assert await find(url, "10.1.2.3", egress_networks=["10.1.0.0/16"]) == ["10.1.2.3"]
    assert await find(url, "::ffff:10.1.2.3", egress_networks=["10.1.0.0/16"]) == ["::ffff:10.1.2.3"]
    assert await find(url, "10.9.9.9", egress_hosts=["MCP.internal"]) == ["10.9.9.9"]
    with pytest.raises(NotAllowed):
        await find(url, "10.2.0.1", egress_networks=["10.1.0.0/16"], egress_hosts=["internal"])


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("http://h:22/", {}),
        ("http://h:1023/", {}),
        ("http://h:8080/", {"egress_ports": ["443"]}),
        ("http://h/", {"egress_ports": ["443"]}),
        ("http://h/", {"egress_schemes": ["https"]}),
    ],
)
async def test_ports_and_schemes_are_limited(url: str, settings: dict[str, Any]) -> None:
    with pytest.raises(NotAllowed):
        await find(url, PUBLIC, **settings)
    assert await find("https://h/", PUBLIC, **settings) == [PUBLIC]


@pytest.mark.parametrize("ports", ["0", "65536", "90-80", "http", "80-", ""])
def test_a_range_of_ports_that_is_none_is_refused_at_the_start(ports: str) -> None:
    with pytest.raises(ValidationError):
        Settings(egress_ports=[ports])


class Recording(httpx2.AsyncBaseTransport):
    """Connects to nothing; connecting to `silent` addresses fails."""

    def __init__(self, *silent: str) -> None:
        self.requests: list[httpx2.Request] = []
        self._silent = silent

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        if request.url.host in self._silent:
            raise httpx2.ConnectError("refused")
        return httpx2.Response(200)


def client(rule: Egress, way_out: Recording) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=GuardedTransport(rule, way_out), trust_env=False)


async def test_the_address_that_was_checked_is_the_one_that_is_connected_to() -> None:
    """A name that leads elsewhere a moment later: it is asked once for each request."""
    answers = iter([[PUBLIC], ["127.0.0.1"]])

    async def rebind(_host: str, _port: int, _tenant: str) -> Sequence[str]:
        return next(answers)

    way_out = Recording()
    async with client(egress(rebind), way_out) as http:
        await http.post("https://tools.example:8443/mcp?key=1", content=b"{}")
        with pytest.raises(RefusedByRule):
            await http.post("https://tools.example:8443/mcp?key=1", content=b"{}")
    [sent] = way_out.requests
    assert str(sent.url) == f"https://{PUBLIC}:8443/mcp?key=1"
    assert sent.headers["host"] == "tools.example:8443"
    assert sent.extensions["sni_hostname"] == "tools.example"
    assert await sent.aread() == b"{}"


async def test_an_address_over_ipv6_is_connected_to() -> None:
    way_out = Recording()
    async with client(egress(resolving(PUBLIC_6)), way_out) as http:
        await http.get("https://tools.example/mcp")
    assert way_out.requests[0].url.host == PUBLIC_6


async def test_the_next_address_is_tried_when_one_cannot_be_connected_to() -> None:
    way_out = Recording(PUBLIC_6)
    async with client(egress(resolving(PUBLIC_6, PUBLIC)), way_out) as http:
        assert (await http.get("https://tools.example/mcp")).status_code == 200
    assert [sent.url.host for sent in way_out.requests] == [PUBLIC_6, PUBLIC]


async def test_what_is_refused_and_what_is_not_found_fail_alike() -> None:
    async def fail(_host: str, _port: int, _tenant: str) -> Sequence[str]:
        raise socket.gaierror(-2, "Name or service not known")

    async def be_silent(_host: str, _port: int, _tenant: str) -> Sequence[str]:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    way_out = Recording()
    for resolve in (resolving("10.0.0.1"), resolving(), resolving("no address"), fail, be_silent):
        async with client(egress(resolve), way_out) as http:
            http.timeout = httpx2.Timeout(5.0, connect=0.05)
            with pytest.raises(httpx2.ConnectError):
                await http.get("https://tools.example/mcp")
    assert way_out.requests == []


async def test_a_redirect_is_checked_like_any_address() -> None:
    class Redirecting(Recording):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            await super().handle_async_request(request)
            return httpx2.Response(307, headers={"location": "http://inside.example:8000/"})

    async def resolve(host: str, _port: int, _tenant: str) -> Sequence[str]:
        return ["10.0.0.1"] if host == "inside.example" else [PUBLIC]

    way_out = Redirecting()
    async with client(egress(resolve), way_out) as http:
        with contextlib.suppress(httpx2.ConnectError):
            await http.get("https://tools.example/mcp", follow_redirects=True)
    assert [sent.url.host for sent in way_out.requests] == [PUBLIC]


async def test_all_who_ask_for_a_silent_name_share_one_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lasts for longer than they wait; a thread for each would leave none for the names of others."""
    released, asked = threading.Event(), list[str]()

    def be_silent(host: str, port: int, **_: object) -> list[Any]:
        asked.append(host)
        assert released.wait(PATIENCE_S)
        return [(None, None, None, None, (PUBLIC, port))]

    monkeypatch.setattr(socket, "getaddrinfo", be_silent)
    rule, url = Egress.of(Settings()), httpx2.URL("https://silent.example/")
    try:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await rule.find(url)
        others = asyncio.gather(*(rule.find(url) for _ in range(3)))
        await asyncio.sleep(0)
    finally:
        released.set()
    assert await others == [[PUBLIC]] * 3
    assert asked == ["silent.example"]
    assert await rule.find(url) == [PUBLIC]
    assert len(asked) == 2, "nothing is remembered"


async def test_silent_names_of_one_tenant_leave_threads_for_those_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own further names wait for a thread, and are not looked up once nobody waits for them."""
    released, asked = threading.Event(), list[str]()

    def be_silent(host: str, port: int, **_: object) -> list[Any]:
        asked.append(host)
        assert host == "other.example" or released.wait(PATIENCE_S)
        return [(None, None, None, None, (PUBLIC, port))]

    monkeypatch.setattr(socket, "getaddrinfo", be_silent)
    monkeypatch.setattr(lookups, "LOOKUPS_MAX", 4)
    rule = Egress.of(Settings(tenant_share_max=0.5))

    async def ask(name: str, tenant: str) -> list[str]:
        return await rule.find(httpx2.URL(f"https://{name}.example/"), tenant)

    waiting = [asyncio.create_task(ask(f"silent-{i}", "greedy")) for i in range(10)]
    try:
        await until(lambda: len(asked) == 2)
        assert await ask("other", "modest") == [PUBLIC]
        for task in waiting[:8]:
            task.cancel()
        await asyncio.gather(*waiting[:8], return_exceptions=True)
    finally:
        released.set()
    assert await asyncio.gather(*waiting[8:]) == [[PUBLIC]] * 2
    assert sorted(asked) == ["other.example", *(f"silent-{i}.example" for i in (0, 1, 8, 9))]


async def test_a_name_that_is_not_found_is_reported_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_host: str, _port: int, **_: object) -> list[Any]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(socket.gaierror):
        await Egress.of(Settings()).find(httpx2.URL("https://unknown.example/"))
