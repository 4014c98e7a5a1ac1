"""A live strategy that breaks is one line; mended, the federation goes on to the simulator's bits.

Half a minute: ``FEDLOOM_KILLS=1 pytest tests/e2e/test_live_strategy_mended.py``.
"""

import os
from pathlib import Path

import pytest
from live_processes import Fleet, era_rows, table_of

CLIENTS = 2
SOURCE = """
from fedloom.strategies import fedavg

BROKEN = {broken}


class Own:
    def __init__(self):
        inner = fedavg()
        self.init, self.inner, self.apply = inner.init, inner, inner.apply

    def configure(self, state, cohort):
        if BROKEN == "configure" and cohort.round == 2:
            return 1 / 0
        return self.inner.configure(state, cohort)

    def accumulate(self, total, update):
        if BROKEN == "accumulate" and update.round == 2:
            raise KeyError("two\\nlines")
        return self.inner.accumulate(total, update)
"""
STAGE = {
    "name": "all",
    "rounds": 3,
    "clients_per_round": CLIENTS,
    "strategy": "own_live:Own",
    "local": {"lr": 0.1, "batch_size": 4, "steps": 2},
}


@pytest.mark.skipif("FEDLOOM_KILLS" not in os.environ, reason="half a minute: of a nightly run")
@pytest.mark.parametrize(("hook", "line"), [("configure", 14), ("accumulate", 19)])
def test_a_strategy_that_breaks_is_mended(
    hook: str,
    line: int,
    text_model: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "own_live.py"
    source.write_text(SOURCE.format(broken=repr(hook)))
    table = table_of(text_model["classify"], CLIENTS, stages=[STAGE])
    with Fleet.of(tmp_path, table, era_rows(CLIENTS)) as fleet:
        fleet.begin()
        assert fleet.ended() == 2
        (told,) = (tmp_path / "server.err").read_text().splitlines()
        assert told.startswith(f"fedloom: error: {hook}, round 2: raised ")
        assert f"(own_live.py:{line}); FEDLOOM_TRACEBACK=1" in told
        assert [device.poll() for device in fleet.devices.values()] == [None, None]
        source.write_text(SOURCE.format(broken=None))
        fleet.serve()
        fleet.finish()
    fleet.compare()
