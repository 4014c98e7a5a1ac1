"""In which keys two configurations differ."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["differences", "other_job"]

_SHOWN_DIFFERENCES = 4
_NOT_COMPARED = ("run.", "server.")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    """Keys by dotted path whose values differ, with both values; None where a side has no such key.

    The keys under ``run`` and ``server`` are left out: they say how a run uses the machine and who
    takes part, not what it computes.

    >>> differences({"local": {"lr": 0.1}, "seed": 1}, {"local": {"lr": 0.2}, "seed": 1})
    {'local.lr': (0.1, 0.2)}
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    keys = [*before, *(key for key in after if key not in before)]
    pairs = {
        key: (before.get(key), after.get(key)) for key in keys if not key.startswith(_NOT_COMPARED)
    }
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def other_job(path: Path, found: Mapping[str, tuple[object, object]]) -> str:
    """Say in one line that `path` holds a run of another job: the first keys that differ."""
    shown = [
        f"{key} is {old!r} there and {new!r} now"
        for key, (old, new) in list(found.items())[:_SHOWN_DIFFERENCES]
    ]
    rest = len(found) - len(shown)
    more = f", and {rest} more" if rest else ""
    text = f"{path} holds a run of another job: {', '.join(shown)}{more}"
    return f"{text}; choose another folder with --out, or make them equal to --resume"
