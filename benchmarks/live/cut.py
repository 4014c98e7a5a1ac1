"""A transfer over a line that is cut: ``cut.py down|up MIB CUTS``; one line of JSON.

The device's own code (`fedloom.client`) against a real server, over mutual TLS.
"""

import hashlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedloom.client.backoff import Backoff
from fedloom.client.channel import Channel, Credentials
from fedloom.client.contents import Contents
from fedloom.client.enrol import identity_for
from fedloom.client.outbox import Finished, Outbox
from fedloom.client.refusals import is_passing
from fedloom.codecs.dense import Float32
from fedloom.core.errors import TransferError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Delta
from fedloom.protos import federation_pb2 as wire
from fedloom.security.tokens import JoinToken
from live.bare import MIB, bare_server, floats
from live.line import CutLine

__all__ = ["measure"]

TRIES, LIMIT = 200, 200.0


def measure(way: str, mib: int, cuts: int) -> dict[str, float]:
    """Bytes on the line over bytes of the content, with cuts at random places all along it."""
    size = mib * MIB
    draw = random.Random(11)
    places = sorted(draw.randrange(size // 50, size) for _ in range(cuts))
    with (
        bare_server(size=floats(size), rounds=1, clients=1, longest=LIMIT) as bare,
        tempfile.TemporaryDirectory() as text,
    ):
        folder = Path(text)
        direct = _channel(folder, bare.token, 0)
        task = _task(direct)
        line = CutLine(bare.port, places)
        channel = _channel(folder, bare.token, line.port)
        began = time.perf_counter()
        if way == "down":
            tries = _again(lambda: Contents(folder).fetch(*_blob(task), channel.download))
        else:
            tries = _sent(folder, task, size, channel)
        seconds = time.perf_counter() - began
        for each in (channel, direct):
            each.close()
        line.close()
    return {
        "ratio": line.carried / size,
        "cuts": line.made,
        "tries": tries,
        "seconds": seconds,
    }


def _channel(folder: Path, token: str, port: int) -> Channel:
    """The device's, to the server itself (0) or through a line."""
    identity = identity_for(folder, JoinToken.parse(token), name="device", root=folder)
    credentials = Credentials(identity.authority, identity.key, identity.certificate)
    return Channel("127.0.0.1", port or identity.port, credentials=credentials)


def _task(channel: Channel) -> wire.Task:
    request = wire.CheckInRequest(protocol=1, num_examples=3, wait_seconds=30.0)
    return channel.check_in(request).task


def _blob(task: wire.Task) -> tuple[str, int]:
    return task.model.sha256, task.model.size


def _sent(folder: Path, task: wire.Task, size: int, channel: Channel) -> int:
    count = floats(size)
    layout = Layout((TensorSpec("w", (count,), block="layer.0"),))
    draws = np.random.default_rng(1).standard_normal(count, dtype=np.float32)
    frame = Float32().encode(Delta(layout, draws)).frame
    digest = hashlib.sha256(frame).hexdigest()
    finished = Finished(task.ticket, len(frame), digest, "float32", 3, round=1)
    outbox = Outbox(folder / "outbox")
    outbox.put(replace(finished, metrics={"loss": 1.0}), frame)
    return _again(lambda: outbox.send(finished, channel))


def _again(transfer: Callable[[], object]) -> int:
    """Try as a device does, with shorter pauses; how often it took."""
    backoff = Backoff()
    for number in range(1, TRIES + 1):
        try:
            transfer()
            return number
        except TransferError as error:
            if not is_passing(error):
                raise
            time.sleep(min(backoff.next(error.retry_after), 0.2))
    raise RuntimeError(f"not over after {TRIES} tries")


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
