"""Runs in the sandbox: looks at files, changes one, finds lines. A request on stdin, an answer on stdout."""

import os
import sys

# What lies in the working folder must not be taken for a library.
sys.path[:] = [folder for folder in sys.path if folder not in ("", os.getcwd())]
import json  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402

LEFT_OUT = {".git", "__pycache__", "node_modules"}
MOST_BYTES = 1 << 20  # of a file that is looked at
MOST_LINE = 200  # characters of a line that was found


class Refused(Exception):
    """The message is for the model."""


def read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise Refused(f"There is no file {path}.{nearest(path)}") from None
    except IsADirectoryError:
        raise Refused(f"{path} is a folder.") from None
    except OSError as problem:
        raise Refused(f"{path}: {problem.strerror}.") from None
    if len(data) > MOST_BYTES:
        raise Refused(f"{path} has more than {MOST_BYTES} bytes; use bash.")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Refused(f"{path} is not text.") from None


def nearest(path: str) -> str:
    import difflib

    names: list[str] = []
    for name in walk("."):
        names.append(name)
        if len(names) == 2000:
            break
    near = [name for name in names if os.path.basename(name) == os.path.basename(path)]
    near = near or difflib.get_close_matches(path, names, 3) or names[:3]
    return f" There are {', '.join(near[:3])}." if near else ""


def walk(top: str) -> Iterator[str]:
    if os.path.isfile(top):
        yield os.path.normpath(top)
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
        for name in sorted(files):
            yield os.path.normpath(os.path.join(folder, name))


def listing(path: str, most: int) -> str:
    names: list[str] = []
    for name in walk(path):
        if len(names) == most:
            return "\n".join([*names, "(and more)"])
        names.append(name)
    return "\n".join(names) or "(empty)"


def view(path: str, first: int, last: int, most: int) -> str:
    if os.path.isdir(path):
        return listing(path, most)
    lines = read(path).splitlines()
    last = last or len(lines)
    if lines and not 1 <= first <= last:
        raise Refused(f"Lines {first} to {last} are no range; {path} has {len(lines)}.")
    if first > max(len(lines), 1):
        raise Refused(f"{path} has only {len(lines)} lines.")
    end = min(last, len(lines), first + most - 1)
    shown = [f"{number} {lines[number - 1]}" for number in range(first, end + 1)]
    if end < min(last, len(lines)):
        shown.append(f"(lines {end + 1} to {len(lines)} are not shown)")
    return "\n".join(shown) or "(empty)"


def find(text: str, path: str, most: int) -> str:
    if not text:
        raise Refused("There is nothing to look for.")
    if not os.path.exists(path):
        raise Refused(f"There is no {path}.")
    found: list[str] = []
    for name in walk(path):
        try:
            lines = read(name).splitlines()
        except Refused:
            continue
        for number, line in enumerate(lines, 1):
            if text in line:
                if len(found) == most:
                    return "\n".join([*found, "(and more)"])
                found.append(f"{name}:{number} {line.strip()[:MOST_LINE]}")
    return "\n".join(found) or "Nothing was found."


def edit(path: str, old: str, new: str) -> str:
    text = read(path)
    if not old:
        raise Refused("old is empty; use create for a new file.")
    place = text.find(old)
    if place < 0:
        raise Refused(
            f"old does not stand in {path}. It must be the exact text, spaces and line ends included."
        )
    if text.find(old, place + 1) >= 0:
        raise Refused(f"old stands in {path} more than once; give more of the text around it.")
    if old == new:
        raise Refused("old and new are the same.")
    write(path, text[:place] + new + text[place + len(old) :])
    return "Edited."


def create(path: str, text: str) -> str:
    if os.path.isdir(path):
        raise Refused(f"{path} is a folder.")
    folder = os.path.dirname(path)
    try:
        if folder:
            os.makedirs(folder, exist_ok=True)
    except OSError as problem:
        raise Refused(f"{folder}: {problem.strerror}.") from None
    write(path, text)
    return "Written."


def write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8", newline="", errors="surrogateescape") as file:
            file.write(text)
    except OSError as problem:
        raise Refused(f"{path}: {problem.strerror}.") from None


def changes(before: dict[str, str], most_bytes: int, most_files: int) -> dict[str, str | None]:
    """Files that are not as ``before`` has them, by their digests; what is not a plain file is left out."""
    import base64
    import hashlib

    changed: dict[str, str | None] = {}
    seen: set[str] = set()
    size = 0
    for name in walk("."):
        if os.path.islink(name) or not os.path.isfile(name):
            continue
        seen.add(name)
        size_now = os.path.getsize(name)
        if name not in before and size_now > most_bytes:
            raise Refused(f"{name} has {size_now} bytes.")
        with open(name, "rb") as file:
            data = file.read(max(most_bytes, MOST_BYTES) + 1)
        if before.get(name) != hashlib.sha256(data).hexdigest():
            size += len(data)
            changed[name] = base64.b64encode(data).decode()
            if size > most_bytes or len(changed) > most_files:
                raise Refused(f"More than {most_bytes} bytes or {most_files} files are changed.")
    changed.update({name: None for name in before if name not in seen})
    return changed


OPERATIONS: dict[str, Callable[..., str]] = {"view": view, "find": find, "edit": edit, "create": create}


def main() -> None:
    request = json.load(sys.stdin)
    operation = request.pop("operation")
    try:
        if operation == "changes":
            answer: dict[str, object] = {"changes": changes(**request)}
        else:
            answer = {"text": OPERATIONS[operation](**request)}
    except Refused as problem:
        answer = {"text": str(problem), "error": True}
    except ValueError as problem:  # a path with a NUL character
        answer = {"text": f"{problem}.", "error": True}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
