"""A seccomp filter, assembled here as classic BPF from the allowlist in `syscalls`."""

from __future__ import annotations

import errno
import platform
import struct

from . import syscalls

# classic BPF: load a word of seccomp_data, compare with a constant, return a verdict
_LOAD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

# mount, cgroup, uts, ipc, user, pid, net
NEW_NAMESPACE = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
SOCKET_FAMILIES, PAIR_FAMILIES = (_AF_UNIX, _AF_INET, _AF_INET6), (_AF_UNIX,)
TERMINAL_REQUESTS = (0x5412, 0x541C, 0x5423, 0x541D)  # TIOCSTI, TIOCLINUX, TIOCSETD, TIOCCONS
PERSONALITIES = (0, 0xFFFFFFFF)  # plain Linux, and "tell me"

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def _ret(verdict: int) -> Instruction:
    return (_RET, 0, 0, verdict)


def _refuse(number: int) -> Instruction:
    return _ret(_ERRNO | number)


def _low(argument: int) -> Instruction:
    """Load the low 32 bits of an argument: all the kernel looks at where it takes an int."""
    return (_LOAD, 0, 0, _ARGS + 8 * argument)


def _high(argument: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGS + 8 * argument + 4)


def _any_of(values: tuple[int, ...], then: int, otherwise: int) -> list[Instruction]:
    """Return ``then`` if the loaded word is one of ``values``, else ``otherwise``."""
    tests: list[Instruction] = [(_JEQ, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [*tests, _ret(otherwise), _ret(then)]


def _rules() -> dict[str, list[Instruction]]:
    """For each call whose arguments matter: code that always ends in a verdict."""
    eperm = _ERRNO | errno.EPERM
    family = _ERRNO | errno.EAFNOSUPPORT
    return {
        "clone": [_low(0), (_JSET, 0, 1, NEW_NAMESPACE), _ret(eperm), _ret(_ALLOW)],
        # its flags lie behind a pointer that a filter cannot follow; C libraries fall back to clone
        "clone3": [_refuse(errno.ENOSYS)],
        "memfd_create": [_refuse(errno.ENOSYS)],
        "socket": [_low(0), *_any_of(SOCKET_FAMILIES, _ALLOW, family)],
        "socketpair": [_low(0), *_any_of(PAIR_FAMILIES, _ALLOW, family)],
        "ioctl": [_low(1), *_any_of(TERMINAL_REQUESTS, eperm, _ALLOW)],
        "personality": [_low(0), *_any_of(PERSONALITIES, _ALLOW, eperm)],
        # a process may change its own limits and read any, not change those of its supervisor
        "prlimit64": [
            _low(0), (_JEQ, 4, 0, 0),
            _low(2), (_JEQ, 0, 3, 0),
            _high(2), (_JEQ, 0, 1, 0),
            _ret(_ALLOW), _ret(eperm),
        ],
    }  # fmt: skip


def program(machine: str | None = None) -> bytes:
    """The filter as an array of ``struct sock_filter`` for ``machine`` (this one by default).

    Raises OSError (ENOSYS) for an architecture without a table.
    """
    machine = machine or platform.machine()
    if machine not in _AUDIT:
        raise OSError(
            errno.ENOSYS, f"no system call table for {machine!r}: only x86_64 and aarch64 are known"
        )
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_JEQ, 1, 0, _AUDIT[machine]),
        _ret(_KILL),
        (_LOAD, 0, 0, _NR),
    ]
    if machine == "x86_64":
        code += [(_JGE, 0, 1, _X32_BIT), _ret(_KILL)]
    code += _search(_intervals(machine))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _intervals(machine: str) -> list[tuple[int, list[Instruction]]]:
    """What to do with each run of call numbers: where the run begins, and code that ends in a verdict."""
    verdicts = {number: [_ret(_ALLOW)] for number in syscalls.allowed(machine).values()}
    rules = _rules()
    verdicts |= {number: rules[name] for name, number in syscalls.checked(machine).items()}
    found: list[tuple[int, list[Instruction]]] = []
    for number in range(syscalls.NEWEST + 1):
        verdict = verdicts.get(number, [_refuse(errno.EPERM)])
        if not found or found[-1][1] != verdict:
            found.append((number, verdict))
    return [*found, (syscalls.NEWEST + 1, [_refuse(errno.ENOSYS)])]


def _search(intervals: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """A binary search: the kernel runs the filter over every call number there is when a process loads it."""
    if len(intervals) == 1:
        return intervals[0][1]
    middle = len(intervals) // 2
    below, above = _search(intervals[:middle]), _search(intervals[middle:])
    return [(_JGE, len(below), 0, intervals[middle][0]), *below, *above]
