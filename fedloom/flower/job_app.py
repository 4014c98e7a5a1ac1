"""Writes a job of fedloom as a Flower app: a pyproject.toml and a package of small modules."""

import json
import re
from pathlib import Path

from fedloom import __version__
from fedloom.core.config import to_table
from fedloom.core.errors import RunError
from fedloom.core.job import Job
from fedloom.flower.job_server import check_carried

__all__ = ["write_app"]

_PACKAGE = "fedloom_job"
_PYPROJECT = """\
# A fedloom job as a Flower app. Every machine that runs it needs fedloom[flower] and the backbone.
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "1.0.0"
description = "A fedloom job"
license = "Apache-2.0"
dependencies = ["fedloom[flower]>={version}"]

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "fedloom"

[tool.flwr.app.components]
serverapp = "{package}.server_app:app"
clientapp = "{package}.client_app:app"

[tool.fedloom]
resumes-itself = true

[tool.flwr.app.config]
settings = "" # key=value over the job, separated by blanks
"""
_MODULE = '''\
"""{title}"""

from fedloom.flower.job_{side} import {side}_app

from {package}.job import TABLE

app = {side}_app(TABLE)
'''
_JOB = '''\
"""The job, as it was when the app was written."""

import json

TABLE = json.loads({text!r})
'''


def write_app(job: Job, folder: Path) -> None:
    """Write the app of a job into an empty folder.

    Raises:
        ConfigError: Flower's messages cannot carry the job.
        RunError: the folder is not empty, or cannot be written.
    """
    check_carried(job)
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty; choose another")
    name = re.sub(r"[^a-z0-9]+", "-", job.name.lower()).strip("-") or "job"
    facts = {"name": name, "version": __version__, "package": _PACKAGE}
    package = folder / _PACKAGE
    try:
        package.mkdir(parents=True, exist_ok=True)
        (folder / "pyproject.toml").write_text(_PYPROJECT.format(**facts), encoding="utf-8")
        (package / "__init__.py").write_text('"""A fedloom job."""\n', encoding="utf-8")
        text = json.dumps(to_table(job))
        (package / "job.py").write_text(_JOB.format(text=text), encoding="utf-8")
        for side, title in (("server", "The ServerApp."), ("client", "The ClientApp.")):
            module = _MODULE.format(side=side, title=title, package=_PACKAGE)
            (package / f"{side}_app.py").write_text(module, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from None
