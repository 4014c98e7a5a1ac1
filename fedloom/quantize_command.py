"""``fedloom quantize``: a model folder in 8 or 4 bits, and what that does to it."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedloom.backbones.formats import Scheme
    from fedloom.backbones.quantize import Progress, Rounded
    from fedloom.tuning.probe import Probe

__all__ = ["add_quantize"]

_LABELLED, _TEXTS = 1000, 250
"""Examples that a model is judged on, of those with labels and of others: tens of seconds here."""


def add_quantize(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add = parser.add_argument
    parser.description = (
        "Store a backbone in fewer bits. The folder is a backbone like any other: name it as "
        "backbone.name, or let a job do the same by backbone.quantization."
    )
    text = "such as minilm, a folder in transformers' format, or a GGUF file, whose blocks are kept"
    add("model", metavar="MODEL", help=text)
    add("out", metavar="OUT", help="folder to make")
    add("--bits", type=int, choices=(4, 8), help="of a number (default: 8)")
    text = "4 bits: numbers of a row that share a scale (default: 32; with --nf4: 64)"
    add("--group", type=int, metavar="N", help=text)
    add("--nf4", action="store_true", help="4 bits: the levels of NF4 in place of integers")
    text = "any format by its name, such as uint4-32 or q4_1, in place of these three"
    add("--format", metavar="FORMAT", help=text)
    text = "format of embeddings and heads, such as int8 (default: that of the layers)"
    add("--outer", metavar="FORMAT", help=text)
    text = "store layers together with a start of LoRA of that rank (LoftQ), for adapter.init"
    add("--loftq", type=int, metavar="RANK", help=text)
    data = parser.add_argument_group("judging", "before and after, on examples of your own")
    add = data.add_argument
    add("--data", metavar="FILE", help="CSV, JSONL or Parquet; a tenth of it is judged")
    add("--text", default="text", metavar="COLUMN", help="of the texts (default: text)")
    text = "of labels: accuracy of a linear probe; without, perplexity of a language model"
    add("--label", default="", metavar="COLUMN", help=text)
    text = f"to fit the probe to, and to judge (default: {_LABELLED}; without labels {_TEXTS})"
    add("--max-examples", type=int, metavar="N", help=text)
    parser.set_defaults(command=_quantize, resume_hint="the folder was not made")


def _quantize(options: argparse.Namespace) -> int:
    from fedloom.core.errors import ConfigError
    from fedloom.readable import bytes_text

    out = Path(options.out)
    if out.exists():
        raise ConfigError(f"{out}: it is there already; name another folder, or remove it")
    told: list[Rounded] = []

    def progress(rounded: "Rounded", done: int, total: int) -> None:
        told.append(rounded)
        where = f"{done:>4}/{total}  {rounded.name}"
        print(f"{where:<64} {rounded.scheme:<9} error {100 * rounded.error:6.2f} %", flush=True)

    stored = _kept if options.model.endswith(".gguf") else _stored
    before, judged = stored(options, out, progress)
    for line in _blocks(told):
        print(line)
    after = _size(out)
    print(f"{out}: {bytes_text(after)}, {after / before:.3f} of {bytes_text(before)}")
    if judged is not None:
        print(judged(), flush=True)
    return 0


def _kept(
    options: argparse.Namespace, out: Path, progress: "Progress"
) -> tuple[int, Callable[[], str] | None]:
    """Bytes of a GGUF file that is now a folder of the same blocks."""
    from fedloom.backbones.gguf_blocks import keep_blocks
    from fedloom.core.errors import ConfigError

    for name in ("bits", "group", "nf4", "format", "outer", "loftq", "data"):
        if getattr(options, name):
            text = "blocks of a GGUF file are kept as they are: nothing changes"
            raise ConfigError(f"--{name}: {text}")
    path = Path(options.model)
    keep_blocks(path, out, progress)
    return path.stat().st_size, None


def _stored(
    options: argparse.Namespace, out: Path, progress: "Progress"
) -> tuple[int, Callable[[], str] | None]:
    """Bytes of a model that is now stored in fewer bits, and what compares the two."""
    from fedloom.backbones import files
    from fedloom.backbones.formats import scheme_of
    from fedloom.backbones.loftq import LoftQ
    from fedloom.backbones.quantize import quantize

    scheme = _scheme(options)
    outer = scheme_of(options.outer) if options.outer else None
    folder = files.resolve(options.model)
    probe = _probe(options, folder) if options.data else None
    loftq = None if options.loftq is None else LoftQ(options.loftq)
    quantize(folder, out, scheme, outer=outer, loftq=loftq, progress=progress)
    return _size(folder), None if probe is None else partial(_judged, probe, folder, out)


def _probe(options: argparse.Namespace, folder: Path) -> "Probe":
    """What both folders are judged on; read first, so that a mistake costs no time."""
    from fedloom.core.errors import ConfigError, require
    from fedloom.sources import job_of
    from fedloom.tuning.probe import probe_of

    most = options.max_examples
    if most is None:
        most = _LABELLED if options.label else _TEXTS
    require(most >= 1, "--max-examples", most, "1 or more")
    task, adapter = ("classify", "head") if options.label else ("causal-lm", "lora")
    # A new LoRA changes nothing. Nor is anything rounded but what is stored.
    backbone = {"name": str(options.model), "task": task, "kernel": "dequantize"}
    data = {"path": options.data, "text": options.text, "label": options.label}
    job = job_of({"backbone": backbone, "adapter": {"name": adapter}, "data": data})
    probe = probe_of(job, folder, most)
    if not options.label and not probe.speaks(folder):
        raise ConfigError("--data: this backbone is no language model; --label COLUMN judges it")
    return probe


def _judged(probe: "Probe", before: Path, after: Path) -> str:
    first, second = probe.judged(before), probe.judged(after)
    if probe.classes:
        figures = [f"{100 * each['accuracy']:.1f} %" for each in (first, second)]
        what = f"accuracy of a linear probe fitted to {len(probe.train)} examples, on"
    else:
        figures = [f"{each['perplexity']:.2f}" for each in (first, second)]
        what = "perplexity of"
    return f"{what} {len(probe.test)}: {figures[0]} before, {figures[1]} after"


def _scheme(options: argparse.Namespace) -> "Scheme":
    from fedloom.backbones.formats import scheme_of
    from fedloom.core.errors import ConfigError

    if options.format:
        if options.bits or options.group or options.nf4:
            raise ConfigError("--format says all of it: no --bits, --group or --nf4 beside it")
        return scheme_of(options.format)
    if options.bits != 4:
        if options.nf4 or options.group:
            raise ConfigError(
                "--group and --nf4 are for --bits 4; 8 bits have a scale for each row"
            )
        return scheme_of("int8")
    kind = "nf4" if options.nf4 else "int4"
    return scheme_of(f"{kind}-{options.group}" if options.group else kind)


def _blocks(told: "list[Rounded]") -> list[str]:
    """The error of each block: its matrices together, by their sizes."""
    lines = []
    for block in dict.fromkeys(each.block for each in told):
        own = [each for each in told if each.block == block]
        sizes = [each.shape[0] * each.shape[1] for each in own]
        mean = sum(size * each.error for size, each in zip(sizes, own, strict=True)) / sum(sizes)
        lines.append(f"  {block:<12} {sum(sizes):>12,} numbers   mean error {100 * mean:6.2f} %")
    return lines


def _size(folder: Path) -> int:
    """Bytes of a model's weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
