"""Where the far blocks of a job are: at its server, or with stages beside it."""

from typing import TYPE_CHECKING

from fedloom.client.connection import Connection
from fedloom.client.manifest import Manifest
from fedloom.client.stopping import Stop

if TYPE_CHECKING:
    from fedloom.client.split_work import Connect

__all__ = ["far_side"]


def far_side(connection: Connection, stop: Stop, manifest: Manifest) -> "Connect":
    """What begins sessions with the far side of a job whose model is split.

    Args:
        connection: to the server.
        stop: ends waits.
        manifest: of the job.

    Raises:
        ConfigError: stages serve the far blocks, and none is named as it should be.
    """
    split = manifest.job.split
    if split.mode == "frozen":
        from fedloom.client.stages import Stages

        own = split.stages, manifest.weights, connection.beside
        return Stages(*own, sleep=stop.wait).router
    from fedloom.client.split_work import over_channel

    return over_channel(connection.split, stop.wait)
