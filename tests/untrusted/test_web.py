"""Fetching reaches public addresses alone, whatever a URL, a redirect or a name server says."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from agentrl import Observation, ToolContext, ToolError
from agentrl.tools.fetch import Fetch
from agentrl.tools.untrusted import Interrupted, Invalid, Refused
from agentrl.tools.untrusted.web import Policy, fetch, is_public

OVER = web.AppKey("over", asyncio.Event)
LOOPBACK = Policy(allow=("127.0.0.1/32",), seconds=30)


class Site:
    """A server on loopback, which counts what reaches it."""

    def __init__(self) -> None:
        self.reached = 0
        self.port = 0

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.reached += 1
        if "to" in request.query:
            return web.Response(status=302, headers={"Location": request.query["to"]})
        if request.path == "/html":
            page = (
                "<title>T</title><script>no()</script><p>one <b>two</b></p><style>x</style><p>three&amp;</p>"
            )
            return web.Response(text=page, content_type="text/html")
        if request.path == "/big":
            return web.Response(body=b"x" * 5_000_000, content_type="text/plain")
        if request.path == "/bomb":
            return web.Response(body=b"x", headers={"Content-Encoding": "gzip"}, content_type="text/plain")
        if request.path == "/binary":
            return web.Response(body=b"\0\1", content_type="application/octet-stream")
        if request.path == "/missing":
            return web.Response(status=404, text="gone")
        if request.path == "/slow":
            response = web.StreamResponse()
            await response.prepare(request)
            await request.app[OVER].wait()
            return response
        return web.Response(text=f"secret {request.headers.get('Cookie', '')}")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    application = web.Application()
    application[OVER] = asyncio.Event()
    application.router.add_get("/{path:.*}", site.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", 0)
    await listener.start()
    site.port = runner.addresses[0][1]
    yield site
    application[OVER].set()
    await runner.cleanup()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost",
        "[::1]", "0.0.0.0", "[::]",
    ],
)  # fmt: skip
async def test_no_way_of_writing_a_host_reaches_loopback(site: Site, host: str):
    any_port = Policy(ports=(80, 443, site.port), seconds=30)
    with pytest.raises((Refused, Invalid)):  # some resolvers do not know the older ways of writing one
        await fetch(site.url(host=host), any_port)
    assert site.reached == 0


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "127.0.0.53",
        "224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1", "240.0.0.1", "::", "::1", "fe80::1%eth0",
        "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1",
        "2002:7f00:1::", "fec0::1", "2001:0:7f00:1::", "2001:db8::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111"])
def test_addresses_that_are(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "gopher://127.0.0.1/", "ftp://example.org/", "data:,x", "//x/", "x"]
)
async def test_other_schemes_are_refused_at_once_and_on_a_redirect(site: Site, url: str):
    with pytest.raises(Refused, match="no http or https URL"):
        await fetch(url)
    if "://" in url:
        with pytest.raises(Refused, match="no http or https URL"):
            await fetch(site.url(f"/?to={url}"), LOOPBACK)


async def test_every_hop_is_looked_at(site: Site):
    assert (await fetch(site.url("/?to=/end"), LOOPBACK)).url == site.url("/end")
    reached = site.reached
    for host in ("127.0.0.2", "[::1]", "169.254.169.254", "localhost.localdomain"):
        with pytest.raises((Refused, Invalid)):
            await fetch(site.url(f"/?to=http://{host}:{site.port}/"), LOOPBACK)
    assert site.reached == reached + 4


async def test_a_name_that_changes_its_address_gains_nothing(site: Site, monkeypatch: pytest.MonkeyPatch):
    """Addresses are looked at where they are connected to, so there is no time between."""
    answers = ["127.0.0.1", "127.0.0.1", "127.0.0.2"]
    real = socket.getaddrinfo

    def rebinding(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        return real(answers.pop(0) if host == "rebind.example" else host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    url = site.url(host="rebind.example")
    assert (await fetch(url, LOOPBACK)).status == 200
    with pytest.raises(Refused, match=r"127\.0\.0\.2"):
        await fetch(f"{url}?to={url}", LOOPBACK)
    assert site.reached == 2 and not answers


async def test_ports_are_those_of_the_web(site: Site):
    with pytest.raises(Refused, match="1.1.1.1 port 22"):
        await fetch("http://1.1.1.1:22/")


async def test_answers_are_bounded(site: Site):
    page = await fetch(site.url("/big"), Policy(allow=LOOPBACK.allow, most_bytes=1000, seconds=30))
    assert page.cut and page.data == b"x" * 1000
    with pytest.raises(Refused, match="compressed"):
        await fetch(site.url("/bomb"), LOOPBACK)
    with pytest.raises(Refused, match="more than 5 redirects"):
        await fetch(site.url(_circle(site)), LOOPBACK)
    with pytest.raises(Interrupted, match=r"longer than 0\.5 s"):
        await fetch(site.url("/slow"), Policy(allow=LOOPBACK.allow, seconds=0.5))


def _circle(site: Site) -> str:
    target = "/end"
    for _ in range(6):
        target = "/?to=" + target.replace("%", "%25").replace("?", "%3F").replace("=", "%3D").replace(
            "/", "%2F"
        )
    return target


async def test_a_url_that_carries_credentials_is_refused(site: Site):
    with pytest.raises(Refused, match="user name or password"):
        await fetch(f"http://me:secret@127.0.0.1:{site.port}/", LOOPBACK)


@pytest.mark.parametrize(
    "url", ["http://", "http://[", "http://a.invalid/", "http://127.0.0.1:99999/", "http://" + "a" * 300]
)
async def test_a_url_that_leads_nowhere_is_told(url: str):
    with pytest.raises((Invalid, Refused)):
        await fetch(url, LOOPBACK)


async def use(url: str, **options: Any) -> Observation:
    tool = Fetch(allow=("127.0.0.1/32",), **options).spawn(ToolContext())
    return Observation.of(await tool.invoke({"url": url}))


async def test_the_tool_shows_what_there_is_to_read(site: Site):
    seen = await use(site.url("/html"))
    assert seen.text.splitlines() == ["T", "one two", "three&"] and seen.metadata["status"] == 200
    assert (await use(site.url("/"))).text == "secret "
    missing = await use(site.url("/missing"))
    assert missing.error and missing.text == "The server answered with status 404.\ngone"
    big = await use(site.url("/big"), most_characters=10)
    assert big.text == "x" * 10 + "\n(the rest was left out)" and big.metadata["cut"]
    with pytest.raises(ToolError, match="no text but application/octet-stream"):
        await use(site.url("/binary"))
    with pytest.raises(ToolError, match="not public"):
        await Fetch().spawn(ToolContext()).invoke({"url": site.url()})
    assert site.reached == 5
