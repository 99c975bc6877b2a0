"""How the tasks of MiniWoB that ship are solved: a short script for each, from what the page shows alone."""

from __future__ import annotations

import re
from collections.abc import Callable

from agentrl import call
from agentrl.envs.web.seen import Item, Seen, Steps, choose, click, quoted, write

Script = Callable[[str, Seen], Steps]
"""Takes what the page asks for, and the page."""

ORDINALS = {"1st": 0, "2nd": 1, "3rd": 2, "first": 0, "second": 1, "third": 2, "last": -1}
MOST_PAGES = 12
SCRIPTS: dict[str, Script] = {}
"""By the tasks' names; these are the tasks that ship."""


def plays(*names: str) -> Callable[[Script], Script]:
    """Mark the script of some tasks."""

    def mark(script: Script) -> Script:
        SCRIPTS.update(dict.fromkeys(names, script))
        return script

    return mark


def submit(page: Seen) -> Item:
    """The button that hands in."""
    return page.first("button", "Submit")


# ---- one click -------------------------------------------------------------------------------------


@plays("click-test")
def _the_button(asked: str, page: Seen) -> Steps:
    yield click(page.first("button"))


@plays("click-test-2", "click-test-transfer")
def _button_one(asked: str, page: Seen) -> Steps:
    yield click(page.first("button", "ONE"))


@plays("click-button")
def _named_button(asked: str, page: Seen) -> Steps:
    yield click(page.first("button", quoted(asked)[0]))


@plays("click-link")
def _named_text(asked: str, page: Seen) -> Steps:
    yield click(page.first("text", quoted(asked)[0]))


@plays("click-tab")
def _named_tab(asked: str, page: Seen) -> Steps:
    yield click(page.first("tab", re.findall(r"Tab #\d+", asked)[0]))


@plays("click-dialog")
def _close(asked: str, page: Seen) -> Steps:
    yield click(page.first("button", "Close"))


@plays("click-dialog-2")
def _in_dialog(asked: str, page: Seen) -> Steps:
    name = quoted(asked)[0]
    yield click(page.first("button", "Close" if name == "x" else name))


@plays("click-widget")
def _widget(asked: str, page: Seen) -> Steps:
    kind = quoted(asked)[0]
    if kind in ("text", "textarea"):
        is_area = kind == "textarea"
        yield click(next(box for box in page.all("textbox") if ("multiline" in box.states) == is_area))
    else:
        yield click(page.first(kind))


@plays("focus-text", "focus-text-2")
def _focus(asked: str, page: Seen) -> Steps:
    word = next((word for word in asked.split() if word in ORDINALS), "1st")
    yield click(page.all("textbox")[ORDINALS[word]])


# ---- several clicks --------------------------------------------------------------------------------


@plays("click-button-sequence")
def _one_then_two(asked: str, page: Seen) -> Steps:
    for name in ("ONE", "TWO"):
        yield click(page.first("button", name))


@plays("click-option", "click-checkboxes", "click-checkboxes-large", "click-checkboxes-transfer")
def _boxes(asked: str, page: Seen) -> Steps:
    wanted = re.findall(r"Select (.*) and click Submit", asked)[0]
    for name in [] if wanted == "nothing" else wanted.split(", "):
        yield click(next(item for item in page.items if item.name == name and item.role != "text"))
    yield click(submit(page))


@plays("click-collapsible-nodelay")
def _expand(asked: str, page: Seen) -> Steps:
    yield click(page.first("tab"))
    yield click(page.first("tab", "Submit"))


@plays(
    "click-tab-2-easy", "click-tab-2-medium", "click-tab-2", "click-tab-2-hard", "click-collapsible-2-nodelay"
)
def _look_behind_tabs(asked: str, page: Seen) -> Steps:
    name = quoted(asked)[0]
    for tab in page.all("tab"):
        if "selected" not in tab.text:
            [text] = yield click(tab)
            page = Seen(text)
        if found := page.all("text", name):
            yield click(found[0])
            return


@plays("odd-or-even")
def _odd_or_even(asked: str, page: Seen) -> Steps:
    for index, item in enumerate(page.items[:-1]):
        if item.role == "text":
            odd, even = page.items[index - 1], page.items[index + 1]
            yield click(odd if int(item.text) % 2 else even)
    yield click(submit(page))


@plays("email-inbox-delete", "email-inbox-important")
def _email_icon(asked: str, page: Seen) -> Steps:
    sender = re.findall(r"email by (\w+)", asked)[0]
    yield click(page.after(f"] {sender}\n", "image") if "trash" in asked else _star(page, sender))


def _star(page: Seen, sender: str) -> Item:
    icons = Seen(page.text.partition(f"] {sender}\n")[2]).all("image")
    return next(icon for icon in icons if ".star" in icon.text)


# ---- writing ---------------------------------------------------------------------------------------


@plays("enter-text", "enter-text-dynamic", "enter-text-2")
def _enter_text(asked: str, page: Seen) -> Steps:
    text = quoted(asked)[0]
    text = text.upper() if "upper case" in asked else text.lower() if "lower case" in asked else text
    yield write(page.first("textbox"), text)
    yield click(submit(page))


@plays("enter-password")
def _password(asked: str, page: Seen) -> Steps:
    for field in page.all("textbox"):
        yield write(field, quoted(asked)[0])
    yield click(submit(page))


@plays("login-user")
def _login(asked: str, page: Seen) -> Steps:
    for field, text in zip(page.all("textbox"), quoted(asked), strict=True):
        yield write(field, text)
    yield click(page.first("button", "Login"))


@plays("enter-date")
def _date(asked: str, page: Seen) -> Steps:
    month, day, year = re.findall(r"(\d+)/(\d+)/(\d+)", asked)[0]
    yield write(page.first("Date"), f"{year}-{int(month):02}-{int(day):02}")
    yield click(submit(page))


@plays("enter-time")
def _time(asked: str, page: Seen) -> Steps:
    hour, minute, half = re.findall(r"(\d+):(\d+)\s*([AP]M)", asked)[0]
    yield write(page.first("InputTime"), f"{int(hour) % 12 + 12 * (half == 'PM'):02}:{minute}")
    yield click(submit(page))


@plays("find-word")
def _word(asked: str, page: Seen) -> Steps:
    place = int(re.findall(r"(\d+)(?:st|nd|rd|th)", asked)[0])
    paragraph = next(line for line in page.text.splitlines() if not line.startswith("["))
    yield write(page.first("textbox"), paragraph.split()[place - 1].strip(",."))
    yield click(submit(page))


@plays("scroll-text")
def _last_word(asked: str, page: Seen) -> Steps:
    text, field = page.all("textbox")
    yield write(field, text.value.split()[-1].strip(",."))
    yield click(submit(page))


@plays("read-table")
def _table(asked: str, page: Seen) -> Steps:
    label = re.findall(r"value of (.*) into", asked)[0]
    yield write(page.first("textbox"), _cells(page)[label])
    yield click(submit(page))


@plays("read-table-2")
def _two_from_table(asked: str, page: Seen) -> Steps:
    labels = [line.rstrip(":") for line in page.text.splitlines() if line.endswith(":")]
    for field, label in zip(page.all("textbox"), labels, strict=True):
        yield write(field, _cells(page)[label])
    yield click(submit(page))


def _cells(page: Seen) -> dict[str, str]:
    rows = (line.split(" | ") for line in page.text.splitlines() if " | " in line)
    return {row[0]: row[1] for row in rows}


@plays("simple-arithmetic")
def _sum(asked: str, page: Seen) -> Steps:
    one, operation, other = re.findall(r"(-?\d+) (\S) (-?\d+) =", page.text)[0]
    a, b = int(one), int(other)
    yield write(page.first("textbox"), str({"+": a + b, "-": a - b}.get(operation, a * b)))
    yield click(submit(page))


@plays("simple-algebra")
def _equation(asked: str, page: Seen) -> Steps:
    one, operation, other, total = re.findall(r"(\w+) ([+-]) (\w+) = (-?\d+)", page.text)[0]
    sign, result = (1 if operation == "+" else -1), int(total)
    x = result - sign * int(other) if one == "x" else sign * (result - int(one))
    yield write(page.first("textbox"), str(x))
    yield click(submit(page))


@plays("text-transform")
def _letters(asked: str, page: Seen) -> Steps:
    yield write(page.first("textbox"), "".join(item.text for item in page.all("text")))
    yield click(submit(page))


@plays("guess-number")
def _guess(asked: str, page: Seen) -> Steps:
    low, high = 0, 9
    while True:
        guess = (low + high) // 2
        yield write(page.first("spinbutton"), str(guess))
        [text] = yield click(submit(page))
        low, high = (guess + 1, high) if "higher" in text else (low, guess - 1)


@plays("multi-orderings", "multi-layouts")
def _movies(asked: str, page: Seen) -> Steps:
    genre, director, year = re.findall(r"for (.*) movies directed by (.*) from year (\d+)", asked)[0]
    for marks, text in ((("Genre",), genre), (("Director",), director), (("Year", "Date"), year)):
        mark = next(mark for mark in marks if mark in page.text)
        yield write(page.after(mark, "textbox"), text)
    yield click(next(item for item in page.items[::-1] if item.role in ("button", "text")))


# ---- lists -----------------------------------------------------------------------------------------


@plays("choose-list", "click-scroll-list")
def _list(asked: str, page: Seen) -> Steps:
    names = re.findall(r"Select (.*) from the", asked)[0].split(", ")
    field = page.first("combobox" if page.all("combobox") else "listbox")
    for name in names:
        yield choose(field, name)
    yield click(submit(page))


@plays("use-autocomplete-nodelay")
def _autocomplete(asked: str, page: Seen) -> Steps:
    begin, *end = quoted(asked)
    [text] = yield write(page.first("textbox"), begin)
    fitting = [item for item in Seen(text).all() if item.role in ("menuitem", "text")]
    yield click(
        next(i for i in fitting if i.name.startswith(begin) and i.name.endswith(end[0] if end else ""))
    )
    yield click(submit(page))


@plays("search-engine")
def _results(asked: str, page: Seen) -> Steps:
    left = int(re.findall(r"(\d+)(?:st|nd|rd|th)", asked)[0])
    yield write(page.first("textbox"), quoted(asked)[0])
    [text] = yield click(page.first("button", "Search"))
    for _ in range(MOST_PAGES):
        links = [
            link for link in Seen(text).all("link") if link.name not in ("<", ">") and not link.name.isdigit()
        ]
        if left <= len(links):
            yield click(links[left - 1])
            return
        left -= len(links)
        [text] = yield click(Seen(text).first("link", ">"))


@plays("scroll-text-2")
def _to_the_bottom(asked: str, page: Seen) -> Steps:
    text = ""
    direction = "up" if "top" in asked else "down"
    while "any further" not in text:
        [text] = yield call("scroll", direction=direction, id=page.first("textbox").id)
    yield click(submit(page))
