"""``fedloom layers``: which layers of an adapter clients should share, and which keep."""

import argparse
import sys

__all__ = ["add_layers"]


def add_layers(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add = parser.add_argument
    parser.description = (
        "Score the layers of a job's frozen backbone on one batch of each client of the first "
        "round, and print the line that has clients share some of them and keep the others "
        "(FedPepTAO). Nothing is trained; the data are those of the configuration."
    )
    add("config", metavar="CONFIG", help="a TOML file, or a recipe: fedloom list recipes")
    hint = "change a value, such as data.path=reviews.jsonl; may be repeated"
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments", help=hint)
    hint = "share of the layers that is shared, above 0, to 1 (default: 0.5)"
    add("--share", type=float, default=0.5, metavar="X", help=hint)
    hint = "which layers are shared, by their scores (default: lowest)"
    add("--end", default="lowest", metavar="highest|lowest", help=hint)
    parser.set_defaults(command=_layers)


def _layers(options: argparse.Namespace) -> int:
    from fedloom.core.config import override
    from fedloom.progress import Quiet
    from fedloom.simulation.layers import choose_layers
    from fedloom.sources import job_of

    job = job_of(options.config, override({}, options.assignments))
    choice = choose_layers(job, Quiet(), share=options.share, end=options.end)
    for layer, score in choice.scores.items():
        told = "shared" if layer in choice.shared else "kept"
        print(f"layer {layer:<3} {score:>14.6g}  {told}", file=sys.stderr)
    print(choice.keep)
    return 0
