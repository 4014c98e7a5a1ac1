"""Ratio tables of the server: what an update, a check-in, a round and a device cost.

Usage, from anywhere: ``python benchmarks/server.py [--baselines PYTHON] [--quick]
[--only SECTION ...]``. See benchmarks/README.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from live.sections import SECTIONS, Setting
from results import facts_of, fill_readme, page, write_section
from running import run_all

__all__ = ["main"]

HERE = Path(__file__).resolve().parent
LIMIT = 600.0
SHAPES = ("tiny", "minilm")


def main() -> int:
    """Measure, print the tables, and write them unless the run is a quick one."""
    options = _parser().parse_args()
    names = options.only or list(SECTIONS)
    with tempfile.TemporaryDirectory() as folder:
        if "devices" in names:
            _write_models(Path(folder))
        setting = Setting(Path(folder), options.baselines, options.quick)
        failed = [name for name in names if not _section(name, setting, options)]
    if not options.quick:
        fill_readme(HERE / "README.md", options.output, "server", list(SECTIONS))
    return int(bool(failed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/server.py", description=__doc__)
    parser.add_argument("--baselines", default="", help="interpreter of the baselines' environment")
    parser.add_argument("--quick", action="store_true", help="a short look; nothing is written")
    parser.add_argument("--only", choices=tuple(SECTIONS), nargs="+", help="some sections")
    parser.add_argument("--repeats", type=int, default=0, help="runs of each row (1 or 3)")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of results")
    return parser


def _write_models(folder: Path) -> None:
    """Random models with a tokenizer, made in a process of their own to keep this one small."""
    code = (
        "import sys, pathlib; from folders import write_folder, write_tokenizer\n"
        "from live.model_server import WORDS\n"
        f"for shape in {SHAPES!r}:\n"
        "    write_tokenizer(write_folder(shape, pathlib.Path(sys.argv[1]) / shape), WORDS)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=HERE, check=True)


def _section(name: str, setting: Setting, options: argparse.Namespace) -> bool:
    """Measure and print one section; whether all of it could be measured."""
    section = SECTIONS[name]
    print(f"{name}: {section.title}", file=sys.stderr, flush=True)
    load = os.getloadavg()[0]
    began = time.monotonic()
    repeats = options.repeats or (1 if setting.quick else section.repeats)
    results = run_all(section.programs(setting), repeats=repeats, limit=LIMIT)
    facts = facts_of(f"`python benchmarks/server.py --only {name}`, best of {repeats} runs", load)
    facts["took"] = f"{time.monotonic() - began:.0f} s"
    text = page(section.title, section.table(results), facts)
    print(text, flush=True)
    if not setting.quick:
        write_section(options.output, name, results, text, facts)
    return not any("failed" in result for result in results)


if __name__ == "__main__":
    sys.exit(main())
