"""Bare servers that start at once: forks of a process that has imported everything.

Run as a program it reads one line of JSON for each server (folder, settings, failpoint, where its
stderr goes) and writes what `bare_server` says, between the server's pid and its exit code.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bare_server import main
from command_forks import command_environment

from fedloom.server.failpoints import VARIABLE

__all__ = ["Nursery"]


class Nursery:
    """A process whose forks are servers, one at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=command_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._lines: list[bytes] = []
        self._rest = b""
        self._pid = 0

    def start(self, folder: Path, settings: dict[str, Any], failpoint: str, errors: Path) -> None:
        """Start a server."""
        line = json.dumps([str(folder), settings, failpoint, str(errors)]) + "\n"
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()
        told = self.said(30.0)
        assert told is not None
        self._pid = int(told["pid"])

    def said(self, seconds: float) -> dict[str, Any] | None:
        """The next that it says, waiting up to so many seconds; its ``code`` is the last."""
        assert self._process.stdout is not None
        until = time.monotonic() + seconds
        while not self._lines:
            left = max(0.0, until - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                return None
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            assert data, "the nursery has ended"
            *whole, self._rest = (self._rest + data).split(b"\n")
            self._lines += whole
        found: dict[str, Any] = json.loads(self._lines.pop(0))
        self._pid = 0 if "code" in found else self._pid
        return found

    def kill(self) -> int:
        """End the server, where it has not ended; its exit code."""
        assert self._pid
        os.kill(self._pid, signal.SIGKILL)
        while (told := self.said(30.0)) is not None:
            if "code" in told:
                return int(told["code"])
        raise AssertionError("not even SIGKILL ends it")

    def settle(self) -> None:
        """End what a test that failed has left."""
        if self._pid:
            self.kill()

    def close(self) -> None:
        """End everything."""
        self.settle()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def _serve(folder: str, settings: dict[str, Any], failpoint: str, errors: str) -> None:
    """Be a server; does not return."""
    handle = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 2)
    os.environ[VARIABLE] = failpoint
    print(json.dumps({"pid": os.getpid()}), flush=True)
    main(Path(folder), settings)


def _nurse() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _serve(*json.loads(line))
            return
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    _nurse()
