"""Prompts and few-shot examples as Jinja templates."""

from __future__ import annotations

import functools
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentrl.errors import DefinitionError

if TYPE_CHECKING:
    from jinja2 import Template as Compiled

SUFFIXES = (".j2", ".jinja", ".jinja2")
_INLINE = "<template>"


class Template:
    """A Jinja template, rendered in Jinja's sandbox; a variable that is not there is an error.

    Args:
        source: the template's text; or a file: a path, or a text that ends in ``.j2``, ``.jinja`` or
            ``.jinja2`` and has one line. A file may include and import others of its folder.

    Raises:
        DefinitionError: there is no such file, or it is not valid; the message names the line.
    """

    def __init__(self, source: str | Path) -> None:
        is_file = isinstance(source, Path) or (source.endswith(SUFFIXES) and "\n" not in source)
        self.path = Path(source).expanduser().resolve() if is_file else None
        if self.path is None:
            self.source = str(source)
        elif self.path.is_file():
            self.source = self.path.read_text(encoding="utf-8")
        else:
            raise DefinitionError(f"There is no template file {str(source)!r}.")
        self._compiled  # noqa: B018  an error in it is told now

    def __str__(self) -> str:
        return self.source

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "source": self.source}  # what is compiled does not travel

    def render(self, **variables: Any) -> str:
        """The text with these variables.

        Raises:
            DefinitionError: a variable is missing, or rendering failed; the message names the template,
                the line and the variables that exist.
        """
        try:
            return self._compiled.render(**variables)
        except Exception as problem:  # whatever its expressions raise
            known = ", ".join(sorted(variables)) or "none"
            raise DefinitionError(
                f"Template {self._line(problem)}: {_words(problem)}. The variables given to it: {known}."
            ) from problem

    @functools.cached_property
    def _compiled(self) -> Compiled:
        from jinja2 import FileSystemLoader, StrictUndefined, TemplateSyntaxError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        folder = self.path.parent if self.path else None
        environment = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined,
            loader=FileSystemLoader(folder) if folder else None,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
        )
        try:
            if self.path is not None:
                return environment.get_template(self.path.name)
            return environment.from_string(self.source)
        except TemplateSyntaxError as problem:
            where = f"{problem.filename or _INLINE} line {problem.lineno}"
            raise DefinitionError(f"Template {where}: {_words(problem)}.") from problem

    def _line(self, problem: BaseException) -> str:
        """Where rendering failed: Jinja gives its frames the template's file and lines."""
        for frame in reversed(traceback.extract_tb(problem.__traceback__)):
            if frame.filename == _INLINE or (self.path and Path(frame.filename).parent == self.path.parent):
                return f"{frame.filename} line {frame.lineno}"
        return str(self.path or _INLINE)


def _words(problem: Exception) -> str:
    return (str(problem) or type(problem).__name__).partition("\n")[0].rstrip(".")
