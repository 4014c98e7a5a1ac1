"""Linear maps of `transformers` models in bitsandbytes' NF4, as QLoRA trains over them.

Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", NeurIPS 2023. Levels and
groups of 64 are those of our own ``nf4-64``; scales are float32 here.
"""

import importlib.util
import logging
from typing import Any

from torch import Tensor, nn

from fedloom.backbones.blocks import block_names
from fedloom.backbones.formats import SCHEMES
from fedloom.core.errors import ModelError
from fedloom.core.job import BackboneConfig

__all__ = ["asks_four_bit", "dense_of", "store_layers", "stored_bytes", "weight_count"]


def asks_four_bit(backbone: BackboneConfig) -> bool:
    """Whether a job asks for bitsandbytes' NF4: in the generic engine, by name."""
    return backbone.engine == "transformers" and backbone.quantization == "nf4"


def store_layers(model: Any) -> None:
    """Store the linear maps of a model's layers in NF4, in place; heads and embeddings stay.

    Args:
        model: as transformers has it, on the CPU.

    Raises:
        ConfigError: groups do not divide the rows of a map; bitsandbytes 0.50 unpacks such weights
            to other numbers on CPUs.
        ModelError: bitsandbytes is not installed, or would run code that it downloads; or the model
            has no layer with a linear map.
    """
    library = _library()
    names = [f"{name}.weight" for name, module in model.named_modules() if _is_map(module)]
    blocks = block_names([name for name, _ in model.named_parameters()])
    inner = [name for name in names if "layer." in blocks.get(name, "")]
    if not inner:
        raise ModelError("backbone.quantization = 'nf4': the model has no layers of linear maps")
    for name in (name.removesuffix(".weight") for name in inner):
        parent, _, leaf = name.rpartition(".")
        stored = _stored(library, name, model.get_submodule(name))
        setattr(model.get_submodule(parent), leaf, stored)
    model.is_loaded_in_4bit = True  # peft asks


def _is_map(module: nn.Module) -> bool:
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"


def _library() -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        text = "needs bitsandbytes: pip install 'fedloom[qlora]'"
        raise ModelError(f"backbone.quantization = 'nf4' in transformers' engine {text}")
    if importlib.util.find_spec("kernels") is not None:
        text = "with the package 'kernels' bitsandbytes downloads native code and runs it"
        raise ModelError(f"{text}: pip uninstall kernels")
    # It warns that 'kernels' is absent, which it must be.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import bitsandbytes

    return bitsandbytes


def _stored(library: Any, name: str, module: Any) -> nn.Module:
    weight = module.weight.detach()
    whole = weight if isinstance(module, nn.Linear) else weight.t()
    SCHEMES["nf4-64"].check(name, whole.shape[1])
    options = {"compress_statistics": False, "quant_type": "nf4"}
    biased = module.bias is not None
    made = library.nn.Linear4bit(*whole.t().shape, bias=biased, device="meta", **options)
    kept = library.nn.Params4bit(whole.contiguous(), requires_grad=False, **options)
    made.weight = kept.to("cpu")  # here it is rounded
    if biased:
        made.bias = nn.Parameter(module.bias.detach(), requires_grad=False)
    # Else, without a gradient, it packs weights anew for products whose inputs are bfloat16.
    made.support_avx512bf16_for_cpu = False
    frozen: nn.Module = made.eval()
    return frozen


def _is_stored(module: nn.Module) -> bool:
    return type(module).__name__ == "Linear4bit" and hasattr(module.weight, "quant_state")


def dense_of(module: Any) -> Tensor:
    """The weight of a linear map as it is multiplied with, whatever it is kept in."""
    weight: Tensor = module.weight
    if not _is_stored(module):
        return weight
    whole: Tensor = _library().functional.dequantize_4bit(weight.data, weight.quant_state)  # type: ignore[attr-defined]
    return whole


def weight_count(model: nn.Module) -> int:
    """Numbers in a model's weights, those in fewer bits too."""
    stored = sum(m.in_features * m.out_features - m.weight.numel() for m in _stored_in(model))
    return int(stored) + sum(p.numel() for p in model.parameters())


def stored_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights, with the scales of those in fewer bits."""
    scales = sum(m.weight.quant_state.absmax.nbytes for m in _stored_in(model))
    return int(scales) + sum(p.numel() * p.element_size() for p in model.parameters())


def _stored_in(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if _is_stored(module)]
