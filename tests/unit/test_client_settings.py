from pathlib import Path

import pytest

from fedloom.client.settings import ClientSettings, is_callable, settings_from
from fedloom.core.errors import ConfigError


def test_flags_win_over_the_environment_and_it_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    path.write_text('name = "file"\nthreads = 1\nmemory = 2000000000\nonly_on_power = true\n')
    environment = {"FEDLOOM_NAME": "environment", "FEDLOOM_THREADS": "2", "FEDLOOM_CACHE": "/x"}
    environment["FEDLOOM_TIER"] = "phone"
    found = settings_from(path, environment, {"name": "flag", "threads": None})
    assert (found.name, found.threads, found.memory) == ("flag", 2, "2000000000")
    assert found.tier == "phone"
    assert found.only_on_power


def test_without_anything_there_are_defaults() -> None:
    assert settings_from(None, {}, {}) == ClientSettings()


def test_paths_of_a_file_are_relative_to_it(tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    path.write_text('data = "own.csv"\ndirectory = "state"\n')
    found = settings_from(path, {}, {})
    assert (found.data, found.directory) == (str(tmp_path / "own.csv"), str(tmp_path / "state"))
    assert settings_from(path, {}, {"data": "other.csv"}).data == "other.csv"
    path.write_text('data = "my.module:rows"\n')
    assert settings_from(path, {}, {}).data == "my.module:rows"


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("FEDLOOM_ONLY_ON_POWER", "1", "only_on_power", True),
        ("FEDLOOM_ONLY_ON_POWER", "no", "only_on_power", False),
        ("FEDLOOM_MEMORY", "1.5GB", "memory", "1.5GB"),
        ("FEDLOOM_THREADS", "3", "threads", 3),
        ("FEDLOOM_ALLOW", "a:B, c:D", "allow", ("a:B", "c:D")),
        ("FEDLOOM_JOIN", "flt1.x", "join", "flt1.x"),
    ],
)
def test_the_environment_is_typed(variable: str, text: str, name: str, value: object) -> None:
    assert getattr(settings_from(None, {variable: text}, {}), name) == value


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("FEDLOOM_THREADS", "two", "a whole number"),
        ("FEDLOOM_CACHE_GB", "much", "a number"),
        ("FEDLOOM_ONLY_UNMETERED", "perhaps", "1 or 0"),
    ],
)
def test_the_environment_is_checked(variable: str, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"{variable} = '{text}': expected {expected}"):
        settings_from(None, {variable: text}, {})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"hours": "25-3"}, "hours = '25-3': two hours of the day"),
        ({"wait": 61.0}, r"wait = 61.0: above 0, at most 60"),
        ({"threads": -1}, "threads = -1: 0 or more"),
        ({"tier": "x" * 101}, "at most 100 characters"),
        ({"device": "tpu"}, "device = 'tpu': auto, cpu or cuda"),
        ({"dta": "x"}, "dta: unknown key; .*did you mean 'data'"),
    ],
)
def test_mistakes_name_what_is_allowed(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_from(None, {}, table)


def test_a_mistake_in_the_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    path.write_text("threads = true\n")
    with pytest.raises(ConfigError, match=r"client\.toml: threads = True: expected a whole number"):
        settings_from(path, {}, {})


@pytest.mark.parametrize(
    ("hours", "span"),
    [("", None), ("22-6", (22, 6)), ("0-24", None), ("8-8", None), ("8-24", (8, 0))],
)
def test_hours(hours: str, span: tuple[int, int] | None) -> None:
    assert ClientSettings(hours=hours).span == span


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b:c", True),
        ("rows:load", True),
        ("own.csv", False),
        ("/a/b:c", False),
        ("a:b.csv", False),
    ],
)
def test_callables_and_files(text: str, expected: bool) -> None:
    assert is_callable(text) is expected


def test_the_join_token_is_not_shown() -> None:
    assert "secret" not in repr(ClientSettings(join="flt1.secret"))
