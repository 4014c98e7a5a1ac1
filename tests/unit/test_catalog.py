import subprocess
import sys
from pathlib import Path

import pytest

from fedloom.backbones.sources import MODELS
from fedloom.catalog import described, groups, listed
from fedloom.core.errors import UnknownNameError
from fedloom.core.registry import BUILT_IN

SOURCE = '''
class Trimmed:
    """Mean without the extremes.

    More."""

    def __init__(self, share: float, *, keep: int = 1) -> None: ...


def plain(alpha=0.5):
    """A function."""
'''


@pytest.mark.parametrize("group", groups())
def test_every_group_can_be_listed(group: str) -> None:
    entries = listed(group)
    assert {e.name for e in entries} >= set(BUILT_IN.get(group, ()))


def test_descriptions_and_options_come_from_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ours_for_listing.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    targets = {"trimmed": "ours_for_listing:Trimmed", "plain": "ours_for_listing:plain"}
    monkeypatch.setitem(BUILT_IN, "strategies", targets)
    plain, trimmed = listed("strategies")
    assert (trimmed.text, trimmed.options) == ("Mean without the extremes", ("share", "keep=1"))
    assert (plain.text, plain.options) == ("A function", ("alpha=0.5",))
    assert "ours_for_listing" not in sys.modules


def test_a_module_that_is_not_there_has_a_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT_IN, "codecs", {"gone": "nowhere_at_all:Gone"})
    (entry,) = listed("codecs")
    assert (entry.name, entry.text, entry.options) == ("gone", "", ())


def test_every_model_that_can_be_fetched_is_listed() -> None:
    assert {entry.name for entry in listed("backbones")} >= set(MODELS)


def test_an_unknown_group_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'codecs'"):
        listed("codec")


def test_listing_loads_no_torch() -> None:
    code = "import sys; from fedloom.catalog import *; [listed(g) for g in groups()]; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


DEFAULTS = '''
NEAR = 0.5
class Defaults:
    """One."""
    kind: ClassVar[str] = "x"
    near: float = NEAR
    inner: Component = field(default_factory=lambda: Component("nnadq"))
    far: Component = Component("int8")
'''


def test_defaults_are_as_a_configuration_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_defaults.py").write_text(DEFAULTS)
    entry = described("codecs", "own_defaults:Defaults")
    assert entry.options == ("near=0.5", "inner='nnadq'", "far='int8'")
    assert entry.typed[0] == "near: float = 0.5"
    assert entry.typed[1] == "inner: Component = 'nnadq'"
    (tmp_path / "own_typo.py").write_text("def (")
    assert described("codecs", "own_typo:X").about == ""


def test_one_name_is_described_in_full() -> None:
    entry = described("strategies", "trimmed-mean")
    assert entry.typed == ("f: int = 1", "lr: float = 1.0", "absent: str = 'skip'")
    assert "``2 f + 1`` are needed" in entry.about
    with pytest.raises(UnknownNameError, match=r"unknown name 'trimed-mean'; .* 'trimmed-mean'\?"):
        described("strategies", "trimed-mean")
    with pytest.raises(UnknownNameError, match="unknown name 'nowhere:X'"):
        described("strategies", "nowhere:X")
