import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentrl.tools.untrusted.guest.for_sqlite import answer


def _respond() -> None:
    """Answer the request on standard input, on the last line of standard output."""
    request = json.loads(sys.stdin.buffer.read())
    nonce = request.pop("nonce")
    try:
        reply: dict[str, Any] = {"answer": answer(request)}
    except PermissionError as problem:
        reply = {"kind": "refused", "message": str(problem)}
    except TimeoutError as problem:
        reply = {"kind": "interrupted", "message": str(problem)}
    except MemoryError:
        reply = {"kind": "interrupted", "message": "Stopped: it needs more memory than the session may use."}
    except ModuleNotFoundError as problem:
        reply = {"kind": "refused", "message": f"The sandbox's Python lacks a library: {problem}."}
    except (ValueError, OSError) as problem:
        reply = {"kind": "invalid", "message": str(problem)}
    sys.stdout.write(f"\n{nonce} {json.dumps(reply)}\n")
    sys.stdout.flush()


_respond()
