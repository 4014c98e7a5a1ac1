"""``fedloom merge``: a backbone with what a run has trained of it."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedloom.core.types import Params
    from fedloom.tuning.fused_model import FusedModel
    from fedloom.tuning.merge import Merged

__all__ = ["add_merge"]

_MUCH = 0.5
"""Share of a change that is most of it."""


def add_merge(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add = parser.add_argument
    parser.description = (
        "Put what a run has trained into its backbone: LoRA into floats, PEQA's scales and "
        "QA-LoRA's group numbers into the stored model, whose codes stay. The folder is a backbone "
        "like any other: name it as backbone.name. The trained head is in its folder 'head'."
    )
    add("run", metavar="RUN", help="folder of a run that has ended")
    add("out", metavar="OUT", help="folder to make")
    text = "round LoRA over a backbone in fewer bits to its format again; tells what that loses"
    add("--requantize", action="store_true", help=text)
    parser.set_defaults(command=_merge, resume_hint="the folder was not made")


def _merge(options: argparse.Namespace) -> int:
    from fedloom.core.errors import ConfigError
    from fedloom.tuning.merge import merge

    out = Path(options.out)
    if out.exists():
        raise ConfigError(f"{out}: it is there already; name another folder, or remove it")
    model, params, classes = _trained(Path(options.run))
    told: list[Merged] = []

    def progress(merged: "Merged") -> None:
        told.append(merged)
        figures = f"changed {100 * merged.moved:8.4f} %, of which lost {100 * merged.lost:9.5f} %"
        print(f"{merged.name:<56} {merged.kept:<13} {figures}", flush=True)

    again = options.requantize
    merge(model, params, out, classes=classes, requantize=again, progress=progress)
    worst = max(each.lost for each in told)
    print(f"{out}: {len(told)} matrices changed; rounding lost {100 * worst:.5f} % of a change")
    if worst > _MUCH:
        print(
            "most of what was trained is gone: merge without --requantize, or train peqa or qa-lora"
        )
    return 0


def _trained(run: Path) -> "tuple[FusedModel, Params, tuple[str, ...]]":
    """The model of a run, what it came to, and the names of its classes."""
    import torch

    from fedloom.core.emulation import EmulatorConfig
    from fedloom.core.errors import ConfigError, RunError
    from fedloom.results.rundir import RunDirectory
    from fedloom.sources import job_of
    from fedloom.tuning.asking import task_of
    from fedloom.tuning.build import build_model
    from fedloom.tuning.export import load_adapter
    from fedloom.tuning.fused_model import FusedModel
    from fedloom.tuning.prepare import folder_of

    directory = RunDirectory(run)
    job = job_of(directory.config())
    params, classes = load_adapter(directory.adapter)
    backbone = replace(job.backbone, emulator=EmulatorConfig())  # its adapter is the whole model's
    cpu = torch.device("cpu")
    folder = folder_of(backbone, cpu, lambda text: print(text, file=sys.stderr))
    task = task_of(backbone, folder, classes)
    if job.adapter.name == "peft":
        raise ConfigError("adapter peft: PEFT merges its own methods: merge_and_unload()")
    model = build_model(folder, job.adapter, task, dtype=torch.float32, device=cpu, engine="fused")
    assert isinstance(model, FusedModel)
    if model.layout.names != params.layout.names:
        raise RunError(f"{directory.adapter}: it is not of the model that {folder} holds")
    return model, params, classes
