import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_run import synthetic_run

from fedloom.core.errors import RunError
from fedloom.report import can_draw, write_report

VOID = {"meta", "img", "br", "link"}


class Balanced(HTMLParser):
    """Collects headings and images, and checks that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open += [] if tag in VOID else [tag]
        self.images += [str(dict(attrs)["src"])] if tag == "img" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: Path) -> Balanced:
    parser = Balanced()
    parser.feed(page.read_text(encoding="utf-8"))
    assert parser.open == []
    return parser


@pytest.fixture(autouse=True)
def _drawing() -> None:
    pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a finished run."""
    pytest.importorskip("matplotlib")
    return write_report([synthetic_run(tmp_path_factory.mktemp("runs") / "a").path])


def test_a_report_is_one_page_with_every_section(page: Path) -> None:
    assert (page.parent.name, page.name) == ("a", "report.html")
    text = page.read_text(encoding="utf-8")
    sections = ("Learning", "What it cost", "Across clients", "Who holds what", "Refused updates")
    for title in sections:
        assert f"<h2>{title}</h2>" in text
    for title in ("Rounds (24)", "Configuration", "Versions"):
        assert f"<summary>{title}</summary>" in text
    assert "90.5 %" in text  # the central reference
    assert "label skew 0.61" in text
    assert "<b>31</b>" not in text


def test_a_report_needs_nothing_from_outside(page: Path) -> None:
    images = parsed(page).images
    assert len(images) >= 3
    assert all(image.startswith("data:image/svg+xml;base64,") for image in images)
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|@import|url\(|https?://", text)


def test_pictures_are_files_too(page: Path) -> None:
    names = {path.stem: path.stat().st_size for path in (page.parent / "plots").glob("*.png")}
    assert set(names) == {"learning", "cost", "devices", "clients", "partition", "refused"}
    assert min(names.values()) > 10_000


def test_a_run_before_its_first_round(tmp_path: Path) -> None:
    page = write_report([synthetic_run(tmp_path / "a", done=-1).path])
    parsed(page)
    assert "unfinished after round 0 of 24" in page.read_text(encoding="utf-8")


def test_several_runs_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [
        synthetic_run(tmp_path / name, done=2, seed=seed).path for seed, name in enumerate("ab")
    ]
    page = write_report(runs)
    assert page == Path("comparison/report.html")
    parsed(page)
    text = page.read_text(encoding="utf-8")
    assert "2 runs compared" in text
    assert "<h2>Differences</h2>" in text


def test_a_target_has_a_table_of_its_own(tmp_path: Path) -> None:
    paths = [synthetic_run(tmp_path / name).path for name in ("one", "two")]
    text = write_report(paths, out=tmp_path / "both", target=0.5).read_text(encoding="utf-8")
    assert "<h2>Until 0.5</h2>" in text


def test_a_report_may_go_elsewhere(tmp_path: Path) -> None:
    page = write_report([synthetic_run(tmp_path / "a", done=2).path], out=tmp_path / "web")
    assert page == tmp_path / "web" / "report.html"
    assert not (tmp_path / "a" / "report.html").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = synthetic_run(tmp_path / "a", done=2)
    with pytest.raises(RunError, match="cannot be written"):
        write_report([run.path], out=tmp_path / "file" / "web")


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    assert not can_draw()
    with pytest.raises(RunError, match=r"pip install 'fedloom\[plots\]'"):
        write_report([tmp_path])
