"""Fetching from public addresses alone: the very address that is connected to is looked at, on every hop."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from agentrl.tools.untrusted.errors import Interrupted, Invalid, Refused

_REDIRECTS = {301, 302, 303, 307, 308}
_CHUNK = 1 << 16
_USER_AGENT = "agentrl"


@dataclass(frozen=True)
class Policy:
    """What may be fetched: public addresses at ``ports``, and whatever lies in the networks of ``allow``.

    ``most_bytes`` are of one answer; ``seconds`` and ``hops`` (redirects) of a whole fetch.
    """

    allow: tuple[str, ...] = ()
    ports: tuple[int, ...] = (80, 443)
    most_bytes: int = 1 << 20
    seconds: float = 20.0
    hops: int = 5


@dataclass(frozen=True)
class Page:
    """What a server answered: where it was found in the end, and whether it was cut at ``most_bytes``."""

    url: str
    status: int
    content_type: str
    charset: str
    data: bytes
    cut: bool


def is_public(address: str) -> bool:
    """Whether an IP address is of the public Internet, and is no way of writing one that is not."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        if any(each is not None for each in inner) or found.is_site_local:
            return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


class _Gate:
    """Makes the sockets of a fetch, and none to an address that the policy does not allow."""

    def __init__(self, policy: Policy) -> None:
        self._ports = policy.ports
        self._networks = [ipaddress.ip_network(network) for network in policy.allow]
        self.refused = ""

    def make(self, info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        """A socket for an address as `socket.getaddrinfo` gives it.

        Raises:
            PermissionError: the address is not allowed.
        """
        family, kind, protocol, _, (address, port, *_) = info
        plain = ipaddress.ip_address(str(address).partition("%")[0])
        allowed = any(plain in network for network in self._networks)
        if not allowed and (port not in self._ports or not is_public(str(address))):
            self.refused = f"{address} port {port}"
            raise PermissionError(f"{self.refused} is not allowed")
        return socket.socket(family, kind, protocol)


async def fetch(url: str, policy: Policy | None = None) -> Page:
    """Get what an http or https URL names, following redirects.

    No proxy, cookie or credential is used. Content is not decompressed.

    Raises:
        Refused: the URL, or one that it redirects to, is not http(s), carries credentials, or leads to an
            address that is not allowed; there are too many redirects, or the answer is compressed.
        Invalid: the URL is none, its host has no address, or the server cannot be reached or understood.
        Interrupted: it took too long.
    """
    import aiohttp

    policy = policy or Policy()
    gate = _Gate(policy)
    connector = aiohttp.TCPConnector(socket_factory=gate.make, use_dns_cache=False, force_close=True)
    client = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=None),
    )
    try:
        async with client, asyncio.timeout(policy.seconds):
            for _ in range(policy.hops + 1):
                _check(url)
                async with client.get(url, allow_redirects=False) as response:
                    if response.status in _REDIRECTS and "Location" in response.headers:
                        url = urljoin(url, response.headers["Location"])
                        continue
                    return await _page(response, url, policy)
            raise Refused(f"There are more than {policy.hops} redirects.")
    except TimeoutError:
        raise Interrupted(f"Stopped: it took longer than {policy.seconds:g} s.") from None
    except (aiohttp.ClientError, OSError, ValueError) as problem:
        if gate.refused:
            raise Refused(f"Not allowed: {url:.200} leads to {gate.refused}, which is not public.") from None
        raise Invalid(f"{url:.200} cannot be fetched: {problem}") from None


def _check(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme.lower() not in ("http", "https"):
        raise Refused(f"Not allowed: {url:.200} is no http or https URL.")
    if not parts.hostname:
        raise Invalid(f"{url:.200} names no host.")
    if parts.username is not None or parts.password is not None:
        raise Refused("Not allowed: a URL with a user name or password in it.")
    return parts


async def _page(response: Any, url: str, policy: Policy) -> Page:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused("The server sends a compressed answer although it was asked not to.")
    data = bytearray()
    async for piece in response.content.iter_chunked(_CHUNK):
        data += piece
        if len(data) > policy.most_bytes:
            break
    cut = len(data) > policy.most_bytes
    kept = bytes(data[: policy.most_bytes])
    return Page(url, response.status, response.content_type, response.charset or "utf-8", kept, cut)
