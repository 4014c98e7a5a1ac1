"""``fedloom export``: a job's model in the form of another runtime."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedloom.core.job import Job

__all__ = ["add_export"]


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add = parser.add_argument
    parser.description = (
        "Write the forward pass of a job's model (backbone, adapter, head) as an ExecuTorch "
        "program for phones: adapter tensors are inputs, and a batch is run under several sets of "
        "them at once. Activations are float32; a backbone that is stored in 8 or 4 bits stays so "
        "in the program and is unpacked in it. A manifest in JSON is written beside it."
    )
    add("config", metavar="CONFIG", help="a TOML file, or a recipe: fedloom list recipes")
    hint = "change a value, such as data.path=reviews.jsonl; may be repeated"
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments", help=hint)
    hint = "program to write; needs the extra fedloom[executorch]"
    add("--executorch", required=True, metavar="OUT.pte", help=hint)
    hint = "sets of adapter tensors that a batch is run under (default: 2)"
    add("--perturbations", type=int, default=2, metavar="P", help=hint)
    add("--batch", type=int, default=4, metavar="B", help="examples in a batch (default: 4)")
    hint = "tokens of an example with its padding (default: backbone.max_tokens)"
    add("--length", type=int, metavar="T", help=hint)
    parser.set_defaults(command=_export, resume_hint="the program was not written")


def _export(options: argparse.Namespace) -> int:
    from fedloom.core.config import override
    from fedloom.core.errors import ConfigError
    from fedloom.readable import bytes_text
    from fedloom.sources import job_of
    from fedloom.tuning.executorch_program import check_installed, write_program
    from fedloom.tuning.forward_program import ForwardProgram, Size

    out = Path(options.executorch)
    if out.suffix != ".pte":
        raise ConfigError(f"--executorch {out}: expected a name that ends in .pte")
    job = job_of(options.config, override({}, options.assignments))
    length = job.backbone.max_tokens if options.length is None else options.length
    size = Size(options.perturbations, options.batch, length)
    check_installed()
    model, classes = _model_of(job)
    program = write_program(ForwardProgram(model, size), out, _facts(job, classes))
    print(f"{program.path}: {bytes_text(program.size)}; {program.manifest} says how to call it")
    text = f"{program.error:.1e} from the model here, where the largest is {program.largest:.3g}"
    print(f"logits are at most {text}")
    return 0


def _model_of(job: "Job") -> tuple[Any, tuple[str, ...]]:
    """A job's model on the engine that can be traced, and the names of its classes."""
    import sys

    import torch

    from fedloom.backbones.kernels.traceable import TRACEABLE
    from fedloom.core.errors import ConfigError
    from fedloom.tuning.asking import task_of
    from fedloom.tuning.build import build_model
    from fedloom.tuning.data import load_examples
    from fedloom.tuning.prepare import folder_of
    from fedloom.tuning.reading import reading_of

    cpu = torch.device("cpu")
    folder = folder_of(job.backbone, cpu, lambda text: print(text, file=sys.stderr))
    classes = job.data.classes
    if job.backbone.task != "causal-lm" and not classes:
        if not job.data.path:
            raise ConfigError("data.classes = []: name the classes, or data.path of the data")
        reading = reading_of(job.backbone, folder)
        classes = load_examples(job.data, reading, seed=job.seed).classes
    model = build_model(
        folder,
        job.adapter,
        task_of(job.backbone, folder, classes),
        dtype=torch.float32,
        device=cpu,
        engine="fused",
        kernel=TRACEABLE,
    )
    return model, tuple(classes)


def _facts(job: "Job", classes: tuple[str, ...]) -> dict[str, Any]:
    """What the manifest says of the job."""
    return {
        "job": {
            "name": job.name,
            "backbone": job.backbone.name,
            "task": job.backbone.task,
            "adapter": job.adapter.name,
            "learner": job.learner.name,
            "strategies": [stage.strategy.name for stage in job.stages],
            "codec_up": job.codec_up.name,
            "classes": list(classes),
        }
    }
