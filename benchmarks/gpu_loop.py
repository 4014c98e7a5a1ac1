"""A tight sequential `peft` loop on a GPU: one resident model, one client after another."""

import contextlib
import time

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from measurement import Measurement

__all__ = ["loop_rate"]

CLIENTS, ROUNDS = 16, 3


def loop_rate(asked: Measurement, *, autocast: bool) -> float:
    """Clients per second of the best round.

    Args:
        asked: the work; its model and device are used, its engine is not.
        autocast: adapters in float32 under autocast, instead of everything in bfloat16.
    """
    model = _model(asked, autocast)
    weights = _flattened(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    data = [_client(asked, client) for client in range(CLIENTS)]
    start, times = weights.clone(), []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        total = torch.zeros_like(start)
        for ids, labels in data:
            weights.copy_(start)
            _epoch(model, optimizer, ids, labels, asked.batch, autocast)
            total.add_(weights).sub_(start)
        total.div_(CLIENTS).cpu()
        times.append(time.perf_counter() - began)
    return CLIENTS / min(times)


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ids: Tensor,
    labels: Tensor,
    batch: int,
    autocast: bool,
) -> None:
    for start in range(0, len(ids), batch):
        own = slice(start, start + batch)
        cast = torch.autocast("cuda", torch.bfloat16) if autocast else contextlib.nullcontext()
        with cast:
            x, y = ids[own].cuda(non_blocking=True), labels[own].cuda(non_blocking=True)
            loss: Tensor = model(input_ids=x, labels=y).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _model(asked: Measurement, autocast: bool) -> nn.Module:
    auto = AutoModelForCausalLM if asked.causal else AutoModelForSequenceClassification
    backbone = auto.from_pretrained(asked.folder, dtype=torch.bfloat16)
    lora = LoraConfig(
        task_type="CAUSAL_LM" if asked.causal else "SEQ_CLS",
        r=8,
        lora_alpha=16,
        lora_dropout=0.0,
        target_modules=["q_proj", "v_proj"] if asked.causal else ["query", "value"],
    )
    model: nn.Module = get_peft_model(backbone, lora).cuda().train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float() if autocast else parameter.data.bfloat16()
    return model


def _flattened(model: nn.Module) -> Tensor:
    """Make the trainable weights views of one vector `[P]`, and return it."""
    chosen = [p for p in model.parameters() if p.requires_grad]
    flat = torch.cat([p.detach().reshape(-1) for p in chosen])
    offset = 0
    for parameter in chosen:
        end = offset + parameter.numel()
        parameter.data = flat[offset:end].view_as(parameter)
        offset = end
    return flat


def _client(asked: Measurement, client: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(client)
    ids = torch.randint(1, 30_000, (asked.samples, asked.tokens), generator=draws).pin_memory()
    if asked.causal:
        return ids, ids
    return ids, torch.randint(0, 2, (asked.samples,), generator=draws).pin_memory()
