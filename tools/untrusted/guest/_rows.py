"""Rows of an answer, up to the caps. Used in sandboxes and by the host."""

import math


class Rows:
    """Takes rows until there are ``most_rows``, or ``most_bytes`` of them; values are cut."""

    def __init__(self, most_rows: int, most_bytes: int, most_value_bytes: int) -> None:
        self.most_rows, self.most_bytes, self.most_value_bytes = most_rows, most_bytes, most_value_bytes
        self.rows: list[list[str | int | float | None]] = []
        self.more = False
        self._size = 0

    def add(self, row: "tuple[object, ...]") -> bool:
        """Take a row. False if there is no room for it, nor for any other."""
        values = [self._plain(value) for value in row]
        self._size += sum(len(str(value)) + 4 for value in values)
        if len(self.rows) >= self.most_rows or self._size > self.most_bytes:
            self.more = True
            return False
        self.rows.append(values)
        return True

    def _plain(self, value: object) -> "str | int | float | None":
        if isinstance(value, bool):
            return "true" if value else "false"
        if value is None or (isinstance(value, int) and abs(value) < 1 << 63):
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        if isinstance(value, (bytes, bytearray, memoryview)):
            text = f"x'{bytes(value[: self.most_value_bytes]).hex()}'"
        else:
            text = str(value)
        if len(text) > self.most_value_bytes:
            self.more = True
            return text[: self.most_value_bytes] + "…"
        return text
