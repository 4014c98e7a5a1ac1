"""Amounts of memory as people write them."""

import re

from fedloom.core.errors import ConfigError

__all__ = ["bytes_of", "megabytes"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]i?|)B?", re.IGNORECASE)


def bytes_of(field: str, text: str) -> int:
    """``900MB`` (of 1000 kB), ``1.5GiB`` (of 1024 MiB) or ``900000000`` as bytes.

    Args:
        field: where it stands, for the message.
        text: the amount; empty for 0.

    Raises:
        ConfigError: it is no amount above zero.
    """
    if not text.strip():
        return 0
    found = _SIZE.fullmatch(text.strip())
    count = int(float(found[1]) * _UNITS[found[2].capitalize()]) if found else 0
    if not count:
        raise ConfigError(f"{field} = {text!r}: expected an amount such as 900MB, 1.5GB or 2GiB")
    return count


def megabytes(count: float) -> str:
    """An amount for a person: ``1,240 MB``, of 1000 kB."""
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:.2g} MB"
