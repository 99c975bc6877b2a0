"""The browser's tools against real Chromium: what they do, what they cannot reach, and what breaks."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web
from small_sites import Pages, chromium, listener, main_processes

from agentrl import (
    ConfigError,
    DefinitionError,
    InfrastructureError,
    SandboxUnavailable,
    SessionLost,
    Tool,
    ToolContext,
    ToolError,
)
from agentrl.tools.browser import Browser, Folder, OpenPage, Site

START = """<title>Start</title><h1>Hello</h1><p>Some <b>bold</b> text</p><a href="/next">Next</a>
<label>Name <input id="name"></label><input type="checkbox" id="box"><label for="box">Yes</label>
<select aria-label="Fruit"><option>Apple</option><option>Pear</option></select>
<button onclick="said.textContent = 'Hi ' + document.getElementById('name').value">Greet</button>
<div><span id="said">-</span></div><span onclick="this.textContent = 'clicked'">a span</span>"""
NEXT = "<h1>Second</h1><div style='height: 9000px'>tall</div>"
GENEROUS = 60.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    opened = Browser(load_seconds=GENEROUS)
    yield opened
    asyncio.run(opened.close())


@asynccontextmanager
async def visiting(browser: Browser, site: Site) -> AsyncIterator[tuple[OpenPage, dict[str, Tool]]]:
    """A page on a site, and the tools of its episode."""
    context = ToolContext()
    opened = await browser.enter(context, site)
    tools = {tool.name: tool.spawn(context) for tool in browser.tools()}
    for tool in tools.values():
        await tool.open()
    try:
        yield opened, tools
    finally:
        for tool in tools.values():
            await tool.close()
        await browser.leave(context)


async def use(tool: Tool, **arguments: Any) -> str:
    answer = await tool.invoke(arguments)
    return str(answer.text)


def number(text: str, what: str) -> int:
    [line] = [line for line in text.splitlines() if what in line]
    return int(line.partition("]")[0].lstrip("["))


# ---- what they do -----------------------------------------------------------------------------


async def test_a_page_is_read_and_used(browser):
    async with visiting(browser, Pages(start=START, next=NEXT)) as (_, tools):
        page = await use(tools["read"])
        assert page.splitlines()[0] == "# Hello"
        assert "link Next" in page and "combobox Fruit = Apple of: Apple, Pear" in page
        assert "textbox Name = Ada" in await use(tools["type"], id=number(page, "Name"), text="Ada")
        assert "Hi Ada" in await use(tools["click"], id=number(page, "Greet"))
        assert "checkbox Yes (checked)" in await use(tools["click"], id=number(page, "checkbox"))
        assert "Fruit = Pear" in await use(tools["select"], id=number(page, "Fruit"), option="Pear")
        assert "textbox Name = Bo" in await use(tools["type"], id=number(page, "Name"), text="Bo")
        assert "] clicked" in await use(tools["click"], id=number(page, "a span"))
        assert "# Second" in await use(tools["click"], id=number(page, "Next"))
        assert "tall" in await use(tools["scroll"], direction="down")
        with pytest.raises(ToolError, match="any further"):
            for _ in range(100):
                await use(tools["scroll"], direction="down")
        assert "# Hello" in await use(tools["back"])
        with pytest.raises(ToolError, match="no page before"):
            await use(tools["back"])
        image = await tools["screenshot"].invoke({})
        assert image.data.startswith(b"\x89PNG") and image.media_type == "image/png"


async def test_numbers_stay_with_their_elements(browser):
    grow = "<button onclick=\"this.insertAdjacentHTML('beforebegin', '<button>New</button>')\">Grow</button>"
    async with visiting(browser, Pages(start=grow, next=grow)) as (_, tools):
        assert await use(tools["read"]) == "[1] button Grow"
        assert await use(tools["click"], id=1) == "[2] button New\n[1] button Grow"
        assert await use(tools["goto"], url="/next") == "[1] button Grow"  # another document


async def test_what_a_model_gets_wrong_it_is_told(browser):
    async with visiting(browser, Pages(start=START)) as (_, tools):
        page = await use(tools["read"])
        wrong: list[tuple[str, dict[str, Any], str]] = [
            ("click", {"id": 99}, r"no \[99\] on the page"),
            ("type", {"id": number(page, "Greet"), "text": "x"}, "no field to type into, but: button"),
            ("type", {"id": number(page, "Name"), "text": "x" * 5000}, "At most 4000"),
            ("select", {"id": number(page, "Fruit"), "option": "Plum"}, "it has: Apple, Pear"),
            ("select", {"id": number(page, "Greet"), "option": "Plum"}, "has no option"),
            ("read", {"start": 999}, "start must be less"),
        ]
        for name, arguments, words in wrong:
            with pytest.raises(ToolError, match=words):
                await use(tools[name], **arguments)


async def test_long_pages_are_read_in_parts():
    browser = Browser(lines=10, load_seconds=GENEROUS)
    async with visiting(browser, Pages(start="".join(f"<p>line {n}" for n in range(25)))) as (_, tools):
        first = (await use(tools["read"])).splitlines()
        assert len(first) == 11 and first[-1] == "(15 more lines: read with start=10)"
        assert "line 24" in await use(tools["read"], start=20)
    await browser.close()


async def test_windows_and_dialogs_hold_nothing_up(browser):
    script = "<button onclick=\"alert('Careful'); window.open('/other')\">Go</button>"
    async with visiting(browser, Pages(start=script)) as (_, tools):
        assert await use(tools["read"]) == "[1] button Go"
        assert await use(tools["click"], id=1) == "(alert: Careful)\n[1] button Go"
        assert await use(tools["read"]) == "[1] button Go"


async def test_episodes_share_no_cookies_and_no_site(browser):
    one, two = Pages(start=START), Pages(start=START)
    async with visiting(browser, one) as (first, _), visiting(browser, two) as (second, tools):
        await use(tools["goto"], url="/")
        assert two.cookies == [{}, {"last": "start"}] and one.cookies == [{}]
        assert len(main_processes()) == 1  # they do share the browser
        cookies = await first.do(first.page.cookies())
        assert [cookie["value"] for cookie in cookies] == ["start"]
        await second.do(second.page.set_cookies([{**cookies[0], "value": "other"}]))
        assert [cookie["value"] for cookie in await second.do(second.page.cookies())] == ["other"]
    other = Pages(host="other.test", start="secret")
    async with visiting(browser, other), visiting(browser, one) as (opened, _):
        asked = len(other.asked)
        answer = "url => fetch(url, {mode: 'no-cors'}).then(() => 'sent', () => 'refused')"
        await opened.do(opened.page.evaluate(answer, "http://other.test/"))
        assert len(other.asked) == asked  # the gate knows whose request it is


async def test_a_server_of_ones_own_is_passed_on_to():
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/away":
            raise web.HTTPFound(f"http://{request.host}/there")
        return web.Response(text=f"<p>{request.path} {await request.text()}", content_type="text/html")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    server = web.TCPSite(runner, "127.0.0.1", 0)
    await server.start()
    port = runner.addresses[0][1]
    browser = Browser(f"http://127.0.0.1:{port}/begin", load_seconds=GENEROUS)
    assert browser.site is not None
    async with visiting(browser, browser.site) as (opened, tools):
        assert "/begin" in await use(tools["read"])
        assert "/there" in await use(tools["goto"], url="/away")
        assert opened.page.url == "http://site.test/there"
        await runner.cleanup()
        assert "ClientConnectorError" in await use(tools["goto"], url="/begin")
    await browser.close()


async def test_a_folder_is_served_and_nothing_outside_it(browser, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<p>inside")
    (tmp_path / "secret.html").write_text("<p>outside")
    (tmp_path / "site" / "link.html").symlink_to(tmp_path / "secret.html")
    async with visiting(browser, Folder(tmp_path / "site")) as (_, tools):
        assert "inside" in await use(tools["read"])
        for url in ("/../secret.html", "/%2e%2e/secret.html", "/link.html", "/..%2fsecret.html"):
            assert "outside" not in await use(tools["goto"], url=url)


@pytest.mark.parametrize(
    "url", ["/%00", "/" + "a" * 300, "/a" * 2500], ids=["null", "long name", "long path"]
)
async def test_an_address_that_no_file_can_have_is_not_found(browser, tmp_path, url):
    (tmp_path / "index.html").write_text("<p>inside")
    async with visiting(browser, Folder(tmp_path)) as (_, tools):
        assert "404: Not Found" in await use(tools["goto"], url=url)
        assert "inside" in await use(tools["goto"], url="/index.html")


# ---- what they cannot reach ---------------------------------------------------------------------

REACH = """async urls => {
    const ends = {};
    for (const url of urls) {
        if (url.startsWith("ws")) {
            ends[url] = await new Promise(done => {
                try {
                    const socket = new WebSocket(url);
                    socket.onopen = () => done("open"); socket.onerror = () => done("failed");
                } catch (problem) { done("failed"); }
            });
        } else {
            ends[url] = await fetch(url, {mode: "no-cors"}).then(() => "open", () => "failed");
        }
    }
    return ends;
}"""


async def test_nothing_but_the_site_is_reached(browser):
    with listener() as host:
        elsewhere = f"127.0.0.1:{host.port}"
        site = Pages(start=START, framed=f"<iframe src='http://{elsewhere}/'></iframe><p>framed")
        async with visiting(browser, site) as (opened, tools):
            urls = [
                f"http://{elsewhere}/", f"http://localhost:{host.port}/", f"http://[::1]:{host.port}/",
                f"http://site.test:{host.port}/nothing.js", f"ws://{elsewhere}/", f"ws://localhost:{host.port}/",
                "http://example.com/", "https://example.com/", "ws://example.com/", "wss://site.test/",
                "ws://site.test/", "file:///etc/passwd", f"/to?http://{elsewhere}/", "/to?http://example.com/",
                "http://169.254.169.254/",
            ]  # fmt: skip
            ends = await opened.do(opened.page.evaluate(REACH, urls))
            reached = {url for url, end in ends.items() if end == "open"}
            assert reached <= {f"http://site.test:{host.port}/nothing.js"}  # by the gate, which refuses it
            assert not any("nothing.js" in path for path in site.asked)
            for url in ("/to?http://example.com/", f"/to?http://{elsewhere}/"):
                with contextlib.suppress(ToolError):
                    await use(tools["goto"], url=url)
                assert "reached" not in await use(tools["read"])
            assert "framed" in await use(tools["goto"], url="/framed")
            await opened.do(opened.page.evaluate("url => { location.href = url; }", f"http://{elsewhere}/"))
            await use(tools["read"])
        assert host.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "javascript:document.title='x'", "data:text/html,<p>x", "chrome://settings",
        "about:blank", "view-source:http://site.test/", "http://example.com/", "http://site.test:9/",
        "http://user@site.test/", "//example.com/", "ftp://site.test/", "blob:http://site.test/x",
        "http://[", "//[", "http://[x]/",
    ],
)  # fmt: skip
async def test_other_addresses_are_not_opened(browser, url):
    site = Pages(start=START)
    async with visiting(browser, site) as (opened, tools):
        with pytest.raises(ToolError, match=r"Only addresses of http://site\.test"):
            await use(tools["goto"], url=url)
        assert opened.page.url == "http://site.test/" and site.asked == ["/"]


async def test_chromium_is_confined_from_outside_and_by_itself(browser):
    async with visiting(browser, Pages(start=START)):
        [main] = main_processes()
        renderers = [each for each in chromium() if "--type=renderer" in each.cmdline()]
        assert renderers
        for process in [main, *renderers]:
            for kind in ("net", "user", "pid", "mnt"):
                ours, theirs = (os.readlink(f"/proc/{pid}/ns/{kind}") for pid in ("self", process.pid))
                assert ours != theirs, kind
            assert set(process.uids()) != {0} and "--no-sandbox" not in process.cmdline()
        for process in renderers:  # Chromium's own walls around what runs a page
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert "Seccomp:\t2" in status and "CapEff:\t0000000000000000" in status
            assert os.readlink(f"/proc/{process.pid}/ns/user") != os.readlink(f"/proc/{main.pid}/ns/user")
        inside = Path(f"/proc/{main.pid}/root")
        assert not {"root", "home", "var", "srv", "opt"} & set(os.listdir(inside))
        assert not (inside / "etc/passwd").exists()


# ---- what breaks --------------------------------------------------------------------------------


async def test_a_page_that_never_loads_is_told_and_left():
    browser = Browser(load_seconds=GENEROUS)
    hang = "<button onclick='while (true);'>Hang</button><a href='/slow'>Slow</a>"
    async with (
        visiting(browser, Pages(start=hang)) as (opened, tools),
        visiting(browser, Pages(start=START)) as (
            _,
            others,
        ),
    ):
        page = await use(tools["read"])
        opened.page._limits = dataclasses.replace(opened.page._limits, load_seconds=2)
        for name, arguments in (("goto", {"url": "/slow"}), ("click", {"id": number(page, "Slow")})):
            with pytest.raises(ToolError, match="did not load or answer within 2 s"):
                await use(tools[name], **arguments)
            assert "button Hang" in await use(tools["read"])  # still where it was
        with pytest.raises(ToolError, match="did not load or answer"):
            await use(tools["click"], id=number(page, "Hang"))
        with pytest.raises(ToolError, match="did not load or answer"):
            await use(tools["read"])
        with pytest.raises(SessionLost, match="did not answer the environment"):
            await opened.do(opened.page.evaluate("() => 1"))
        assert "# Hello" in await use(others["read"])  # another episode of the same browser
    await browser.close()


async def test_a_browser_that_is_killed_takes_its_own_episodes_and_is_replaced():
    before = {process.pid for process in main_processes()}
    browser = Browser(load_seconds=GENEROUS, pages_per_browser=1)
    async with visiting(browser, Pages(start=START)) as (_, tools):
        [first] = [process for process in main_processes() if process.pid not in before]
        async with visiting(browser, Pages(start=START)) as (_, others):
            first.kill()
            with pytest.raises(SessionLost, match="ended"):
                await use(tools["read"])
            with pytest.raises(SessionLost):
                await use(tools["click"], id=1)
            assert "# Hello" in await use(others["goto"], url="/")  # of another browser
            async with visiting(browser, Pages(start=START)) as (_, again):
                assert "# Hello" in await use(again["read"])
    await browser.close()


async def test_a_page_that_crashes_takes_its_own_episode_alone(browser):
    async with (
        visiting(browser, Pages(start=START)) as (opened, tools),
        visiting(browser, Pages(start=START)) as (_, others),
    ):
        crashing = asyncio.ensure_future(opened.do(opened.page._cdp.send("Page.crash")))
        with pytest.raises(SessionLost):
            for _ in range(100):
                await use(tools["read"])
        crashing.cancel()
        assert "# Hello" in await use(others["goto"], url="/")


async def test_a_site_that_raises_stops_the_run(browser):
    async with visiting(browser, Pages(start=START)) as (_, tools):
        with pytest.raises(DefinitionError, match=r"site\.test raised ZeroDivisionError: a bug of the site"):
            await use(tools["goto"], url="/raise")


async def test_pages_are_bounded_and_a_place_becomes_free():
    browser = Browser(load_seconds=GENEROUS, most_pages=1, wait_seconds=0.2)
    async with visiting(browser, Pages(start=START)):
        with pytest.raises(InfrastructureError, match=r"all 1 \(most_pages\)"):
            await browser.enter(ToolContext(), Pages(start=START))
    waiting = ToolContext()
    await browser.enter(waiting, Pages(start=START))
    await browser.leave(waiting)
    await browser.close()


async def test_an_episode_that_is_cancelled_while_its_page_opens_leaves_none():
    browser = Browser(load_seconds=GENEROUS, most_pages=1)
    opening = asyncio.ensure_future(browser.enter(ToolContext(), Pages(start=START)))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    async with visiting(browser, Pages(start=START)) as (_, tools):
        assert "# Hello" in await use(tools["read"])
    await browser.close()


async def test_nothing_is_left_behind():
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    folders = set(Path(tempfile.gettempdir()).glob("agentrl-browser-*"))
    browser = Browser(load_seconds=GENEROUS, idle_seconds=0.0)
    async with visiting(browser, Pages(start=START)):
        [main] = [process for process in main_processes() if process.pid not in before]
    psutil.wait_procs([main], timeout=GENEROUS)  # without pages it ends by itself
    assert not main.is_running()
    await browser.close()
    children = {
        p.pid for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE
    }
    assert children <= before
    assert set(Path(tempfile.gettempdir()).glob("agentrl-browser-*")) <= folders


async def test_without_walls_there_is_no_browser(monkeypatch):
    with pytest.raises(SandboxUnavailable, match="apt-get install chromium"):
        await Browser(executable="/nowhere/chromium").enter(ToolContext(), Pages(start=START))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxUnavailable, match="bubblewrap"):
        await Browser().enter(ToolContext(), Pages(start=START))


async def test_a_browser_that_does_not_start_says_so():
    browser = Browser(executable="/bin/false")
    with pytest.raises(InfrastructureError, match="did not start"):
        await browser.enter(ToolContext(), Pages(start=START))
    await browser.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"actions": ["clik"]}, "it has goto, click"),
        ({"most_pages": 0}, "at least 1"),
        ({"site": "example"}, "URL such as"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ConfigError, match=words):
        Browser(**options)


async def test_a_browser_needs_a_site():
    with pytest.raises(ConfigError, match="needs a site"):
        await Browser().enter(ToolContext())
