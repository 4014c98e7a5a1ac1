"""Processes that start at once: forks of one that has imported all of fedloom.

Each has a folder, an environment and outputs of its own, and ends by any signal, as a command
does that a shell starts. Where ``FEDLOOM_KILLS`` is set, as in a nightly run, each is an
interpreter of its own instead.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, NoReturn, Protocol

__all__ = ["Process", "command_environment", "start"]

ROOT = Path(__file__).parents[1]
AFRESH = "FEDLOOM_KILLS" in os.environ
CODE = (
    "import importlib, sys\n"
    "module, _, name = sys.argv[1].partition(':')\n"
    "sys.exit(getattr(importlib.import_module(module), name)(sys.argv[2:]))"
)
NUMBER = struct.Struct("i")


class Process(Protocol):
    """What tests use of a ``subprocess.Popen[str]``."""

    pid: int
    stdout: IO[str] | None
    stderr: IO[str] | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def communicate(self, *, timeout: float | None = None) -> tuple[str, str]: ...
    def send_signal(self, how: int, /) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def command_environment() -> dict[str, str]:
    """The environment of a command that runs this checkout on one thread."""
    found = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join(part for part in (str(ROOT), found) if part)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}


def start(
    arguments: Sequence[str | Path],
    cwd: Path | None = None,
    *,
    call: str = "fedloom.cli:main",
    variables: Mapping[str, str] | None = None,
    stdout: IO[bytes] | int = subprocess.PIPE,
    stderr: IO[bytes] | int = subprocess.PIPE,
) -> Process:
    """Start a command of fedloom.

    Args:
        arguments: of it.
        cwd: its folder.
        call: the function that gets the arguments and gives the exit code, as ``module:name``.
        variables: what its environment has besides.
        stdout: a file, its number, or a pipe to read from.
        stderr: the same.
    """
    environment = {**command_environment(), **(variables or {})}
    words = [call, *map(str, arguments)]
    if AFRESH:
        environment["PYTHONPATH"] += os.pathsep + str(ROOT / "tests")
        command, where = [sys.executable, "-c", CODE, *words], cwd or Path.cwd()
        return subprocess.Popen(
            command, cwd=where, env=environment, stdout=stdout, stderr=stderr, text=True
        )
    (out, read), (error, also) = (_written(each) for each in (stdout, stderr))
    status, told = os.pipe()
    request = {"words": words, "cwd": str(cwd or Path.cwd()), "environment": environment}
    socket.send_fds(_parent(), [json.dumps(request).encode() + b"\n"], [out, error, told])
    for handle in (out, error, told):
        os.close(handle)
    return _Forked(NUMBER.unpack(os.read(status, NUMBER.size))[0], read, also, status)


def _written(where: IO[bytes] | int) -> tuple[int, IO[str] | None]:
    """What a process writes to, and what is read from where that is a pipe."""
    if where == subprocess.PIPE:
        read, write = os.pipe()
        return write, os.fdopen(read, encoding="utf-8")
    return os.dup(where if isinstance(where, int) else where.fileno()), None


@dataclass(eq=False)
class _Forked:
    pid: int
    stdout: IO[str] | None
    stderr: IO[str] | None
    status: int
    code: int | None = None

    def poll(self) -> int | None:
        return self._ended(0.0)

    def _ended(self, seconds: float | None) -> int | None:
        if self.code is None and select.select([self.status], [], [], seconds)[0]:
            (self.code,) = NUMBER.unpack(os.read(self.status, NUMBER.size))
            os.close(self.status)
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def communicate(self, *, timeout: float | None = None) -> tuple[str, str]:
        pipes = (self.stdout, self.stderr)
        with ThreadPoolExecutor(2) as readers:
            both = [readers.submit(pipe.read) if pipe else None for pipe in pipes]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            out, error = (each.result(timeout) if each else "" for each in both)
        for pipe in pipes:
            if pipe is not None:
                pipe.close()
        return out, error

    def send_signal(self, how: int, /) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, how)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def _parent() -> socket.socket:
    """Where the process is asked whose children the commands are."""
    ours, its = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, __file__, str(its.fileno())],
        cwd=ROOT,
        env=command_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[its.fileno()],
    )
    its.close()

    def end() -> None:
        ours.close()
        process.wait(10)

    atexit.register(end)
    return ours


def _import_everything() -> None:
    fedloom = importlib.import_module("fedloom")
    for module in pkgutil.walk_packages(fedloom.__path__, "fedloom."):
        if not module.name.rpartition(".")[2].startswith("_"):  # main modules, and compiled C
            with suppress(ModuleNotFoundError):  # of an extra
                importlib.import_module(module.name)


def _serve(asked: socket.socket) -> int:
    """Answer each request by a child, until nobody asks any more."""
    while True:
        data, handles, _, _ = socket.recv_fds(asked, 1 << 20, 3)
        while data and not data.endswith(b"\n"):
            data += asked.recv(1 << 20)
        with suppress(ChildProcessError):  # nobody is left
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not data:
            return 0
        if not os.fork():
            asked.close()
            _watch(json.loads(data), *handles)
        for handle in handles:
            os.close(handle)


def _watch(request: dict[str, object], out: int, error: int, told: int) -> NoReturn:
    """Have the command run by a child, and tell its number and its exit code."""
    pid = os.fork()
    if not pid:
        os.close(told)
        _run(request, out, error)
    os.close(out)
    os.close(error)
    os.write(told, NUMBER.pack(pid))
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(told, NUMBER.pack(os.waitstatus_to_exitcode(status)))
    os._exit(0)


def _run(request: dict[str, object], out: int, error: int) -> NoReturn:
    for handle, number in ((out, 1), (error, 2)):
        os.dup2(handle, number)
        os.close(handle)
    words, variables = request["words"], request["environment"]
    assert isinstance(words, list)
    assert isinstance(variables, dict)
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(variables)
    sys.path.insert(0, "")
    module, _, name = words[0].partition(":")
    try:
        code = int(getattr(importlib.import_module(module), name)(words[1:]) or 0)
    except SystemExit as exit:
        code = int(exit.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    _end(code)


def _end(code: int) -> NoReturn:
    """End as an interpreter does, but for taking apart what was imported: a second of work."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _import_everything()
    gc.freeze()  # so that children leave it where it is
    sys.exit(_serve(socket.socket(fileno=int(sys.argv[1]))))
