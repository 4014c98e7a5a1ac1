"""``fedloom quantize``: a model folder in 8 or 4 bits, and how far its matrices moved."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedloom.backbones.quantize import Rounded
    from fedloom.backbones.schemes import Scheme

__all__ = ["add_quantize"]


def add_quantize(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add = parser.add_argument
    parser.description = (
        "Store a backbone in fewer bits. The folder is a backbone like any other: name it as "
        "backbone.name, or let a job do the same by backbone.quantization."
    )
    add("model", metavar="MODEL", help="such as minilm, or a folder in transformers' format")
    add("out", metavar="OUT", help="folder to make")
    add("--bits", type=int, choices=(4, 8), default=8, help="of a number (default: 8)")
    text = "4 bits: numbers of a row that share a scale (default: 32; with --nf4: 64)"
    add("--group", type=int, metavar="N", help=text)
    add("--nf4", action="store_true", help="4 bits: the levels of NF4 in place of integers")
    text = "format of embeddings and heads, such as int8 (default: that of the layers)"
    add("--outer", metavar="FORMAT", help=text)
    parser.set_defaults(command=_quantize, resume_hint="the folder was not made")


def _quantize(options: argparse.Namespace) -> int:
    from fedloom.backbones import files
    from fedloom.backbones.quantize import quantize
    from fedloom.backbones.schemes import scheme_of
    from fedloom.core.errors import ConfigError
    from fedloom.readable import bytes_text

    out = Path(options.out)
    if out.exists():
        raise ConfigError(f"{out}: it is there already; name another folder, or remove it")
    scheme = _scheme(options)
    outer = scheme_of(options.outer) if options.outer else None
    folder = files.resolve(options.model)
    told: list[Rounded] = []

    def progress(rounded: "Rounded", done: int, total: int) -> None:
        told.append(rounded)
        where = f"{done:>4}/{total}  {rounded.name}"
        print(f"{where:<64} {rounded.scheme:<9} error {100 * rounded.error:6.2f} %", flush=True)

    quantize(folder, out, scheme, outer=outer, progress=progress)
    for line in _blocks(told):
        print(line)
    before, after = (_size(place) for place in (folder, out))
    text = f"{bytes_text(after)}, {after / before:.3f} of {bytes_text(before)}"
    print(f"{out}: {text}")
    return 0


def _scheme(options: argparse.Namespace) -> "Scheme":
    from fedloom.backbones.schemes import scheme_of
    from fedloom.core.errors import ConfigError

    if options.bits == 8:
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
