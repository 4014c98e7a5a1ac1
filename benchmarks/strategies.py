"""Aggregation rules beside Flower's implementation of the same rule, in one run.

    python benchmarks/strategies.py --flower-python VENV/bin/python

Every figure is of a process of its own with one thread; the best of ``--repeats`` runs, A B A B
(of the mean, of three at least). Flower holds all replies in memory, some rules three times over,
13 GiB of a million parameters and a thousand clients: ``--flower-parameters`` cuts the model that
both are compared on where a machine has not that much free, and ours is then also measured at
``--parameters``. A process of Flower's that wants more than is free fails.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import commit, machine, page, write_section
from running import Program, Result, run_all
from tables import Table, markdown

HERE = Path(__file__).resolve().parent
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """What all sections share."""

    clients: int
    parameters: int
    compared: int
    flower: str


@dataclass(frozen=True)
class Rule:
    """A rule of ours and Flower's of the same name.

    Attributes:
        title: above its table.
        ours: name and options of our strategy, given the number of clients.
        flower: name and options of Flower's.
        numpy: dtypes of totals that ``numpy.add`` is measured with beside them.
        repeats: runs at least.
    """

    title: str
    ours: Callable[[int], tuple[str, Options]]
    flower: Callable[[int], tuple[str, Options]]
    numpy: tuple[str, ...] = ()
    repeats: int = 1

    def programs(self, setting: Setting) -> list[Program]:
        """What is run."""
        small, whole = setting.compared, setting.parameters
        out = [self._ours(setting, small), self._flower(setting)]
        out += [self._numpy(setting, dtype) for dtype in self.numpy]
        return out if small == whole else [*out, self._ours(setting, whole)]

    def _ours(self, setting: Setting, parameters: int) -> Program:
        name, options = self.ours(setting.clients)
        return _program("ours", "strategy_ours.py", name, options, setting.clients, parameters)

    def _flower(self, setting: Setting) -> Program:
        name, options = self.flower(setting.clients)
        rest = name, options, setting.clients, setting.compared
        return _program("flower", "strategy_flower.py", *rest, python=setting.flower)

    def _numpy(self, setting: Setting, dtype: str) -> Program:
        words = (str(HERE / "strategy_numpy.py"), dtype, str(setting.clients))
        facts = {"kind": "numpy", "parameters": setting.compared}
        label = f"numpy.add, {dtype} total"
        return Program(label, (*words, str(setting.compared)), facts=facts, rate="rate")


RULES = {
    "mean": Rule(
        "Weighted mean",
        lambda n: ("fedavg", {}),
        lambda n: ("FedAvg", {}),
        ("float32", "float64", "int64"),
        repeats=3,
    ),
    "median": Rule("Coordinate median", lambda n: ("median", {}), lambda n: ("FedMedian", {})),
    "trimmed-mean": Rule(
        "Trimmed mean, a fifth at each end",
        lambda n: ("trimmed-mean", {"f": n // 5}),
        lambda n: ("FedTrimmedAvg", {"beta": 0.2}),
    ),
    "krum": Rule(
        "Krum, f = a tenth",
        lambda n: ("krum", {"f": n // 10}),
        lambda n: ("Krum", {"num_malicious_nodes": n // 10}),
    ),
    "bulyan": Rule(
        "Bulyan, f = a tenth (Flower's runs Krum once, not in turn)",
        lambda n: ("bulyan", {"f": n // 10}),
        lambda n: ("Bulyan", {"num_malicious_nodes": n // 10}),
    ),
}


def main() -> None:
    """Run the chosen sections and write their results."""
    options = _options()
    setting = Setting(
        options.clients,
        options.parameters,
        min(options.flower_parameters or options.parameters, options.parameters),
        options.flower_python,
    )
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    facts = {"machine": machine(), "commit": commit(), "flower": options.flower_note}
    for name in options.only or RULES:
        print(RULES[name].title, file=sys.stderr)
        programs = RULES[name].programs(setting)
        results = run_all(
            programs, repeats=max(options.repeats, RULES[name].repeats), limit=options.limit
        )
        table = _table(results, setting.clients)
        print(markdown(table), flush=True)
        text = page(RULES[name].title, table, facts)
        write_section(Path(options.out), f"strategy-{name}", results, text, facts)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--only", nargs="+", choices=list(RULES), help="sections (default: all)")
    add("--clients", type=int, default=1000)
    add("--parameters", type=int, default=1_000_000)
    add("--flower-parameters", type=int, default=0, help="of the comparison (0: the same)")
    add("--flower-python", required=True, help="the interpreter of an environment with flwr")
    add("--flower-note", default="flwr 1.41.0", help="what is written of it beside the table")
    add("--repeats", type=int, default=1)
    add("--limit", type=float, default=600, help="seconds of one run")
    add("--out", default=str(HERE / "results"))
    return parser.parse_args()


def _program(
    kind: str,
    file: str,
    name: str,
    options: Options,
    clients: int,
    parameters: int,
    python: str = sys.executable,
) -> Program:
    words = (str(HERE / file), name, json.dumps(options), str(clients), str(parameters))
    facts = {"kind": kind, "parameters": parameters}
    return Program(f"{kind}: {name}", words, python=python, facts=facts, rate="rate")


def _table(results: Sequence[Result], clients: int) -> Table:
    """Times, memory, and how many times ours they are, of the same cohort.

    After the last update is what is left to do then: Flower begins with it, ours holds updates as
    they come. Growth is the peak less what the process held when it had imported all, before any
    update.
    """
    header = ["", "clients", "parameters", "CPU s", "x ours", "after the last", "wall s"]
    header += ["peak MiB", "growth MiB", "x ours"]
    ours = {r["parameters"]: r for r in results if r["kind"] == "ours" and "failed" not in r}
    out = [header]
    for result in results:
        label, size = result["label"], result["parameters"]
        if "failed" in result:
            reason = result["failed"].replace("|", "/").splitlines()[-1]
            out.append([label, str(clients), f"{size:,}", reason, *[""] * 6])
            continue
        own = ours.get(size, result)
        cpu, growth = result["cpu"], _growth(result)
        after = result.get("after", cpu if result["kind"] == "flower" else 0.0)
        times = [f"{cpu:.2f}", f"{cpu / own['cpu']:.2f}", f"{after:.2f}", f"{result['wall']:.2f}"]
        held = [f"{result['memory']:.0f}", f"{growth:.0f}", f"{growth / _growth(own):.2f}"]
        out.append([label, str(clients), f"{size:,}", *times, *held])
    return out


def _growth(result: Result) -> float:
    return float(result["memory"]) - float(result["floor"])


if __name__ == "__main__":
    main()
