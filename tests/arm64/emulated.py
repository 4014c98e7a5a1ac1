"""Processes of the arm64 root: emulated by qemu, as one of its processors, with folders of ours."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = [
    "DEVICE",
    "OTHER_SITE",
    "PROCESSORS",
    "PROGRAM",
    "SITE",
    "call",
    "command",
    "environment",
]

PROCESSORS = ("cortex-a53", "cortex-a72", "cortex-a76")
"""Of Raspberry Pi 3 and Zero 2 W, Pi 4 (neither has LSE atomics nor dot products), and Pi 5."""
SITE, OTHER_SITE = "/opt/site", "/opt/other-site"
"""Where the root has the client's wheels, and a torch that most processors cannot run."""
PROGRAM, DEVICE = "/mnt/program", "/mnt/device"
"""Where it sees a copy of fedloom, and the files of a device."""
# What it mounts is seen by this process and those it starts, and is gone with them.
_ENTER = """
set -e
root=$1; shift
while [ "$1" != -- ]; do mkdir -p "$root$2"; mount --rbind "$1" "$root$2"; shift 2; done; shift
exec chroot "$root" "$@"
"""


def command(
    root: Path, arguments: Sequence[str], binds: Mapping[str, Path] | None = None
) -> list[str]:
    """A command that runs another one in the root, with ``/proc``, ``/sys`` and `binds`.

    It becomes that process: signals to it reach it. Without ``/proc`` and ``/sys`` libraries find
    no processor features, and take slow ways without a word.

    Args:
        root: the folder.
        arguments: the command as the root sees it.
        binds: folders of this machine, by their place in the root.
    """
    places = {"/proc": Path("/proc"), "/sys": Path("/sys"), **(binds or {})}
    pairs = [word for place, folder in places.items() for word in (str(folder), place)]
    enter = ["unshare", "--mount", "nice", "-n", "10", "sh", "-c", _ENTER, "sh", str(root)]
    return [*enter, *pairs, "--", *arguments]


def environment(processor: str, **more: str) -> dict[str, str]:
    """That of an emulated process: nothing of this machine's but the search path and proxies."""
    kept = {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")}
    return {
        **kept,
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{SITE}:{PROGRAM}",
        "QEMU_CPU": processor,
        **more,
    }


def call(
    root: Path,
    arguments: Sequence[str],
    *,
    binds: Mapping[str, Path] | None = None,
    env: Mapping[str, str],
) -> "subprocess.CompletedProcess[str]":
    """Run a command in the root to its end; its output, whatever its exit status."""
    return subprocess.run(
        command(root, arguments, binds),
        env=env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
