"""What this device can do: for the server, and for its owner before it joins."""

import os
import platform
import shutil
import time
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fedloom.client.enrol import default_root
from fedloom.client.limits import may_not_work, metered, on_power
from fedloom.client.memory import allowed, bare, spare
from fedloom.client.settings import ClientSettings, is_callable
from fedloom.client.which_engine import engine_of
from fedloom.core.job import Job
from fedloom.core.machine import cores, free_memory
from fedloom.core.sizes import megabytes
from fedloom.protos.federation_pb2 import Device

__all__ = ["check", "device", "probe", "table"]

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "f16c", "asimd", "asimddp", "bf16", "i8mm")
_ENGINES = {"torch": "torch", "onnx": "onnxruntime"}
_WIDTH, _ROWS, _BUDGET = 512, 512, 0.2


def device(settings: ClientSettings, tier: str) -> Device:
    """What the server is told of this device, which is of a tier of the job (or of none)."""
    return Device(
        machine=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        cores=settings.threads or cores(),
        memory=spare(settings),
        tier=tier,
    )


def instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Those of the processor that speed up products, as Linux calls them."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    flags = next((x.split(":")[1] for x in lines if x.startswith(("flags", "Features"))), "")
    return tuple(flag for flag in _FLAGS if flag in flags.split())


def probe(settings: ClientSettings, folder: Path) -> list[tuple[str, str]]:
    """Look at the device; what was looked at, and what was found. Loads torch where it is used.

    Args:
        settings: the owner's.
        folder: where the device would keep its federations.
    """
    while not folder.is_dir():
        folder = folder.parent
    reason = may_not_work(settings, datetime.now())
    return [
        ("machine", f"{platform.machine()}, {platform.system()} {platform.release()}"),
        ("cores", f"{cores()}; training takes {settings.threads or cores()}"),
        ("instructions", ", ".join(instruction_sets()) or "none of those known to help"),
        ("memory", _memory(settings)),
        ("disk", f"{shutil.disk_usage(folder).free / 2**30:.1f} GiB free in {folder}"),
        ("power", _words(on_power(), "plugged in", "on its battery")),
        ("network", _words(metered(), "charges by volume", "does not charge by volume")),
        ("data", _data(settings.data)),
        ("may work now", f"no: {reason}" if reason else "yes"),
        *_products(settings),
    ]


def check(settings: ClientSettings, job: Job | None = None) -> int:
    """Print what this device can do; the exit status: 0, or 2 where its data cannot be read.

    Args:
        settings: the owner's.
        job: how it would train for it is looked at, too.
    """
    rows = probe(settings, Path(settings.directory or default_root()).expanduser())
    if job is not None:
        from fedloom.client.prospect import prospect

        rows = [*rows, *prospect(settings, job)]
    print(table(rows))
    return 2 if "cannot be read" in dict(rows)["data"] else 0


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns for a person."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _memory(settings: ClientSettings) -> str:
    free, may = megabytes(free_memory()), megabytes(allowed(settings))
    own = f"{megabytes(bare(settings))} go to {_ENGINES[engine_of(settings)]}"
    return f"{free} free; {may} may be taken, of which {own}"


def _words(value: bool | None, yes: str, no: str) -> str:
    return "not known: counts as allowed" if value is None else yes if value else no


def _data(data: str) -> str:
    if not data:
        return "none given: --data FILE"
    if is_callable(data):
        return f"{data}, called when a job asks for it"
    try:
        with open(data, "rb") as file:
            file.read(1)
    except OSError as error:
        return f"{data}: cannot be read: {error.strerror}"
    return f"{data}: {os.stat(data).st_size / 2**20:.1f} MiB, readable"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return f"not installed: pip install {package}"


def _without_torch() -> list[tuple[str, str]]:
    """What a device can run that has onnxruntime alone."""
    from fedloom.backbones.onnx.linears import FAMILIES_OF_TEXTS
    from fedloom.client.onnx_ration import LEARNER
    from fedloom.tuning.onnx.model import ADAPTERS

    return [
        ("can run", f"learner {LEARNER}, and evaluation; what else a job asks for needs torch"),
        ("backbones", f"{', '.join(FAMILIES_OF_TEXTS)}: classes of texts, and but for bert words"),
        ("adapters", ", ".join(ADAPTERS)),
    ]


def _products(settings: ClientSettings) -> list[tuple[str, str]]:
    """What runs the model; the speed of a product in each of torch's types, measured briefly."""
    if engine_of(settings) == "onnx":
        return [("onnxruntime", _version("onnxruntime")), *_without_torch()]
    import torch

    from fedloom.tuning.capacity import choose_device

    where = choose_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    found = [("torch", f"{torch.__version__} on {where.type}")]
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(_ROWS, _WIDTH, dtype=dtype, device=where)
        weight = torch.ones(_WIDTH, _WIDTH, dtype=dtype, device=where)
        (x @ weight).sum().item()  # the first product also loads code
        began, times = time.perf_counter(), 0
        while time.perf_counter() < began + _BUDGET:
            (x @ weight).sum().item()
            times += 1
        rate = times * 2 * _ROWS * _WIDTH**2 / (time.perf_counter() - began)
        found.append((str(dtype).removeprefix("torch."), f"{rate / 1e9:,.1f} GFLOP/s"))
    return found
