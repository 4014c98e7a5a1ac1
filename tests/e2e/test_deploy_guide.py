"""docs/deploy.md, played: each of its machines is a folder, all of them are this one."""

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from command_forks import command_environment
from guide import KINDS, Block, Machine, blocks_of, has_valid_syntax, verify_unit
from small_jobs import ROOT

from fedloom.backbones.fetch import folder_of
from fedloom.security.tokens import JoinToken

GUIDE = ROOT / "docs" / "deploy.md"
BLOCKS = blocks_of(GUIDE.read_text(encoding="utf-8"))
NAMES = ("server", "laptop", "pi", "phone")
FEDLOOM = "-c 'import sys; from fedloom.cli import main; sys.exit(main())' "


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def install(home: Path) -> None:
    """What section 1 leaves in ``~/fedloom/bin``."""
    folder = home / "fedloom" / "bin"
    folder.mkdir(parents=True)
    for name, first in (("fedloom", FEDLOOM), ("python", ""), ("python3", "")):
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {first}"$@"\n')
        path.chmod(0o755)


def checkout(home: Path) -> None:
    """The example as it is, but for ports that are free, and for this machine alone."""
    job = (ROOT / "examples" / "live.toml").read_text(encoding="utf-8")
    enrol, work = free_ports(2)
    for was, now in (
        ("enrol_port = 7440", f"enrol_port = {enrol}"),
        ("port = 7441", f"port = {work}"),
        ('listen = "0.0.0.0"', 'listen = "127.0.0.1"'),
        ('address = ""', 'address = "127.0.0.1"'),
    ):
        assert was in job
        job = job.replace(was, now)
    (home / "checkout" / "examples").mkdir(parents=True)
    (home / "checkout" / "examples" / "live.toml").write_text(job, encoding="utf-8")


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[dict[str, Machine]]:
    environment = {**command_environment(), "FEDLOOM_CACHE": str(tmp_path / "cache")}
    made = {name: Machine(tmp_path / name, environment) for name in NAMES}
    for machine in made.values():
        install(machine.home)
    checkout(made["server"].home)
    yield made
    for machine in made.values():
        machine.end()


def bring_tokens(machines: dict[str, Machine]) -> None:
    """What the guide does by a way that only the owners read."""
    for path in sorted((machines["server"].home / "federation").glob("*.token")):
        JoinToken.parse(path.read_text())
        assert path.stat().st_mode & 0o077 == 0
        path.rename(machines[path.stem].home / path.name)


def play(block: Block, machines: dict[str, Machine]) -> None:
    ((kind, names),) = block.marks.items()
    for machine in (machines[name] for name in names if kind != "elsewhere"):
        if kind == "service":
            unit = machine.home / ".config/systemd/user/fedloom-client.service"
            machine.start_service(unit)
            verify_unit(unit, machine.home)
            continue
        for command, shown in block.commands():
            if kind == "stays":
                bring_tokens(machines)
                machine.start(command)
                machine.wait_for(shown[0] if shown else "works for")
                continue
            output = machine.run(command)
            missing = [line for line in shown if line not in (*output.splitlines(), "  …")]
            assert missing == [], output


def follow(machines: dict[str, Machine]) -> None:
    for block in BLOCKS:
        if "end" in block.marks:
            for machine in machines.values():
                machine.wait()
        play(block, machines)
    for path in machines["server"].home.glob(".config/systemd/user/*.service"):
        verify_unit(path, machines["server"].home)
    said = {name: machines[name].log.read_text() for name in NAMES[1:]}
    for name, text in said.items():
        assert f"as {name}\n" in text
        assert "the federation is finished: all 5 rounds are done" in text
        assert len([line for line in text.splitlines() if "receipt" in line]) >= 5


def test_every_block_says_where_it_belongs_and_is_a_shell_s() -> None:
    for block in BLOCKS:
        assert block.language in ("console", "sh")
        (kind,) = block.marks
        assert kind in KINDS
        for command, _ in block.commands():
            assert has_valid_syntax(command), command
    played = {name for block in BLOCKS for name in block.marks.get("on", ())}
    assert played == set(NAMES)


def test_the_guide_ends_in_a_finished_federation(
    machines: dict[str, Machine],
    tmp_path: Path,
    text_model: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FEDLOOM_CACHE", str(tmp_path / "cache"))
    place = folder_of("minilm")  # a tiny random model under the name that the guide uses
    place.parent.mkdir(parents=True)
    place.symlink_to(text_model["classify"])
    follow(machines)
