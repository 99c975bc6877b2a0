"""Attempts to get out of a sandbox, or to harm what is around it.

A snippet prints ESCAPED (never spelled out in its source) only if the abuse worked, and most print BLOCKED if
not. Placeholders: {CANARY} a file of the host, {PORT} a listener on the host's loopback, {SECRET} the name of
a variable in the host's environment. `read_attacks` reads more of them from a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentrl.errors import DataError


@dataclass(frozen=True)
class Attack:
    """``ends``: the statuses the call may end with; ``works_outside``: unconfined, it really does escape, and
    does no harm by it. ``stopped``: it goes on until it is stopped. ``attempted``: it says BLOCKED if it
    failed, so that silence means that it was never made."""

    name: str
    category: str
    tool: str
    code: str
    ends: frozenset[str]
    works_outside: bool = False
    stopped: bool = False
    attempted: bool = False


DONE = frozenset(("ok", "error"))
LIMITED = frozenset(("timeout", "oom", "output_limit", "crashed", "error"))

# category, name: an expression that has to raise OSError
_TRIES = r"""
files proc-root: open('/proc/1/root{CANARY}')
files write-usr: open('/usr/lib/x', 'w')
files write-root: open('/x', 'w')
files write-dev: open('/dev/x', 'w')
files write-python: open(os.__file__, 'a')
files write-sysctl: open('/proc/sys/kernel/hostname', 'w').write('x')
files sysrq: open('/proc/sysrq-trigger', 'w').write('h')
files device-node: os.mknod('d', 0o60600, os.makedev(254, 0))
files handle: os.open('/proc/1/fd/3', os.O_RDWR)
secrets supervisor-memory: open('/proc/1/mem', 'r+b')
secrets supervisor-environ: open('/proc/1/environ', 'rb').read()
secrets supervisor-fds: os.listdir('/proc/1/fd')
network internet: socket.create_connection(('192.0.2.1', 80), 2)
network vsock: socket.socket(40, socket.SOCK_STREAM)
network netlink: socket.socket(16, socket.SOCK_RAW, 0)
network packet: socket.socket(17, socket.SOCK_RAW, 3)
network raw-ip: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
network crypto: socket.socket(38, socket.SOCK_SEQPACKET)
privilege setuid: os.setuid(0)
privilege chroot: os.chroot('/tmp')
resource fill-disk: [open(f'/tmp/{i}', 'wb').write(os.urandom(1 << 20)) for i in range(400)]
resource fill-shm: [open(f'/dev/shm/{i}', 'wb').write(bytes(1 << 20)) for i in range(400)]
resource fill-inodes: [open(f'/tmp/{i}', 'wb').close() for i in range(10000)]
resource open-files: [os.open('/dev/null', 0) for _ in range(1000)]
"""

# name, numbers on x86_64 and aarch64: arguments of a system call that has to fail
_SYSCALLS = r"""
unshare-user 272 97: 0x10000000
clone-user 56 220: 0x10000011, 0, 0, 0, 0
clone3 435 435: (ctypes.c_char * 88)(), 88
mount 165 40: b'none', b'/tmp', b'tmpfs', 0, 0
umount 166 39: b'/proc', 2
fsopen 430 430: b'tmpfs', 0
open-tree 428 428: -100, b'/', 1
ptrace 101 117: 16, 1, 0, 0
process-vm 310 270: 1, 0, 0, 0, 0, 0
pidfd-getfd 438 438: os.pidfd_open(1), 3, 0
bpf 321 280: 0, (ctypes.c_char * 72)(), 72
perf 298 241: (ctypes.c_char * 112)(), 0, -1, -1, 0
io-uring 425 425: 4, (ctypes.c_char * 120)()
userfaultfd 323 282: 0
keyctl 250 219: 0, -3, 1, 0, 0
add-key 248 217: b'user', b'k', b'v', 1, -3
open-by-handle 304 265: -100, (ctypes.c_char * 32)(), 0
memfd 319 279: b'm', 0
shmget 29 194: 0, 4096, 0o1600
setns 308 268: os.open('/proc/1/stat', 0), 0
personality 135 92: 0x0400000
sync-everything 306 267: os.open('/usr', 0)
supervisor-rlimit 302 261: 1, 7, (ctypes.c_ulong * 2)(9, 9), 0
renice-supervisor 141 140: 0, 1, 19
push-terminal-input 16 29: 0, 0x100005412, b'x'
"""

# category, name, tool, then how it may end (ok or error if not said) and whether it works outside
_SNIPPETS = r"""
=== files read-canary python works-outside
print('ESC' + 'APED', open('{CANARY}').read())

=== files read-canary-sh bash works-outside
cat '{CANARY}' && echo ESC''APED

=== files walk-for-keys python works-outside
import os, sys
python = [os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, *sys.path)]
seen = [p for p in ('/etc/shadow', '/run/docker.sock', '/dev/mem') if os.access(p, os.R_OK)]
for folder in ('/root', '/home', '/run/user', '/var/log/journal', '/var/lib/docker', '/boot'):
    if os.access(folder, os.R_OK):
        inside = [os.path.join(folder, name) for name in os.listdir(folder)]
        seen += [p for p in inside if not any((q + '/').startswith(p + '/') for q in python)]
print('ESC' + 'APED' if seen else 'BLOCKED', seen)

=== secrets environment python works-outside
import os
print('ESC' + 'APED' if '{SECRET}' in os.environ else 'BLOCKED')

=== secrets environ-files bash works-outside
grep -qs {SECRET} /proc/[0-9]*/environ && echo ESC''APED || echo BLOCKED

=== secrets host-processes python works-outside
import os
n = len([p for p in os.listdir('/proc') if p.isdigit()])
print('ESC' + 'APED' if n > 3 else 'BLOCKED', n)

=== network host-loopback python works-outside
import socket
try: socket.create_connection(('127.0.0.1', {PORT}), 2); print('ESC' + 'APED')
except OSError as error: print('BLOCKED', error)

=== network interfaces python works-outside
n = open('/proc/net/dev').read().count(':')
print('ESC' + 'APED' if n > 1 else 'BLOCKED', n)

=== privilege raise-limit python
import resource
try: resource.setrlimit(resource.RLIMIT_NPROC, (9999, 9999)); print('ESC' + 'APED')
except (OSError, ValueError) as error: print('BLOCKED', error)

=== privilege setuid-programs bash
grep -q 'NoNewPrivs:.1' /proc/self/status && echo BLOCKED || echo ESC''APED

=== resource fork-bomb-python python limited
import os
while True:
    try: os.fork()
    except OSError: pass

=== resource fork-bomb-sh bash limited
:(){ :|:& };:; while :; do :; done

=== resource fork-bomb-sessions python limited
import os
while True:
    try:
        if os.fork() == 0: os.setsid()
    except OSError: pass

=== resource threads python limited
import threading, time
while True:
    try: threading.Thread(target=time.sleep, args=(60,)).start()
    except RuntimeError: time.sleep(0.1)

=== resource memory python limited
x = []
while True: x.append(bytearray(b'x' * (1 << 24)))

=== resource memory-recursion python limited
import sys
sys.setrecursionlimit(10**9)
def f(): f()
f()

=== resource big-number python limited
len(str(9 ** (10 ** 9)))

=== resource regular-expression python limited
import re
re.match(r'(a+)+$', 'a' * 40 + 'b')

=== resource endless-line python limited
import os
while True: os.write(1, b'A' * 1000000)

=== resource endless-stderr bash limited
yes >&2

=== resource sparse-giant python
import os
open('/tmp/s', 'w').close()
try: os.truncate('/tmp/s', 1 << 42); print('ESC' + 'APED')
except OSError as error: print('BLOCKED', error)

=== lifetime ignore-signals python timeout
import signal, time
for n in range(1, 65):
    try: signal.signal(n, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: time.sleep(1)

=== lifetime daemon python ok
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 256); time.sleep(3600)
    os._exit(0)
print('BLOCKED')

=== lifetime hold-stdout bash ok
sleep 3600 & echo BLOCKED

=== lifetime stopped-child bash timeout
sleep 3600 & kill -STOP $! $$; echo BLOCKED

=== protocol close-descriptors python crashed
import os
os.closerange(0, 4096)

=== protocol spray-descriptors python ok
import os, struct
frame = b'{"status": "ok", "stdout": "FORGED"}'
for fd in range(3, 200):
    try: os.write(fd, struct.pack('!II', len(frame), 0) + frame)
    except OSError: pass
print('BLOCKED')

=== protocol flood-descriptors python timeout
import os
while True:
  for fd in range(3, 128):
    try: os.write(fd, b'x' * 65536)
    except OSError: pass

=== protocol forge-a-verdict python ok
import os, sys, time
frame = sys._getframe()
while 'token' not in frame.f_locals: frame = frame.f_back
os.write(frame.f_locals['verdicts'], frame.f_locals['token'] + b'K\0')
time.sleep(60)

=== protocol drain-commands python ok
import os, sys, threading
frame = sys._getframe()
while 'commands' not in frame.f_locals: frame = frame.f_back
fd = frame.f_locals['commands']
threading.Thread(target=lambda: [os.read(fd, 9999) for _ in range(9)], daemon=True).start()

=== protocol kill-everything python error
import os
os.kill(-1, 9)

=== protocol kill-supervisor bash
for s in 1 2 9 10 11 15 17 19 24; do kill -$s 1; done; echo BLOCKED

=== protocol kill-parent python
import os
os.kill(os.getppid(), 9); print('BLOCKED')

=== protocol rebind-everything python ok|crashed|timeout
import os, sys, builtins
os.write = os._exit = os.getpid = print
sys.stdout = sys.stderr = None
builtins.len = builtins.exec = None

=== protocol controlling-terminal bash
(: </dev/tty) 2>/dev/null && echo ESC''APED || echo BLOCKED

"""

_TRY = """import os, socket
try:
    {expression}
    print('ESC' + 'APED')
except OSError as error:
    print('BLOCKED', error)
"""

_CALL = """import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
number = {{'x86_64': {x86}, 'aarch64': {arm}}}[os.uname().machine]
result = libc.syscall(ctypes.c_long(number), {arguments})
print('ESC' + 'APED' if result >= 0 else 'BLOCKED', os.strerror(ctypes.get_errno()))
"""


def _snippets() -> Iterator[Attack]:
    for section in _SNIPPETS.split("=== ")[1:]:
        head, _, code = section.partition("\n")
        category, name, tool, *words = head.split()
        outside = "works-outside" in words
        ends = [word for word in words if word != "works-outside"]
        allowed = LIMITED if ends == ["limited"] else frozenset(ends[0].split("|")) if ends else DONE
        yield Attack(
            name, category, tool, code, allowed, outside,
            stopped="timeout" in allowed, attempted=allowed == DONE and not outside,
        )  # fmt: skip


def _all() -> Iterator[Attack]:
    for line in _TRIES.strip().splitlines():
        head, _, expression = line.partition(": ")
        category, name = head.split()
        yield Attack(name, category, "python", _TRY.format(expression=expression), DONE, attempted=True)
    for line in _SYSCALLS.strip().splitlines():
        head, _, arguments = line.partition(": ")
        name, x86, arm = head.split()
        code = _CALL.format(x86=x86, arm=arm, arguments=arguments)
        yield Attack(name, "privilege", "python", code, DONE, attempted=True)
    yield from _snippets()


ATTACKS: tuple[Attack, ...] = tuple(_all())

_TYPED = frozenset(("ok", "error", "timeout", "oom", "output_limit", "crashed"))
_BY_ORACLE = {
    "no_marker": _TYPED,
    "bounded": _TYPED,
    "typed": _TYPED,
    "sql_error": frozenset(("error", "timeout", "oom", "crashed")),
}


def read_attacks(file: Path) -> tuple[Attack, ...]:
    """Attacks from a file of JSON lines with ``id``, ``category``, ``tool``, ``code`` and ``oracle``.

    The oracle says what has to come of it, besides nothing's escaping: ``no_marker`` and ``typed`` a typed
    result; ``bounded`` one in time, by a limit if the category is ``resource``; ``sql_error`` a refusal.

    Raises:
        DataError: the file cannot be read, or a line is no attack.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as problem:
        raise DataError(f"{file} cannot be read: {problem.strerror}") from None
    return tuple(_read(file, number, line) for number, line in enumerate(lines, 1) if line.strip())


def _read(file: Path, number: int, line: str) -> Attack:
    try:
        entry = json.loads(line)
        bounded = entry["oracle"] == "bounded"
        ends = LIMITED - {"error"} if bounded and entry["category"] == "resource" else None
        return Attack(
            entry["id"], entry["category"], entry["tool"], entry["code"],
            ends or _BY_ORACLE[entry["oracle"]], stopped=bounded,
        )  # fmt: skip
    except (ValueError, TypeError, KeyError) as problem:
        raise DataError(
            f"{file}, line {number} is no attack ({type(problem).__name__}: {problem}). It needs id, "
            f"category, tool, code and oracle, which is one of {', '.join(_BY_ORACLE)}."
        ) from None
