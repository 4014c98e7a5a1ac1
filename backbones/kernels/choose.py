"""Which engine multiplies with stored weights on this machine: by a measurement, never by its name.

Every engine that can do what is asked is timed against the others, on the gradient too, and its
error is looked at: an engine whose numbers are not those of the stored matrix is passed over. What
was found is noted in the cache, so that processes on one machine agree.
"""

import functools
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedloom.backbones.cache import cache_root
from fedloom.backbones.formats import Scheme
from fedloom.backbones.kernels.base import Engine
from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.kernels.dequantize import DEQUANTIZE
from fedloom.backbones.kernels.dynamic_int8 import DynamicInt8
from fedloom.backbones.kernels.kleidiai import KleidiAI
from fedloom.backbones.schemes import Packed, pack
from fedloom.core.errors import ConfigError, nearest

__all__ = ["ENGINES", "Measured", "choose", "engine_of", "measure"]

ENGINES: Mapping[str, Engine] = {
    engine.name: engine for engine in (DEQUANTIZE, DynamicInt8(), KleidiAI())
}
"""All engines by name; the first is the reference."""

_VERSION = 3  # of the engines: what was found of older ones is found again
_TOKENS, _WIDTH, _INNER = 256, 768, 1536
_TIMES = 3
_FEW, _HOPELESS = 32, 5
"""Tokens that all are tried with; what takes so many times as long as the fastest is out."""
_FORWARD_ERROR, _BACKWARD_ERROR = 0.03, 0.01
"""Relative errors, by Frobenius norms, that an engine may have beside the stored matrix."""


@dataclass(frozen=True)
class Measured:
    """One engine on this machine.

    Attributes:
        seconds: of a product and its gradient together, on one thread.
        forward: relative error of the product.
        backward: relative error of the gradient.
    """

    seconds: float
    forward: float
    backward: float

    @property
    def right(self) -> bool:
        """Whether its numbers are those of the stored matrix, but for the rounding of inputs."""
        return self.forward <= _FORWARD_ERROR and self.backward <= _BACKWARD_ERROR


def engine_of(name: str, scheme: Scheme, dtype: torch.dtype, needs: Collection[str]) -> Engine:
    """The engine that a configuration names.

    Args:
        name: of an engine.
        scheme: how weights are stored.
        dtype: of inputs.
        needs: names of `Capabilities` that it must have.

    Raises:
        ConfigError: there is none of that name, it cannot multiply such weights on a CPU, or it
            lacks what is needed.
    """
    if name not in ENGINES:
        raise ConfigError(f"backbone.kernel = {name!r}: {nearest(name, ('auto', *ENGINES))}")
    engine = ENGINES[name]
    if not engine.takes(scheme, dtype, torch.device("cpu")):
        short = str(dtype).removeprefix("torch.")
        raise ConfigError(f"backbone.kernel = {name!r}: not for {scheme.name} weights and {short}")
    for need in needs:
        if not getattr(engine.capabilities, need):
            text = f"it is not {need}, which a learner of this job needs"
            raise ConfigError(f"backbone.kernel = {name!r}: {text}; expected 'dequantize'")
    return engine


def choose(
    scheme: Scheme, dtype: torch.dtype, device: torch.device, needs: Collection[str] = ()
) -> Engine:
    """The fastest engine whose numbers are right.

    Args:
        scheme: how weights are stored.
        dtype: of inputs.
        device: where they are.
        needs: names of `Capabilities` that it must have.
    """
    able = [
        engine
        for engine in ENGINES.values()
        if engine.takes(scheme, dtype, device)
        and all(getattr(engine.capabilities, need) for need in needs)
    ]
    if len(able) == 1:
        return able[0]
    found = _remembered(scheme, dtype, tuple(engine.name for engine in able))
    return ENGINES[found]


@functools.cache
def _remembered(scheme: Scheme, dtype: torch.dtype, names: tuple[str, ...]) -> str:
    """The fastest of some engines, as an earlier process has found it or as it is found now."""
    key = _key(scheme, dtype, names)
    path = cache_root() / "kernels" / f"{key}.json"
    try:
        name = json.loads(path.read_text())["engine"]
        if name in names:
            return str(name)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    tried = {name: measure(ENGINES[name], scheme, dtype, tokens=_FEW, times=1) for name in names}
    fastest = min(found.seconds for found in tried.values())
    measured = {
        name: measure(ENGINES[name], scheme, dtype)
        for name, found in tried.items()
        if found.seconds <= _HOPELESS * fastest
    }
    right = [name for name in measured if measured[name].right] or [DEQUANTIZE.name]
    best = min(right, key=lambda name: measured[name].seconds)
    _note(path, {"engine": best, "seconds": {n: m.seconds for n, m in measured.items()}})
    return best


def _key(scheme: Scheme, dtype: torch.dtype, names: tuple[str, ...]) -> str:
    """Names this machine's products: its processor, torch, the engines, and what is asked."""
    facts = (
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        _processor(),
        torch.__version__,
        str(_VERSION),
        scheme.name,
        str(dtype),
        *names,
    )
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    told = ("model name", "Features", "flags", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(told)}))


def _note(path: Path, facts: Mapping[str, object]) -> None:
    """Keep what was found; without a cache it is found again next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as draft:
            draft.write(json.dumps(facts))
        os.replace(draft.name, path)
    except OSError:
        pass


def measure(
    engine: Engine,
    scheme: Scheme,
    dtype: torch.dtype,
    *,
    tokens: int = _TOKENS,
    times: int = _TIMES,
) -> Measured:
    """Time an engine on one thread of the CPU, and look at its errors: some ten milliseconds."""
    made = torch.Generator().manual_seed(0)
    packed = pack(torch.randn(_INNER, _WIDTH, generator=made), scheme)
    x = torch.randn(tokens, _WIDTH, generator=made).to(dtype)
    dy = torch.randn(tokens, _INNER, generator=made).to(dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two that wait for each other time the scheduler
    try:
        return _measured(engine, packed, x, dy, times)
    finally:
        torch.set_num_threads(threads)


def _measured(engine: Engine, packed: Packed, x: Tensor, dy: Tensor, times: int) -> Measured:
    matrix, whole = engine.made(packed, x.dtype, Buffer()), packed.whole()
    seconds = []
    for _ in range(times + 1):  # the first one prepares
        began = time.thread_time()  # not wall time: a busy machine must not decide
        y, dx = matrix.forward(x, None), matrix.dx(dy)
        seconds.append(time.thread_time() - began)
    return Measured(
        min(seconds[1:]), _error(y, x.float() @ whole.t()), _error(dx, dy.float() @ whole)
    )


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())
