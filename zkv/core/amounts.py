"""Amounts of memory as people write them: "512MiB", "2GB", or a plain number of bytes.

Units are those whose meaning nobody disputes: kB, MB, GB and TB are powers of 1000, KiB, MiB, GiB and TiB powers of
1024 (IEC 80000-13), in any case of letters. A bare "512M" is refused: half of all tools mean the one by it, half the
other.
"""

from __future__ import annotations

import re
from typing import Final

from zkv.errors import SettingError

_PREFIXES: Final = "kMGT"
UNITS: Final = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate(_PREFIXES, start=1)},
    **{f"{prefix.upper()}iB": 1024**power for power, prefix in enumerate(_PREFIXES, start=1)},
}
"""Bytes by unit."""
_BY_LOWER: Final = {unit.lower(): factor for unit, factor in UNITS.items()}
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*([A-Za-z]*)")


def parse_size(text: str) -> int:
    """The bytes that `text` means, rounded down. Raises `SettingError`."""
    found = _SIZE.fullmatch(text.strip())
    factor = _BY_LOWER.get(found[2].lower() or "b") if found else None
    if found is None or factor is None:
        raise SettingError(f"{text!r} is not a size: write 512MiB, 2GB or a plain number of bytes")
    number = found[1]
    return int(number) * factor if number.isdigit() else int(float(number) * factor)


def as_bytes(size: int | str) -> int:
    """`size`, a number of bytes or a text as `parse_size` takes it. Raises `SettingError`."""
    if isinstance(size, str):
        return parse_size(size)
    if type(size) is not int or size < 0:
        raise SettingError(f"{size!r} is not a size: it must be a number of bytes, 0 or more, or a text: '512MiB'")
    return size


def exact_size(size: int) -> str:
    """`size` bytes as `parse_size` reads them back, exactly: in the largest binary unit that divides them."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % UNITS[unit] == 0:
            return f"{size // UNITS[unit]}{unit}"
    return str(size)
