"""The layers of an emulator learn to do what all that they stand for do.

Offsite tuning (Xiao et al., 2023, section 3.3): the middle E of the emulator trains, its ends do
not, on ``w_lm LM + w_kd mean(((T(h) - E(h)) / rms(T(h)))^2)``, T the whole middle of the model, h
what the lower end gives, rms and mean over a batch. Without a language model's head (an encoder of
a classifier) there is the second term alone.
"""

import gzip
import hashlib
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.backbones.emulator import Distilling, Note
from fedloom.backbones.fused import load_fused
from fedloom.core.emulation import EmulatorConfig
from fedloom.core.errors import ConfigError, DataError, ModelError
from fedloom.core.job import BackboneConfig
from fedloom.core.seeds import stream
from fedloom.tuning.base import Task
from fedloom.tuning.batches import Batches, real_tokens
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.full import Full
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.reading import reading_of
from fedloom.tuning.readout import losses_at, places_of
from fedloom.tuning.tables import read_table
from fedloom.tuning.tokens import tokenize, tokenize_causal

__all__ = ["Distiller", "distilling_of", "texts_of"]

LM, KD = 1.0, 30.0
"""Weights of the two terms (the released code's)."""

Say = Callable[[str], None]


def distilling_of(
    backbone: BackboneConfig, whole: Path, device: torch.device, say: Say
) -> Distilling | None:
    """How a job wants its emulator distilled; None where it does not.

    Args:
        backbone: of the job.
        whole: folder of the whole model.
        device: where it is done, in float32.
        say: told how it goes.

    Raises:
        ConfigError: the backbone reads no texts.
        DataError: the text cannot be read, or there is none.
    """
    how = backbone.emulator
    if not how.distill:
        return None
    if backbone.task == "classify-image":
        raise ConfigError(
            f"backbone.emulator.distill = {how.distill}: learns on texts; the backbone reads images"
        )
    path = Path(how.text).expanduser()
    texts = texts_of(path, how.column)
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    told = (
        f"{how.distill} steps, {backbone.task}, lr {how.lr:g}, {how.batch_size} texts of up to "
        f"{backbone.max_tokens} tokens, seed {how.seed}, text {digest}"
    )

    def run(emulator: Path, note: Note) -> Mapping[str, Tensor]:
        examples = _tokens(texts, backbone, whole)
        if not len(examples):
            raise DataError(f"{path}: no text has two tokens: nothing to distil on")
        distiller = Distiller(whole, emulator, note, examples, task=backbone.task, device=device)
        return distiller.run(how, say)

    return Distilling(told, run)


def texts_of(path: Path, column: str) -> list[str]:
    """The texts of a file: its lines (``.txt``, ``.txt.gz``), or a column.

    Raises:
        DataError: the file cannot be read, or has none.
    """
    if path.name.removesuffix(".gz").endswith(".txt"):
        return _lines(path)
    table = read_table(path, [column], needed=[column])
    values = table.columns[column]
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise DataError(f"{table.where(row)}: {column} = {value!r}: expected a text")
    return [str(value) for value in values]


def _lines(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    texts = [line.strip() for line in text.splitlines() if line.strip()]
    if not texts:
        raise DataError(f"{path}: no texts")
    return texts


def _tokens(texts: list[str], backbone: BackboneConfig, folder: Path) -> TextExamples:
    """The texts of two tokens and more, as the backbone reads them."""
    reading = reading_of(backbone, folder)
    tokenizer, most = reading.tokenizer, reading.max_tokens
    assert tokenizer is not None
    if reading.task == "causal-lm":
        found = tokenize_causal(texts, None, tokenizer, max_tokens=most, eos=reading.eos)
    else:
        found = tokenize(texts, tokenizer, most)
    return found.take(np.flatnonzero(found.lengths() > 1))


@dataclass(frozen=True)
class Terms:
    """The loss of a batch.

    Attributes:
        lm: mean cross-entropy of the next tokens; zero for a classifier's encoder.
        kd: relative squared error of what the middle gives.
    """

    lm: Tensor
    kd: Tensor

    @property
    def total(self) -> Tensor:
        """The weighted sum."""
        return LM * self.lm + KD * self.kd


class Distiller:
    """An emulator whose middle trains, beside the middle of the whole model.

    Args:
        whole: folder of the whole model.
        emulator: folder of the emulator.
        note: of the emulator.
        examples: the texts.
        task: ``causal-lm`` or ``classify``.
        device: where both run.

    Raises:
        ModelError: the model has no fused blocks.
    """

    def __init__(
        self,
        whole: Path,
        emulator: Path,
        note: Note,
        examples: TextExamples,
        *,
        task: str,
        device: torch.device,
    ) -> None:
        self._first, self._last = note.left, note.left + len(note.between)
        self._top = note.depth - note.right
        held = [f"layer.{i}" for i in range(self._first, self._top)]
        self._whole = load_fused(whole, dtype=torch.float32, device=device, held=held)
        student = load_fused(emulator, dtype=torch.float32, device=device)
        layers = Full(layers=tuple(range(self._first, self._last)))
        self._model = FusedModel(student, layers, Task(kind=task, classes=2))
        self._examples, self._batches = examples, Batches(self._model, examples)
        params = self._model.initial(0)
        session = self._model.session(params, ("full",), examples)
        self.store = session.store(params, 1)

    def terms(self, rows: NDArray[np.int64]) -> Terms:
        """Both terms on some of the texts, with gradients to the middle of the emulator."""
        model, student = self._model, self._model.backbone
        packing = self._batches.packing([rows])
        sites = model.relative(self.store.sites)
        with torch.no_grad():
            low = student.run(self._batches.embed([rows], packing), packing, last=self._first)
            target = self._whole.run(low, packing, first=self._first, last=self._top)
        found = student.run(low, packing, first=self._first, last=self._last, sites=sites)
        real = real_tokens(packing)
        wanted = target.flatten(0, 1)[real]
        scale = wanted.square().mean().sqrt()
        kd = ((wanted - found.flatten(0, 1)[real]) / scale).square().mean()
        if model.task.kind != "causal-lm":
            return Terms(torch.zeros_like(kd), kd)
        hidden = student.run(found, packing, first=self._last)
        lengths = self._batches.lengths
        places = places_of(model, self._examples, lengths, [rows], packing)
        return Terms(losses_at(model, self.store, hidden, packing, places).loss[0], kd)

    def run(self, how: EmulatorConfig, say: Say) -> dict[str, Tensor]:
        """Train; gives the middle's tensors by their name in the emulator's file.

        AdamW without decay, the rate along a cosine from `how.lr` to zero.

        Raises:
            ModelError: the loss is not finite.
        """
        values, steps = self.store.values, how.distill
        optimizer = torch.optim.AdamW([values], lr=how.lr, weight_decay=0.0)
        for step, rows in zip(range(steps), self._orders(how), strict=False):
            terms = self.terms(rows)
            lm, kd = float(terms.lm.detach()), float(terms.kd.detach())
            if not math.isfinite(lm + kd):
                raise ModelError(f"distilling: the loss is {lm + kd} at step {step + 1}; less lr?")
            if step % max(1, steps // 10) == 0 or step == steps - 1:
                told = f", LM {lm:.3f}" if self._model.task.kind == "causal-lm" else ""
                say(f"distilling: step {step + 1} of {steps}{told}, KD {kd:.4f}")
            terms.total.backward()
            values.grad = self.store.grad
            optimizer.param_groups[0]["lr"] = how.lr * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.step()
            self.store.stepped()
        return self._stored()

    def _orders(self, how: EmulatorConfig) -> Iterator[NDArray[np.int64]]:
        """Batches without end: all texts in one order after the other."""
        count, size = len(self._examples), min(how.batch_size, len(self._examples))
        epoch = 0
        while True:
            order = stream(how.seed, "distilling", round=epoch).permutation(count)
            yield from (order[i : i + size] for i in range(0, count - size + 1, size))
            epoch += 1

    def _stored(self) -> dict[str, Tensor]:
        layout, files = self.store.trained, self._model.backbone.checkpoint.files
        found = {}
        for spec in layout:
            own = spec.name.removeprefix(self._model.base)
            name = next(n for n in files if n == own or n.endswith(f".{own}"))
            found[name] = self.store.values[0, layout.span(spec.name)].view(spec.shape).cpu()
        return found
