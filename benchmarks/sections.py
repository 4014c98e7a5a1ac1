"""The sections of the simulator benchmark: what each measures, and its table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from measurement import Measurement
from running import Program
from section import Section
from tables import lengths_table, prefix_table, registered_table, systems_table

__all__ = ["SECTIONS", "Setting"]

PYTHON_FILES = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Setting:
    """What all sections share.

    Attributes:
        models: folder with a model folder for every shape.
        baselines: interpreter of the baselines' environment, or empty to leave them out.
        generic: whether `transformers` is there for the generic engine.
        quick: fewer clients and rounds.
    """

    models: Path
    baselines: str
    generic: bool
    quick: bool


def _fedloom(label: str, asked: Measurement, **facts: Any) -> Program:
    arguments = (str(PYTHON_FILES / "federated.py"), asked.to_json())
    return Program(label, arguments, facts={"kind": "fedloom", "dtype": asked.dtype, **facts})


def _baseline(
    setting: Setting, system: str, work: str, clients: int, dtype: str, attention: str
) -> Program:
    rounds = 3 if system == "flower_sim" else (2 if setting.quick else 4)
    options = {"work": work, "clients": clients, "rounds": rounds, "dtype": dtype}
    flags = [f"--{key}={value}" for key, value in (options | {"attention": attention}).items()]
    name = {"peft_loop": "peft loop", "pfl_sim": "pfl", "flower_sim": "Flower"}[system]
    kind = "sequential" if system == "peft_loop" else "framework"
    precise = "float32" if dtype == "float32" else "bfloat16"
    how = {"bfloat16": "bf16 autocast", "bfloat16-frozen": "bf16, frozen weights bf16"}
    return Program(
        f"{name}, {how.get(dtype, 'fp32')}" + (", plain attention" if attention == "eager" else ""),
        ("-m", f"baselines.{system}", *flags),
        python=setting.baselines,
        facts={"kind": kind, "dtype": precise, "system": system},
        repeats=1 if system == "flower_sim" else 0,
    )


def _systems(
    setting: Setting, work: str, asked: Measurement, clients: tuple[int, int]
) -> list[Program]:
    """fedloom's engines and the baselines on one work; `clients` of a round, ours and theirs."""
    own, theirs = (max(n // 4, 8) if setting.quick else n for n in clients)
    asked = replace(asked, clients=own, rounds=2 if setting.quick else 4)
    rows = []
    for dtype, short in (("bfloat16", "bf16"), ("float32", "fp32")):
        rows.append(_fedloom(f"fedloom, fused, {short}", replace(asked, dtype=dtype)))
        if setting.generic:
            generic = replace(asked, dtype=dtype, engine="transformers")
            rows.append(_fedloom(f"fedloom, any transformers model, {short}", generic))
    if not setting.baselines:
        return rows
    for dtype, attention in (
        ("float32", "sdpa"),
        ("bfloat16", "sdpa"),
        ("bfloat16-frozen", "eager"),
    ):
        rows.append(_baseline(setting, "peft_loop", work, theirs, dtype, attention))
    for system in ("pfl_sim", "flower_sim"):
        rows.append(_baseline(setting, system, work, theirs, "float32", "sdpa"))
    return rows


def _minilm(setting: Setting) -> list[Program]:
    asked = Measurement(str(setting.models / "minilm"))
    return _systems(setting, "minilm", asked, (64, 32))


def _tiny(setting: Setting) -> list[Program]:
    asked = Measurement(str(setting.models / "tiny"))
    return _systems(setting, "tiny", asked, (512, 256))


def _small(shape: str) -> Callable[[Setting], list[Program]]:
    def programs(setting: Setting) -> list[Program]:
        folder = str(setting.models / shape)
        asked = Measurement(folder, samples=4, tokens=16, batch=2)
        clients = (512, 128) if shape == "minilm" else (2048, 512)
        return _systems(setting, f"{shape}-small-clients", asked, clients)

    return programs


def _mixed(setting: Setting) -> list[Program]:
    asked = Measurement(
        str(setting.models / "minilm"),
        clients=48 if setting.quick else 256,
        rounds=1 if setting.quick else 2,
        tokens=128,
        lengths="skewed",
    )
    how = {
        "longest": "every example padded to the longest, 128",
        "batch": "padded to the longest of a client's batch",
        "packed": "packed, clients of like size together",
    }
    return [
        _fedloom(label, replace(asked, padding=padding), padding=padding)
        for padding, label in how.items()
    ]


def _prefix(setting: Setting) -> list[Program]:
    asked = Measurement(
        str(setting.models / "minilm"),
        clients=16 if setting.quick else 64,
        rounds=3 if setting.quick else 4,
    )
    rows = [_fedloom("all six", asked, cached=False)]
    for layers, label in (((-3, -2, -1), "top three"), ((-2, -1), "top two"), ((-1,), "top one")):
        for cached in (False, True):
            one = replace(asked, layers=layers, cached=cached)
            rows.append(_fedloom(label, one, cached=cached))
    return rows


def _registered(setting: Setting) -> list[Program]:
    cohort = 200 if setting.quick else 1000
    return [
        Program(
            f"{count:,}",
            (
                str(PYTHON_FILES / "registered.py"),
                str(setting.models / "tiny"),
                str(count),
                str(cohort),
            ),
            facts={"registered": count, "cohort": cohort},
        )
        for count in (1000, 100_000)
    ]


SECTIONS: Mapping[str, Section[Setting]] = MappingProxyType(
    {
        "minilm": Section(
            "MiniLM-L6 (22 M), 16 samples x 32 tokens, batch 8", _minilm, systems_table
        ),
        "tiny": Section(
            "2 layers of width 64, 16 samples x 32 tokens, batch 8", _tiny, systems_table
        ),
        "small-clients": Section(
            "MiniLM-L6, 4 samples x 16 tokens, batch 2", _small("minilm"), systems_table
        ),
        "tiny-small-clients": Section(
            "2 layers of width 64, 4 samples x 16 tokens, batch 2", _small("tiny"), systems_table
        ),
        "mixed-lengths": Section(
            "MiniLM-L6, 16 samples of 4 to 128 tokens (log-normal), batch 8, bf16",
            _mixed,
            lengths_table,
        ),
        "prefix": Section(
            "MiniLM-L6 in bf16, LoRA in some layers, what lies below kept or not",
            _prefix,
            prefix_table,
        ),
        "registered": Section(
            "Memory by registered clients, 2 layers of width 64, two rounds",
            _registered,
            registered_table,
        ),
    }
)
