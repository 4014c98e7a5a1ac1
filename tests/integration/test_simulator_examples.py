"""The examples that come with fedloom: they parse, and their commands name files that exist."""

import re
import shlex
from pathlib import Path

import pytest

from fedloom.core.job import read_job
from fedloom.core.registry import create
from fedloom.strategies.conformance import check_strategy

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIGURATIONS = sorted(EXAMPLES.rglob("*.toml"))


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_an_example_is_a_job_whose_parts_are_there(path: Path) -> None:
    job = read_job(path)
    create("partitions", job.partition)
    create("adapters", job.adapter)
    for stage in job.stages:
        create("strategies", stage.strategy)
    if not job.data.path.endswith(".npz"):  # images are written by the example's script
        assert Path(job.data.path).is_file()


def commands(text: str) -> list[list[str]]:
    """Commands in a fenced block or a comment, continued lines joined, remarks taken away."""
    joined = re.sub(r"\\\n#?\s*", " ", text)
    lines = (line.strip().lstrip("#").strip() for line in joined.splitlines())
    found = [line for line in lines if line.startswith(("fedloom simulate", "python "))]
    return [shlex.split(line.partition("  ")[0]) for line in found]


def test_the_commands_of_the_examples_name_files_that_exist() -> None:
    texts = [EXAMPLES / "README.md", *CONFIGURATIONS, *EXAMPLES.rglob("*.py")]
    checked = 0
    for text in texts:
        folder = EXAMPLES if text.name == "README.md" else text.parent
        for words in commands(text.read_text(encoding="utf-8")):
            named = [w for w in words if w.endswith((".toml", ".py"))]
            checked += len(named)
            assert all((folder / name).is_file() for name in named), words
    assert checked >= 8


def test_the_strategy_of_the_examples_keeps_a_strategys_promises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fedloom.core.component import Component

    monkeypatch.chdir(EXAMPLES)
    component = Component("own_strategy:NormClipped", {"norm": 0.1})
    check_strategy(create("strategies", component))  # type: ignore[arg-type]
