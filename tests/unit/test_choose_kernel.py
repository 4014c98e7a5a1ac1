"""The probe: the fastest engine whose numbers are right, noted once for a machine."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedloom.backbones.formats import SCHEMES, Scheme
from fedloom.backbones.kernels import choose as probe
from fedloom.backbones.kernels import dynamic_int8
from fedloom.backbones.kernels.base import Capabilities, Engine
from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.kernels.choose import choose, engine_of, measure
from fedloom.backbones.kernels.dequantize import DEQUANTIZE
from fedloom.backbones.product import Quantized
from fedloom.backbones.schemes import Packed
from fedloom.core.errors import ConfigError

CPU = torch.device("cpu")
INT8 = SCHEMES["int8"]


@dataclass(frozen=True)
class Instant:
    """Answers at once, with what it likes."""

    packed: Packed
    forward_by: float
    dx_by: float

    @property
    def shape(self) -> torch.Size:
        return self.packed.shape

    @property
    def nbytes(self) -> int:
        return 0

    def __getitem__(self, rows: slice) -> "Instant":
        return Instant(self.packed[rows], self.forward_by, self.dx_by)

    def whole(self) -> Tensor:
        return self.packed.whole()

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return _known(x @ self.whole().t(), self.forward_by)

    def dx(self, dy: Tensor) -> Tensor:
        return _known(dy @ self.whole(), self.dx_by)


def _known(right: Tensor, by: float) -> Tensor:
    return right * by


@dataclass(frozen=True)
class Quick:
    """An engine whose products are off by a factor."""

    forward_by: float
    dx_by: float
    name: str = "quick"
    capabilities: Capabilities = Capabilities(fd_safe=False)

    def takes(self, scheme: Scheme, dtype: torch.dtype, device: torch.device) -> bool:
        return True

    def made(self, packed: Packed, dtype: torch.dtype, buffer: Buffer) -> Quantized:
        return Instant(packed, self.forward_by, self.dx_by)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no memory of earlier probes."""
    monkeypatch.setattr(probe, "cache_root", lambda: tmp_path)
    probe._remembered.cache_clear()
    return tmp_path


def with_engine(monkeypatch: pytest.MonkeyPatch, engine: Quick) -> None:
    """That engine beside the reference, which takes four times as long as it does."""
    monkeypatch.setattr(probe, "ENGINES", {"dequantize": DEQUANTIZE, "quick": engine})
    real = measure

    def timed(which: object, scheme: Scheme, dtype: torch.dtype, **how: int) -> probe.Measured:
        found = real(which, scheme, dtype, **how)  # type: ignore[arg-type]
        seconds = 0.25 if which is engine else 1.0
        return probe.Measured(seconds, found.forward, found.backward)

    monkeypatch.setattr(probe, "measure", timed)


@pytest.mark.parametrize(
    ("forward_by", "dx_by", "chosen"),
    [(1.0, 1.0, "quick"), (1.1, 1.0, "dequantize"), (1.0, 0.9, "dequantize")],
)
def test_an_engine_with_wrong_numbers_is_passed_over(
    forward_by: float, dx_by: float, chosen: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_engine(monkeypatch, Quick(forward_by, dx_by))
    assert choose(INT8, torch.float32, CPU).name == chosen
    (note,) = (cache / "kernels").iterdir()
    found = json.loads(note.read_text())
    assert (found["engine"], set(found["seconds"])) == (chosen, {"dequantize", "quick"})


def test_what_was_found_is_found_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_engine(monkeypatch, Quick(1.0, 1.0))
    assert choose(INT8, torch.float32, CPU).name == "quick"
    with_engine(monkeypatch, Quick(1.1, 1.0))  # wrong by now, but nobody measures
    probe._remembered.cache_clear()
    assert choose(INT8, torch.float32, CPU).name == "quick"
    (note,) = (cache / "kernels").iterdir()
    note.write_text("{")  # damaged: it is measured again
    probe._remembered.cache_clear()
    assert choose(INT8, torch.float32, CPU).name == "dequantize"


def test_what_is_far_too_slow_is_not_timed_at_length(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        probe, "ENGINES", {"dequantize": DEQUANTIZE, "a": Quick(1, 1, "a"), "quick": Quick(1, 1)}
    )
    seconds = {"dequantize": 1.0, "a": 5.1, "quick": 4.9}
    asked: list[tuple[str, bool]] = []

    def timed(which: Engine, scheme: Scheme, dtype: torch.dtype, **how: int) -> probe.Measured:
        asked.append((which.name, bool(how)))
        return probe.Measured(seconds[which.name], 0.0, 0.0)

    monkeypatch.setattr(probe, "measure", timed)
    assert choose(INT8, torch.float32, CPU).name == "dequantize"
    few = [(name, True) for name in ("dequantize", "a", "quick")]
    assert asked == [*few, ("dequantize", False), ("quick", False)]


def test_learners_get_what_they_need(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_engine(monkeypatch, Quick(1.0, 1.0))
    assert choose(INT8, torch.float32, CPU, ("fd_safe",)).name == "dequantize"
    assert not cache.joinpath("kernels").exists()  # one was able: nothing to measure


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_int8, "_exact", lambda: True)  # on any processor
    with pytest.raises(ConfigError, match=r"backbone.kernel = 'fast': .*dequantize"):
        engine_of("fast", INT8, torch.float32, ())
    with pytest.raises(ConfigError, match="'dynamic-int8': not for int8 weights and float64"):
        engine_of("dynamic-int8", INT8, torch.float64, ())
    with pytest.raises(ConfigError, match="it is not fd_safe, which a learner of this job needs"):
        engine_of("dynamic-int8", INT8, torch.float32, ("backward", "fd_safe"))
    assert engine_of("dynamic-int8", INT8, torch.float32, ("backward",)).name == "dynamic-int8"
