"""The sections of the server benchmark: what each runs, and its table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from live.tables import (
    calls_table,
    cohorts_table,
    cuts_table,
    devices_table,
    rounds_table,
    uploads_table,
)
from running import Program, Result
from tables import Table

__all__ = ["SECTIONS", "Section", "Setting"]


@dataclass(frozen=True)
class Setting:
    """What all sections share.

    Attributes:
        models: folder with the model folders ``tiny`` and ``minilm``.
        baselines: interpreter of the baselines' environment, or empty to leave them out.
        quick: less of everything.
    """

    models: Path
    baselines: str
    quick: bool


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        title: above its table.
        programs: what is run.
        table: rows of cells, the first being the header.
        repeats: runs of each program, unless asked otherwise.
    """

    title: str
    programs: Callable[[Setting], list[Program]]
    table: Callable[[Sequence[Result]], Table]
    repeats: int = 3


BARE = {"plain": "gRPC alone, plain", "tls": "gRPC alone, mutual TLS"}
SAID = {"plain": "plain", "tls": "mutual TLS"}


def _uploads(setting: Setting) -> list[Program]:
    clients, rounds = ("50", "3") if setting.quick else ("100", "10")
    calls = "10" if setting.quick else "40"
    rate = "updates_per_second"
    floors = {
        "memcpy": "a copy in memory",
        "tcp": "TCP over the loopback",
        "checks": "checksums, SHA-256 and the exact sum, alone",
    }
    found = [
        Program(label, ("-m", "live.floor", name), rate=rate) for name, label in floors.items()
    ]
    for security, label in BARE.items():
        bare_arguments = ("-m", "live.calls", "bare", security, "upload", "50", calls)
        found.append(Program(label, bare_arguments, rate=rate))
    for security, bare in BARE.items():
        undurable = f"fedloom, {SAID[security]}, not durable"
        for label, ending in (
            (undurable, ""),
            (f"fedloom, {SAID[security]}, durable", "-durable"),
        ):
            arguments = ("-m", "live.uploads", security + ending, clients, rounds)
            facts = {"bare": bare, "undurable": undurable if ending else ""}
            found.append(Program(label, arguments, rate=rate, facts=facts))
    return found


def _checkins(setting: Setting) -> list[Program]:
    calls = "100" if setting.quick else "400"
    return [
        Program(
            label if system == "bare" else f"fedloom, {SAID[security]}",
            ("-m", "live.calls", system, security, "checkin", "50", calls),
            facts={} if system == "bare" else {"bare": label},
            rate="per_second",
        )
        for system in ("bare", "fedloom")
        for security, label in BARE.items()
    ]


def _many(setting: Setting) -> list[Program]:
    clients = 200 if setting.quick else 2000
    few, most = (50, 500) if setting.quick else (100, 10_000)
    least = f"{few} updates over 50 plain connections"
    arguments = ("-m", "live.many", str(clients), "1")
    label = f"{clients:,} clients with a mutual-TLS connection each"
    cohorts = [
        Program(
            f"{count:,} updates over 50 plain connections",
            ("-m", "live.cohort", str(count), "1"),
            facts={"beside": least},
            rate="accepted",
        )
        for count in (few, most)
    ]
    return [Program(label, arguments, rate="updates_per_second"), *cohorts]


def _cut(setting: Setting) -> list[Program]:
    return [
        Program(label, ("-m", "live.cut", way, "64", "20"), rate="tries")
        for way, label in (("down", "downloaded"), ("up", "uploaded"))
    ]


def _rounds(setting: Setting) -> list[Program]:
    rounds = "20" if setting.quick else "100"
    found = [
        Program(
            f"fedloom, {SAID[security]}",
            ("-m", "live.rounds", security, str(clients), rounds),
            facts={"clients": clients},
            rate="rounds_per_second",
        )
        for clients in (2, 8)
        for security in ("plain", "tls")
    ]
    counts = (2,) if setting.quick else (2, 8)
    flower = [_flower(setting, count, 3 if setting.quick else 8) for count in counts]
    return found + (flower if setting.baselines else [])


def _devices(setting: Setting) -> list[Program]:
    tiny, minilm = (str(setting.models / shape) for shape in ("tiny", "minilm"))
    rounds = "4" if setting.quick else "20"
    found = [
        Program("fedloom, waiting", ("-m", "live.devices", "waiting", tiny)),
        Program(
            "fedloom, MiniLM",
            ("-m", "live.devices", "rounds", minilm, rounds),
            facts={"clients": 2},
            rate="rounds_per_second",
        ),
    ]
    if setting.baselines:
        found.append(_flower(setting, 2, 3 if setting.quick else 8, "--work=minilm"))
    return found


def _flower(setting: Setting, clients: int, rounds: int, *more: str) -> Program:
    label = "Flower, MiniLM" if more else "Flower: SuperLink and SuperNodes, no TLS"
    arguments = ("-m", "baselines.flower_live", f"--clients={clients}", f"--rounds={rounds}")
    facts = {"system": "Flower", "clients": clients}
    return Program(label, (*arguments, *more), python=setting.baselines, facts=facts, repeats=1)


SECTIONS: Mapping[str, Section] = MappingProxyType(
    {
        "uploads": Section("Updates of 1 MiB, float32", _uploads, uploads_table),
        "checkins": Section("Check-ins that bring no work", _checkins, calls_table),
        "many": Section("Many clients, updates of 1 MiB, durable", _many, cohorts_table, 1),
        "cut": Section("A line that is cut, mutual TLS", _cut, cuts_table, 1),
        "rounds": Section(
            "Rounds of 100 kB, trivial work, every client a process", _rounds, rounds_table
        ),
        "devices": Section(
            "A device, and rounds with MiniLM: 16 samples x 32 tokens, batch 8, float32",
            _devices,
            devices_table,
            1,
        ),
    }
)
