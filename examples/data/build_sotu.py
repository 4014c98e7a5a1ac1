"""Make ``sotu-era.jsonl.gz`` from ``sotu.jsonl.gz``, all State of the Union addresses, 1790-2026.

    python build_sotu.py sotu.jsonl.gz sotu-era.jsonl.gz

One row is one paragraph; its `client` is the president, its `era` one of six spans of years. Kept
are paragraphs of 80 to 400 characters, at most 200 of a president, spread evenly over the years in
office. Same input, same bytes.
"""

import argparse
import gzip
import json
from collections import defaultdict
from pathlib import Path

SHORTEST, LONGEST = 80, 400  # characters of a paragraph
MOST = 200  # paragraphs of a president
ERAS = (1790, 1830, 1865, 1901, 1946, 1981, 2027)  # first years, and the year after the last


def era(year: int) -> str:
    after = next(first for first in ERAS if first > year)
    return f"{ERAS[ERAS.index(after) - 1]}-{after - 1}"


def paragraphs(source: Path) -> list[dict[str, str]]:
    by_client = defaultdict(list)
    with gzip.open(source, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            if SHORTEST <= len(row["text"]) <= LONGEST:
                by_client[row["client"]].append(row)
    kept = []
    for rows in by_client.values():
        count = min(MOST, len(rows))
        kept += [rows[index * len(rows) // count] for index in range(count)]
    return [
        {
            "client": row["client"],
            "split": row["split"],
            "era": era(row["year"]),
            "text": row["text"],
        }
        for row in kept
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the causal language model's data.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    paths = parser.parse_args()
    rows = paragraphs(paths.source)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with paths.target.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(text.encode())
    print(f"{len(rows)} paragraphs of {len({row['client'] for row in rows})} presidents")


if __name__ == "__main__":
    main()
