"""Small random models of every fused family, and two attachments with gradients by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoModel,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
    ViTConfig,
)

from fedloom.backbones.base import AddToInput, Saved
from fedloom.backbones.fused import FusedBackbone, load_fused

Sizes: TypeAlias = tuple[tuple[int, ...], ...]
Examples: TypeAlias = list[list[NDArray[np.int32]]]

TEXT = ("bert", "llama", "qwen2", "gpt2")
CPU = torch.device("cpu")
IRREGULAR: Sizes = ((5, 9, 2), (7,), (1, 3, 12, 4))
REGULAR: Sizes = ((6, 6), (6, 6), (6, 6))
_BASE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_GROUPED = {**_BASE, "num_key_value_heads": 2, "vocab_size": 50}


def config(family: str) -> Any:
    match family:
        case "bert":
            return BertConfig(**_BASE, vocab_size=50, max_position_embeddings=32)
        case "llama":
            return LlamaConfig(**_GROUPED, attention_bias=True, mlp_bias=True)
        case "qwen2":
            return Qwen2Config(**_GROUPED, tie_word_embeddings=True)
        case "gpt2":
            tokens = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0}
            return GPT2Config(n_embd=32, n_layer=2, n_head=4, n_inner=48, **tokens)
    return ViTConfig(**_BASE, image_size=12, patch_size=4)


def randomise(model: Any) -> Any:
    """Freeze a model in evaluation mode, with biases and norms that are not trivial."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        mean = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
        torch.nn.init.normal_(parameter, mean=mean, std=0.2)
        parameter.requires_grad_(False)
    return model.eval()


def reference(family: str) -> Any:
    return randomise(AutoModel.from_config(config(family), attn_implementation="eager"))


def fused(model: Any, folder: Path, dtype: torch.dtype = torch.float32) -> FusedBackbone:
    model.save_pretrained(folder)
    return load_fused(folder, dtype=dtype, device=CPU)


def tokens(sizes: Sizes, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    return [[rng.integers(1, 50, size, dtype=np.int32) for size in client] for client in sizes]


def padded_hidden(model: Any, client: Sequence[NDArray[np.int32]]) -> Tensor:
    """Hidden states ``[tokens of the client, d]`` from a padded batch with an attention mask."""
    longest = max(len(example) for example in client)
    mask = torch.tensor([[int(t < len(e)) for t in range(longest)] for e in client])
    ids = torch.zeros_like(mask)
    for row, example in zip(ids, client, strict=True):
        row[: len(example)] = torch.from_numpy(example.astype(np.int64))
    hidden: Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return hidden[mask.bool()]


@dataclass(frozen=True)
class Lora:
    """``y + B A x / 2`` per client, with A ``[k, 3, d_in]`` and B ``[k, d_out, 3]``."""

    a: Tensor
    b: Tensor
    grads: dict[str, Tensor] = field(default_factory=dict)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        low = torch.bmm(x, self.a.mT)
        return y.baddbmm_(low, self.b.mT, alpha=0.5), (x, low)

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, AddToInput | None]:
        x, low = saved
        d_low = torch.bmm(dy, self.b).mul_(0.5)
        self.grads["b"] = torch.bmm(dy.mT, low).mul_(0.5)
        self.grads["a"] = torch.bmm(d_low.mT, x)
        return dy, lambda dx: dx.baddbmm_(d_low, self.a)


@dataclass(frozen=True)
class Scale:
    """``y * s`` per client, out of place, with s ``[k, d]``."""

    s: Tensor
    grads: dict[str, Tensor] = field(default_factory=dict)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        return y * self.s[:, None], (y.clone(),)

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, AddToInput | None]:
        self.grads["s"] = (dy * saved[0]).sum(1)
        return dy * self.s[:, None], None


def lora(clients: int, d_in: int, d_out: int, seed: int) -> Lora:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(clients, 3, d_in, generator=generator) * 0.2
    return Lora(a, torch.randn(clients, d_out, 3, generator=generator) * 0.2)


def loras(backbone: FusedBackbone, clients: int) -> dict[str, Lora]:
    """One for every linear map."""
    return {
        linear.name: lora(clients, linear.d_in, linear.d_out, seed)
        for seed, linear in enumerate(backbone.linears)
    }


def hook_lora(model: Any, adapters: Mapping[str, tuple[Tensor, Tensor]]) -> list[Any]:
    """Add ``B A x / 2`` to modules of a plain model, for autograd."""

    def hook(a: Tensor, b: Tensor) -> Any:
        return lambda module, inputs, y: y + 0.5 * inputs[0] @ a.mT @ b.mT

    return [
        model.get_submodule(name).register_forward_hook(hook(a, b))
        for name, (a, b) in adapters.items()
    ]


def weigh(hidden: Tensor) -> Tensor:
    """A sum of hidden states ``[n, d]`` that gives every entry its own gradient."""
    n, d = hidden.shape
    weights = torch.linspace(-1, 1, d) + torch.linspace(-0.5, 0.7, n)[:, None]
    return (hidden * weights.to(hidden.dtype)).sum()


def close(mine: Tensor, other: Tensor, what: str = "") -> None:
    """Equal up to float32 association, on the scale of the largest entry."""
    tolerance = 2e-5 * float(other.abs().max())
    difference = float((mine - other).abs().max())
    assert difference <= tolerance, f"{what}: {difference:.2e} > {tolerance:.2e}"
