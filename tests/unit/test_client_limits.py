from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest

from fedloom.client.limits import ask, may_not_work, metered, on_power
from fedloom.client.settings import ClientSettings

NOON = datetime(2026, 3, 1, 12, 30)


def supply(folder: Path, name: str, **facts: str) -> None:
    (folder / name).mkdir(parents=True)
    for key, value in facts.items():
        (folder / name / key).write_text(f"{value}\n")


def silent(_: Sequence[str]) -> str:
    return ""


@pytest.mark.parametrize(
    ("status", "online", "expected"),
    [
        ("Discharging", "0", False),
        ("Discharging", "1", True),  # charging slower than it is used
        ("Charging", "", True),
        ("Full", "", True),
        ("Discharging", "", False),
        ("Unknown", "", False),
    ],
)
def test_a_laptop(status: str, online: str, expected: bool, tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", type="Battery", status=status)
    if online:
        supply(tmp_path, "AC", type="Mains", online=online)
    assert on_power(tmp_path, silent) is expected


def test_a_board_without_a_battery_is_not_known(tmp_path: Path) -> None:
    assert on_power(tmp_path, silent) is None
    assert on_power(tmp_path / "none", silent) is None


def test_power_supplies_that_may_not_be_read_are_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(folder: Path) -> object:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", denied)  # Android
    assert on_power(tmp_path, silent) is None


def test_the_battery_of_a_mouse_does_not_count(tmp_path: Path) -> None:
    supply(tmp_path, "hid", type="Battery", scope="Device", status="Discharging")
    assert on_power(tmp_path, silent) is None


@pytest.mark.parametrize(("plugged", "expected"), [("UNPLUGGED", False), ("PLUGGED_AC", True)])
def test_a_phone(plugged: str, expected: bool, tmp_path: Path) -> None:
    answer = f'{{"health": "GOOD", "plugged": "{plugged}"}}'
    assert (
        on_power(tmp_path, lambda c: answer if c[0] == "termux-battery-status" else "") is expected
    )


NMCLI = "GENERAL.STATE:100 (connected)\nGENERAL.METERED:{}\n\nGENERAL.STATE:30 (disconnected)\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("yes", True),
        ("yes (guessed)", True),
        ("no", False),
        ("no (guessed)", False),
        ("unknown", None),
    ],
)
def test_network_manager(answer: str, expected: bool | None) -> None:
    text = NMCLI.format(answer) + "GENERAL.METERED:yes\n"  # of a device that is not used
    assert metered(lambda command: text if command[0] == "nmcli" else "") is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [('{"supplicant_state": "COMPLETED"}', False), ('{"supplicant_state": "DORMANT"}', True)],
)
def test_wifi_of_a_phone_is_free(text: str, expected: bool) -> None:
    assert metered(lambda command: text if command[0].startswith("termux") else "") is expected


def test_nothing_says_anything() -> None:
    assert metered(silent) is None
    assert metered(lambda _: "not JSON") is None


@pytest.mark.parametrize(
    ("hours", "hour", "allowed"),
    [
        ("22-6", 23, True),
        ("22-6", 5, True),
        ("22-6", 6, False),
        ("9-17", 12, True),
        ("9-12", 12, False),
    ],
)
def test_hours_of_work(hours: str, hour: int, allowed: bool) -> None:
    reason = may_not_work(ClientSettings(hours=hours), NOON.replace(hour=hour))
    assert (reason == "") is allowed
    if not allowed:
        first, last = hours.split("-")
        assert f"from {first} to {last} o'clock" in reason


@pytest.mark.parametrize(("power", "word"), [(False, "battery"), (True, ""), (None, "")])
def test_only_on_power(power: bool | None, word: str) -> None:
    given = ClientSettings(only_on_power=True)
    reason = may_not_work(given, NOON, power=lambda: power, charged=lambda: None)
    assert word in reason
    assert bool(reason) == bool(word)
    assert may_not_work(ClientSettings(), NOON, power=lambda: power) == ""


@pytest.mark.parametrize(("charged", "word"), [(True, "by volume"), (False, ""), (None, "")])
def test_only_unmetered(charged: bool | None, word: str) -> None:
    given = ClientSettings(only_unmetered=True)
    reason = may_not_work(given, NOON, power=lambda: None, charged=lambda: charged)
    assert word in reason
    assert bool(reason) == bool(word)


def test_commands_that_are_not_there_or_fail_say_nothing() -> None:
    assert ask(["no-such-command-here"]) == ""
    assert ask(["false"]) == ""
    assert ask(["echo", "word"]) == "word\n"
