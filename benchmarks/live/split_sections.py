"""The sections of the benchmark of split learning: what each runs, and its table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from live.split_setup import Asked
from running import Program, Result
from tables import Table

__all__ = ["SECTIONS", "Section", "Setting"]

SAID = {"minilm": "MiniLM-L6", "bert-base": "BERT-base"}
LEGS = {"home": "4 legs", "far": "2 legs"}
SMALL, LARGE = (4, 32), (16, 128)


@dataclass(frozen=True)
class Setting:
    """What all sections share.

    Attributes:
        models: folder with the model folders ``minilm`` and ``bert-base``.
        device: of the far side.
        threads: of the products, on each side.
        quick: less of everything.
    """

    models: Path
    device: str
    threads: int
    quick: bool

    def asked(self, shape: str, size: tuple[int, int], labels: str) -> Asked:
        """One client's steps of `size`: sequences, and tokens of each."""
        batch, tokens = size
        found = Asked(str(self.models / shape), labels=labels, batch=batch, tokens=tokens)
        return replace(found, device=self.device, threads=self.threads)


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        title: above its table.
        programs: what is run.
        table: rows of cells, the first being the header.
    """

    title: str
    programs: Callable[[Setting], list[Program]]
    table: Callable[[Sequence[Result]], Table]


def _program(module: str, label: str, asked: Asked) -> Program:
    return Program(label, ("-m", f"live.{module}", asked.to_json()), rate="rate")


def _label(shape: str, size: tuple[int, int], labels: str) -> str:
    return f"{SAID[shape]}, {size[0]} x {size[1]} tokens, {LEGS[labels]}"


def _rates(setting: Setting) -> list[Program]:
    found = []
    for shape in ("minilm",) if setting.quick else ("minilm", "bert-base"):
        steps, repeats = (1, 3) if setting.quick or shape == "bert-base" else (2, 5)
        for labels in LEGS:
            asked = setting.asked(shape, LARGE, labels)
            asked = replace(asked, steps=steps, repeats=repeats)
            found.append(_program("split_rate", _label(shape, LARGE, labels), asked))
    return found


def _overheads(setting: Setting) -> list[Program]:
    found = []
    for computes in (True, False):
        for size in (SMALL, LARGE):
            repeats = 40 if size == SMALL or not computes else 10
            for labels in LEGS:
                asked = replace(setting.asked("minilm", size, labels), computes=computes)
                asked = replace(asked, repeats=repeats // 4 if setting.quick else 5 * repeats // 2)
                label = _label("minilm", size, labels) + ("" if computes else ", nothing computed")
                found.append(_program("split_legs", label, asked))
    return found


def _codecs(setting: Setting) -> list[Program]:
    asked = replace(setting.asked("minilm", LARGE, "home"), computes=False)
    asked = replace(asked, repeats=10 if setting.quick else 60)
    return [
        _program("split_legs", codec, replace(asked, codec=codec))
        for codec in ("float32", "bf16", "int8")
    ]


def _crowds(setting: Setting) -> list[Program]:
    found = []
    for size in ((4, 32), (1, 16)) if setting.quick else ((4, 32), (1, 32), (1, 16), (1, 8)):
        for labels in LEGS:
            asked = replace(setting.asked("minilm", size, labels), clients=16)
            asked = replace(asked, steps=3, repeats=3 if setting.quick else 7)
            found.append(_program("split_crowd", _label("minilm", size, labels), asked))
    return found


def _rate_table(results: Sequence[Result]) -> Table:
    out = [["a client's step", "one process, ms", "split, ms", "throughput, split / one process"]]
    for result in results:
        times = [_number(result, key, 1) for key in ("alone_ms", "live_ms")]
        share = "failed" if "failed" in result else f"{100 * float(result['ratio']):.0f} %"
        out.append([str(result["label"]), *times, share])
    return out


def _overhead_table(results: Sequence[Result]) -> Table:
    head = ["a step's legs", "MiB", "ms", "of them computation", "bare gRPC echo, ms"]
    out = [[*head, "overhead, ms"]]
    for result in results:
        keys = ("live_ms", "compute_ms", "echo_ms", "overhead_ms")
        times = [_number(result, key, 1) for key in keys]
        out.append([str(result["label"]), _mib(result), *times])
    return out


def _codec_table(results: Sequence[Result]) -> Table:
    out = [["codec of all legs", "MiB a step", "ms a step", "bare gRPC echo, ms", "codec and rest"]]
    for result in results:
        times = [_number(result, key, 1) for key in ("live_ms", "echo_ms", "overhead_ms")]
        out.append([str(result["label"]), _mib(result), *times])
    return out


def _crowd_table(results: Sequence[Result]) -> Table:
    head = ["a client's step", "one by one, steps/s", "16 in `concat`, steps/s", "x"]
    out = [[*head, "server CPU ms, one by one", "in `concat`", "x, computation alone"]]
    for result in results:
        keys = ("sequential_per_second", "concat_per_second", "ratio")
        more = ("sequential_cpu", "concat_cpu", "compute_ratio")
        out.append([str(result["label"]), *(_number(result, key, 1) for key in (*keys, *more))])
    return out


def _mib(result: Result) -> str:
    return "-" if "failed" in result else f"{float(result['bytes']) / 2**20:.2f}"


def _number(result: Result, key: str, digits: int) -> str:
    return "failed" if "failed" in result else f"{float(result[key]):,.{digits}f}"


SECTIONS: Mapping[str, Section] = MappingProxyType(
    {
        "split-rate": Section(
            "Training split over loopback, beside the same in one process, float32",
            _rates,
            _rate_table,
        ),
        "split-overhead": Section(
            "What a step takes beyond its computation and its bytes, float32",
            _overheads,
            _overhead_table,
        ),
        "split-codecs": Section(
            "Activation codecs: MiniLM-L6, 16 x 128 tokens, 4 legs, nothing computed",
            _codecs,
            _codec_table,
        ),
        "split-crowd": Section(
            "16 clients that compute nothing, one after the other or in `concat`",
            _crowds,
            _crowd_table,
        ),
    }
)
