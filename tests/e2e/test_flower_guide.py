"""The commands of docs/flower.md that need no other machine are run."""

import os
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from command_forks import command_environment
from guide import Machine, blocks_of
from small_jobs import (
    ROOT,
    classify_table,
    labelled_rows,
    write_rows,
    write_toml,
)


def test_the_guides_commands(text_model: dict[str, Path], tmp_path: Path) -> None:
    laptop = Machine(tmp_path / "laptop", {**command_environment(), "PATH": os.environ["PATH"]})
    script = laptop.home / "bin" / "fedloom"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m fedloom "$@"\n')
    script.chmod(0o755)
    laptop.run('export PATH="$HOME/bin:$PATH"')
    shutil.copytree(ROOT / "tests" / "fixtures" / "flower_app", laptop.home / "app")
    data = write_rows(laptop.home / "rows.jsonl", labelled_rows(48, clients=2))
    table = classify_table(text_model["classify"], data, server={"min_clients": 2})
    table["stages"] = [{**table["stages"][1], "rounds": 2, "clients_per_round": 2}]
    write_toml(laptop.home / "job.toml", table)

    blocks = blocks_of((ROOT / "docs" / "flower.md").read_text(encoding="utf-8"))
    for block in blocks:
        if "laptop" in block.marks.get("on", ()):
            for command, _ in block.commands():
                laptop.run(command)

    for name in ("quickstart-app", "small-app", "small"):
        assert (laptop.home / "runs" / name / "metrics.jsonl").read_text().count("\n") >= 2
