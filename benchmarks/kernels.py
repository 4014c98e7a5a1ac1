"""Frozen matrices in 8 and 4 bits: fedloom's engines beside torch, bitsandbytes and onnxruntime.

Usage, from anywhere: ``python benchmarks/kernels.py [--quick] [--limit avx2]``. See
benchmarks/README.md.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from kernel_tables import table, targets
from results import facts_of, fill_readme, page, write_section
from running import Program, run_all
from tables import markdown

__all__ = ["main"]

HERE = Path(__file__).resolve().parent
SHAPES = ((768, 3072), (2048, 8192))
TOKENS = (128, 512)
AVX2 = ("ONEDNN_MAX_CPU_ISA=AVX2", "ATEN_CPU_CAPABILITY=avx2", "MKL_ENABLE_INSTRUCTIONS=AVX2")
"""What keeps oneDNN, torch's own kernels and MKL from newer instructions."""
NAMES = ("kernels", "kernels-avx2", "kernels-amx")


def main() -> int:
    """Measure, print the tables, and write them unless the run is a quick one."""
    options = _parser().parse_args()
    load, began = os.getloadavg()[0], time.monotonic()
    seconds = 1 if options.quick else 12
    results = run_all(programs(options.limit, seconds), repeats=1, limit=300.0)
    amx = any(result.get("amx") for result in results) and not options.limit
    name = "kernels" + (f"-{options.limit}" if options.limit else "-amx" if amx else "")
    command = "python benchmarks/kernels.py"
    facts = facts_of(
        f"`{command}{' --limit avx2' if options.limit else ''}`, one thread, the least", load
    )
    facts["took"] = f"{time.monotonic() - began:.0f} s"
    text = page(title(options.limit, amx=amx), table(results), facts)
    text += "\n" + markdown(targets(results, amx=amx)) + "\n"
    print(text)
    if not options.quick:
        write_section(options.output, name, results, text, facts)
        fill_readme(HERE / "README.md", options.output, "kernels", NAMES)
    return int(any("failed" in result for result in results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/kernels.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short look; nothing is written")
    parser.add_argument("--limit", choices=("avx2",), default="", help="no newer instructions")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of results")
    return parser


def title(limit: str, *, amx: bool) -> str:
    """What the numbers are, and on what instructions."""
    how = "with AMX" if amx else "no newer instructions than AVX2" if limit else "without AMX"
    return f"Frozen matrices, {how}: ms, and times as fast as float32"


def programs(limit: str, seconds: int) -> list[Program]:
    """A process for each shape and number of tokens.

    Libraries that cannot be kept from newer instructions are left out where these are limited, and
    so is the larger shape, which bfloat16 takes minutes for there.
    """
    script = str(HERE / "kernel_times.py")
    found = []
    for d_in, d_out in SHAPES[:1] if limit else SHAPES:
        for tokens in TOKENS:
            words = [script, *(str(n) for n in (d_in, d_out, tokens, seconds))]
            facts = {"shape": f"{d_in} x {d_out}", "tokens": tokens}
            label = f"{d_in} x {d_out}, {tokens} tokens"
            if limit:
                command = (*AVX2, sys.executable, *words)
                found.append(Program(label, command, python="/usr/bin/env", facts=facts))
            else:
                found.append(Program(label, (*words, "libraries"), facts=facts))
    return found


if __name__ == "__main__":
    sys.exit(main())
