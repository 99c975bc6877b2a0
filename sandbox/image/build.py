"""Building the image, with or without a registry; its tag is a digest of all that goes into it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agentrl.errors import SandboxError, SandboxUnavailable

if TYPE_CHECKING:
    import docker

DEFAULT_PACKAGES = ("iverilog", "python3-numpy", "python3-pil")
"""Debian packages that the image has besides Python and bash."""

REPOSITORY = "agentrl-sandbox"
_SUITE = "bookworm"
_DEFAULT_MIRROR = "http://deb.debian.org/debian"
_GUEST = Path(__file__).resolve().parent.parent / "guest"
_DOCKERFILE = Path(__file__).resolve().parent / "Dockerfile"
_LINKS = {"workspace": "session/workspace", "tmp": "session/tmp"}
_LEFT_OUT = (
    "./var/cache/apt/*",
    "./var/lib/apt/lists/*",
    "./usr/share/doc/*",
    "./usr/share/locale/*",
    "./tmp",
)
_BUILD_SECONDS = 1800

Progress = Callable[[str], None]


def image_name(packages: tuple[str, ...] = DEFAULT_PACKAGES) -> str:
    """The image with these packages and this version of the agent, as repository:tag."""
    digest = hashlib.sha256(_base_digest(packages).encode())
    for path in _guest_files():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{REPOSITORY}:{digest.hexdigest()[:16]}"


def _base_digest(packages: tuple[str, ...]) -> str:
    recipe = [_DOCKERFILE.read_text(), _SUITE, platform.machine(), *sorted(packages), *_LEFT_OUT]
    return hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:16]


def _guest_files() -> list[Path]:
    return sorted(_GUEST.glob("*.py"))


def build_image(
    progress: Progress,
    *,
    packages: tuple[str, ...] = DEFAULT_PACKAGES,
    from_registry: bool = False,
    cache: Path | None = None,
) -> str:
    """Build the image unless the daemon has it, and return its name. Takes a minute or two.

    Args:
        progress: is given a line per step.
        packages: Debian packages that the image has besides Python and bash.
        from_registry: start from Docker Hub's ``debian:12-slim``. Otherwise debootstrap makes the base from a
            Debian mirror, which needs root, and no registry.
        cache: where the base is kept for the next build; by default below the user's cache folder.

    Raises:
        SandboxUnavailable: the SDK, the daemon, debootstrap or root's rights are missing.
        SandboxError: a step failed; says which, and how.
    """
    from ..docker_client import connect

    client = connect()
    try:
        name = image_name(packages)
        if client.images.list(name):
            progress(f"{name} is there already")
        elif from_registry:
            _build_from_registry(client, name, packages, progress)
        else:
            _import(client, name, _base(packages, cache or _default_cache(), progress), progress)
        return name
    finally:
        client.close()


def _build_from_registry(
    client: docker.DockerClient, name: str, packages: tuple[str, ...], progress: Progress
) -> None:
    from docker.errors import DockerException

    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        archive.add(_DOCKERFILE, "Dockerfile")
        for path in _guest_files():
            archive.add(path, f"guest/{path.name}", filter=_owned_by_root)
    context.seek(0)
    progress("building from debian:12-slim")
    try:
        client.images.build(
            fileobj=context,
            custom_context=True,
            tag=name,
            rm=True,
            buildargs={"PACKAGES": " ".join(packages)},
        )
    except DockerException as error:
        raise SandboxError(f"the image could not be built: {error}") from error


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentrl" / "sandbox-image"


def _base(packages: tuple[str, ...], cache: Path, progress: Progress) -> Path:
    """The file system without the agent as a tar file, from the cache or made now."""
    kept = cache / f"{_base_digest(packages)}.tar"
    if kept.exists():
        progress(f"base: {kept}")
        return kept
    if shutil.which("debootstrap") is None:
        raise SandboxUnavailable(
            "debootstrap is not installed: apt-get install debootstrap, or build --from-registry."
        )
    if os.geteuid() != 0:
        raise SandboxUnavailable("debootstrap needs root: run this as root, or build --from-registry.")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        root, tar = Path(folder) / "root", Path(folder) / "base.tar"
        mirror = _mirror()
        progress(f"debootstrap {_SUITE} from {mirror}: about a minute")
        include = ",".join(("python3", *packages))
        _step(["debootstrap", "--variant=minbase", f"--include={include}", _SUITE, str(root), mirror])
        progress("packing")
        left_out = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
        _step(["tar", "--numeric-owner", *left_out, "-C", str(root), "-cf", str(tar), "."])
        tar.rename(kept)
    return kept


def _step(argv: list[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SandboxError(f"{argv[0]} did not end in {_BUILD_SECONDS} s") from None
    if done.returncode:
        raise SandboxError(f"{argv[0]} failed: {(done.stdout + done.stderr).strip()[-1000:]}")


def _mirror() -> str:
    """The Debian mirror that this machine itself uses, if it is a Debian."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for path in files:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            for word in path.read_text().split():
                if word.startswith(("http://", "https://")) and word.rstrip("/").endswith("/debian"):
                    return word
    return _DEFAULT_MIRROR


def _import(client: docker.DockerClient, name: str, base: Path, progress: Progress) -> None:
    repository, _, tag = name.partition(":")
    progress(f"importing {name}")
    with tempfile.TemporaryDirectory(dir=base.parent) as folder:
        tar = Path(folder) / "image.tar"
        shutil.copyfile(base, tar)
        with tarfile.open(tar, mode="a") as archive:
            for member, content in _additions():
                archive.addfile(member, io.BytesIO(content))
        answer = client.api.import_image_from_file(str(tar), repository=repository, tag=tag)
    if '"error"' in answer:
        raise SandboxError(f"the daemon did not take the image: {answer.strip()[-500:]}")


def _additions() -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for name in ("session", "opt/agentrl", "opt/agentrl/guest"):
        folder = tarfile.TarInfo(f"./{name}")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        yield folder, b""
    for name, target in _LINKS.items():
        link = tarfile.TarInfo(f"./{name}")
        link.type, link.linkname = tarfile.SYMTYPE, target
        yield link, b""
    for path in _guest_files():
        content = path.read_bytes()
        file = tarfile.TarInfo(f"./opt/agentrl/guest/{path.name}")
        file.size = len(content)
        yield file, content


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.mode = 0o644
    return member
