"""A graph that is ready to run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.onnx.graph import Written
from fedloom.backbones.onnx.matrices import Floats
from fedloom.core.errors import ModelError

__all__ = ["Feeds", "Runner", "runtime_here"]

_BFLOAT16 = 16  # of ONNX's types

Feeds = Mapping[str, NDArray[np.float32] | NDArray[np.int64]]


class Runner:
    """One graph in onnxruntime, on the CPU.

    Its activations stay in an arena of onnxruntime's: MiniLM on 512 tokens took 18 MB there, and
    60 MB of the C library's heap without. Of several graphs each would have an arena, and the heap
    is for all.

    Args:
        graph: of one output.
        threads: of its products (0: as many as onnxruntime likes).
        arena: whether it has one.
        alone: no other graph runs in turns with it. Threads of those that wait would take the
            cores from the one that runs: a 0.5B decoder took four times as long with two threads.

    Raises:
        ModelError: onnxruntime is not installed, or cannot run the graph.
    """

    def __init__(
        self, graph: Written, threads: int = 0, *, arena: bool = True, alone: bool = True
    ) -> None:
        runtime, self._fed = runtime_here(), graph.fed
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_mem_pattern = False  # shapes differ from batch to batch
        options.enable_cpu_mem_arena = arena
        if not alone:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors; a device's log is its owner's
        try:
            only = ["CPUExecutionProvider"]
            self._session: Any = runtime.InferenceSession(graph.model, options, providers=only)
            self._session._model_bytes = None  # it would keep them, to fall back to a provider
            self._kept = {name: _kept(runtime, array) for name, array in graph.kept.items()}
        except Exception as error:  # onnxruntime raises its own errors
            raise ModelError(f"onnxruntime {runtime.__version__}: {error}") from error

    def __call__(self, feeds: Feeds) -> Floats:
        """The output, float32, of what the graph takes of `feeds`.

        Raises:
            RuntimeError: it cannot be computed, such as where memory ran out.
        """
        try:
            own = {name: feeds[name] for name in self._fed}
            (found,) = self._session.run(None, {**self._kept, **own})
        except Exception as error:  # onnxruntime raises its own errors
            raise RuntimeError(f"onnxruntime: {error}") from error
        return np.asarray(found, dtype=np.float32)


def runtime_here() -> Any:
    """onnxruntime, imported.

    Raises:
        ModelError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        text = f"the engine onnx needs onnxruntime: pip install onnxruntime ({error})"
        raise ModelError(text) from None
    return onnxruntime


def _kept(runtime: Any, array: NDArray[Any]) -> Any:
    """As onnxruntime takes it, where it lies: numpy has no bfloat16."""
    if array.dtype != np.uint16:
        return array
    return runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
