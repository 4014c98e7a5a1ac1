"""Make ``sentiment.jsonl.gz`` from the source package of vaderSentiment 2.5.

    pip download --no-deps --no-binary :all: vaderSentiment==2.5
    python build_sentiment.py vaderSentiment-2.5.tar.gz sentiment.jsonl.gz

The package holds snippets of four domains that people rated from -4 to 4 (Hutto and Gilbert, ICWSM
2014): movie reviews, newspaper editorials, tweets, and product reviews. One row is one snippet with
a mean rating beyond half a point: its `label` is the rating's sign, its `score` the rating.

A client has snippets of one domain, about fifty: whole articles, or whole reviews, one after the
other, as far as the source tells which snippets belong together; otherwise it has those whose
hashes are neighbours, as the source lists snippets of one label together. A tenth of the articles,
reviews and single snippets is kept for `valid`, a tenth for `test`, by a hash. A text that comes
twice is taken once. Same input, same bytes.
"""

import argparse
import gzip
import hashlib
import html
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

INNER = "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz"
DOMAINS = {
    "movie": "movieReviewSnippets",
    "editorial": "nytEditorialSnippets",
    "tweet": "tweets",
    "product": "amazonReviewSnippets",
}
CLEAR = 0.5  # a rating nearer to 0 says nothing sure
ROWS = 50  # of a client, at least


@dataclass(frozen=True)
class Snippet:
    """A rated text, and the article, review or snippet that it is of."""

    unit: str
    score: float
    text: str


def snippets(files: tarfile.TarFile, name: str) -> Iterator[Snippet]:
    """The rated texts of a domain, in the order of the source."""
    member = files.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
    assert member is not None
    for line in member.read().decode("utf-8").splitlines():
        number, score, text = line.split("\t")
        unit = number.partition("_")[0]
        yield Snippet(unit, float(score), " ".join(html.unescape(text).split()))


def chance(domain: str, unit: str) -> float:
    """A number of [0, 1) that belongs to a unit."""
    digest = hashlib.blake2b(f"{domain}/{unit}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def split_of(place: float) -> str:
    """The part of the data for a unit's number, of which the later digits decide."""
    digit = int(place * 1000) % 10
    return {0: "test", 1: "valid"}.get(digit, "train")


def rows_of(domain: str, found: list[Snippet]) -> list[dict[str, object]]:
    """The rows of a domain, client by client."""
    units = [list(group) for _, group in groupby(found, key=lambda snippet: snippet.unit)]
    if all(len(unit) == 1 for unit in units):
        units.sort(key=lambda unit: chance(domain, unit[0].unit))
    rows: list[dict[str, object]] = []
    client, own = 0, 0
    for unit in units:
        if own >= ROWS:
            client, own = client + 1, 0
        own += len(unit)
        split = split_of(chance(domain, unit[0].unit))
        rows += [
            {
                "client": f"{domain}-{client:03d}",
                "domain": domain,
                "split": split,
                "label": "positive" if snippet.score > 0 else "negative",
                "score": round(snippet.score, 2),
                "text": snippet.text,
            }
            for snippet in unit
        ]
    return rows


def sentiment_rows(source: Path) -> list[dict[str, object]]:
    with tarfile.open(source) as package:
        member = package.extractfile(INNER)
        assert member is not None
        inner = io.BytesIO(member.read())
    rows: list[dict[str, object]] = []
    seen: set[str] = set()
    with tarfile.open(fileobj=inner) as files:
        for domain, name in DOMAINS.items():
            kept = []
            for snippet in snippets(files, name):
                known = snippet.text.casefold()
                if abs(snippet.score) > CLEAR and known not in seen:
                    seen.add(known)
                    kept.append(snippet)
            rows += rows_of(domain, kept)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the sentiment task's data.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    paths = parser.parse_args()
    rows = sentiment_rows(paths.source)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with paths.target.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(text.encode())
    clients = {row["client"] for row in rows}
    splits = dict(Counter(row["split"] for row in rows))
    print(f"{len(rows)} snippets, {len(clients)} clients, {splits}")
    for domain in DOMAINS:
        own = [row for row in rows if row["domain"] == domain]
        share = sum(row["label"] == "positive" for row in own) / len(own)
        print(f"{domain}: {len(own)} snippets, {100 * share:.0f} % positive")


if __name__ == "__main__":
    main()
