"""The model that all systems train, built with `transformers` and `peft`, and its local epoch."""

import contextlib
import resource
from dataclasses import dataclass

import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from baselines.work import Work, client_data


def build_model(work: Work, dtype: str, attention: str) -> nn.Module:
    """Build the frozen BERT classifier with LoRA on query and value and a trainable head.

    Dropout is zero everywhere, so that all systems compute the same update. The weights depend on
    the seed of the work alone; torch's own generator is left as it was. `dtype` and `attention`
    are among `DTYPES` and `ATTENTIONS`; trainable weights are float32 in any case.
    """
    shape = work.shape
    config = BertConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.intermediate,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config.num_labels = work.labels
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=work.rank,
        lora_alpha=work.alpha,
        lora_dropout=0.0,
        target_modules=["query", "value"],
    )
    with torch.random.fork_rng():
        torch.manual_seed(work.seed)
        backbone = BertForSequenceClassification(config)
        backbone.set_attn_implementation(attention)
        model: nn.Module = get_peft_model(backbone, lora)
    if dtype == "bfloat16-frozen":
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
    return model.train()


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """List the trainable parameters in the model's own order, which all systems share."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def flatten(parameters: list[nn.Parameter]) -> Tensor:
    """Copy parameters into one float32 vector `[P]`."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in parameters])


def product_dtype(dtype: str) -> torch.dtype:
    """Return the type that matrix products are done in, for one of `DTYPES`."""
    return torch.float32 if dtype == "float32" else torch.bfloat16


def _autocast(dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=dtype)


def client_tensors(work: Work, client: int) -> tuple[Tensor, Tensor]:
    """Return `client_data` as int64 tensors `[samples, tokens]` and `[samples]`."""
    ids, labels = client_data(work, client)
    return torch.from_numpy(ids), torch.from_numpy(labels)


def peak_rss_mib() -> float:
    """Return the peak resident memory of this process in MiB (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass
class StepCounter:
    """Counts the steps of the optimizers it watches, however the system drives them."""

    steps: int = 0

    def watch(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Count every later step of this optimizer; return it."""
        optimizer.register_step_post_hook(self._count)
        return optimizer

    def _count(self, *_: object) -> None:
        self.steps += 1


class ResidentModel:
    """One model that stays in memory and trains client after client.

    The trainable parameters are views of one vector, so a client's weights are copied in, and its
    result copied out, by one operation each: the tightest loop that `peft` allows.
    """

    def __init__(self, work: Work, dtype: str, attention: str) -> None:
        """Build the model and its optimizer, which plain SGD lets all clients share."""
        self._work = work
        self._dtype = product_dtype(dtype)
        self._model = build_model(work, dtype, attention)
        parameters = trainable(self._model)
        self.weights = flatten(parameters)
        """The current trainable weights, float32 `[P]`: write here before, read here after."""
        offset = 0
        for parameter in parameters:
            end = offset + parameter.numel()
            parameter.data = self.weights[offset:end].view_as(parameter)
            offset = end
        self.counter = StepCounter()
        """Counts the optimizer steps of all clients."""
        self._optimizer = torch.optim.SGD(parameters, lr=work.learning_rate)
        self.counter.watch(self._optimizer)

    def local_epoch(self, client: int) -> None:
        """Train one client's epoch from the current weights, changing them in place."""
        ids, labels = client_tensors(self._work, client)
        for start in range(0, self._work.samples, self._work.batch):
            rows = slice(start, start + self._work.batch)
            with _autocast(self._dtype):
                loss = self._model(input_ids=ids[rows], labels=labels[rows]).loss
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad()
