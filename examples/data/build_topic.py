"""Make ``debpkg-topic.jsonl.gz`` from ``debpkg.jsonl.gz``, the whole set of package descriptions.

    python build_topic.py debpkg.jsonl.gz debpkg-topic.jsonl.gz

One row is one source package in one section of the Debian archive (bookworm, main): its `topic` is
the section, its `client` a salted hash of the maintainer's address. Kept are the rows whose section
names a topic and not a packaging role, of the classes with at least 80 training rows. The text is
the synopsis and as much of the long description as a short model reads. Same input, same bytes.
"""

import argparse
import gzip
import json
import re
from collections import Counter
from pathlib import Path

LEAST = 80  # training rows of a class
CHARACTERS = 400  # of a text: about 90 tokens
ADDRESS = re.compile(r"<?\b[\w.+-]+@[\w-]+(\.[\w-]+)+>?")


def plain(text: str) -> str:
    """The text without e-mail addresses."""
    return ADDRESS.sub("", text)


def cut(text: str, limit: int) -> str:
    """The text up to the last whole word within `limit` characters."""
    return text if len(text) <= limit else text[: limit + 1].rpartition(" ")[0]


def topic_rows(source: Path) -> list[dict[str, str]]:
    with gzip.open(source, "rt", encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["topic"]]
    counts = Counter(row["topic"] for row in rows if row["split"] == "train")
    return [
        {
            "src": row["src"],
            "client": row["client"],
            "split": row["split"],
            "topic": row["topic"],
            "text": cut(plain(f"{row['synopsis'].rstrip('.')}. {row['long']}"), CHARACTERS),
        }
        for row in rows
        if counts[row["topic"]] >= LEAST
    ]


def write(rows: list[dict[str, str]], target: Path) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with target.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(text.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the topic task's data.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    paths = parser.parse_args()
    rows = topic_rows(paths.source)
    write(rows, paths.target)
    splits = Counter(row["split"] for row in rows)
    print(f"{len(rows)} rows, {len({row['topic'] for row in rows})} topics, {dict(splits)}")


if __name__ == "__main__":
    main()
