"""A guide's fenced blocks, and machines on which to run them: folders, each with a shell's state.

The first words of a fence say where its block belongs: ``console on=server`` (run it there),
``stays=`` (start it, and go on), ``service=`` (a service manager would), ``end=`` (run it once
all that stays has ended), ``elsewhere=`` (cannot be run here).
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

KINDS = ("on", "stays", "service", "end", "elsewhere")
_FENCE = re.compile(r"^```(?P<language>\w*) ?(?P<mark>.*)\n(?P<text>(?:.*\n)*?)^```$", re.MULTILINE)
_SAVE = '; code=$?; { export -p; umask -p; printf "cd %q\\n" "$PWD"; } > "$STATE"; exit $code'


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its marks, and its lines."""

    language: str
    marks: Mapping[str, tuple[str, ...]]
    text: str

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Each command with what the guide shows of its output; a script is one command."""
        if self.language == "sh":
            yield self.text, []
            return
        shown: list[str] = []
        command = ""
        for line in self.text.splitlines():
            if not line.startswith("$ "):
                shown.append(line)
                continue
            if command:
                yield command, shown
            command, shown = line[2:], []
        yield command, shown


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of a document, in order."""
    found = []
    for fence in _FENCE.finditer(text):
        words = [word.partition("=") for word in fence["mark"].split()]
        marks = {kind: tuple(value.split(",")) for kind, _, value in words}
        found.append(Block(fence["language"], marks, fence["text"]))
    return found


def has_valid_syntax(script: str) -> bool:
    """Whether bash can parse a script."""
    done = subprocess.run(["bash", "-n"], input=script, text=True, timeout=10, check=False)
    return done.returncode == 0


@dataclass
class Machine:
    """A folder that plays a machine: its home, and the state of its shell between commands."""

    home: Path
    environment: Mapping[str, str]
    running: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home.mkdir()
        self.state.write_text(f"cd {shlex.quote(str(self.home))}\n")
        own = {"HOME": str(self.home), "STATE": str(self.state), "LC_ALL": "C.UTF-8"}
        self.environment = {**self.environment, **own}

    @property
    def state(self) -> Path:
        return self.home / ".state"

    @property
    def log(self) -> Path:
        """What commands that stay have said."""
        return self.home / "stays.log"

    def run(self, command: str) -> str:
        """Run a command to its end, as the next one in the machine's shell; its output."""
        script = f"set -e; source {shlex.quote(str(self.state))}; set +e\n{{ {command}\n}}{_SAVE}"
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-c", script],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, command: str, **more: str) -> None:
        """Start a command that stays."""
        script = f"source {shlex.quote(str(self.state))}; exec {command}"
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                ["bash", "--noprofile", "--norc", "-c", script],
                env={**self.environment, **more},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.running.append(process)

    def start_service(self, unit: Path) -> None:
        """Start what a service manager would, with the unit's environment and nothing else."""
        lines = [line.partition("=") for line in unit.read_text().splitlines()]
        found = {key: self._filled(value) for key, _, value in lines if not key.startswith("#")}
        name, _, value = found["Environment"].partition("=")
        file = Path(found["EnvironmentFile"].removeprefix("-"))
        given = dict(line.split("=", 1) for line in file.read_text().splitlines())
        self.start(found["ExecStart"], **given, **{name: value})

    def _filled(self, text: str) -> str:
        return text.replace("%h", str(self.home)).replace("%E", str(self.home / ".config"))

    def wait_for(self, text: str, seconds: float = 60.0) -> None:
        """Wait until what stays has said something."""
        until = time.monotonic() + seconds
        while text not in self.log.read_text():
            assert all(p.poll() is None for p in self.running), self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)

    def wait(self, seconds: float = 90.0) -> None:
        """Wait for what stays to end, well."""
        for process in self.running:
            assert process.wait(seconds) == 0, self.log.read_text()
        self.running.clear()

    def end(self) -> None:
        """End what still runs."""
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def verify_unit(unit: Path, scratch: Path) -> None:
    """Let systemd judge a user's unit, where it is installed."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        return
    done = subprocess.run(
        [tool, "verify", "--user", str(unit)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
