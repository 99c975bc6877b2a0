"""Code that is sent into sandboxes: a `for_*` module, which defines `answer(request)`,
between `_before`, `_rows` and `_after`.

It imports the standard library and the library of its trade, and tells what is wrong by built-in exceptions:
PermissionError (refused), TimeoutError and MemoryError (stopped), ValueError (invalid).
"""
