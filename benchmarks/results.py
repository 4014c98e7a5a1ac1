"""Where results are written: one JSON file a section, and all of them in the README."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from running import ROOT, Result
from tables import markdown

__all__ = [
    "commit",
    "facts_of",
    "fill_readme",
    "machine",
    "page",
    "publish",
    "write_section",
]

FASTER = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")


def machine() -> str:
    """The processor, its vector units that matter here, cores and memory."""
    facts = {"model name": platform.machine(), "flags": "", "MemTotal": "0 kB"}
    for path in (Path("/proc/cpuinfo"), Path("/proc/meminfo")):
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            key, _, value = line.partition(":")
            if key.strip() in facts:
                facts[key.strip()] = value.strip()
    flags = facts["flags"].split()
    units = ", ".join(flag for flag in FASTER if flag in flags)
    gib = int(facts["MemTotal"].split()[0]) / 2**20
    parts = (f"{facts['model name']} ({units})", f"{os.cpu_count()} cores", f"{gib:.0f} GiB")
    return ", ".join((*parts, f"torch {version('torch')}"))


def commit() -> str:
    """The commit that is checked out, with ``+`` where files differ from it."""
    try:
        name, changed = (_git(*words) for words in (("rev-parse", "--short", "HEAD"), ("diff",)))
    except OSError:  # no git here
        return "unknown"
    return (name or "unknown") + ("+" if changed else "")


def _git(*words: str) -> str:
    done = subprocess.run(("git", *words), cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def facts_of(command: str, load: float) -> dict[str, str]:
    """What a section says it was measured on and by; `load` is that of the machine before."""
    return {
        "machine": machine(),
        "command": command,
        "commit": commit(),
        "load before": f"{load:.1f}",
    }


def page(title: str, table: Sequence[Sequence[str]], facts: Mapping[str, str]) -> str:
    """A section in Markdown, with what it was measured on."""
    lines = [f"### {title}", "", markdown(table), ""]
    lines.append("; ".join(f"{key}: {value}" for key, value in facts.items()))
    return "\n".join(lines) + "\n"


def write_section(
    folder: Path, name: str, results: Sequence[Result], text: str, facts: Mapping[str, str]
) -> None:
    """Write ``NAME.json`` and ``NAME.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"facts": dict(facts), "results": [dict(result) for result in results]}
    (folder / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text, encoding="utf-8")


def fill_readme(readme: Path, folder: Path, of: str, names: Sequence[str]) -> None:
    """Put the sections' Markdown between the README's markers for `of`, in this order."""
    begin, end = f"<!-- {of} results -->", f"<!-- end of {of} results -->"
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    pages = [folder / f"{name}.md" for name in names]
    inside = "\n".join(p.read_text(encoding="utf-8") for p in pages if p.is_file())
    readme.write_text(f"{before}{begin}\n\n{inside}\n{end}{after}", encoding="utf-8")


def publish(
    name: str,
    results: Sequence[Result],
    text: str,
    facts: Mapping[str, str],
    *,
    folder: Path | None,
) -> int:
    """Print a section of its own, and write it to a folder and the README where there is one.

    Returns:
        The exit code: 1 where a program failed.
    """
    print(text)
    if folder is not None:
        write_section(folder, name, results, text, facts)
        fill_readme(Path(__file__).parent / "README.md", folder, name, [name])
    return int(any("failed" in result for result in results))
