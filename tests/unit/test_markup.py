from pathlib import Path

from synthetic_run import synthetic_run

from fedloom.markup import comparison, config_tables, different_keys, refused_table, rounds_table
from fedloom.record import Record


def test_rounds_have_a_row_each(tmp_path: Path) -> None:
    html = rounds_table(Record.read(synthetic_run(tmp_path / "a", done=9).path))
    assert html.count("<tr>") == 1 + 10
    assert "<th>evaluation loss</th>" in html
    assert "5.90 MB" in html


def test_refusals_are_counted_by_reason_and_escaped(tmp_path: Path) -> None:
    html = refused_table(Record.read(synthetic_run(tmp_path / "a").path))
    assert "<td>2</td>" in html
    assert "client-07 (round 5), client-07 (round 9)" in html
    assert "client-&lt;b&gt;31&lt;/b&gt; (round 9)" in html


def test_no_refusals_no_table(tmp_path: Path) -> None:
    assert refused_table(Record.read(synthetic_run(tmp_path / "a", done=3).path)) == ""


def test_every_setting_is_shown() -> None:
    config = {
        "name": "<x>",
        "data": {"path": "", "normalize": False},
        "stages": [{"name": "s", "local": {"lr": 0.1, "betas": [0.9, 0.99]}}],
    }
    html = config_tables(config)
    for text in ("&lt;x&gt;", "false", "local.lr", "[0.9, 0.99]", "stages[0]", '<code>""'):
        assert text.replace('"', "&quot;") in html or text in html


def test_runs_are_compared_by_what_differs(tmp_path: Path) -> None:
    a = Record.read(synthetic_run(tmp_path / "a").path)
    b = Record.read(synthetic_run(tmp_path / "b", done=9, seed=5).path)
    assert different_keys([a, a]) == ""
    html = different_keys([a, b])
    assert html.count("<tr>") == 1 + 2  # name and seed; the folders do not count
    rows = comparison([a, b])
    assert "unfinished after round 9 of 24" in rows
    assert "finished" in rows
