"""The outer walls: a bubblewrap command line for a read-only view of this machine with one Python in it."""

from __future__ import annotations

import json
import os
import shutil
import site
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: The user that bubblewrap runs as when we are root: nobody's, and no other service's.
UNPRIVILEGED_ID = 61_417
GUEST_ID = 1000
_GUEST_PACKAGE = Path(__file__).resolve().parent / "guest"
_GUEST_HOME = "/opt/agentrl"
_SYSTEM_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_WRITABLE = ("/tmp", "/workspace", "/dev/shm")
_ELSEWHERE = "/opt/elsewhere"
_ETC = {
    "passwd": f"agent:x:{GUEST_ID}:{GUEST_ID}::/workspace:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n",
    "group": f"agent:x:{GUEST_ID}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
# which library, which awk: nothing of this machine's own
_SHARED_ETC = ("/etc/ld.so.cache", "/etc/alternatives")
# one thread per session: the machine runs hundreds, and a forked process must not miss its threads
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Command:
    """A process to start: arguments, descriptors it inherits, and who it runs as (None: as us)."""

    argv: list[str]
    fds: list[int]


def _python_sources() -> list[str]:
    """Folders and files of the running interpreter and its environment, to appear where `_shown` says."""
    wanted: list[Path] = []
    for prefix in dict.fromkeys((sys.base_prefix, sys.prefix)):
        root = Path(prefix)
        if root.is_relative_to("/usr"):
            continue  # in view as a whole
        wanted += [root / "bin", root / "lib", root / "pyvenv.cfg"]
    wanted += [Path(entry) for entry in _library_paths()]
    kept: list[str] = []
    for path in wanted:
        covered = path.is_relative_to("/usr") or any(path.is_relative_to(folder) for folder in kept)
        if path.exists() and not covered:
            kept.append(str(path))
    return kept


def _shown(path: str) -> str:
    """Where a path of ours appears: under the same name, unless each session has a folder of its own there,
    as over an environment made below /tmp."""
    return f"{_ELSEWHERE}{path}" if any(Path(path).is_relative_to(folder) for folder in _WRITABLE) else path


def _library_paths() -> list[str]:
    return [entry for entry in site.getsitepackages() if os.path.isdir(entry)]


def installed(packages: Sequence[str]) -> list[str]:
    """Paths at which a session may see these packages: below each folder of libraries that is in its view."""
    libraries = _library_paths()
    for prefix in (sys.prefix, sys.base_prefix, "/usr", "/usr/local"):
        libraries += [str(path) for path in Path(prefix).glob("lib/python3*/*-packages")]
    return [
        f"{_shown(library)}/{name}"
        for library in dict.fromkeys(libraries)
        for package in packages
        for name in (package, f"{package}.py")
    ]


def _environment() -> dict[str, str]:
    folders = [_shown(f"{prefix}/bin") for prefix in dict.fromkeys((sys.prefix, sys.base_prefix))]
    path = dict.fromkeys([*folders, "/usr/local/bin", "/usr/bin", "/bin"])
    return {
        "PATH": ":".join(path),
        "HOME": "/workspace",
        "USER": "agent",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLBACKEND": "Agg",
        **dict.fromkeys(_THREADS, "1"),
    }


def _text_fd(text: str) -> int:
    fd = os.memfd_create("agentrl")
    os.write(fd, text.encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _system_arguments() -> list[str]:
    arguments = ["--ro-bind", "/usr", "/usr"]
    for folder in _SYSTEM_FOLDERS:
        if os.path.islink(folder):
            arguments += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            arguments += ["--ro-bind", folder, folder]
    for path in _SHARED_ETC:
        arguments += ["--ro-bind-try", path, path]
    arguments += ["--proc", "/proc", "--dir", "/dev"]
    for device in _DEVICES:
        arguments += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    arguments += ["--symlink", "/proc/self/fd", "/dev/fd"]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        arguments += ["--symlink", f"/proc/self/fd/{number}", f"/dev/{name}"]
    for folder in _WRITABLE:
        arguments += ["--dir", folder]
    return arguments


def zygote_command(bwrap: str, control: int, life: int, preload: tuple[str, ...]) -> Command:
    """How to start a zygote that is controlled through descriptor ``control``, and a keeper that lives until
    the other end of ``life`` is closed.

    The caller closes ``fds`` (all but those two) once the process has started, and starts it with an empty
    environment: bubblewrap's own environment can be read from inside, whatever it is told to clear.
    """
    fds: list[int] = [control, life]
    arguments = ["--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    arguments += ["--uid", str(GUEST_ID), "--gid", str(GUEST_ID), *_system_arguments()]
    for name, text in _ETC.items():
        fds.append(_text_fd(text))
        arguments += ["--perms", "0444", "--ro-bind-data", str(fds[-1]), f"/etc/{name}"]
    for name, value in _environment().items():
        arguments += ["--setenv", name, value]
    binds = [(path, _shown(path)) for path in _python_sources()]
    binds.append((str(_GUEST_PACKAGE), f"{_GUEST_HOME}/guest"))
    executable = _shown(sys.executable)
    libraries = [_shown(path) for path in _library_paths()]
    setup = {"own": _GUEST_HOME, "path": libraries, "executable": executable, "preload": preload}
    inner = [*_python(executable, _GUEST_HOME, "zygote"), str(control), str(life), json.dumps(setup)]
    tail = ["--remount-ro", "/", "--chdir", "/", "--", *inner]
    if os.geteuid() == 0:
        return Command(
            [
                *_python(sys.executable, str(_GUEST_PACKAGE.parent), "launch"),
                *_launch(bwrap, arguments, binds, tail),
            ],
            fds,
        )
    for source, target in binds:
        arguments += ["--ro-bind", source, target]
    return Command([bwrap, *arguments, *tail], fds)


def _python(executable: str, home: str, module: str) -> list[str]:
    code = f"import sys; sys.path.insert(0, {home!r}); from guest.{module} import main; main()"
    return [executable, "-I", "-S", "-B", "-c", code]


def _launch(bwrap: str, arguments: list[str], binds: list[tuple[str, str]], tail: list[str]) -> list[str]:
    plan = {"user": UNPRIVILEGED_ID, "before": [bwrap, *arguments], "binds": binds, "after": tail}
    return [json.dumps(plan)]


def find_bwrap() -> str | None:
    """Where bubblewrap is, if anywhere."""
    return shutil.which("bwrap")
