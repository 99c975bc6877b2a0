"""A Docker daemon of the tests' own, in a temporary folder, and the image in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import docker

_START_SECONDS = 60.0
_END_SECONDS = 60.0


class Daemon:
    """A private dockerd, started at once; needs Debian's docker.io, containerd and iptables, and root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"unix://{folder}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        program = shutil.which("dockerd")
        assert program is not None, "apt-get install docker.io containerd iptables debootstrap"
        self._end_rest()  # a daemon waits for a containerd that its predecessor left dying
        for name in ("docker.pid", "exec/containerd/containerd.pid"):
            (self.folder / name).unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    f"--data-root={self.folder}/data",
                    f"--exec-root={self.folder}/exec",
                    f"--pidfile={self.folder}/docker.pid",
                    f"--host={self.address}",
                    "--iptables=false",
                    "--bridge=none",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with contextlib.closing(docker.DockerClient(self.address)) as client:
                return bool(client.ping())
        except (docker.errors.DockerException, OSError):
            return False

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def kill(self) -> None:
        """End the daemon itself as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End the daemon, its containerd, and every container; leave no mount and no file."""
        assert self._process is not None
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        self._process.kill()
        self._process.wait()
        self._end_rest()
        for target in reversed(self._mounts()):
            subprocess.run(["umount", "-l", target], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end_rest(self) -> None:
        """containerd and the shims; a container's agent ends when its shim, which holds its input, does."""
        deadline = time.monotonic() + _END_SECONDS
        while (left := self._processes()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def _processes(self) -> list[int]:
        """containerd and its shims: they name the folder in their arguments."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if f"{self.folder}/exec".encode() in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
        return found

    def _mounts(self) -> list[str]:
        targets = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return [target for target in targets if target.startswith(f"{self.folder}/")]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Daemon]:
    """A daemon that DOCKER_HOST names."""
    daemon = Daemon(folder)
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = daemon.address
    try:
        yield daemon
    finally:
        if before is None:
            del os.environ["DOCKER_HOST"]
        else:
            os.environ["DOCKER_HOST"] = before
        daemon.stop()
