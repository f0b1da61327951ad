"""Restricts where the servers that are called for tenants may be: checks the address, and connects to that
address only.

Owns the rule, and the only transport for such calls: those to the tool servers that requests name, and the
deliveries of webhooks. Source: IANA's special-purpose address registries;
docs/adr/0020-where-a-server-url-may-lead.md.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

import httpx2

from shared.lookups import Lookups
from shared.settings import Settings

IpAddress = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int, str], Awaitable[Sequence[str]]]
"""Returns the addresses of a host name, or of an address in any spelling, and a port, for a tenant. Raises
OSError."""

_ADDRESSES_MAX = 4
"""The number of a name's addresses that are tried, one after the other."""
TENANT = "antiphon.tenant"
"""The extension of a request that says whose it is."""

_NOT_PUBLIC_4 = tuple(
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
        "168.63.129.16/32",  # a cloud's own service, at a public address
    )
)
_PUBLIC_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
_CARRIERS = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
"""An IPv6 address of these networks (mapped, NAT64) leads to the IPv4 address in its last 32 bits."""


class NotAllowed(Exception):
    """The operator's rule refuses a URL; the message, which goes on from the URL's name, may be shown to a
    model."""


class RefusedByRule(httpx2.ConnectError):
    """A refused address, reported to clients like any failed connection; only the operator's log names it."""


@dataclass(frozen=True, slots=True)
class Egress:
    """The operator's rule. `ports`: inclusive ranges."""

    hosts: frozenset[str]
    networks: tuple[Network, ...]
    ports: tuple[tuple[int, int], ...]
    schemes: frozenset[str]
    resolve: Resolve

    @classmethod
    def of(cls, settings: Settings, resolve: Resolve | None = None) -> Self:
        return cls(
            frozenset(host.lower().rstrip(".") for host in settings.egress_hosts),
            tuple(map(ip_network, settings.egress_networks)),
            tuple(map(_read_range, settings.egress_ports)),
            frozenset(settings.egress_schemes),
            resolve or Lookups(settings.tenant_share_max).resolve,
        )

    def check(self, url: httpx2.URL) -> None:
        """Checks a URL's scheme and port. Raises NotAllowed."""
        if url.scheme not in self.schemes:
            raise NotAllowed(f"{url.scheme} is not allowed here")
        port = _port_of(url)
        if not any(first <= port <= last for first, last in self.ports):
            raise NotAllowed(f"port {port} is not allowed here")

    async def find(self, url: httpx2.URL, tenant: str = "") -> list[str]:
        """Returns the addresses to connect to, all of which are allowed. Raises NotAllowed, OSError.

        `tenant`: against whose share the lookup of the name counts.
        """
        self.check(url)
        found = dict.fromkeys(await self.resolve(url.host, _port_of(url), tenant))
        if url.host.lower().rstrip(".") not in self.hosts:
            found = {address: None for address in found if self._allows(ip_address(address))}
        if not found:
            raise NotAllowed("it leads to no address that is allowed here")
        return list(found)[:_ADDRESSES_MAX]

    def _allows(self, address: IpAddress) -> bool:
        if isinstance(address, IPv6Address) and any(address in carrier for carrier in _CARRIERS):
            address = IPv4Address(int(address) & 0xFFFF_FFFF)
        return is_public(address) or any(address in network for network in self.networks)


def is_public(address: IpAddress) -> bool:
    """Returns True for an address on the public internet: not this machine, and not a private network.

    Spelled out because Python's `is_global` includes multicast, and cloud providers' own services.
    """
    match address:
        case IPv4Address():
            return not any(address in network for network in _NOT_PUBLIC_4)
        case IPv6Address():
            return address in _PUBLIC_6 and not any(address in network for network in _NOT_PUBLIC_6)


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Sends each request to an address that was checked; no name is resolved after the check.

    A refused address fails like one where nothing listens, so that answers reveal nothing about the network.
    """

    def __init__(self, egress: Egress, way_out: httpx2.AsyncBaseTransport) -> None:
        self._egress = egress
        self._way_out = way_out

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        failure: httpx2.TransportError | None = None
        for address in await self._find(request):
            try:
                return await self._way_out.handle_async_request(_addressed(request, address))
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure

    async def _find(self, request: httpx2.Request) -> list[str]:
        try:
            async with asyncio.timeout(request.extensions.get("timeout", {}).get("connect")):
                return await self._egress.find(request.url, request.extensions.get(TENANT, ""))
        except NotAllowed as refused:
            raise RefusedByRule(str(refused)) from None
        except (OSError, ValueError) as error:  # no such name, no answer in time, or not an address
            raise httpx2.ConnectError(str(error)) from None

    async def aclose(self) -> None:
        await self._way_out.aclose()


def _addressed(request: httpx2.Request, address: str) -> httpx2.Request:
    """Returns the request with an address as host; keeps its Host header and the name that TLS checks."""
    return httpx2.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": request.url.host},
    )


def _port_of(url: httpx2.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _read_range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)
