"""The device's own examples, read for a job. Nothing here loads torch."""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

from fedloom.client.manifest import Manifest
from fedloom.client.settings import is_callable
from fedloom.core.errors import ConfigError, DataError, FedloomError
from fedloom.tuning.data import Corpus, own_examples
from fedloom.tuning.reading import reading_of

__all__ = ["read_holdings", "stamp"]


def read_holdings(data: str, manifest: Manifest, folder: Path) -> Corpus:
    """Read the device's examples as a job wants them.

    Args:
        data: a file, or ``module:callable``.
        manifest: the job.
        folder: its backbone, for the tokenizer.

    Raises:
        ConfigError: the device names no data.
        DataError: the data cannot be read, or do not fit the job.
        ModelError: the backbone has no tokenizer.
    """
    if not data:
        raise ConfigError("data = '': expected a file of examples, or module:callable")
    job = manifest.job
    source = _called(data) if is_callable(data) else data
    config = replace(job.data, classes=manifest.classes)
    return own_examples(source, config, reading_of(job.backbone, folder), seed=job.seed)


def stamp(data: str) -> tuple[int, int]:
    """Changes when a data file does: when it was changed, and its size; zeros for no file."""
    try:
        found = os.stat(data)
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)


def _called(data: str) -> object:
    """What the owner's function returns."""
    module, _, name = data.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        function = cast(Callable[[], object], getattr(importlib.import_module(module), name))
        return function()
    except FedloomError:
        raise
    except Exception as error:  # the owner's code may raise anything
        raise DataError(f"data = {data!r}: {type(error).__name__}: {error}") from error
