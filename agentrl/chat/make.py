"""Makes a renderer by name: ours, one of the ``renderers`` package, or a user's own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args

from agentrl.chat.shield import ShieldedTokenizer
from agentrl.errors import ConfigError, ModelUnsupported

_OURS = {
    "chatml-json": "agentrl.chat.chatml.ChatMLRenderer",
    "code-fence": "agentrl.chat.codefence.CodeFenceRenderer",
}


def make_renderer(tokenizer: ShieldedTokenizer, name: str, options: Mapping[str, Any]) -> Any:
    """The renderer called ``name``, or at the import path ``name``.

    Raises:
        ConfigError: there is none, or it has no such option.
        ModelUnsupported: it does not work with this tokenizer.
    """
    from pydantic import TypeAdapter, ValidationError
    from renderers.base import create_renderer
    from renderers.configs import (
        CustomRendererConfig,
        RendererConfig,
    )

    known = renderer_names()
    try:
        if name in _OURS or (name not in known and ("." in name or ":" in name)):
            config = CustomRendererConfig(import_path=_OURS.get(name, name), **options)
        elif name in known:
            config = TypeAdapter(RendererConfig).validate_python({"name": name, **options})
        else:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
            raise ConfigError(f"there is no renderer {name!r}; the nearest are {', '.join(near)}")
        return create_renderer(tokenizer, config)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'][-1:]))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"the options of the renderer {name!r} do not fit: {problems}") from error
    except (ImportError, FileNotFoundError) as error:
        raise ConfigError(f"the renderer {name!r} cannot be loaded: {error}") from error
    except (AssertionError, ValueError, TypeError) as error:
        raise ModelUnsupported(f"the renderer {name!r} does not work with this tokenizer: {error}") from error


def renderer_names() -> list[str]:
    """Every name that :func:`make_renderer` knows."""
    from renderers.configs import RendererConfig

    union = get_args(RendererConfig)[0]
    names = [str(config.model_fields["name"].default) for config in get_args(union)]
    return sorted({*names, *_OURS} - {"auto", "custom"})
