"""What the documents name is there: refusal codes, options, settings, files."""

import argparse
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from fedloom.cli import _parser
from fedloom.core.job import Job
from fedloom.core.serving import ServerConfig
from fedloom.server.refusing import _STATUS

ROOT = Path(__file__).parents[2]
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
README = ROOT / "README.md"
GUIDES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("benchmarks/README.md", "examples/README.md")),
    *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md")),
]
DOCUMENTS = [README, *GUIDES]
OF_COMMANDS = [path for path in DOCUMENTS if path.parent.name != "benchmarks"]  # has scripts
ROOMS = ("core", "security", "client", "server")
_CODE = re.compile(r"""code="([a-z-]+)"|code: str = "([a-z-]+)"|_UNKNOWN = "([a-z-]+)\"""")
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)#]*)(?:#([^)]*))?\)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def raised() -> set[str]:
    """Every code that an error is made with, on either side."""
    sources = (path for room in ROOMS for path in (ROOT / room).glob("*.py"))
    found = {
        next(filter(None, match.groups()))
        for path in sources
        for match in _CODE.finditer(path.read_text(encoding="utf-8"))
    }
    return found | _STATUS.keys()


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every command's parser by its words, such as ``token create``."""

    def inside(
        parser: argparse.ArgumentParser, name: str
    ) -> Iterator[tuple[str, argparse.ArgumentParser]]:
        yield name, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for word, sub in action.choices.items():
                    yield from inside(sub, f"{name} {word}".strip())

    return dict(inside(_parser(), ""))


PARSERS = parsers()
OPTIONS = {name: set(parser._option_string_actions) for name, parser in PARSERS.items()}


def commands(text: str) -> list[list[str]]:
    """The words of every fedloom command that a document names, in a span or a block."""
    blocks = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()[1:-1]]
    spans = _SPAN.findall(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    found = []
    for line in (*lines, *spans):
        for part in re.split(r"[;&|]+ ?|\$\(", line.partition(" #")[0]):
            words = part.removeprefix("$ ").split()
            if words[:1] == ["fedloom"]:
                found.append(words[1:])
    return found


def test_every_refusal_stands_in_the_contract_with_its_status() -> None:
    codes = raised()
    assert len(codes) > 25
    assert {code for code in codes if f"`{code}`" not in PROTOCOL} == set()
    rows = re.findall(r"^\| `([a-z-]+)` \| `([A-Z_]+)` \|", PROTOCOL, re.MULTILINE)
    assert {
        code: _STATUS[code].name if code in _STATUS else "INVALID_ARGUMENT" for code, _ in rows
    } == dict(rows)
    local = {"no-path", "unreachable", "abandoned", "resync", "refused", "identity", "transfer"}
    assert codes - {code for code, _ in rows} == local


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_command_and_option_exists(path: Path) -> None:
    for words in commands(path.read_text(encoding="utf-8")):
        name = next((n for n in (" ".join(words[:2]), words[0]) if n in PARSERS), "")
        given = {
            re.sub(r"[=\].,].*", "", word.strip("[]")) for word in words if word.startswith("--")
        }
        assert name or given <= OPTIONS[""], words
        assert given <= OPTIONS[name], words


@pytest.mark.parametrize("path", OF_COMMANDS, ids=name_of)
def test_options_on_their_own_exist(path: Path) -> None:
    known = set().union(*OPTIONS.values())
    spans = _SPAN.findall(path.read_text(encoding="utf-8"))
    given = {span.split()[0].partition("=")[0] for span in spans if span.startswith("--")}
    assert given - known == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_settings_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    known = {field.name for field in fields(ServerConfig)}
    named = set(re.findall(r"`server\.([a-z_]+)(?= =|`)", text))
    assert named - known == set()
    assert set(re.findall(r"`run\.([a-z_]+)(?= =|`)", text)) <= {f.name for f in fields(Job().run)}


def anchors(path: Path) -> set[str]:
    """What a link into a document may name: its headings, as forges write them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in _LINK.findall(path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        there = path.parent / target if target else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


@pytest.mark.parametrize("path", GUIDES, ids=name_of)
def test_the_readme_leads_to_every_document(path: Path) -> None:
    targets = {target for target, _ in _LINK.findall(README.read_text(encoding="utf-8"))}
    assert str(path.relative_to(ROOT)) in targets
