"""The OpenAPI description of what is served, made from the routes and the models they take and give."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from aiohttp.web import AbstractRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from agentrl.serve.wire import Refusal

HANDLER = TypeVar("HANDLER", bound=Callable[..., Any])
Models = tuple[type[BaseModel] | None, type[BaseModel] | None]
_REFERENCE = "#/components/schemas/{model}"


def described(
    takes: type[BaseModel] | None = None, gives: type[BaseModel] | None = None
) -> Callable[[HANDLER], HANDLER]:
    """Say what a handler takes and gives as JSON; what it does is said by its docstring."""

    def mark(handler: HANDLER) -> HANDLER:
        handler.__dict__["models"] = (takes, gives)
        return handler

    return mark


def document(routes: Iterable[AbstractRoute]) -> dict[str, Any]:
    """The description of these routes, as OpenAPI 3.1."""
    from agentrl import __version__

    served = [route for route in routes if route.method not in ("HEAD", "OPTIONS") and route.resource]
    models = {model for route in served for model in _models(route) if model is not None} | {Refusal}
    named, definitions = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda model: model.__name__)],
        ref_template=_REFERENCE,
    )
    references = {model: schema for (model, _), schema in named.items()}
    paths: dict[str, dict[str, Any]] = {}
    for route in served:
        assert route.resource is not None
        method = "post" if route.method == "*" else route.method.lower()
        paths.setdefault(route.resource.canonical, {})[method] = _operation(route, references)
    return {
        "openapi": "3.1.0",
        "info": {"title": "agentrl tool server", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _models(route: AbstractRoute) -> Models:
    found: Models = getattr(route.handler, "models", (None, None))
    return found


def _operation(route: AbstractRoute, references: dict[Any, Any]) -> dict[str, Any]:
    assert route.resource is not None
    takes, gives = _models(route)
    text = inspect.getdoc(route.handler) or ""
    operation: dict[str, Any] = {
        "summary": text.partition("\n")[0],
        "responses": {
            "200": {"description": "OK", **_content(gives, references)},
            "default": {"description": "Why it was not answered.", **_content(Refusal, references)},
        },
    }
    names = re.findall(r"\{(\w+)\}", route.resource.canonical)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if takes is not None:
        operation["requestBody"] = {"required": True, **_content(takes, references)}
    return operation


def _content(model: type[BaseModel] | None, references: dict[Any, Any]) -> dict[str, Any]:
    if model is None:
        return {}
    return {"content": {"application/json": {"schema": references[model]}}}
