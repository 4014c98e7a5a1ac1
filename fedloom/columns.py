"""Plain columns of text, for terminals and files."""

from collections.abc import Sequence

__all__ = ["aligned"]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns, two spaces apart.

    >>> print(aligned([["a", "bc"], ["def", "g"]]))
    a    bc
    def  g
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ((cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)
