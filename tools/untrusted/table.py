"""What a query gave, bounded in rows and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Value = str | int | float | None


@dataclass(frozen=True)
class Caps:
    """What one query may take and give.

    ``seconds`` is the statement's time; ``rows`` and about so many ``bytes`` are kept of its answer; of one
    value, ``value_bytes`` characters are.
    """

    seconds: float = 5.0
    rows: int = 100
    bytes: int = 16_384
    value_bytes: int = 2_000


class Table(BaseModel):
    """The answer to a query. ``more``: it had further rows, or values were cut."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    columns: Annotated[list[str], Field(max_length=4096)]
    rows: Annotated[list[list[Value]], Field(max_length=100_000)]
    more: bool = False
    changed: Annotated[int, Field(ge=-1)] = -1
    """Rows that a statement changed; -1 where it is none that changes rows."""

    def text(self) -> str:
        """The table for a model to read: a header, then a row a line, with ` | ` between values."""
        if not self.columns:
            return "Done." if self.changed < 0 else f"Done; {self.changed} rows changed."
        lines = [" | ".join(self.columns)]
        lines += [" | ".join("NULL" if value is None else str(value) for value in row) for row in self.rows]
        lines.append(
            "(more rows or longer values were left out)" if self.more else f"({len(self.rows)} rows)"
        )
        return "\n".join(lines)
