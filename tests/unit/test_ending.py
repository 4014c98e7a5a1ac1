from pathlib import Path

from fedloom.ending import Ending
from fedloom.results.observe import RunInfo, Summary


def test_it_keeps_where_and_how_a_run_ended() -> None:
    ending = Ending()
    assert (ending.directory, ending.interrupted) == (None, False)
    ending.started(RunInfo("x", Path("a"), 3))
    assert ending.directory == Path("a")
    ending.finished(Summary({}, {}, 1, 0.0, Path("b"), interrupted=True))
    assert (ending.directory, ending.interrupted) == (Path("b"), True)
