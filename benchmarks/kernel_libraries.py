"""What other libraries have for a frozen matrix in few bits, where they are installed."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.schemes import pack
from kernel_timing import Contestant

__all__ = ["libraries"]


def libraries(weight: Tensor, x: Tensor, dy: Tensor) -> list[Contestant]:
    """bitsandbytes and onnxruntime (with ``onnx``), those of them that are here."""
    found = []
    if find_spec("bitsandbytes"):
        found += [_bitsandbytes(weight, x.to(t), dy.to(t)) for t in (torch.float32, torch.bfloat16)]
    if find_spec("onnxruntime") and find_spec("onnx"):
        found += [_four_bits(weight, x, level) for level in (0, 4)]
        found.append(_dynamic(weight, x))
    return found


def _bitsandbytes(weight: Tensor, x: Tensor, dy: Tensor) -> Contestant:
    library = import_module("bitsandbytes")
    codes, state = library.functional.quantize_4bit(
        weight.to(x.dtype), blocksize=64, quant_type="nf4"
    )
    whole = library.functional.dequantize_4bit(codes, state).float()
    leaf = x.clone().requires_grad_()
    y = library.matmul_4bit(leaf, codes.t(), quant_state=state)
    name = "bitsandbytes NF4"
    nbytes = codes.nbytes + state.absmax.nbytes

    def forward() -> Any:
        with torch.no_grad():
            return library.matmul_4bit(x, codes.t(), quant_state=state)

    def dx() -> Any:
        return torch.autograd.grad(y, leaf, dy, retain_graph=True)

    kind = str(x.dtype).removeprefix("torch.")
    return Contestant(name, kind, forward, dx, nbytes, x.float() @ whole.t())


def _four_bits(weight: Tensor, x: Tensor, level: int) -> Contestant:
    """MatMulNBits over the very codes and scales of ``int4-32``."""
    packed = pack(weight, SCHEMES["int4-32"])
    rows, columns = packed.shape
    codes = packed.codes.view(rows, columns // 32, 16).numpy()
    constants = {"B": codes, "scales": packed.scale.float().flatten().numpy()}
    options = {"K": columns, "N": rows, "bits": 4, "block_size": 32, "accuracy_level": level}
    run = _session("MatMulNBits", constants, options, x, rows)
    rounded = "int8 inside" if level else "float32"
    name = f"onnxruntime MatMulNBits 4 bits, {rounded}"
    return Contestant(name, "float32", run, None, packed.nbytes, x @ packed.whole().t())


def _dynamic(weight: Tensor, x: Tensor) -> Contestant:
    packed = pack(weight, SCHEMES["int8"])
    turned = packed.codes.t().contiguous().numpy()
    constants = {"B": turned, "scales": packed.scale.numpy()}
    run = _session("DynamicQuantizeMatMul", constants, {}, x, packed.shape[0])
    name = "onnxruntime dynamic int8"
    return Contestant(name, "float32", run, None, packed.nbytes, x @ packed.whole().t())


def _session(
    kind: str, constants: dict[str, Any], options: dict[str, int], x: Tensor, rows: int
) -> Callable[[], Tensor]:
    """One node in a model of its own, on this thread."""
    onnx, runtime = import_module("onnx"), import_module("onnxruntime")
    helper, numbers = onnx.helper, onnx.numpy_helper
    node = helper.make_node(kind, ["A", *constants], ["Y"], domain="com.microsoft", **options)
    wide = onnx.TensorProto.FLOAT
    ends = [
        helper.make_tensor_value_info(name, wide, size)
        for name, size in (("A", tuple(x.shape)), ("Y", (len(x), rows)))
    ]
    held = [numbers.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], held)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    how = runtime.SessionOptions()
    how.intra_op_num_threads = how.inter_op_num_threads = 1
    session = runtime.InferenceSession(
        model.SerializeToString(), how, providers=["CPUExecutionProvider"]
    )
    given = {"A": x.numpy()}
    return lambda: torch.from_numpy(session.run(None, given)[0])
