"""One line for a mistake; the traceback of somebody else's code is there for the asking."""

import pytest

from fedloom.complaint import complain
from fedloom.core.errors import ConfigError, FedloomError, RunError, StrategyError


def caused(kind: type[FedloomError]) -> FedloomError:
    try:
        try:
            raise KeyError("of the user's")
        except KeyError as error:
            raise kind("apply, round 3: raised KeyError") from error
    except FedloomError as error:
        return error


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    complain(ConfigError("rounds = 0: 1 or more"))
    assert capsys.readouterr().err == "fedloom: error: rounds = 0: 1 or more\n"


def test_the_line_says_how_to_see_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDLOOM_TRACEBACK", raising=False)
    complain(caused(StrategyError))
    line = "fedloom: error: apply, round 3: raised KeyError"
    assert capsys.readouterr().err == f"{line}; FEDLOOM_TRACEBACK=1 shows the whole traceback\n"
    monkeypatch.setenv("FEDLOOM_TRACEBACK", "1")
    complain(caused(StrategyError))
    first, *_, last = capsys.readouterr().err.splitlines()
    assert (first, last) == ("Traceback (most recent call last):", line)


def test_what_is_not_of_somebody_elses_code_has_no_hint(capsys: pytest.CaptureFixture[str]) -> None:
    complain(caused(RunError))
    assert "TRACEBACK" not in capsys.readouterr().err
