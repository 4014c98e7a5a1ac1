"""What Flower's code needs around it where Flower's own runtime does not run it."""

import gc
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np

from fedloom.core.errors import ConfigError
from fedloom.core.seeds import derive

__all__ = ["borrowed_randomness", "flower", "identified"]

_RUN = 1
_WORD = 32


def flower() -> ModuleType:
    """The package ``flwr``, with what users see of it imported.

    Raises:
        ConfigError: it is not installed, or older than its strategies of this kind.
    """
    try:
        import flwr.app
        import flwr.clientapp
        import flwr.server.strategy
        import flwr.serverapp.strategy
    except ImportError as error:
        text = "what is Flower's needs flwr 1.26 or newer: pip install 'fedloom[flower]'"
        raise ConfigError(f"{text} ({error})") from None
    return flwr  # type: ignore[no-any-return, unused-ignore]  # untyped here


def identified(run: int = _RUN) -> None:
    """Say who this process is, where Flower's runtime has not: messages cannot be made without.

    Since Flower 1.38 ``Message`` asks for it; before that there is nothing to say.
    """
    try:
        from flwr.supercore.task_identity import TaskIdentity
    except ImportError:
        return
    try:
        _ = TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id
    except RuntimeError:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run, 1


@contextmanager
def borrowed_randomness(seed: int, purpose: str, *, round: int) -> Iterator[None]:
    """Let code draw from Python's and numpy's global generators as the run's seed has it.

    Flower's strategies sample by ``random`` and add noise by ``numpy.random``. Both are as they
    were afterwards; and Flower's running commentary is not printed.

    Args:
        seed: the run's.
        purpose: what is drawn.
        round: of the run.
    """
    log = logging.getLogger("flwr")
    level, ours, numpys = log.level, random.getstate(), np.random.get_state()
    key = derive(seed, f"flower.{purpose}", round=round)
    random.seed(key)
    np.random.seed([(key >> _WORD * i) % 2**_WORD for i in range(4)])
    log.setLevel(max(level, logging.WARNING))
    # Some of Flower's code collects garbage after each array, of which there may be thousands; what
    # was there before the call need not be walked each time.
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        log.setLevel(level)
        random.setstate(ours)
        np.random.set_state(numpys)
