"""Where runs leave packets for each other: a shared folder, or a server."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from agentrl.errors import InfrastructureError
from agentrl.train.packets import MOST_BYTES

MOST_AT_ONCE = 64
"""Packets that are taken in at a time."""

SECONDS = 10.0
"""How long a server may take."""


@dataclass(frozen=True)
class Received:
    """What lay there: packets unread, and how many were too large to be looked at."""

    packets: list[bytes]
    oversized: int = 0


class Exchange(Protocol):
    """What a run shares through."""

    def share(self, packets: Iterable[bytes], step: int) -> None:
        """Leave packets for the others.

        Raises:
            InfrastructureError: it could not be done.
        """

    def take(self) -> Received:
        """What others left since the last call.

        Raises:
            InfrastructureError: it cannot be reached.
        """

    def state(self) -> Any:
        """What was taken already, as JSON data, for a checkpoint."""

    def load(self, state: Any) -> None:
        """What :meth:`state` gave."""


class FolderExchange:
    """Files in a folder that all runs can write: ``<node>~<step>~<number>.json``.

    A file is there whole or not at all. Each run removes its own oldest files.

    Args:
        folder: made if missing.
        node: this run's name.
        keep: files of this run that stay.
    """

    def __init__(self, folder: Path, node: str, keep: int = 256) -> None:
        self._folder, self._node, self._keep = folder, node, keep
        self._seen: set[str] = set()

    def share(self, packets: Iterable[bytes], step: int) -> None:
        """Write each to a file of its own, and remove the oldest of this run's."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for number, packet in enumerate(packets):
                name = f"{self._node}~{step:08}~{number:04}.json"
                partial = self._folder / f".{uuid.uuid4().hex}"
                partial.write_bytes(packet)
                partial.replace(self._folder / name)
            for path in sorted(self._folder.glob(f"{self._node}~*.json"))[: -self._keep]:
                path.unlink(missing_ok=True)
        except OSError as problem:
            raise InfrastructureError(f"Nothing could be shared in {self._folder}: {problem}") from problem

    def take(self) -> Received:
        """Files of others that are new, the newest of them."""
        packets: list[bytes] = []
        oversized = 0
        try:
            if not self._folder.is_dir():
                return Received([])
            there = [entry for entry in os.scandir(self._folder) if self._is_others(entry)]
            new = [entry for entry in there if entry.name not in self._seen]
            new.sort(key=lambda entry: (entry.stat(follow_symlinks=False).st_mtime, entry.name))
            for entry in new[-MOST_AT_ONCE:]:
                with Path(entry.path).open("rb") as file:
                    data = file.read(MOST_BYTES + 1)
                oversized += len(data) > MOST_BYTES
                packets += [data] if len(data) <= MOST_BYTES else []
        except OSError as problem:
            raise InfrastructureError(f"{self._folder} cannot be read: {problem}") from problem
        self._seen = {entry.name for entry in there}
        return Received(packets, oversized)

    def _is_others(self, entry: os.DirEntry[str]) -> bool:
        name = entry.name
        return (
            name.endswith(".json")
            and not name.startswith((".", f"{self._node}~"))
            and entry.is_file(follow_symlinks=False)
        )

    def state(self) -> list[str]:
        """The names of files that were looked at."""
        return sorted(self._seen)

    def load(self, state: Sequence[str]) -> None:
        """What :meth:`state` gave."""
        self._seen = set(state)


class ServerExchange:
    """A server that ``agentrl swarm serve`` runs.

    Args:
        url: its address.
        node: this run's name.
        token: what it wants to be shown.
    """

    def __init__(self, url: str, node: str, token: str | None = None) -> None:
        self._url, self._node, self._token = url.rstrip("/"), node, token
        self._next, self._server = 0, ""

    def share(self, packets: Iterable[bytes], step: int) -> None:  # noqa: ARG002 - for others
        """Post each."""
        for packet in packets:
            self._ask("/groups", packet)

    def take(self) -> Received:
        """What others posted since the last call."""
        query = urllib.parse.urlencode({"since": self._next, "node": self._node, "server": self._server})
        answer = self._ask(f"/groups?{query}")
        try:
            found = json.loads(answer)
            self._next, self._server = int(found["next"]), str(found["server"])
            packets = [str(text).encode() for text in found["groups"][:MOST_AT_ONCE]]
        except (ValueError, KeyError, TypeError) as problem:
            raise InfrastructureError(f"{self._url} gave no list of groups: {problem}") from problem
        kept = [packet for packet in packets if len(packet) <= MOST_BYTES]
        return Received(kept, len(packets) - len(kept))

    def _ask(self, path: str, data: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self._url + path, data=data, headers=headers)
        most = 2 * MOST_AT_ONCE * MOST_BYTES
        try:
            with urllib.request.urlopen(
                request, timeout=SECONDS
            ) as answer:  # only http(s), see open_exchange
                found: bytes = answer.read(most + 1)
        except (OSError, http.client.HTTPException, ValueError) as problem:
            raise InfrastructureError(f"{self._url} cannot be asked: {problem}") from problem
        if len(found) > most:
            raise InfrastructureError(f"{self._url} answered with more than {most} bytes.")
        return found

    def state(self) -> list[Any]:
        """Of which server how much was read."""
        return [self._server, self._next]

    def load(self, state: Sequence[Any]) -> None:
        """What :meth:`state` gave."""
        self._server, self._next = str(state[0]), int(state[1])


def open_exchange(place: str, node: str, token: str | None = None) -> Exchange:
    """The exchange at a URL, or in a folder.

    Args:
        place: ``http://…``, ``https://…`` or a folder.
        node: this run's name.
        token: for a server.
    """
    if place.startswith(("http://", "https://")):
        return ServerExchange(place, node, token)
    return FolderExchange(Path(place), node)
