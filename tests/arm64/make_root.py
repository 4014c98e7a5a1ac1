"""Make what the emulation runs in: an arm64 Debian and the client's wheels, about 2.2 GB.

Usage, as root: ``python tests/arm64/make_root.py [FOLDER]`` (`$FEDLOOM_ARM64`, or else
``~/.cache/fedloom/arm64``). It needs the Debian packages debootstrap and qemu-user-static, and a
kernel with binfmt_misc. What is made is kept: the same command goes on after an interruption.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from emulated import OTHER_SITE, SITE, command, environment
from wheels import CLIENT, TOO_NEW, WITH_PIP, download, unpack, wanted

__all__ = ["default_folder", "lacking", "main", "root_of"]

PACKAGES = ("gcc", "libc6-dev", "python3", "python3-venv")
SUITE = "bookworm"
BINFMT = Path("/proc/sys/fs/binfmt_misc")
REGISTRATION = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
_TOOLS = {"debootstrap": "debootstrap", "qemu-aarch64-static": "qemu-user-static"}


def default_folder() -> Path:
    """Where it is made if nobody says."""
    named = os.environ.get("FEDLOOM_ARM64", "")
    return Path(named) if named else Path.home() / ".cache" / "fedloom" / "arm64"


def root_of(folder: Path) -> Path:
    """The foreign system's root."""
    return folder / "root"


def lacking(
    which: Callable[[str], str | None] = shutil.which, user: int | None = None
) -> Iterator[str]:
    """What has to be put right before it can be made, a line each."""
    if (os.geteuid() if user is None else user) != 0:
        yield "it changes roots and mounts folders: run it as root"
    packages = [package for tool, package in _TOOLS.items() if which(tool) is None]
    if packages:
        yield f"apt-get install {' '.join(packages)}"


def main(arguments: list[str]) -> int:
    """Make all that is not there yet; the exit status."""
    folder = Path(arguments[0]).resolve() if arguments else default_folder()
    missing = list(lacking())
    if missing:
        print(*missing, sep="\n", file=sys.stderr)
        return 2
    register()
    made = False
    for number, step in enumerate(STEPS, 1):  # what follows upon something new is made again
        made = do(step, f"{number} of {len(STEPS)}, {step.name}", folder, again=made)
    print(f"made: FEDLOOM_ARM64={folder}")
    return 0


@dataclass(frozen=True)
class Step:
    """One thing to make.

    Attributes:
        name: for people, and of the note that it is made.
        what: from which it is made; what was made from something else is made again.
        make: makes it in a folder from that.
    """

    name: str
    what: tuple[str, ...]
    make: Callable[[Path, Sequence[str]], None]


def do(step: Step, title: str, folder: Path, *, again: bool) -> bool:
    """Make it, unless a note says that it is there; whether it was made."""
    note, what = folder / f"{step.name}.made", " ".join(step.what)
    if not again and note.exists() and note.read_text() == what:
        print(f"{title}: there", flush=True)
        return False
    print(f"{title}: {what}", flush=True)
    began = time.monotonic()
    note.unlink(missing_ok=True)
    step.make(folder, step.what)
    note.write_text(what)
    print(f"{title}: {time.monotonic() - began:.0f} s", flush=True)
    return True


def register() -> None:
    """Let the kernel start programs for ARM through qemu."""
    if not (BINFMT / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=True)
    if not (BINFMT / "qemu-aarch64").exists():
        (BINFMT / "register").write_text(REGISTRATION.read_text())


def debian(folder: Path, packages: Sequence[str]) -> None:
    """A Debian from its packages: unpacked here, set up by its own programs in the emulation."""
    root, cache = root_of(folder), folder / "packages"
    shutil.rmtree(root, ignore_errors=True)  # half of one is of no use
    cache.mkdir(parents=True, exist_ok=True)
    first = ["debootstrap", "--arch=arm64", "--foreign", "--variant=minbase"]
    first += [f"--include={','.join(packages)}", f"--cache-dir={cache}"]
    subprocess.run([*first, SUITE, str(root)], check=True)
    quick = root / "etc" / "dpkg" / "dpkg.cfg.d" / "unsafe-io"
    quick.parent.mkdir(parents=True, exist_ok=True)
    quick.write_text("force-unsafe-io\n")
    second = command(root, ["/debootstrap/debootstrap", "--second-stage"])
    subprocess.run(second, env=environment("max"), check=True)


def wheels(folder: Path, requirements: Sequence[str]) -> None:
    """The wheels, fetched by this machine's pip."""
    download(requirements, folder / "wheels")


def site(folder: Path, requirements: Sequence[str], place: str = SITE) -> None:
    """Wheels, unpacked where the emulated Python looks for them."""
    target = root_of(folder) / place.removeprefix("/")
    shutil.rmtree(target, ignore_errors=True)
    unpack(requirements, folder / "wheels", target)


def other(folder: Path, requirements: Sequence[str]) -> None:
    """Wheels that the client's are not."""
    wheels(folder, requirements)
    site(folder, requirements, OTHER_SITE)


STEPS = (
    Step("debian", PACKAGES, debian),
    Step("wheels", tuple(wanted((*CLIENT, *WITH_PIP))), wheels),
    Step("site", tuple(wanted(CLIENT)), site),
    Step("other", (TOO_NEW,), other),
)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
