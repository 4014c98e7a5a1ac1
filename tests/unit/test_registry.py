import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from fedloom.codecs.block_drop import BlockDrop
from fedloom.codecs.quantized import Int8
from fedloom.core.component import Option
from fedloom.core.errors import ConfigError, UnknownNameError
from fedloom.core.registry import BUILT_IN, GROUPS, Component, create, find, inside, names
from fedloom.strategies.fedavg import fedavg


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; modules loaded from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_built_in_name_stands_for_its_object() -> None:
    assert find("strategies", "fedavg") is fedavg
    assert create("codecs", Component("int8", {"block": 32})) == Int8(block=32)


# Options are read by the types that a signature states: their names alone would let anything pass.
@pytest.mark.parametrize("group", GROUPS)
def test_built_in_factories_state_types(group: str) -> None:
    for name in BUILT_IN[group]:
        stated = inspect.signature(find(group, name)).parameters.values()
        assert not [p.name for p in stated if isinstance(p.annotation, str)], name


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        UnknownNameError,
        match=r"strategies: unknown name 'fedadm'; known: .*fedprox.*mean 'fedadam'\?, or 'module",
    ):
        find("strategies", "fedadm")


def test_a_full_name_needs_no_registration() -> None:
    assert find("codecs", "fedloom.codecs.quantized:Int8") is Int8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:X", "'no_such_module:X': no module 'no_such_module', and no file"),
        ("fedloom.no:X", "cannot import 'fedloom.no'"),
        ("fedloom.codecs.dense:Float23", r"has no 'Float23'; .* did you mean 'Float32'\?"),
        ("fedloom.core.layout:ALL", "'fedloom.core.layout:ALL' is a tuple; expected a class or"),
        (":X", "no module ''"),
        ("builtins:", "has no ''"),
    ],
)
def test_a_full_name_that_leads_nowhere_is_told(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        find("codecs", name)


def test_an_installed_package_adds_names(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "their_package.py").write_text("def trimmed(share=0.1):\n    return share\n")
    info = here / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fedloom.strategies]\ntrimmed = their_package:trimmed\nfedavg = their_package:trimmed\n"
    )
    monkeypatch.syspath_prepend(str(here))
    assert names("strategies")["trimmed"] == "their_package:trimmed"
    assert create("strategies", Component("trimmed", {"share": 0.2})) == 0.2
    assert find("strategies", "fedavg") is fedavg  # a built-in name is not taken over


def test_a_file_in_the_current_folder_will_do(here: Path) -> None:
    (here / "my_file.py").write_text(
        "from dataclasses import dataclass\n\n"
        "@dataclass(frozen=True)\nclass MyStrategy:\n    lr: float = 1.0\n"
    )
    made = create("strategies", Component("my_file:MyStrategy", {"lr": 2}))
    assert repr(made) == "MyStrategy(lr=2.0)"
    assert find("strategies", "my_file:MyStrategy") is type(made)


def test_a_file_in_a_folder_is_loaded_once(here: Path) -> None:
    (here / "methods").mkdir()
    (here / "methods" / "mine.py").write_text("class Mine: ...\n")
    assert find("strategies", "methods.mine:Mine") is find("strategies", "methods.mine:Mine")


def test_a_file_that_fails_is_not_half_loaded(here: Path) -> None:
    (here / "my_broken.py").write_text("class Mine: ...\n1 / 0\n")
    for _ in range(2):
        with pytest.raises(ConfigError, match="raised ZeroDivisionError"):
            find("strategies", "my_broken:Mine")


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (
            Component("fedadam", {"beta": 1}),
            r"strategies.fedadam: unknown option 'beta'; known: absent, betas, lr, tau; .* 'betas'",
        ),
        (Component("fedadam", {"lr": "fast"}), "^strategies.fedadam.lr = 'fast': expected a numbe"),
        (Component("fedadam", {"betas": (0.9,)}), r"fedadam.betas = \(0.9,\): expected 2 values"),
        (Component("fedadam", {"betas": 0.9}), "strategies.fedadam.betas = 0.9: expected a list"),
        (Component("fedadam", {"lr": -1}), "^strategies.fedadam: lr = -1.0: above 0 and finite"),
    ],
    ids=str,
)
def test_a_mistaken_option_is_told(component: Component, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create("strategies", component)


def test_a_missing_option_is_told(here: Path) -> None:
    (here / "my_needs.py").write_text("def needs(depth, width=1): ...\n")
    with pytest.raises(
        ConfigError, match="missing a required argument: 'depth'; options: depth, w"
    ):
        create("strategies", Component("my_needs:needs"))


def test_options_of_other_types_are_passed_on(here: Path) -> None:
    (here / "my_open.py").write_text("def make(a, b: 'int' = 0, **rest):\n    return a, b, rest\n")
    options: dict[str, Option] = {"a": (1, "x"), "b": "text", "c": True}
    assert create("strategies", Component("my_open:make", options)) == (
        (1, "x"),
        "text",
        {"c": True},
    )


def test_every_group_has_built_in_names() -> None:
    assert all(names(group) for group in GROUPS)


def test_a_component_may_be_made_of_others() -> None:
    inner = {"name": "nnadq", "weight": 1}
    for given in (inner, Component("nnadq", {"weight": 1})):
        outer = Component("block-drop", {"rate": 0.5, "inner": cast(Option, given)})
        made = cast(BlockDrop, create("codecs", outer))
        assert made.inner == Component("nnadq", {"weight": 1})
        assert inside("codecs", outer) == [made.inner]
    assert inside("codecs", Component("nnadq")) == []


OWN = """
import math
broken = 1 / {divisor}

class Own:
    def __init__(self, share=0.5):
        if share > 1:
            raise KeyError("half\\na share")
        self.root = math.sqrt(share)
"""


def test_what_own_code_raises_is_one_line_that_names_its_line(here: Path) -> None:
    (here / "own_code.py").write_text(OWN.format(divisor=1))
    where = r"strategies.own_code:Own: raised KeyError: .*half.na share.* \(own_code.py:8\)$"
    with pytest.raises(ConfigError, match=where):
        create("strategies", Component("own_code:Own", {"share": 2.0}))
    with pytest.raises(ConfigError, match=r"raised ValueError: .* \(own_code.py:9\)$"):
        create("strategies", Component("own_code:Own", {"share": -1.0}))


def test_a_file_that_cannot_be_imported_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "own_zero.py").write_text(OWN.format(divisor=0))
    (here / "own_typo.py").write_text("def Own(:\n")
    (here / "own_lack.py").write_text("\nimport no_such_module\n")
    zero = r"'own_zero:Own': raised ZeroDivisionError: .* \(own_zero.py:3\)$"
    for path in ([], [str(here)]):  # found as a file of the current folder, and as a module
        monkeypatch.setattr(sys, "path", [*path, *sys.path])
        with pytest.raises(ConfigError, match=zero):
            find("strategies", "own_zero:Own")
        with pytest.raises(ConfigError, match=r"raised SyntaxError: .*own_typo.py, line 1"):
            find("strategies", "own_typo:Own")
        with pytest.raises(ConfigError, match=r"No module named 'no_such_module' \(own_lack.py:2"):
            find("strategies", "own_lack:Own")


def test_what_does_not_say_what_it_takes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"builtins:min: does not say what it takes; expected"):
        create("strategies", Component("builtins:min"))
