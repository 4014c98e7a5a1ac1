"""The command ``fedloom stage``: serve some blocks of a backbone to devices that lack them."""

import argparse
from pathlib import Path

from fedloom.core.errors import ConfigError

__all__ = ["add_stage", "blocks_of"]


def add_stage(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add = parser.add_argument
    parser.description = (
        "Serve frozen blocks of a backbone: devices that cannot hold them send hidden states "
        "through, and train what they hold themselves."
    )
    add("backbone", metavar="BACKBONE", help="a folder, or a name: fedloom list backbones")
    add("--blocks", required=True, metavar="A-B", help="from block A (from 0) up to, without, B")
    add("--listen", default="127.0.0.1", metavar="ADDRESS", help="(default: 127.0.0.1)")
    add("--port", type=int, default=0, metavar="N", help="(default: any free one)")
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help="(default: float32)")
    text = "keep weights rounded to 8 bits: a quarter of float32's memory; other hidden states"
    add("--bits", type=int, default=0, metavar="8", help=text)
    add("--device", default="auto", metavar="NAME", help="cpu, cuda or auto")
    who = parser.add_mutually_exclusive_group(required=True)
    text = "let in the clients of the server whose state is here (its server.directory)"
    who.add_argument("--in", dest="folder", metavar="DIR", help=text)
    who.add_argument("--insecure", action="store_true", help="without TLS: let in whoever comes")
    parser.set_defaults(command=_stage, resume_hint="the same command goes on")


def blocks_of(text: str) -> tuple[int, int]:
    """The blocks of a range such as ``2-6``.

    >>> blocks_of("2-6")
    (2, 6)

    Raises:
        ConfigError: it is none.
    """
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal()):
        raise ConfigError(f"blocks = {text!r}: two numbers, such as 2-6")
    return int(first), int(last)


def _stage(options: argparse.Namespace) -> int:
    from fedloom.security.floor import only_tls13

    only_tls13()
    import torch

    from fedloom.backbones.files import resolve
    from fedloom.server.hosting import Hosted
    from fedloom.server.stage_serve import StagePlan, serve_stage
    from fedloom.tuning.capacity import choose_device

    first, last = blocks_of(options.blocks)
    plan = StagePlan(
        resolve(options.backbone, lambda done, total: None),
        first,
        last,
        options.listen,
        options.port,
        None if options.insecure else Path(options.folder),
        torch.bfloat16 if options.dtype == "bfloat16" else torch.float32,
        choose_device(options.device),
        bits=options.bits,
    )

    def tell(address: str, port: int, found: Hosted) -> None:
        size = f"{found.nbytes / 1e6:.1f} MB in {found.bits} bits"
        print(f"blocks {first} to {last} of {found.depth}: {size}")
        print(f"serving at {address}:{port}, weights {found.weights}", flush=True)

    serve_stage(plan, tell)
    return 0
