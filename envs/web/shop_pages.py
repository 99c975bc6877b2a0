"""The shop's pages: the templates of the folder ``pages``. Everything that comes from outside is escaped."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

PAGES = Path(__file__).with_name("pages")


def render(name: str, title: str, **values: Any) -> str:
    """The HTML of a page."""
    return _environment().get_template(f"{name}.html").render(title=title, **values)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined)
