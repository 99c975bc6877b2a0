"""Which web pages may use the server: none but this machine's own, unless they are named."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from aiohttp import web


class Senders:
    """Keeps web pages out.

    A page of another origin says so in ``Origin``. One whose name was bound to our address after it was
    loaded (DNS rebinding) shows that name in ``Host``, so that has to be a name of ours or an IP address.

    Args:
        hosts: names under which this server may be addressed, besides this machine's and IP addresses.
        origins: web pages that may use it, as ``https://name:port``, besides this machine's own.
    """

    def __init__(self, hosts: Collection[str] = (), origins: Collection[str] = ()) -> None:
        self._hosts = {"localhost", socket.gethostname().lower(), *(name.lower() for name in hosts)}
        self._origins = {origin.lower() for origin in origins}

    def check(self, request: web.Request) -> None:
        """Refuse a request that a web page may not make.

        Raises:
            web.HTTPMisdirectedRequest: it is addressed to a name that is not ours.
            web.HTTPForbidden: it comes from a page that may not use the server.
        """
        host = _name(f"//{request.headers.get('Host', '')}")
        if host not in self._hosts and _ip(host) is None:
            raise web.HTTPMisdirectedRequest(
                text=f"This server does not go by the name {host!r}. Use an address, or allow the name."
            )
        origin = request.headers.get("Origin")
        if origin is None or origin.lower() in self._origins:
            return
        page = _name(origin)
        address = _ip(page)
        if page != "localhost" and not (address is not None and address.is_loopback):
            raise web.HTTPForbidden(text=f"Pages of {origin!r} may not use this server.")


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _ip(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
