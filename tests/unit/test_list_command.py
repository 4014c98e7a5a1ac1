"""What `fedloom list` prints of a group, and of one name."""

import pytest

from fedloom.cli import main


def test_a_group_is_names_with_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "strategies"]) == 0
    out = capsys.readouterr().out
    assert "  trimmed-mean      Move along the trimmed mean of the deltas" in out
    assert "f=1, lr=1.0, absent='skip'" in out


def test_a_name_is_what_it_does_and_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "strategies", "krum"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("krum: Move along the one delta that has the nearest neighbours.\n")
    assert "    f: how many clients may be malicious;" in out
    assert out.endswith("Options:\n    f: int = 1\n    lr: float = 1.0\n    absent: str = 'skip'\n")
    assert "Raises" not in out


def test_a_name_that_is_none_has_its_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "strategies", "kurm"]) == 2
    assert "did you mean 'krum'" in capsys.readouterr().err
