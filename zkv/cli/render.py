"""Stored values as text for people and as JSON for programs; tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["as_json", "as_text", "byte_count", "counted", "table"]


def as_text(value: object) -> str:
    """One value on a terminal. Bytes that are text read as text, others as b'…'."""
    if type(value) is bytes:
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return repr(value)
        return text if text.isprintable() else repr(value)
    if type(value) is str:
        # Control characters could rewrite the terminal; line ends and tabs are ordinary text.
        if value.isprintable():
            return value
        return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in value)
    return repr(value)


def as_json(fields: object) -> str:
    """JSON on one line. Bytes are {"base64": "…"}; a tuple is a list, an array is nested lists."""
    import json

    return json.dumps(_jsonable(fields), ensure_ascii=False)


def _jsonable(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        # JSON has no NaN and no infinities.
        return value if value - value == 0 else repr(value)
    if isinstance(value, bytes):
        import base64

        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key if isinstance(key, str) else as_text(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if hasattr(value, "tolist"):  # numpy
        return _jsonable(value.tolist())
    return as_text(value)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns: numbers to the right, words to the left."""
    cells = [list(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    right = [bool(rows) and all(isinstance(row[at], int | float) for row in rows) for at in range(len(head))]
    lines = []
    for row in [list(head), *cells]:
        padded = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def byte_count(count: int) -> str:
    """1536 -> '1.5 KiB'."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def counted(number: int, one: str, many: str = "") -> str:
    """1, "shard" -> '1 shard'; 2, "copy", "copies" -> '2 copies'."""
    return f"{number} {one if number == 1 else many or one + 's'}"
