"""Whether the owner lets the device work now.

What cannot be known counts as allowed: a machine without a battery is plugged in, and most wired
networks do not say that they are free.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from fedloom.client.settings import ClientSettings

__all__ = ["POWER", "may_not_work", "metered", "on_power"]

POWER = Path("/sys/class/power_supply")
_SOURCES = ("Mains", "USB", "USB_C", "USB_PD", "Wireless")

Ask = Callable[[Sequence[str]], str]
"""Runs a command; its output, or nothing where there is no such command or it fails."""


def ask(command: Sequence[str]) -> str:
    """Run a command for at most some seconds; what it prints, or nothing where it fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=5, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout


def on_power(folder: Path = POWER, ask: Ask = ask) -> bool | None:
    """Whether the device is plugged in; None where nothing says so.

    Read from Linux's power supplies, or on Android from Termux's API.
    """
    batteries, sources = [], []
    for supply in _inside(folder):
        kind, scope = _line(supply / "type"), _line(supply / "scope")
        if kind == "Battery" and scope != "Device":  # not that of a mouse
            batteries.append(_line(supply / "status"))
        elif kind in _SOURCES:
            sources.append(_line(supply / "online"))
    if "1" in sources:
        return True
    if batteries:
        return all(status in ("Charging", "Full", "Not charging") for status in batteries)
    if "0" in sources:
        return False
    plugged = _json(ask(["termux-battery-status"])).get("plugged")
    return None if plugged is None else str(plugged) != "UNPLUGGED"


def metered(ask: Ask = ask) -> bool | None:
    """Whether the network charges by volume; None where nothing says so.

    Asked of NetworkManager (it also guesses, from a phone's hot spot for example), or on Android
    of Termux's API, where Wi-Fi counts as free.
    """
    lines = ask(["nmcli", "-t", "-f", "GENERAL.STATE,GENERAL.METERED", "device", "show"])
    states, answers = [], []
    for line in lines.splitlines():
        key, _, value = line.partition(":")
        if key == "GENERAL.STATE":
            states.append(value)
        elif key == "GENERAL.METERED":
            answers.append(value)
    used = [m for s, m in zip(states, answers, strict=False) if s.startswith("100")]
    if any(answer.startswith("yes") for answer in used):
        return True
    if any(answer.startswith("no") for answer in used):
        return False
    wifi = _json(ask(["termux-wifi-connectioninfo"])).get("supplicant_state")
    return None if wifi is None else str(wifi) != "COMPLETED"


def may_not_work(
    settings: ClientSettings,
    now: datetime,
    *,
    power: Callable[[], bool | None] = on_power,
    charged: Callable[[], bool | None] = metered,
) -> str:
    """Why the device may not work now; empty where it may.

    Args:
        settings: the owner's limits.
        now: local time.
        power: as `on_power`.
        charged: as `metered`.
    """
    span = settings.span
    if span is not None and not _within(now.hour, *span):
        return f"it is {now:%H:%M}: the owner lets it work from {span[0]} to {span[1]} o'clock only"
    if settings.only_on_power and power() is False:
        return "it runs on its battery: the owner lets it work only while plugged in"
    if settings.only_unmetered and charged():
        return "the network charges by volume: the owner lets it work only where it does not"
    return ""


def _within(hour: int, first: int, last: int) -> bool:
    return first <= hour < last if first < last else hour >= first or hour < last


def _inside(folder: Path) -> list[Path]:
    """What is in a folder; nothing where it may not be read, as on Android."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _json(text: str) -> dict[str, object]:
    try:
        found = json.loads(text) if text else {}
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
