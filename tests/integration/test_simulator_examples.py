"""The examples that come with fedloom: they parse, and their commands name files that exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedloom.core.component import Component
from fedloom.core.registry import create
from fedloom.sources import job_of
from fedloom.strategies.conformance import check_strategy

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIGURATIONS = sorted(EXAMPLES.rglob("*.toml"))
COMMAND = re.compile(r"#?\s*(fedloom simulate|python|cd) ")


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_an_example_is_a_job_whose_parts_are_there(path: Path) -> None:
    job = job_of(path)
    create("partitions", job.partition)
    create("adapters", job.adapter)
    for stage in job.stages:
        create("strategies", stage.strategy)
    if not job.data.path:  # a server without data of its own, which is told the classes
        assert job.data.classes
    elif not job.data.path.endswith(".npz"):  # images are written by the example's script
        assert Path(job.data.path).is_file()


def named_files(text: str, folder: Path) -> Iterator[Path]:
    """The configurations and scripts that commands name, in fenced blocks or in comments."""
    for line in re.sub(r"\\\n#?\s*", " ", text).splitlines():
        words = shlex.split(line.strip("# ").partition("  ")[0]) if COMMAND.match(line) else []
        if words[:1] == ["cd"]:
            folder = folder / words[1]
        elif line.startswith("```"):
            folder = EXAMPLES if line == "```" else folder
        yield from (folder / word for word in words if word.endswith((".toml", ".py")))


def test_the_commands_of_the_examples_name_files_that_exist() -> None:
    texts = [EXAMPLES / "README.md", *CONFIGURATIONS, *EXAMPLES.rglob("*.py")]
    files = [f for t in texts for f in named_files(t.read_text(encoding="utf-8"), t.parent)]
    assert len(files) >= 12
    assert [file for file in files if not file.is_file()] == []


def test_the_strategy_of_the_examples_keeps_a_strategys_promises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(EXAMPLES)
    component = Component("own_strategy:NormClipped", {"norm": 0.1})
    check_strategy(create("strategies", component))  # type: ignore[arg-type]
