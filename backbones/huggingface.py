"""Any `transformers` model as a frozen backbone, in full generality and without fused blocks.

Importing this module imports transformers (seconds, and well over 100 MB); the fused families do
without.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedloom.backbones.base import Linear
from fedloom.backbones.blocks import block_names
from fedloom.backbones.four_bit import store_layers
from fedloom.backbones.notes import scheme_in
from fedloom.core.errors import ModelError

__all__ = ["is_linear", "linears_of", "load", "norm_kind", "norms_of"]

_AUTO = {
    ("classify", "mean"): "AutoModel",
    ("classify", "last"): "AutoModel",
    ("classify", "mask"): "AutoModel",
    ("classify", "model"): "AutoModelForSequenceClassification",
    ("causal-lm", "mean"): "AutoModelForCausalLM",
    ("causal-lm", "model"): "AutoModelForCausalLM",
    ("classify-image", "mean"): "AutoModel",
    ("classify-image", "model"): "AutoModelForImageClassification",
}


def load(
    folder: Path,
    *,
    task: str,
    pooling: str,
    classes: int,
    dtype: torch.dtype,
    device: torch.device,
    four_bit: bool = False,
) -> tuple[nn.Module, frozenset[str]]:
    """Load a model for a task, frozen and in evaluation mode (no dropout).

    With `four_bit`, linear maps of its layers are then stored in bitsandbytes' NF4
    (`fedloom.backbones.four_bit`).

    Returns:
        The model, and the names of its tensors that the folder does not hold in this shape:
        a new head. Their values are of no use to anyone, but the same every time.

    Raises:
        ModelError: transformers is not installed, or cannot read the folder.
    """
    if scheme_in(folder) is not None:
        text = "its matrices are stored in fewer bits, which the fused engine alone multiplies with"
        raise ModelError(f"{folder}: {text}")
    try:
        import transformers
    except ImportError:
        text = "this model needs transformers: pip install 'fedloom[models]'"
        raise ModelError(f"{folder}: {text}") from None
    options: dict[str, Any] = {"dtype": dtype}
    if pooling == "model" and task != "causal-lm":
        options |= {"num_labels": classes, "ignore_mismatched_sizes": True}
    if task == "classify" and pooling != "model":
        options |= {"add_pooling_layer": False}
    model, new = _read(getattr(transformers, _AUTO[(task, pooling)]), folder, options)
    if task != "classify-image" and getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = getattr(model.config, "eos_token_id", None) or 0
    if four_bit:
        store_layers(model)
    frozen: nn.Module = model.eval().requires_grad_(False).to(device)
    return frozen, new


def _read(auto: Any, folder: Path, options: dict[str, Any]) -> tuple[Any, frozenset[str]]:
    options = {
        "local_files_only": True,
        "output_loading_info": True,
        "trust_remote_code": False,
        **options,
    }
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                model, info = auto.from_pretrained(folder, **options)
            except TypeError:  # only some encoders know a pooling layer
                options.pop("add_pooling_layer", None)
                model, info = auto.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ModelError(f"{folder}: transformers cannot load it: {first}") from None
    mismatched = {name for name, *_ in info["mismatched_keys"]}
    return model, frozenset(info["missing_keys"]) | mismatched


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear map: `nn.Linear`, or GPT-2's transposed ``Conv1D``."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def widths(module: Any) -> tuple[int, int]:
    """Input and output width of a linear map."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    d_in, d_out = module.weight.shape
    return int(d_in), int(d_out)


def _blocks(model: nn.Module, base: str) -> dict[str, str]:
    """The block of every parameter, tied ones under each of their names."""
    return block_names([name for name, _ in model.named_parameters(remove_duplicate=False)], base)


def linears_of(model: nn.Module, base: str) -> tuple[Linear, ...]:
    """Every linear map of a model, in order, with its block, but for a language model's head."""
    out = getattr(model, "get_output_embeddings", lambda: None)()
    blocks = _blocks(model, base)
    return tuple(
        Linear(name, blocks[f"{name}.weight"], *widths(module))
        for name, module in model.named_modules()
        if is_linear(module) and module is not out
    )


def norms_of(model: nn.Module, base: str) -> tuple[Linear, ...]:
    """Every normalisation with a weight for each feature, in order."""
    blocks = _blocks(model, base)
    return tuple(
        Linear(name, blocks[f"{name}.weight"], len(module.weight), len(module.weight))
        for name, module in model.named_modules()
        if _is_norm(module)
    )


def _is_norm(module: Any) -> bool:
    named = "norm" in type(module).__name__.lower()
    weight = getattr(module, "weight", None)
    return named and isinstance(weight, torch.Tensor) and weight.ndim == 1


def norm_kind(module: Any) -> tuple[float, bool] | None:
    """What a norm adds to the variance, and whether it subtracts the mean (layer norm).

    None where it is neither a layer norm nor an RMS norm.
    """
    eps = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    kind = type(module).__name__
    centred = isinstance(module, nn.LayerNorm)
    if not isinstance(eps, float) or not (centred or "RMSNorm" in kind or kind == "T5LayerNorm"):
        return None
    return eps, centred
