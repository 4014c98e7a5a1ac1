"""A graph that is ready to run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.onnx.graph import Written
from fedloom.backbones.onnx.weights import Floats
from fedloom.core.errors import ModelError

__all__ = ["Feeds", "Runner", "runtime_here"]

Feeds = Mapping[str, NDArray[np.float32] | NDArray[np.int64]]


class Runner:
    """One graph in onnxruntime, on the CPU.

    Its activations stay in an arena of onnxruntime's: MiniLM on 512 tokens took 18 MB there, and
    60 MB of the C library's heap without.

    Args:
        graph: of one output.
        threads: of its products (0: as many as onnxruntime likes).

    Raises:
        ModelError: onnxruntime is not installed, or cannot run the graph.
    """

    def __init__(self, graph: Written, threads: int = 0) -> None:
        runtime, self._kept = runtime_here(), graph.kept
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_mem_pattern = False  # shapes differ from batch to batch
        options.log_severity_level = 3  # errors; a device's log is its owner's
        try:
            only = ["CPUExecutionProvider"]
            self._session: Any = runtime.InferenceSession(graph.model, options, providers=only)
            self._session._model_bytes = None  # it would keep them, to fall back to a provider
        except Exception as error:  # onnxruntime raises its own errors
            raise ModelError(f"onnxruntime {runtime.__version__}: {error}") from error

    def __call__(self, feeds: Feeds) -> Floats:
        """The output, float32.

        Raises:
            RuntimeError: it cannot be computed, such as where memory ran out.
        """
        try:
            (found,) = self._session.run(None, {**self._kept, **feeds})
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
