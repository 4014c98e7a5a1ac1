from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedloom.core.config import build, merge, override, read_toml, to_table
from fedloom.core.errors import ConfigError
from fedloom.core.registry import Component


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    pair: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Outer:
    name: str
    count: int = 1
    flag: bool = False
    tags: tuple[str, ...] = ()
    inner: Inner = Inner()
    part: Component | None = None
    inners: tuple[Inner, ...] = ()


def test_a_table_becomes_the_dataclass_and_comes_back() -> None:
    table = {
        "name": "x",
        "count": 2,
        "flag": True,
        "tags": ["a", "b"],
        "inner": {"rate": 1, "pair": [2, 3.5]},
        "part": {"name": "p", "depth": 3, "sizes": [1, [2, 3]]},
        "inners": [{"rate": 0.25}],
    }
    part = Component("p", {"depth": 3, "sizes": (1, (2, 3))})
    inner = Inner(1.0, (2.0, 3.5))
    built = Outer("x", 2, True, ("a", "b"), inner, part, (Inner(0.25),))
    assert build(Outer, table) == built
    assert build(Outer, to_table(built)) == built


def test_a_whole_number_is_a_number() -> None:
    rate = build(Inner, {"rate": 1}).rate
    assert (rate, type(rate)) == (1.0, float)


def test_a_string_is_a_list_of_one_and_a_component_without_options() -> None:
    outer = build(Outer, {"name": "x", "tags": "head", "part": "p"})
    assert outer.tags == ("head",)
    assert outer.part == Component("p")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"nam": "x"}, r"^nam: unknown key; known: count, .*; did you mean 'name'\?"),
        ({}, "^name: missing; it has no default"),
        ({"name": 3}, "^name = 3: expected a string"),
        ({"name": "x", "count": 1.5}, "^count = 1.5: expected a whole number"),
        ({"name": "x", "count": True}, "^count = True: expected a whole number"),
        ({"name": "x", "flag": 1}, "^flag = 1: expected true or false"),
        ({"name": "x", "tags": 3}, "^tags = 3: expected a list"),
        ({"name": "x", "tags": ["a", 3]}, r"^tags\[1\] = 3: expected a string"),
        ({"name": "x", "inner": 3}, "^inner = 3: expected a table"),
        ({"name": "x", "inner": {"rat": 3}}, r"^inner.rat: unknown key; .* mean 'rate'\?"),
        ({"name": "x", "inner": {"rate": "3"}}, "^inner.rate = '3': expected a number"),
        ({"name": "x", "inner": {"rate": True}}, "^inner.rate = True: expected a number"),
        ({"name": "x", "inner": {"pair": [1]}}, r"^inner.pair = \[1\]: expected 2 values"),
        ({"name": "x", "inners": [{}, {"q": 1}]}, r"^inners\[1\].q: unknown key"),
        ({"name": "x", "part": {"depth": 3}}, "expected a name, or a table with a name"),
        ({"name": "x", "part": 3}, "^part = 3: expected a name, or a table with a name"),
    ],
    ids=str,
)
def test_a_mistake_names_its_key_and_what_is_allowed(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Outer, table)


def test_what_is_not_a_table_is_told() -> None:
    with pytest.raises(ConfigError, match="Inner = 3: expected a table"):
        build(Inner, 3)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("a.b=1", {"a": {"b": 1}}),
        ("a = true", {"a": True}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a='1'", {"a": "1"}),
        ("a=plain words", {"a": "plain words"}),
        ("a=x=y", {"a": "x=y"}),
        ("a=", {"a": ""}),
    ],
)
def test_an_override_is_toml_or_else_a_string(assignment: str, expected: object) -> None:
    assert override({}, [assignment]) == expected


@pytest.mark.parametrize("text", ["a", "=1", " = 1"])
def test_an_override_needs_a_key_and_a_value(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected key=value, such as local.lr=0.05"):
        override({}, [text])


def test_later_overrides_win_and_the_table_is_left_alone() -> None:
    table = {"local": {"lr": 0.1, "epochs": 2}}
    assert override(table, ["local.lr=1", "local.lr=2"]) == {"local": {"lr": 2, "epochs": 2}}
    assert table == {"local": {"lr": 0.1, "epochs": 2}}


@pytest.mark.parametrize(
    ("below", "above", "merged"),
    [
        # Options of the same component are laid over; another component starts afresh.
        ("fedadam", {"lr": 1}, {"name": "fedadam", "lr": 1}),
        ({"name": "a", "x": 1}, {"y": 2}, {"name": "a", "x": 1, "y": 2}),
        ({"name": "a", "x": 1}, {"name": "a", "y": 2}, {"name": "a", "x": 1, "y": 2}),
        ({"name": "a", "x": 1}, {"name": "b"}, {"name": "b"}),
        ({"name": "a", "x": 1}, "b", "b"),
        (1, {"x": 1}, {"x": 1}),
    ],
)
def test_merging_components(below: object, above: object, merged: object) -> None:
    assert merge({"c": below}, {"c": above}) == {"c": merged}


def test_another_backbone_is_read_in_the_same_way() -> None:
    below = {"backbone": {"name": "a", "max_tokens": 32}}
    assert merge(below, {"backbone": {"name": "b"}}) == {
        "backbone": {"name": "b", "max_tokens": 32}
    }


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no.toml: no such file; `fedloom init no.toml` writes"):
        read_toml(tmp_path / "no.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_toml(tmp_path)
    bad = tmp_path / "bad.toml"
    bad.write_text("a = 1\nb =\n")
    with pytest.raises(ConfigError, match=r"bad.toml: not valid TOML: .*line 2"):
        read_toml(bad)
    bad.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"bad.toml: not valid TOML"):
        read_toml(bad)
