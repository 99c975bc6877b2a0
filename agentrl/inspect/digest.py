"""An environment's tasks as digests, made here and in another process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from agentrl.env import Env
from agentrl.errors import AgentRLError, UserCodeError
from agentrl.inspect.play import first_tasks
from agentrl.registry import find_env

SECONDS = 120.0
"""Longest that another process may take."""

_PROGRAM = "import sys; from agentrl.inspect.digest import main; sys.exit(main(*sys.argv[1:]))"


def digests(env: Env) -> dict[str, str]:
    """A digest of each split's tasks, in their order."""
    return {
        split: hashlib.sha256(
            json.dumps([task.to_dict() for task in first_tasks(env, split)], sort_keys=True).encode()
        ).hexdigest()
        for split in ("train", "test")
    }


async def digests_elsewhere(name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """The same from a process in which sets have another order.

    Raises:
        UserCodeError: it failed, or took longer than :data:`SECONDS`.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROGRAM, name, json.dumps(dict(options)),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"},
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), SECONDS)
    except TimeoutError:
        raise UserCodeError(f"Listing the tasks of {name} took another process over {SECONDS:g} s.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise UserCodeError(
            f"The tasks of {name} can be listed here, but not in another process: "
            f"{err.decode(errors='replace').strip()[-500:]}"
        )
    found: dict[str, str] = json.loads(out.splitlines()[-1])
    return found


def main(name: str, options: str) -> int:
    """Print the digests as JSON, or why there are none; what the other process does."""
    try:
        found = digests(find_env(name, json.loads(options)))
    except AgentRLError as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    sys.stdout.write(f"\n{json.dumps(found)}\n")
    return 0
