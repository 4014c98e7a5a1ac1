"""The packages that a client in the emulation has, in the versions that ARM boards can run."""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["CLIENT", "TOO_NEW", "WITH_PIP", "download", "pins", "unpack", "wanted"]

ROOT = Path(__file__).parents[2]
CLIENT = (
    *("numpy", "grpcio", "protobuf", "typing_extensions", "cryptography", "cffi", "pycparser"),
    *("safetensors", "tokenizers"),
    *("torch", "filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "sympy"),
    *("onnxruntime", "flatbuffers"),  # of the client without torch
    *("rich", "markdown_it_py", "mdurl", "pygments"),  # of the command line
)
"""What the clients import, and what that imports."""
WITH_PIP = (
    *("huggingface_hub", "hf_xet", "httpx2", "httpcore2", "anyio", "h11", "idna", "truststore"),
    *("click", "pyyaml", "tqdm", "packaging", "setuptools"),
)
"""What pip wants besides: the packages that tokenizers asks for, and the builder of fedloom."""
TOO_NEW = "torch==2.10.0"
"""What processors without LSE atomics cannot import, to see that a client says so."""
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
_PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^;\s]+)")


def pins(*files: Path) -> dict[str, str]:
    """Versions by name (lower case, with underscores); a later file's win."""
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    found = [pin for line in lines if (pin := _PIN.match(line))]
    return {pin["name"].lower().replace("-", "_"): pin["version"] for pin in found}


def wanted(names: Iterable[str]) -> list[str]:
    """Requirements with the versions that are known to run on ARM boards."""
    versions = pins(ROOT / "constraints.txt", ROOT / "constraints-arm64.txt")
    return [f"{name}=={versions[name]}" if name in versions else name for name in names]


def download(requirements: Iterable[str], folder: Path) -> None:
    """Fetch wheels for 64-bit ARM, with this machine's pip; those that are there are not again.

    Raises:
        CalledProcessError: pip failed; it has said why.
    """
    _pip("download", "--dest", str(folder), *requirements)


def unpack(requirements: Iterable[str], wheels: Path, folder: Path) -> None:
    """Install wheels that were fetched into a folder. Nothing of them runs, so it takes seconds.

    Raises:
        CalledProcessError: pip failed; it has said why.
    """
    found = ("--no-index", "--find-links", str(wheels), "--no-compile")
    _pip("install", "--target", str(folder), *found, *requirements)


def _pip(action: str, *arguments: str) -> None:
    tags = [word for tag in _PLATFORMS for word in ("--platform", f"{tag}_aarch64")]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", action, "--no-deps"]
    command += ["--python-version", "3.11", *tags, "--only-binary=:all:", *arguments]
    subprocess.run(command, check=True)
