"""What a device installs, as docs/deploy.md lists it, is what the packages ask for."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
HEAVY = {
    *("transformers", "peft", "flwr", "ray", "pandas", "pyarrow", "matplotlib", "onnxruntime"),
    *("fastapi", "starlette", "uvicorn", "aiohttp", "flask", "werkzeug", "tensorboard"),
}


def asked(requirements: list[str], found: set[str]) -> set[str]:
    """The packages of requirements, and what they ask for, in `found`."""
    for text in requirements:
        wanted = Requirement(text)
        name = wanted.name.lower().replace("_", "-")
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        asked(distribution(name).requires or [], found)
    return found


def listed() -> set[str]:
    """The packages in the guide's table."""
    section = GUIDE.split("### What a device installs")[1].split("###")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}


def test_the_list_is_what_is_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    try:
        found = asked(project["dependencies"], set())
    except PackageNotFoundError as error:
        pytest.skip(f"not installed here: {error}")
    if any(name.startswith("nvidia-") for name in found):
        pytest.skip("the list is of torch's CPU wheel")
    assert found == listed()
    assert found.isdisjoint(HEAVY)
