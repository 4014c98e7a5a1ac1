"""Plots and a self-contained web page, made from run directories alone."""

import base64
import importlib.util
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from fedloom import __version__
from fedloom.core.errors import RunError
from fedloom.markup import (
    comparison,
    config_tables,
    different_keys,
    refused_table,
    rounds_table,
    table,
)
from fedloom.readable import METRICS, bytes_text, count, duration, energy, value_text
from fedloom.record import Record
from fedloom.results.observe import RoundLine
from fedloom.targets import HEAD, target_cells

if TYPE_CHECKING:
    from fedloom.plots import Picture

__all__ = ["can_draw", "write_page", "write_report"]


def can_draw() -> bool:
    """Whether the extra ``fedloom[plots]`` is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def write_report(
    runs: Sequence[Path], *, out: Path | None = None, target: float | None = None
) -> Path:
    """Write ``plots/*.png`` and ``report.html`` of a run, or of several compared.

    Args:
        runs: run directories, finished or not.
        out: where to; None for the run's own folder, or ``comparison`` for several.
        target: also say what each took until its metric came to this; None for no such table.

    Returns:
        The page.

    Raises:
        RunError: a folder holds no run, matplotlib is not installed, or `out` cannot be written.
    """
    if not can_draw():
        raise RunError("plots need matplotlib: pip install 'fedloom[plots]'")
    from fedloom.plots import pictures

    records = [Record.read(path) for path in runs]
    drawn = pictures(records)
    folder = out or (runs[0] if len(runs) == 1 else Path("comparison"))
    page = folder / "report.html"
    try:
        (folder / "plots").mkdir(parents=True, exist_ok=True)
        for picture in drawn:
            (folder / "plots" / f"{picture.key}.png").write_bytes(picture.png)
        page.write_text(_page(records, drawn, target), encoding="utf-8")
    except OSError as error:
        raise RunError(f"{error.filename}: cannot be written: {error.strerror}") from None
    return page


def _page(records: Sequence[Record], drawn: "Sequence[Picture]", target: float | None) -> str:
    single = len(records) == 1
    parts = _single(records[0], drawn) if single else _several(records, drawn)
    if target is not None:
        parts.insert(1, _targets(records, target))
    title = records[0].name if single else f"{len(records)} runs compared"
    header = _header(records[0]) if single else f"<h1>{escape(title)}</h1>"
    body = "\n".join(part for part in parts if part)
    return _html(title, header, body, _footer(records))


def _html(title: str, header: str, body: str, footer: str) -> str:
    folder = files("fedloom")
    return Template(folder.joinpath("page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        css=folder.joinpath("page.css").read_text(encoding="utf-8"),
        header=header,
        body=body,
        footer=footer,
    )


def write_page(folder: Path, title: str, body: str, beside: Mapping[str, str]) -> Path:
    """Write ``report.html`` of what is no run, and text files beside it.

    Args:
        folder: where to.
        title: of the page.
        body: HTML.
        beside: text of each file by its name.

    Raises:
        RunError: they cannot be written.
    """
    page = folder / "report.html"
    header, footer = f"<h1>{escape(title)}</h1>", escape(f"Made by fedloom {__version__}")
    text = _html(title, header, body, footer)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in {**beside, page.name: text}.items():
            (folder / name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{error.filename}: cannot be written: {error.strerror}") from None
    return page


def _single(record: Record, drawn: "Sequence[Picture]") -> list[str]:
    below = {"refused": refused_table(record), "partition": _statistics(record)}
    shown = [_picture(picture, below.get(picture.key, "")) for picture in drawn]
    rounds = f'<div class="scroll">{rounds_table(record)}</div>'
    return [
        _figures(record),
        *(shown or ['<section><p class="empty">No round is done yet.</p></section>']),
        _folded(f"Rounds ({record.done})", rounds) if len(record.history) else "",
        _folded("Configuration", config_tables(record.config)),
        _folded("Versions", config_tables({"versions": record.versions})),
    ]


def _statistics(record: Record) -> str:
    """Numbers about the partition, in words."""
    found = record.partition.get("statistics") or {}
    words = (f"{name.replace('_', ' ')} {value:.4g}" for name, value in found.items() if value)
    return f'<p class="empty">{escape(" · ".join(words))}</p>' if found else ""


def _several(records: Sequence[Record], drawn: "Sequence[Picture]") -> list[str]:
    different = different_keys(records)
    words = "Settings that differ; all others are the same."
    return [
        _section("Runs", f'<div class="scroll">{comparison(records)}</div>'),
        _section("Differences", f'<div class="scroll">{different}</div>', words)
        if different
        else "",
        *(_picture(picture) for picture in drawn),
        *(_folded(f"Configuration of {r.name}", config_tables(r.config)) for r in records),
    ]


def _targets(records: Sequence[Record], target: float) -> str:
    rows = table(HEAD, target_cells(records, target), texts=[0, 1])
    return _section(f"Until {target:g}", f'<div class="scroll">{rows}</div>')


def _header(record: Record) -> str:
    config = record.config
    kind = "" if record.state == "finished" else " open"
    state = f'<span class="state{kind}">{escape(record.state)}</span>'
    strategies = dict.fromkeys(stage["strategy"]["name"] for stage in config["stages"])
    words = [
        f"{config['adapter']['name']} on {config['backbone']['name']}",
        " then ".join(strategies),
        f"partition {config['partition']['name']}",
        f"seed {config['seed']}",
    ]
    return f"<h1>{escape(record.name)}{state}</h1>\n<p>{escape(' · '.join(words))}</p>"


def _figures(record: Record) -> str:
    last = record.history.last or RoundLine(0)
    cards = [*_model_figures(record)]
    cards.append(("rounds", f"{record.done}", f"of {record.rounds}", ""))
    cards.append(("time", duration(last.elapsed), _pace(record), ""))
    traffic = bytes_text(last.total_bytes_up + last.total_bytes_down)
    text = f"{bytes_text(last.total_bytes_up)} up, {bytes_text(last.total_bytes_down)} down"
    cards.append(("traffic", traffic, text, ""))
    if last.simulated_seconds:
        drawn = f"{energy(last.total_joules)} drawn" if last.total_joules else ""
        cards.append(("devices' time", duration(last.simulated_seconds), drawn, ""))
    refused = sum(line.refused for line in record.history)
    accepted = sum(line.accepted for line in record.history)
    cards.append(("updates", count(accepted), f"{count(refused)} refused", ""))
    return f'<dl class="figures">{"".join(_card(*card) for card in cards)}</dl>'


def _model_figures(record: Record) -> list[tuple[str, str, str, str]]:
    """The last model, first and large, then the models that it is measured against."""
    name = record.metric
    if not name:
        return []
    title, nan = METRICS[name].title, math.nan
    after = value_text(name, record.after.get(name, nan))
    before = value_text(name, record.before.get(name, nan))
    cards = [(title, after, f"{before} before training", "lead")]
    words = {"central": "all data in one place", "local": "each client alone"}
    for reference, metrics in record.references.items():
        value = value_text(name, metrics.get(name, nan))
        cards.append((f"{reference} {title}", value, words.get(reference, ""), ""))
    return cards


def _pace(record: Record) -> str:
    seconds = sum(line.seconds for line in record.history)
    clients = sum(line.accepted + line.refused for line in record.history)
    return f"{clients / seconds:.3g} clients per second" if seconds > 0 and clients else ""


def _card(title: str, value: str, text: str, kind: str) -> str:
    attribute = f' class="{kind}"' if kind else ""
    small = f"<small>{escape(text)}</small>" if text else ""
    return f"<div{attribute}><dt>{escape(title)}</dt><dd>{escape(value)}{small}</dd></div>"


def _picture(picture: "Picture", below: str = "") -> str:
    data = base64.b64encode(picture.svg).decode()
    image = f'<img alt="{escape(picture.title)}" src="data:image/svg+xml;base64,{data}">'
    return _section(picture.title, image + below, picture.caption)


def _section(title: str, content: str, text: str = "") -> str:
    words = f"<p>{escape(text)}</p>" if text else ""
    return f"<section><h2>{escape(title)}</h2>{words}{content}</section>"


def _folded(title: str, content: str) -> str:
    return f"<section><details><summary>{escape(title)}</summary>{content}</details></section>"


def _footer(records: Sequence[Record]) -> str:
    paths = ", ".join(str(record.path) for record in records)
    version = records[0].versions.get("fedloom", "")
    return escape(f"Made by fedloom {version} from {paths}")
