"""Rounds of a deployed Flower federation: a SuperLink and SuperNodes on this machine.

Run with the baselines' interpreter: ``python -m baselines.flower_live --clients 2 --rounds 5``;
one line of JSON. Each SuperNode starts a process for every message, which is Flower's default.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from baselines.launch import free_port
from baselines.work import WORKS
from live.processes import Process, descendants, ended, pss_mib, until

__all__ = ["main"]

_BIN = Path(sys.executable).parent
_PROJECT = """
[project]
name = "rounds"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "bench"

[tool.flwr.app.components]
serverapp = "rounds.apps:server"
clientapp = "rounds.apps:client"

[tool.flwr.app.config]
"""
_APPS = """
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from baselines import flower_live_apps

server = flower_live_apps.server
client = flower_live_apps.client
"""
_QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
_NODES_SETTLE = 5.0


def main() -> None:
    """Measure as the command line asks, and print one JSON line."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory() as text, ExitStack() as stack:
        folder = Path(text)
        port = free_port()
        _write(folder, port, options)
        command = ["flower-superlink", "--insecure", "--port", str(port)]
        stack.enter_context(_started(folder, "superlink", command))
        until(lambda: _listens(port), "the SuperLink", seconds=60, every=0.1)
        nodes = [
            stack.enter_context(_started(folder, f"node{i}", _node(port, i, options.clients)))
            for i in range(options.clients)
        ]
        time.sleep(_NODES_SETTLE)
        memory = [sum(map(pss_mib, descendants(node.pid))) for node in nodes]
        found = _rounds(folder, options) if options.rounds else {}
    line = {"clients": options.clients, "memory_mib": max(memory), **found}
    print(json.dumps({**line, "versions": {"flwr": version("flwr")}}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m baselines.flower_live")
    parser.add_argument("--clients", type=int, default=2, help="SuperNodes, all in every round")
    parser.add_argument("--rounds", type=int, default=5, help="0: only the nodes' memory")
    parser.add_argument("--size", type=int, default=25_000, help="numbers of the model")
    parser.add_argument("--work", choices=("", *WORKS), default="", help="what a client trains")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds before it is stopped")
    return parser


def _node(port: int, index: int, nodes: int) -> list[str]:
    config = f"partition-id={index} num-partitions={nodes}"
    command = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}"]
    return [*command, "--port", str(free_port()), "--node-config", config]


def _write(folder: Path, port: int, options: argparse.Namespace) -> None:
    """The app, and the address of the SuperLink for ``flwr run``."""
    package = folder / "app" / "rounds"
    package.mkdir(parents=True)
    config: Mapping[str, Any] = {
        "nodes": options.clients,
        "rounds": options.rounds,
        "size": options.size,
        "work": options.work,
        "times": str(folder / "times.jsonl"),
    }
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in config.items())
    (folder / "app" / "pyproject.toml").write_text(_PROJECT + lines, encoding="utf-8")
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "apps.py").write_text(_APPS, encoding="utf-8")
    link = f'[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (folder / "config.toml").write_text(link, encoding="utf-8")


def _rounds(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run the app; seconds of each round after the first."""
    command = [str(_BIN / "flwr"), "run", str(folder / "app"), "here"]
    done = subprocess.run(command, env=_environment(folder), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    path = folder / "times.jsonl"

    def lines() -> list[dict[str, Any]]:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return [json.loads(line) for line in text.splitlines()]

    try:
        until(lambda: len(lines()) > options.rounds, "rounds", seconds=options.limit, every=0.2)
    except TimeoutError as error:
        logs = "".join(p.read_text(errors="replace")[-1500:] for p in folder.glob("*.log"))
        raise RuntimeError(f"{error}: {len(lines())} lines\n{done.stdout}\n{logs}") from None
    times = [line["time"] for line in lines()]
    short = [line for line in lines()[1:] if line["replies"] != [options.clients]]
    if short:
        raise RuntimeError(f"not all {options.clients} clients answered: {short}")
    seconds = [round(b - a, 3) for a, b in pairwise(times)]
    return {"round_seconds": seconds, "rounds": options.rounds}


@contextmanager
def _started(folder: Path, name: str, command: list[str]) -> Iterator[Process]:
    with (folder / f"{name}.log").open("wb") as log:
        path = str(_BIN / command[0])
        process: Process = subprocess.Popen(
            [path, *command[1:]], env=_environment(folder), stdout=log, stderr=log, text=True
        )
        with ended(process):
            yield process


def _environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join((str(_BIN), os.environ.get("PATH", "")))
    return {**os.environ, **_QUIET, "FLWR_HOME": str(folder), "PATH": path}


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
