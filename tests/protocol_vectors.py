"""Writes the conformance vectors of the protocol, `docs/vectors`, from fedloom's own code.

Run as ``python tests/protocol_vectors.py`` after a change of the protocol. Numbers of 32 bits
stand as the hex digits of their little-endian bytes, so that nothing is lost in decimal.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from protocol_messages import message_vectors
from protocol_refusals import REFUSALS, refusal

from fedloom.codecs.base import Codec
from fedloom.codecs.branches import branch_down
from fedloom.codecs.briefing import with_briefing
from fedloom.codecs.dense import Float32
from fedloom.codecs.steps_frame import Sent, write_sent
from fedloom.core.advance import Advance, Contribution, Move
from fedloom.core.advance_codec import encode_advance
from fedloom.core.gaussian import quantiles
from fedloom.core.layout import Layout, TensorSpec, Vector
from fedloom.core.perturbation_keys import client_number, key, pool_keys, run_id
from fedloom.core.perturbations import Rademacher, stream_bytes
from fedloom.core.registry import Component, create
from fedloom.core.seeds import derive, stream
from fedloom.core.step_ledger import digest_of
from fedloom.core.steps import FAMILIES, Directions, Steps
from fedloom.core.types import Delta, Params, State
from fedloom.security.tokens import JoinToken, digest
from fedloom.server.wire import MAX_CHUNK as CHUNK

FOLDER = Path(__file__).parent.parent / "docs" / "vectors"
SEED = 7
HEAD = frozenset({"head"})
LAYOUT = Layout(
    (
        TensorSpec("layer.0.q.lora_A.weight", (2, 20), "layer.0"),
        TensorSpec("layer.0.q.lora_B.weight", (15, 2), "layer.0"),
        TensorSpec("classifier.weight", (3, 5), "head", HEAD),
        TensorSpec("classifier.bias", (3,), "head", HEAD),
    )
)
MOVED, EXACT = Layout(LAYOUT.specs[:2]), Layout(LAYOUT.specs[2:])
CODECS: Mapping[str, Component] = {
    "float32": Component("float32"),
    "bf16": Component("bf16"),
    "fp16": Component("fp16"),
    "int8": Component("int8"),
    "int8-stochastic": Component("int8", {"block": 16, "stochastic": True}),
    "blockwise": Component("blockwise"),
    "nnadq": Component("nnadq"),
    "block-drop": Component("block-drop", {"rate": 0.4}),
}
SCALARS: Mapping[str, Mapping[str, Any]] = {
    "scalars-16": {"bits": 16},
    "scalars-8": {"bits": 8, "rest": "bf16"},
    "scalars-1": {"bits": 1, "scheme": "shared"},
    "scalars-pool": {"bits": 16, "scheme": "pool", "pool": 64},
    "scalars-gaussian": {"bits": 16, "family": "gaussian"},
}


def hexed(vector: Vector) -> str:
    """Float32 numbers as they lie in a frame."""
    return vector.astype("<f4").tobytes().hex()


def values(size: int, purpose: str) -> Vector:
    """Numbers of -1 to 1, the same on every machine."""
    return (stream(SEED, purpose).uniform(size) * 2 - 1).astype(np.float32)


def specs(layout: Layout) -> list[list[Any]]:
    """Names, shapes and blocks."""
    return [[spec.name, list(spec.shape), spec.block] for spec in layout]


class Vectors:
    """Files by name."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def frame(self, name: str, data: bytes) -> dict[str, Any]:
        """Keep a binary file; what JSON says of it."""
        self.files[name] = data
        return {"file": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}

    def table(self, name: str, content: object) -> None:
        """Keep a JSON file."""
        self.files[name] = (json.dumps(content, indent=1) + "\n").encode()


def codecs(out: Vectors) -> None:
    delta = Delta(LAYOUT, values(LAYOUT.size, "values"))
    found = []
    for name, component in CODECS.items():
        codec = cast(Codec, create("codecs", component))
        payload = codec.encode(delta, seed=SEED)
        back = codec.decode(payload, LAYOUT)
        about = {"name": name, "codec": codec.name, "options": dict(component.options)}
        frame = out.frame(f"{name}.bin", payload.frame)
        tensors = list(back.layout.names)
        found.append(about | {"frame": frame, "tensors": tensors, "decoded": hexed(back.vector)})
    given = {"tensors": specs(LAYOUT), "values": hexed(delta.vector), "frames": found}
    out.table("codecs.json", given)


def scalars(out: Vectors) -> None:
    rest, found = values(EXACT.size, "rest"), []
    for name, options in SCALARS.items():
        codec = cast(Codec, create("codecs", Component("scalars", dict(options))))
        agreed = cast(Directions, codec.directions)  # type: ignore[attr-defined]
        sent = np.array([3, -2, 1, 100, -127, 5, 0, -1, 7, 11], dtype=np.int32)
        if options["bits"] == 1:
            sent = np.where(sent > 0, 1, -1).astype(np.int32)
        if agreed.numbered:
            sent, some = np.zeros(agreed.pool, dtype=np.int32), sent
            sent[np.arange(len(some)) * 5 + 2] = some
        steps = Steps(MOVED, sent, 2.0**-9, agreed)
        payload = codec.encode(Delta(EXACT, rest, steps))
        bound = steps.bound(SEED, round=3, client="alice")
        change = bound.vector()
        back = codec.decode(payload, LAYOUT)
        found.append(
            {
                "name": name,
                "options": dict(options),
                "frame": out.frame(f"{name}.bin", payload.frame),
                "scalars": sent.tolist(),
                "coefficient": steps.coefficient,
                "rest": hexed(back.vector),
                "owner": str(agreed.owner("alice")),
                "change": hexed(change),
            }
        )
    origin = {"seed": SEED, "round": 3, "client": "alice"}
    table = {"exact": specs(EXACT), "moved": specs(MOVED), "origin": origin, "frames": found}
    out.table("scalars.json", table)


def perturbations(out: Vectors) -> None:
    run, client = run_id(SEED), client_number("alice")
    keys = [
        {"round": r, "group": g, "key": f"{key(run, round=r, client=client, group=g):032x}"}
        for r, g in ((0, 0), (3, 0), (3, 1))
    ]
    first = key(run, round=3, client=client, group=0)
    signs = np.empty((8, 40), dtype=np.int8)
    Rademacher().fill(signs, first, range(8))
    normal = np.zeros((2, 20), dtype=np.int64)
    for direction, row in enumerate(normal):
        one = [int(i == direction) for i in range(8)]
        FAMILIES["gaussian"].add(row, first, one)
    table = {
        "seed": SEED,
        "run_id": run.hex(),
        "client": {"name": "alice", "number": str(client)},
        "keys": keys,
        "pool_keys": [f"{k:032x}" for k in pool_keys(run, 16)],
        "stream": {
            "key": f"{first:032x}",
            "bytes_0_80": stream_bytes(first, 0, 80).tobytes().hex(),
            "bytes_1000_1010": stream_bytes(first, 1000, 1010).tobytes().hex(),
            "channel_1_bytes_0_40": stream_bytes(first, 0, 40, channel=1).tobytes().hex(),
        },
        "rademacher": {"key": f"{first:032x}", "signs": signs.tolist()},
        "gaussian": {
            "key": f"{first:032x}",
            "unit": 2.0**-12,
            "values": normal.tolist(),
            "table_sha256": hashlib.sha256(quantiles().astype("<i2").tobytes()).hexdigest(),
        },
        "derived": {
            "purpose": "order",
            "round": 3,
            "client": "a",
            "key": f"{derive(SEED, 'order', round=3, client='a'):032x}",
            "permutation_of_5": stream(SEED, "order", round=3, client="a").permutation(5).tolist(),
        },
    }
    out.table("perturbations.json", table)


def advances() -> list[Advance]:
    """A round of two clients along directions of their own, and one of a pool."""
    own = Move(
        *(MOVED, (2.0**-9, 2.0**-8), Directions(), 3),
        (
            Contribution(client_number("alice"), 2, np.array([300, -2, 1, 0, 9] * 2)),
            Contribution(client_number("bob"), 1, np.array([-5, 4, 1])),
        ),
    )
    few = np.zeros(64, dtype=np.int64)
    few[[2, 17, 40]] = 1, -700, 12
    pool = Move(*(MOVED, (2.0**-10,) * 2, Directions("pool", 64), 0), (Contribution(0, 1, few),))
    head = Delta(EXACT, values(EXACT.size, "head"))
    return [Advance((own,), head), Advance((pool,), Delta(Layout(()), values(0, "")), {"x": 0.5})]


def ledger(out: Vectors) -> None:
    params = Params(LAYOUT, values(LAYOUT.size, "model"))
    versions, frames = [params], [encode_advance(a, LAYOUT) for a in advances()]
    for advance in advances():
        versions.append(advance.apply(versions[-1], SEED))
    given = Delta(Layout(LAYOUT.specs[3:]), np.array([1, -2, 0.5], dtype=np.float32))
    sent = write_sent(Sent(b"", given, None, frames), LAYOUT)
    last = versions[-1].having(Params(given.layout, given.vector))
    table = {
        "seed": SEED,
        "tensors": specs(LAYOUT),
        "versions": [
            {"values": hexed(p.vector), "digest": digest_of(p.vector).hex()} for p in versions
        ],
        "advances": [out.frame(f"advance-{i}.bin", f) for i, f in enumerate(frames)],
        "downlink": {
            "frame": out.frame("downlink.bin", sent),
            "base": 0,
            "digest": digest_of(last.vector).hex(),
        },
    }
    out.table("ledger.json", table)


def beside(out: Vectors) -> None:
    params = Params(LAYOUT, values(LAYOUT.size, "model"))
    plain = Float32().encode(Delta(LAYOUT, params.vector)).frame
    arrays: dict[str, NDArray[Any]] = {
        "norms": np.array([[1, 2], [3, 4]], dtype=np.float32),
        "n": np.array(5, np.int64),
    }
    branch = branch_down(params.only(EXACT), State(params, 0), Float32(), EXACT, briefing={})
    table = {
        "tensors": specs(LAYOUT),
        "briefing": {
            "frame": out.frame("briefing.bin", with_briefing(plain, arrays)),
            "arrays": {name: [a.dtype.name, a.tolist()] for name, a in sorted(arrays.items())},
            "model": hashlib.sha256(plain).hexdigest(),
        },
        "branch": {
            "frame": out.frame("branch.bin", branch.frame),
            "tensors": list(EXACT.names),
            "values": hexed(params.only(EXACT).vector),
        },
    }
    out.table("beside.json", table)


def contents(out: Vectors) -> None:
    data = bytes((31 * i + 7) % 256 for i in range(600_000))
    cut = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    token = JoinToken("fl.example.org", 7440, "0123456789ab", "s" * 32, "ab" * 32)
    table = {
        "content": {
            "rule": "byte i is (31 i + 7) mod 256",
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "chunks": [[CHUNK * i, len(part), crc32(part)] for i, part in enumerate(cut)],
        },
        "layout": {"tensors": specs(LAYOUT), "digest": LAYOUT.digest},
        "token": {
            "text": str(token),
            **asdict(token),
            "stored": digest(token.secret),
        },
        "refusals": [refusal(*each) for each in REFUSALS],
    }
    out.table("contents.json", table)


def made() -> dict[str, bytes]:
    """Every file of the folder, by name."""
    out = Vectors()
    parts = (codecs, scalars, perturbations, ledger, beside, contents)
    for part in parts:
        part(out)
    table = [about | {"frame": out.frame(name, data)} for name, about, data in message_vectors()]
    out.table("messages.json", table)
    return out.files


def main() -> None:
    """Replace the folder's files."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.iterdir():
        path.unlink()
    for name, data in made().items():
        (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
