"""A vector for each client, through rounds, interruptions and mistakes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedloom.core.client_vectors import ClientVectors
from fedloom.core.errors import RunError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Params
from fedloom.simulation.personal import own_of

HEAD = Layout((TensorSpec("head.bias", (2,)),))
WHOLE = Layout((TensorSpec("lora.A", (1,)), TensorSpec("head.bias", (2,))))
GLOBAL = Params(WHOLE, np.array([9, 5, 6], dtype=np.float32))
RUN = {"backbone": "tiny", "seed": 7}


def opened(folder: Path, done: int = 0, **changes: Any) -> ClientVectors:
    told = {"layout": HEAD, "run": RUN, "fresh": not done, **changes}
    return ClientVectors(folder / "kept.sqlite", done=done, **told)


def numbers(store: ClientVectors, client: str) -> list[float]:
    found = own_of(store, client, GLOBAL)
    assert found.layout == store.layout
    return [float(x) for x in found.vector]


def kept(store: ClientVectors, client: str, round: int, *values: float) -> None:
    store.keep(client, round, np.array(values, dtype=np.float32))
    store.commit(round)


def test_a_client_starts_from_what_it_kept_and_a_new_one_from_the_global_model(
    tmp_path: Path,
) -> None:
    store = opened(tmp_path)
    kept(store, "ann", 1, 1, 2)
    assert numbers(store, "ann") == [1.0, 2.0]
    assert numbers(store, "bob") == [5.0, 6.0]
    own_of(store, "ann", GLOBAL).vector[:] = 0
    assert numbers(store, "ann") == [1.0, 2.0]  # what is given out is the caller's
    store.close()


def test_few_are_in_memory_and_all_on_the_disk(tmp_path: Path) -> None:
    store = opened(tmp_path, memory=3 * 8)  # three records of 8 bytes
    for n in range(100):
        store.keep(f"c{n}", 1, np.array([n, -n], dtype=np.float32))
    store.commit(1)
    assert len(store._recent) == 3
    assert [numbers(store, f"c{n}") for n in range(100)] == [[n, -n] for n in range(100)]
    assert len(store._recent) == 3
    store.close()


def test_rounds_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    store = opened(tmp_path)
    kept(store, "ann", 1, 1, 1)
    kept(store, "ann", 2, 2, 2)
    kept(store, "bob", 2, 3, 3)
    store.keep("eve", 3, np.zeros(2, dtype=np.float32))  # and never committed
    store.close()
    later = opened(tmp_path, done=1)
    assert [numbers(later, name) for name in ("ann", "bob", "eve")] == [[1, 1], [5, 6], [5, 6]]
    later.close()


def test_records_older_than_the_oldest_checkpoint_go(tmp_path: Path) -> None:
    checkpoints = [0]
    store = opened(tmp_path, checkpoints=lambda: checkpoints)
    for number in (1, 2, 3):
        checkpoints[:] = [number - 1]
        store.begin(number)
        kept(store, "ann", number, number, 0)
    # Of 1, 2 and 3 with a checkpoint after round 2: 1 is needed by nobody.
    rounds = store._file.execute("SELECT round FROM kept ORDER BY round").fetchall()
    assert rounds == [(2,), (3,)]
    store.close()


def test_a_round_that_begins_again_finds_what_was_there_before_it(tmp_path: Path) -> None:
    store = opened(tmp_path)
    kept(store, "ann", 1, 1, 1)
    store.begin(2)
    store.keep("ann", 2, np.array([2, 2], dtype=np.float32))
    assert numbers(store, "ann") == [2.0, 2.0]
    store.begin(2)  # in mid-round
    assert numbers(store, "ann") == [1.0, 1.0]
    kept(store, "ann", 2, 3, 3)
    store.begin(2)  # and after it was committed, where the state was lost
    assert numbers(store, "ann") == [1.0, 1.0]
    store.begin(1)
    assert numbers(store, "ann") == [5.0, 6.0]
    store.close()


def test_a_later_stage_begins_with_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    kept(store, "ann", 1, 1, 1)
    store.close()
    later = opened(tmp_path, done=4, fresh=True)
    assert later.of("ann") is None
    kept(later, "ann", 5, 2, 2)
    later.close()
    again = opened(tmp_path, done=5)
    assert numbers(again, "ann") == [2.0, 2.0]
    again.close()


def test_a_run_from_its_beginning_keeps_nothing_of_one_before(tmp_path: Path) -> None:
    store = opened(tmp_path)
    kept(store, "ann", 1, 1, 1)
    store.close()
    again = opened(tmp_path)
    assert numbers(again, "ann") == [5.0, 6.0]
    again.close()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"run": {**RUN, "seed": 8}}, "seed = 7; this run has 8"),
        ({"run": {**RUN, "backbone": "large"}}, "backbone = tiny; this run has large"),
        ({"layout": WHOLE}, r"tensors = \[\[\"head.bias\", \[2\]\]\]; this run has"),
        ({"done": 3}, "has rounds up to 1; the run is at round 3"),
    ],
)
def test_what_is_another_run_s_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    store = opened(tmp_path)
    kept(store, "ann", 1, 1, 1)
    store.close()
    with pytest.raises(RunError, match=text):
        opened(tmp_path, **{"done": 1, **changes})


def test_a_file_that_is_gone_or_is_none(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"kept.sqlite: no such file; what there was of each client is lost"
    ):
        opened(tmp_path, done=1)
    (tmp_path / "kept.sqlite").write_bytes(b"not a database, and long enough to be read" * 9)
    with pytest.raises(RunError, match=r"kept.sqlite: cannot be used: file is not a database"):
        opened(tmp_path, done=1)


def test_a_record_of_another_size(tmp_path: Path) -> None:
    store = opened(tmp_path)
    kept(store, "ann", 1, 1, 1)
    store._file.execute("UPDATE kept SET tensors = x'00'")
    store._recent.clear()
    with pytest.raises(RunError, match="1 bytes of client 'ann'; expected 8"):
        store.of("ann")
    store.close()
