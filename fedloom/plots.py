"""The pictures of one run, or of several overlaid, ready for files and pages."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from fedloom.curves import cost, learning, on_devices
from fedloom.record import Record
from fedloom.spreads import across_clients, partition, refusals
from fedloom.style import styled

__all__ = ["Picture", "pictures"]


@dataclass(frozen=True)
class Picture:
    """One drawn figure.

    Attributes:
        key: file name without ending.
        title: heading of its section.
        caption: what to see in it.
        png: for a file, at 160 dots per inch.
        svg: for a page.
    """

    key: str
    title: str
    caption: str
    png: bytes
    svg: bytes


_Draw = Callable[[Sequence[Record]], Figure | None]


def pictures(records: Sequence[Record]) -> list[Picture]:
    """Every picture that the runs have numbers for."""
    kinds: list[tuple[str, str, str, _Draw]] = [
        ("learning", "Learning", _LEARNING, learning),
        ("cost", "What it cost", _COST, cost),
        ("devices", "What it took the devices", _DEVICES, on_devices),
        ("clients", "Across clients", _CLIENTS, across_clients),
        ("partition", "Who holds what", _PARTITION, partition),
        ("refused", "Refused updates", _REFUSED, refusals),
    ]
    with styled():
        drawn = [(key, title, text, draw(records)) for key, title, text, draw in kinds]
        return [
            Picture(key, title, text, _saved(made, "png"), _saved(made, "svg"))
            for key, title, text, made in drawn
            if made is not None
        ]


_LEARNING = "The global model after each round; training loss is the clients' own mean."
_COST = "The same model against what it took: bytes both ways, and time."
_DEVICES = "Each round lasts as long as its slowest client computes and communicates."
_CLIENTS = "The last model on each client's own examples; every client counts once."
_PARTITION = "Labels of the largest clients, and how unequal the clients are in size."
_REFUSED = "Updates folded into the model and updates turned away, by round."


def _saved(made: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": "fedloom"}
    made.savefig(file, format=kind, dpi=160, metadata=metadata)
    return file.getvalue()
