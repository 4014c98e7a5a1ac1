from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from fedloom.client.manifest import Manifest
from fedloom.client.settings import ClientSettings
from fedloom.client.span import SpanPlan
from fedloom.client.split_work import Connect, Remote, SplitWork
from fedloom.client.stopping import Stop
from fedloom.client.workshop import Workshop
from fedloom.core.errors import DataError, FedloomError, SplitError, TransferError
from fedloom.core.job import job_from
from fedloom.protos.federation_pb2 import Blob, Chunk, Task
from fedloom.tuning.data import Corpus

if TYPE_CHECKING:
    from fedloom.client.worker import Worker

SHA = "a" * 64


def nothing(sha256: str, offset: int) -> Iterator[Chunk]:
    raise TransferError("gone", code="no-such-content")
    yield Chunk()


def cut(sha256: str, offset: int) -> Iterator[Chunk]:
    raise TransferError("cut", code="unreachable", retry_after=0.0)
    yield Chunk()


def no_far(manifest: Manifest) -> Connect:
    def connect(plan: SpanPlan) -> Remote:
        raise TransferError("no far side", code="protocol")

    return connect


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    given = ClientSettings(data=str(tmp_path / "own.csv"))
    return Workshop(tmp_path / "state", given, federation="f", stop=Stop(), far=no_far)


TASK = Task(ticket="t", attempt=1, model=Blob(sha256=SHA, size=3))


def held(workshop: Workshop) -> None:
    """The model of `TASK` is here."""
    (workshop._at_hand.contents.path(SHA)).write_bytes(b"abc")


def test_a_new_device_has_no_examples(workshop: Workshop) -> None:
    assert workshop.num_examples == 0
    assert workshop.failure == ("", "")


def test_a_model_that_is_gone_is_asked_for_again_and_then_told(workshop: Workshop) -> None:
    assert workshop.work(TASK, nothing) is None
    assert workshop.failure == ("", "")  # the task comes again, with another form of the model
    assert workshop.work(TASK, nothing) is None
    assert workshop.failure == ("t", "gone")


def test_a_model_that_was_cut_is_fetched_again(workshop: Workshop) -> None:
    for _ in range(5):  # more often than a task is begun
        with pytest.raises(TransferError, match="cut"):
            workshop.work(TASK, cut)
    assert workshop.failure == ("", "")


def test_a_job_that_did_not_come_is_tried_again(workshop: Workshop) -> None:
    with pytest.raises(TransferError, match="cut"):
        workshop.prepare(Blob(sha256=SHA, size=3), cut)
    assert workshop.failure == ("", "")


def test_a_task_before_the_job(workshop: Workshop) -> None:
    held(workshop)
    assert workshop.work(TASK, nothing) is None
    assert workshop.failure == ("t", "this device is not ready for the job")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError("1 GiB"), "out of memory (MemoryError: 1 GiB)"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "out of memory (RuntimeError: DefaultCPUAllocator: can't allocate memory)",
        ),
        (RuntimeError("CUDA out of memory"), "out of memory (RuntimeError: CUDA out of memory)"),
        (KeyError("x"), "KeyError: 'x'"),
        (DataError("row 3: " + "x" * 600), "row 3: " + "x" * 490 + "..."),
    ],
)
def test_whatever_fails_in_a_task_is_told(
    error: Exception, text: str, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise error

    held(workshop)
    monkeypatch.setattr(workshop, "_made", fail)
    assert workshop.work(TASK, nothing) is None
    assert workshop.failure == ("t", text)
    assert len(text) <= 500
    # the journal has no open task: the next one begins at one
    assert workshop._journal.begin("t", 1) == 1


def failing(workshop: Workshop, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise error

    held(workshop)
    monkeypatch.setattr(workshop, "_made", fail)


@pytest.mark.parametrize(
    "error",
    [
        SplitError("no room", code="memory"),
        SplitError("another has its turn", code="busy"),
        TransferError("64 sessions", code="busy", retry_after=10.0),
        TransferError("no answer", code="unreachable", retry_after=0.0),
        TransferError("this device stops", code="abandoned"),
    ],
)
def test_a_far_side_that_cannot_now_is_asked_again(
    workshop: Workshop, error: FedloomError, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(workshop, error, monkeypatch)
    for _ in range(5):  # more often than a task is begun
        with pytest.raises(TransferError, match=str(error)):
            workshop.work(TASK, nothing)
    assert workshop.failure == ("", "")


def test_a_round_that_is_over_is_left_without_harm(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing(workshop, SplitError("round 3 is over", code="plan"), monkeypatch)
    workshop._worker = worker = cast("Worker", object())
    with caplog.at_level("INFO", logger="fedloom.client"):
        assert workshop.work(TASK, nothing) is None
    assert workshop.failure == ("t", "round 3 is over")
    assert workshop._worker is worker  # the model stays in memory
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_another_cut_loads_the_model_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[SplitWork] = []

    def make(*parts: Any) -> object:
        made.append(parts[-1])
        return object()

    monkeypatch.setattr("fedloom.client.worker.Worker", make)
    job = job_from({"split": {"mode": "v1"}})
    manifest, corpus = Manifest("f", job, (), "", ()), Corpus.__new__(Corpus)
    workshop._at_hand.job = SHA
    for bottom in (None, None, 3, 3, 1):
        workshop._at_work(manifest, corpus, bottom)
    assert [work.bottom for work in made] == [None, 3, 1]
    assert {work.name for work in made} == {SHA}


def test_a_data_file_that_changes_is_read_again(workshop: Workshop, tmp_path: Path) -> None:
    workshop._at_hand.corpus = Corpus.__new__(Corpus)
    workshop.refresh()
    assert workshop._at_hand.corpus is not None
    (tmp_path / "own.csv").write_text("text,label\n")
    workshop.refresh()
    assert workshop.num_examples == 0
