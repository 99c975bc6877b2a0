"""Control groups: the only thing that bounds the memory of a session as a whole.

One group per session, under one group per sandbox, in the memory and pids controllers of cgroup v1 or in v2.
Whether that works is found out by doing it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentrl.errors import SandboxError

from .protocol import Limits

_MIB = 1 << 20
_DEATH_SECONDS = 60.0  # for all that is in a group, on a machine where a thousand may be ending at once
_OOM_BYTES = 4096
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.25
_OOM_FILES = {1: "memory.oom_control", 2: "memory.events"}
_SPARE_PROCESSES = 8  # room for the supervisor to act when guests have used up theirs

# Outlives us, if only for a moment: when our end of its standard input closes, it ends what is left and
# removes it.
#
# The outer shell leaves it behind as nobody's child: whoever ends our process may end its children with it,
# as Ray does, and this one in mid-work.
_JANITOR = """
exec 3<&0
(
trap '' HUP INT TERM
cat <&3 >/dev/null
n=0
while [ $n -lt 100 ]; do
  left=0
  for group in "$@"; do
    [ -d "$group" ] || continue
    for pid in $(cat "$group"/*/cgroup.procs "$group"/cgroup.procs 2>/dev/null); do
      kill -9 "$pid" 2>/dev/null
    done
    rmdir "$group"/*/ "$group" 2>/dev/null
    [ -d "$group" ] && left=1
  done
  [ $left = 0 ] && exit 0
  n=$((n + 1))
  sleep 0.1
done
) &
"""


@dataclass(frozen=True)
class Hierarchy:
    """A place where groups can be made: a folder, and which version's files it speaks."""

    folder: Path
    version: int


def _mounts() -> Iterator[tuple[Path, str, set[str]]]:
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            yield Path(before.split()[4]), kind, set(options.replace(" ", ",").split(","))


def _own_groups() -> dict[str, str]:
    """Controller (empty for v2) to our own group's path below the mount."""
    groups: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path.lstrip("/")))
    return groups


def _candidates() -> Iterator[tuple[Hierarchy, ...]]:
    """Where groups might be made, best first. In v2 groups cannot sit beside processes: try our parent."""
    own = _own_groups()
    v1: dict[str, Hierarchy] = {}
    for folder, kind, options in _mounts():
        if kind == "cgroup2":
            here = folder / own.get("", "")
            for place in (here, here.parent) if here != folder else (here,):
                yield (Hierarchy(place, 2),)
        for controller in {"memory", "pids"} & options:
            v1[controller] = Hierarchy(folder / own.get(controller, ""), 1)
    if "memory" in v1:
        yield tuple(v1[name] for name in ("memory", "pids") if name in v1)


def _write(folder: Path, name: str, value: int | str, optional: bool = False) -> None:
    try:
        (folder / name).write_text(str(value), encoding="ascii")
    except OSError:
        if not optional:
            raise


class Group:
    """One session's groups, one folder per hierarchy."""

    def __init__(self, folders: tuple[Hierarchy, ...]) -> None:
        self._places = folders
        self._oom_file: int | None = None  # kept open: it is read at every call

    def add(self, pid: int) -> None:
        """Move a process in; its descendants follow."""
        for place in self._places:
            _write(place.folder, "cgroup.procs", pid)

    def limit(self, limits: Limits) -> None:
        memory, processes = limits.memory_mb * _MIB, limits.processes + _SPARE_PROCESSES
        for place in self._places:
            if place.version == 2:
                _write(place.folder, "memory.max", memory)
                _write(place.folder, "memory.swap.max", 0, optional=True)
                _write(place.folder, "pids.max", processes, optional=True)
            elif (place.folder / "pids.max").exists():
                _write(place.folder, "pids.max", processes)
            else:
                _write(place.folder, "memory.limit_in_bytes", memory)
                _write(place.folder, "memory.memsw.limit_in_bytes", memory, optional=True)

    def oom_kills(self) -> int:
        """How many processes of the session the kernel has ended for memory."""
        if self._oom_file is None:
            self._oom_file = self._open_oom_file()
        try:
            text = os.pread(self._oom_file, _OOM_BYTES, 0)
        except OSError:
            return 0  # there is none, or the group is gone
        _, _, count = text.partition(b"oom_kill ")
        return int(count.split()[0]) if count else 0

    def _open_oom_file(self) -> int:
        for place in self._places:
            with contextlib.suppress(OSError):  # the hierarchy of another controller
                return os.open(place.folder / _OOM_FILES[place.version], os.O_RDONLY | os.O_CLOEXEC)
        return -1

    def kill(self) -> None:
        """SIGKILL whatever is in the group."""
        for place in self._places:
            try:
                pids = (place.folder / "cgroup.procs").read_text(encoding="ascii").split()
            except OSError:
                continue
            for pid in pids:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue

    async def remove(self) -> None:
        """Sweep the group and delete it. Raises SandboxError if something in it will not die."""
        if self._oom_file is not None and self._oom_file >= 0:
            os.close(self._oom_file)
        self._oom_file = -1
        deadline = time.monotonic() + _DEATH_SECONDS
        for place in self._places:
            pause = _FIRST_PAUSE
            while not self._removed(place):
                if time.monotonic() > deadline:
                    raise SandboxError(f"processes in the control group {place.folder} outlive SIGKILL")
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _removed(self, place: Hierarchy) -> bool:
        try:
            place.folder.rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise SandboxError(f"cannot remove the control group {place.folder}: {error}") from error
            self.kill()
            return False
        return True


class Groups:
    """The groups of one sandbox, and the janitor that removes them should this process be killed."""

    def __init__(self, places: tuple[Hierarchy, ...]) -> None:
        name = f"agentrl-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._places = tuple(Hierarchy(place.folder / name, place.version) for place in places)
        made: list[Path] = []
        try:
            for place in self._places:
                place.folder.mkdir()
                made.append(place.folder)
                if place.version == 2:
                    _write(place.folder.parent, "cgroup.subtree_control", "+memory +pids", optional=True)
                    _write(place.folder, "cgroup.subtree_control", "+memory +pids")
        except OSError:
            for folder in made:
                folder.rmdir()
            raise
        self._janitor: subprocess.Popen[bytes] | None = None

    def start_janitor(self) -> None:
        """Have a small process wait for our end."""
        arguments = [str(place.folder) for place in self._places]
        self._janitor = subprocess.Popen(
            ["/bin/sh", "-c", _JANITOR, "agentrl-janitor", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin"}, cwd="/", start_new_session=True,
        )  # fmt: skip
        self._janitor.wait()

    def create(self, name: str, limits: Limits) -> Group:
        """A limited group for a session."""
        group = Group(tuple(Hierarchy(place.folder / name, place.version) for place in self._places))
        try:
            for place in group._places:
                place.folder.mkdir()
            group.limit(limits)
        except OSError:
            for place in group._places:
                with contextlib.suppress(OSError):  # the first error is the one to tell
                    place.folder.rmdir()
            raise
        return group

    async def remove(self) -> None:
        """Delete the sandbox's own groups; the sessions' must be gone. The janitor goes home."""
        await Group(self._places).remove()
        if self._janitor is not None and self._janitor.stdin is not None and self._janitor.stdout is not None:
            self._janitor.stdin.close()
            with self._janitor.stdout as end:
                await asyncio.to_thread(end.read)  # it holds the other end for as long as it lives


def find() -> tuple[tuple[Hierarchy, ...] | None, str]:
    """Hierarchies where a limited group was made and a process moved in, for real; or None and why not."""
    reason = "no cgroup file system with a memory controller is mounted"
    for places in _candidates():
        try:
            _try(places)
        except OSError as error:
            reason = f"{error.filename or places[0].folder}: {error.strerror}"
        else:
            return places, ""
    return None, reason


def _try(places: tuple[Hierarchy, ...]) -> None:
    groups = Groups(places)
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        group = None
        try:
            group = groups.create("probe", Limits())
            group.add(process.pid)
        finally:
            process.kill()
            process.wait()
            for folder in [*(group._places if group else ()), *groups._places]:
                folder.folder.rmdir()
