"""Small random models of every fused family, and two attachments with gradients by hand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    AutoModel,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    ViTConfig,
)

from fedloom.backbones.base import AddToInput, Saved
from fedloom.backbones.fused import FusedBackbone, load_fused

TEXT = ("bert", "llama", "qwen2", "gpt2")
CPU = torch.device("cpu")
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2, "vocab_size": 50}


def config(family: str) -> PretrainedConfig:
    match family:
        case "bert":
            return BertConfig(**_SIZES, vocab_size=50, max_position_embeddings=32)
        case "llama":
            return LlamaConfig(**_GROUPED, attention_bias=True, mlp_bias=True)
        case "qwen2":
            return Qwen2Config(**_GROUPED, tie_word_embeddings=True)
        case "gpt2":
            tokens = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0}
            return GPT2Config(n_embd=32, n_layer=2, n_head=4, n_inner=48, **tokens)
    return ViTConfig(**_SIZES, image_size=12, patch_size=4)


def reference(family: str) -> nn.Module:
    """A model of transformers in evaluation mode whose biases and norms are not trivial."""
    torch.manual_seed(0)
    model: nn.Module = AutoModel.from_config(config(family), attn_implementation="eager")
    for name, parameter in model.named_parameters():
        mean = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
        nn.init.normal_(parameter, mean=mean, std=0.2)
        parameter.requires_grad_(False)
    return model.eval()


def fused(
    model: nn.Module, folder: Path, dtype: torch.dtype = torch.float32
) -> FusedBackbone:
    save: Callable[[Path], object] = model.save_pretrained  # type: ignore[assignment]
    save(folder)
    return load_fused(folder, dtype=dtype, device=CPU)


def tokens(sizes: Sequence[Sequence[int]], seed: int = 0) -> list[list[NDArray[np.int32]]]:
    rng = np.random.default_rng(seed)
    return [[rng.integers(1, 50, size, dtype=np.int32) for size in client] for client in sizes]


def padded_hidden(model: nn.Module, client: Sequence[NDArray[np.int32]]) -> Tensor:
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
    """``y + s B A x`` per client; gradients are added to `da` and `db`."""

    a: Tensor
    b: Tensor
    scale: float = 0.5
    grads: dict[str, Tensor] = field(default_factory=dict)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        low = torch.bmm(x, self.a.mT)
        return y.baddbmm_(low, self.b.mT, alpha=self.scale), (x, low)

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, AddToInput | None]:
        x, low = saved
        d_low = torch.bmm(dy, self.b).mul_(self.scale)
        self.grads["b"] = torch.bmm(dy.mT, low).mul_(self.scale)
        self.grads["a"] = torch.bmm(d_low.mT, x)
        return dy, lambda dx: dx.baddbmm_(d_low, self.a)


@dataclass(frozen=True)
class Scale:
    """``y * s`` per client, out of place; the gradient is put into `grads`."""

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


def lora_hooks(model: nn.Module, adapters: Mapping[str, tuple[Tensor, Tensor]]) -> list[object]:
    """Add ``0.5 B A x`` to modules of a plain model, for autograd."""

    def hook(a: Tensor, b: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        return lambda module, inputs, y: y + 0.5 * inputs[0] @ a.mT @ b.mT

    return [
        model.get_submodule(name).register_forward_hook(hook(a, b))
        for name, (a, b) in adapters.items()
    ]
