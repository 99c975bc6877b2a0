"""The parts that run inside, by themselves: frames, each architecture's seccomp program, capped output."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.sandbox.guest import seccomp, syscalls, wire
from agentrl.sandbox.guest.capture import Capture

ALLOW, KILL = 0x7FFF0000, 0x80000000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def _verdict(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Run a classic BPF program over one system call, as the kernel would."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, architecture, 0, *(value & 0xFFFFFFFFFFFFFFFF for value in padded))
    instructions = list(struct.iter_unpack("=HBBI", program))
    at, word = 0, 0
    while True:
        code, when_true, when_false, constant = instructions[at]
        at += 1
        if code == 0x06:
            return int(constant)
        if code == 0x20:
            word = struct.unpack_from("<I", data, constant)[0]
            continue
        tests = {0x15: word == constant, 0x35: word >= constant, 0x45: bool(word & constant)}
        at += when_true if tests[code] else when_false


def _errno(number: int) -> int:
    return 0x00050000 | number


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_filter_allows_what_is_listed_and_nothing_else(machine: str) -> None:
    program, architecture = seccomp.program(machine), ARCHITECTURES[machine]
    listed = syscalls.allowed(machine)
    assert len(set(listed.values())) == len(listed) > 150
    special = set(syscalls.checked(machine).values())
    for number in set(range(512)) - special:
        expected = ALLOW if number in listed.values() else None
        verdict = _verdict(program, architecture, number)
        assert verdict == expected if expected else verdict in (_errno(errno.EPERM), _errno(errno.ENOSYS))
    assert _verdict(program, architecture ^ 1, listed["read"]) == KILL
    if machine == "x86_64":
        assert _verdict(program, architecture, 0x40000000) == KILL


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_arguments_are_looked_at(machine: str) -> None:
    program, architecture, numbers = (
        seccomp.program(machine),
        ARCHITECTURES[machine],
        syscalls.checked(machine),
    )

    def ask(name: str, *arguments: int) -> int:
        return _verdict(program, architecture, numbers[name], *arguments)

    refused = _errno(errno.EPERM)
    assert ask("clone", 0x01200011) == ALLOW
    for bit in (17, 25, 26, 27, 28, 29, 30):
        assert ask("clone", 0x11 | 1 << bit) == refused
    assert ask("clone3") == ask("memfd_create") == _errno(errno.ENOSYS)
    for family in range(64):
        assert (ask("socket", family) == ALLOW) == (family in (1, 2, 10))
        assert (ask("socketpair", family) == ALLOW) == (family == 1)
    assert ask("ioctl", 0, 0x5401) == ALLOW
    assert ask("ioctl", 0, 0x5412) == ask("ioctl", 0, 0x1_0000_5412) == refused
    assert ask("personality", 0xFFFFFFFF) == ask("personality", 0) == ALLOW
    assert ask("personality", 0x0400000) == refused
    assert ask("prlimit64", 0, 7, 0x7FFF00001000) == ask("prlimit64", 1, 7, 0) == ALLOW
    assert ask("prlimit64", 1, 7, 0x7FFF00001000) == ask("prlimit64", 1, 7, 0x7FFF00000000) == refused


def test_an_unknown_architecture_is_an_error() -> None:
    with pytest.raises(OSError, match="riscv64"):
        seccomp.program("riscv64")


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none()), st.binary(max_size=10_000))
def test_frames_survive_the_wire(header: dict[str, Any], body: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(wire.encode(header, body))
        received, data = wire.receive(theirs)
        assert (received, bytes(data)) == (header, body)


@given(st.binary(min_size=8, max_size=200))
def test_garbage_is_never_taken_for_more_than_it_is(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(data)
        try:
            header, body = wire.receive(theirs)
        except (wire.FrameError, EOFError):
            return
        assert isinstance(header, dict) and len(body) < len(data)


@given(st.lists(st.tuples(st.sampled_from((0, 1)), st.binary(max_size=50))), st.integers(0, 100))
def test_capture_keeps_the_beginning_of_each_stream(pieces: list[tuple[int, bytes]], limit: int) -> None:
    capture = Capture(limit)
    for stream, data in pieces:
        capture.add(stream, data)
    whole = [b"".join(data for stream, data in pieces if stream == which) for which in (0, 1)]
    assert list(capture.kept) == [text[:limit] for text in whole]
    assert capture.seen == sum(map(len, whole))
    assert capture.truncated == any(len(text) > limit for text in whole)
