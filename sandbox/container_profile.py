"""Docker's seccomp profile, from the same table of system calls as the filter of guest processes.

It holds for the container's first process too, and so closes what Docker's own profile leaves open: vsock,
netlink and packet sockets, io_uring.
"""

from __future__ import annotations

import errno
import json
import platform
from typing import Any

from .guest import seccomp, syscalls

_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


def _argument(index: int, operator: str, value: int, second: int = 0) -> dict[str, Any]:
    return {"index": index, "op": f"SCMP_CMP_{operator}", "value": value, "valueTwo": second}


def _allow(names: list[str], *arguments: dict[str, Any]) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ALLOW", "args": list(arguments)}


def _all_but(name: str, index: int, values: tuple[int, ...]) -> list[dict[str, Any]]:
    """Rules that together allow every value but some: conditions on one argument are joined by "or"."""
    low, high = min(values), max(values)
    between = [_argument(index, "EQ", value) for value in range(low, high) if value not in values]
    tests = [_argument(index, "LT", low), _argument(index, "GT", high), *between]
    return [_allow([name], test) for test in tests]


def profile(machine: str | None = None) -> str:
    """The profile as JSON, as ``--security-opt seccomp=`` takes it.

    Raises KeyError for an architecture without a table.
    """
    machine = machine or platform.machine()
    rules = [_allow(sorted(syscalls.allowed(machine)))]
    rules.append(_allow(["clone"], _argument(0, "MASKED_EQ", seccomp.NEW_NAMESPACE, 0)))
    rules += [_allow(["socket"], _argument(0, "EQ", family)) for family in seccomp.SOCKET_FAMILIES]
    rules.append(_allow(["socketpair"], _argument(0, "EQ", seccomp.PAIR_FAMILIES[0])))
    rules += _all_but("ioctl", 1, seccomp.TERMINAL_REQUESTS)
    rules += [_allow(["personality"], _argument(0, "EQ", value)) for value in seccomp.PERSONALITIES]
    rules += [_allow(["prlimit64"], _argument(index, "EQ", 0)) for index in (0, 2)]
    rules.append(
        {
            "names": ["clone3", "memfd_create"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": errno.ENOSYS,
            "args": [],
        }
    )
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": errno.EPERM,
            "architectures": [_ARCHITECTURES[machine]],
            "syscalls": rules,
        }
    )
