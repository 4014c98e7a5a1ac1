import sys
from pathlib import Path

import pytest

from fedloom.core.errors import RunError
from fedloom.results.events import TensorBoard
from fedloom.results.observe import RoundLine, RunInfo, Summary


def test_it_says_how_to_get_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(RunError, match=r"pip install 'fedloom\[tensorboard\]'"):
        TensorBoard()


@pytest.mark.filterwarnings("ignore")  # what TensorBoard's own dependencies warn of
def test_numbers_of_a_round_are_in_the_event_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = TensorBoard()
    events.started(RunInfo("x", tmp_path, 1))
    events.round_done(RoundLine(0, evaluation={"accuracy": 0.25}))
    events.round_done(RoundLine(1, loss=0.5, evaluation={"accuracy": 0.75}))
    events.finished(Summary({}, {"accuracy": 0.75}, 1, 1.0, tmp_path))
    found = EventAccumulator(str(tmp_path / "events")).Reload()
    assert [s.value for s in found.Scalars("evaluation/accuracy")] == [0.25, 0.75]
    assert [(s.step, s.value) for s in found.Scalars("training/loss")] == [(1, 0.5)]
