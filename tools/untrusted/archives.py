"""Archives in a session's working folder, unpacked inside the session."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from agentrl.tools.untrusted.inside import ask

if TYPE_CHECKING:
    from agentrl.sandbox import Session


@dataclass(frozen=True)
class Quota:
    """What an archive may have and make.

    ``most_archive_bytes`` are of the archive itself, ``most_bytes`` of all its files unpacked, which are also
    at most ``most_ratio`` times the archive's, or 1 MiB.
    """

    most_archive_bytes: int = 64 << 20
    most_entries: int = 2_000
    most_bytes: int = 32 << 20
    most_ratio: int = 200


class Unpacked(BaseModel):
    """What came out: how many entries, of how many bytes, and the names of the first 200."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    entries: Annotated[int, Field(ge=0)]
    bytes: Annotated[int, Field(ge=0)]
    names: Annotated[list[str], Field(max_length=200)]


async def unpack(
    session: Session, path: str, into: str, *, quota: Quota | None = None, seconds: float = 20.0
) -> Unpacked:
    """Unpack a zip or tar file (also gzip, bzip2, xz). It comes out whole, or nothing of it does.

    Args:
        session: where the file lies.
        path: of the archive, in the working folder.
        into: a folder that is not there yet.
        quota: by default that of :class:`Quota`; the session's own limits hold too.
        seconds: for all of it.

    Raises:
        Refused: it goes over the quota, has a link or device in it, or an entry that would leave the folder.
        Invalid: it is no archive, damaged or encrypted; the disk is full.
        Interrupted: it took too long or too much memory.
        Unanswered: the code in the session gave no answer.
    """
    request = {"path": path, "into": into, **asdict(quota or Quota())}
    return await ask(session, "archive", request, Unpacked, seconds=seconds, loading=0.0)
