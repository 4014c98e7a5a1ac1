"""A forward pass as an ExecuTorch program (``.pte``) for phones, and a manifest beside it.

Products with weights in float32 go to XNNPACK; what it does not take, such as the unpacking of
stored weights, to ExecuTorch's own operations. Activations are float32 throughout: rounded ones
spoil the finite differences that such a program is for.
"""

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedloom.core.errors import ConfigError, ModelError, RunError
from fedloom.tuning.forward_program import ForwardProgram

__all__ = ["Program", "check_installed", "run_program", "write_program"]

FORMAT = "fedloom-forward/1"
_MISSING = "an ExecuTorch program needs: pip install 'fedloom[executorch]'"
_TOLERANCE = 1e-4
"""Largest difference of a logit from ours that is taken, relative to the largest logit or 1."""


@dataclass(frozen=True)
class Program:
    """What was written.

    Attributes:
        path: the program.
        manifest: the JSON file beside it.
        size: bytes of the program.
        error: the largest difference of a logit from that of the model here, on random inputs.
        largest: the largest magnitude of a logit there.
    """

    path: Path
    manifest: Path
    size: int
    error: float
    largest: float


def check_installed() -> None:
    """Find out early that nothing can be written.

    Raises:
        ConfigError: ExecuTorch is not installed; the extra is named.
    """
    with _quiet():
        try:
            import executorch.exir
            import executorch.runtime  # noqa: F401
        except ImportError:
            raise ConfigError(_MISSING) from None


def write_program(forward: ForwardProgram, path: Path, facts: Mapping[str, Any]) -> Program:
    """Write a program and its manifest, once it was found to give the same logits as the model.

    Args:
        forward: the forward pass.
        path: of the program; the manifest has the same name with ``.json``.
        facts: what else the manifest says, such as the job's.

    Raises:
        ConfigError: ExecuTorch is not installed.
        ModelError: the program does not compute what the model does; nothing is written.
        RunError: a file cannot be written.
    """
    check_installed()
    data = _lowered(forward)
    ours, theirs = forward.run(forward.inputs), run_program(data, [*forward.inputs.values()])
    largest, error = float(ours.abs().max()), float((ours - theirs).abs().max())
    if not error <= _TOLERANCE * max(largest, 1.0):
        text = f"a logit differs by {error:.2g} from the model's, of at most {largest:.3g}"
        raise ModelError(f"{path}: the program is not written: {text}")
    about = path.with_suffix(".json")
    table = {"program": _file(path, data), **_contents(forward)}
    logits = {"name": "logits", "dtype": "float32", "shape": list(ours.shape)}
    table = {**table, "outputs": [logits], **facts, "error": error}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        about.write_text(json.dumps(table, indent=2) + "\n")
    except OSError as problem:
        raise RunError(f"{path}: cannot be written: {problem.strerror}") from None
    return Program(path, about, len(data), error, largest)


def run_program(data: bytes, inputs: Sequence[Tensor]) -> Tensor:
    """What a program gives, in ExecuTorch's runtime for Python.

    Raises:
        ConfigError: ExecuTorch is not installed.
    """
    check_installed()
    with _quiet():
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(data).load_method("forward")
        found: Tensor = method.execute(list(inputs))[0].clone()
    return found


def _lowered(forward: ForwardProgram) -> bytes:
    """The program's bytes."""
    with _quiet(), torch.no_grad():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        graph = torch.export.export(forward.traced(), tuple(forward.inputs.values()))
        edge = to_edge_transform_and_lower(graph, partitioner=[XnnpackPartitioner()])
        data: bytes = edge.to_executorch().buffer
    return data


def _contents(forward: ForwardProgram) -> dict[str, Any]:
    """What a client must know to call the program."""
    model, size = forward.model, forward.size
    names = model.layout
    inputs = [
        {
            "name": name,
            "kind": "adapter" if name in names else "examples",
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
        }
        for name, tensor in forward.inputs.items()
    ]
    return {
        "format": FORMAT,
        "perturbations": size.perturbations,
        "batch": size.batch,
        "length": forward.tokens,
        "layout": model.layout.digest,
        "backbone": {"sha256": model.backbone.digest, "family": model.backbone.shape.family},
        "inputs": inputs,
    }


def _file(path: Path, data: bytes) -> dict[str, Any]:
    return {"file": path.name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes that ExecuTorch and what it imports leave on the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
