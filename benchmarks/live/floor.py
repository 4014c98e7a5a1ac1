"""What must be done with the bytes of an update, alone: ``floor.py memcpy|tcp|checks``.

``memcpy`` copies 1 MiB; ``tcp`` receives it over the loopback from another process; ``checks`` is
what the server promises of every update: the checksums of its chunks, SHA-256, the frame's
checksum, all finite, the exact sum. A line of JSON.
"""

import hashlib
import json
import socket
import sys
import time
import zlib
from collections.abc import Callable
from multiprocessing import Process

import numpy as np

from fedloom.codecs.dense import Float32
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import ClientUpdate, Delta, Payload
from fedloom.server.wire import MAX_CHUNK
from fedloom.strategies.fedavg import fedavg
from live.bare import MIB, floats

TIMES = 1000


def main() -> None:
    """Measure what the only argument names."""
    work = {"memcpy": _copying, "tcp": _receiving, "checks": _checking}[sys.argv[1]]()
    for _ in range(TIMES // 10):
        work()
    busy, began = time.process_time(), time.perf_counter()
    for _ in range(TIMES):
        work()
    spent, ended = time.process_time(), time.perf_counter()
    rates = {"updates_per_second": TIMES / (ended - began), "cpu_ms": 1000 * (spent - busy) / TIMES}
    print(json.dumps(rates))


def _copying() -> Callable[[], None]:
    source, target = bytes(MIB), bytearray(MIB)

    def copy() -> None:
        target[:] = source

    return copy


def _receiving() -> Callable[[], None]:
    listener = socket.create_server(("127.0.0.1", 0))
    sender = Process(target=_send, args=(listener.getsockname()[1],), daemon=True)
    sender.start()
    connection, _ = listener.accept()
    target = memoryview(bytearray(MIB))

    def receive() -> None:
        got = 0
        while got < MIB:
            got += connection.recv_into(target[got:])

    return receive


def _send(port: int) -> None:
    data = bytes(MIB)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        try:
            while True:
                connection.sendall(data)
        except OSError:  # the receiver has enough
            return


def _checking() -> Callable[[], None]:
    count, codec, strategy = floats(MIB), Float32(), fedavg()
    layout = Layout((TensorSpec("w", (count,), block="layer.0"),))
    draws = np.random.default_rng(1).standard_normal(count, dtype=np.float32)
    frame = codec.encode(Delta(layout, draws)).frame
    view, total = memoryview(frame), None

    def check() -> None:
        nonlocal total
        for at in range(0, len(frame), MAX_CHUNK):
            zlib.crc32(view[at : at + MAX_CHUNK])
        hashlib.sha256(frame).digest()
        delta = codec.decode(Payload(codec.name, frame), layout)
        if not np.isfinite(delta.vector).all():
            raise ValueError("not finite")
        total = strategy.accumulate(total, ClientUpdate("c", 1, 3, delta=delta))

    return check


if __name__ == "__main__":
    main()
