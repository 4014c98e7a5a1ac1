import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedloom.core.config import to_table
from fedloom.core.errors import ConfigError
from fedloom.core.job import STAGE_KEYS, Job, job_from
from fedloom.sources import job_of
from fedloom.template import template, write_template


def names(table: dict[str, Any]) -> set[str]:
    """Every key of a table, by dotted path."""
    found: set[str] = set()
    for key, value in table.items():
        inner = names(value) if isinstance(value, dict) else set()
        found |= {key, *(f"{key}.{name}" for name in inner)}
    return found


def test_it_says_what_is_the_default_anyway() -> None:
    assert job_from(tomllib.loads(template())) == Job()


def test_it_names_every_key_of_the_schema() -> None:
    written = names(tomllib.loads(template()))
    default = to_table(Job())
    stage = default.pop("stages")[0]
    stage.pop("name")  # of a [[stages]] table only
    assert set(stage) == set(STAGE_KEYS)
    assert written == names({**default, **stage})


def test_every_line_with_a_key_says_what_it_means() -> None:
    keys = [row for row in template().splitlines() if re.match(r"\w+ = ", row)]
    components = {f.name for f in dataclasses.fields(Job)}
    bare = [row for row in keys if "#" not in row and not row.startswith("name = ")]
    assert bare == []
    assert components  # the names of components are explained above their tables


def test_the_stages_in_its_comment_work() -> None:
    rows = template().partition("#\n# [[stages]]")[2].splitlines()
    text = "[[stages]]\n" + "\n".join(row.removeprefix("# ").removeprefix("#") for row in rows)
    job = job_from(tomllib.loads(text))
    assert [stage.name for stage in job.stages] == ["warm-up", "train"]
    assert job.stages[0].local.lr == 0.5


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    write_template(path)
    assert job_of(path) == Job()
    assert "fedloom simulate mine.toml" in path.read_text(encoding="utf-8")


def test_a_file_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"mine\.toml: exists; choose another name"):
        write_template(path)
    assert path.read_text() == "mine"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        write_template(tmp_path / "gone" / "mine.toml")
