import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from fedloom.client import agent as module
from fedloom.client.agent import Agent, Ending
from fedloom.client.backoff import Backoff
from fedloom.client.connection import Connection
from fedloom.client.logs import log
from fedloom.client.outbox import Finished, Outbox
from fedloom.client.settings import ClientSettings
from fedloom.client.stopping import Stop
from fedloom.client.workshop import Workshop
from fedloom.core.errors import IdentityError, TransferError
from fedloom.protos import federation_pb2 as wire

DONE = wire.CheckInReply(done=wire.Done(reason="over"))
TASK = wire.CheckInReply(task=wire.Task(ticket="t"))
DOWN = TransferError("no answer", code="unreachable", retry_after=0.0)


class Line:
    """A connection and its channel: gives one answer after the other."""

    def __init__(self, answers: list[wire.CheckInReply | Exception]) -> None:
        self.answers, self.requests = deque(answers), list[wire.CheckInRequest]()
        self.uploads: deque[Exception | int] = deque()

    def channel(self) -> "Line":
        return self

    def check_in(self, request: wire.CheckInRequest) -> wire.CheckInReply:
        self.requests.append(request)
        answer = self.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def query_upload(self, ticket: str) -> wire.UploadStatus:
        return wire.UploadStatus()

    def upload(self, parts: object) -> int:
        answer = self.uploads.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer


class Shop:
    """A workshop whose tasks are done at once."""

    def __init__(self, fails: int = 0) -> None:
        self.num_examples, self.failure, self.fails, self.done_count = 9, ("", ""), fails, 0
        self.holds, self.resync, self.tier = None, False, ""

    def refresh(self) -> None: ...

    def work(self, task: wire.Task, source: object) -> tuple[Finished, bytes] | None:
        if self.fails:
            self.fails -= 1
            self.failure = (task.ticket, "why")
            return None
        return Finished(task.ticket, round=3), b""

    def done(self) -> None:
        self.done_count += 1


class Patient(Stop):
    """Waits are noted, not waited."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return False


Make = Callable[..., tuple[Agent, Patient]]


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr(log, "propagate", True)

    def make(line: Line, shop: Shop | None = None, **given: Any) -> tuple[Agent, Patient]:
        stop = Patient()
        parts: tuple[Any, ...] = (line, shop or Shop(), Outbox(tmp_path))
        made = Agent(
            cast(Connection, parts[0]),
            cast(Workshop, parts[1]),
            parts[2],
            ClientSettings(**given),
            stop=stop,
            backoff=Backoff(first=1.0),
        )
        return made, stop

    return make


def test_a_server_that_is_away_is_told_once_a_minute(
    agent: Make, caplog: pytest.LogCaptureFixture
) -> None:
    made, stop = agent(Line([*[DOWN] * 50, DONE]))
    with caplog.at_level(logging.INFO):
        assert made.run() is Ending.DONE
    lines = [r.getMessage() for r in caplog.records]
    assert len([line for line in lines if "no answer; trying again" in line]) == 1
    assert len([line for line in lines if "answers again" in line]) == 1
    assert len(stop.waits) == 50
    assert max(stop.waits) <= 300.0
    assert max(stop.waits[20:]) > 60.0


def test_a_failed_task_is_told_at_once_and_then_with_patience(agent: Make) -> None:
    line = Line([TASK, TASK, TASK, DONE])
    made, stop = agent(line, Shop(fails=3))
    assert made.run() is Ending.DONE
    assert [r.failed for r in line.requests] == ["", "t", "t", "t"]
    assert len(stop.waits) == 2  # before the second and the third were told


def test_a_device_without_examples_asks_rarely(
    agent: Make, caplog: pytest.LogCaptureFixture
) -> None:
    shop, wait = Shop(), wire.CheckInReply(wait=wire.Wait(reason="say how many examples you hold"))
    shop.num_examples = 0
    made, stop = agent(Line([wait, wait, DONE]), shop)
    with caplog.at_level(logging.INFO):
        assert made.run() is Ending.DONE
    assert stop.waits == [10.0, 10.0]
    assert "waiting: data that fit the job" in caplog.text


def test_a_result_goes_out_before_the_next_check_in(agent: Make, tmp_path: Path) -> None:
    line, shop = Line([TASK, DONE]), Shop()
    line.uploads.extend([DOWN, DOWN, 5])
    made, stop = agent(line, shop)
    assert made.run() is Ending.DONE
    assert (len(stop.waits), len(line.requests), shop.done_count) == (2, 2, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_is_not_taken_is_dropped(agent: Make, tmp_path: Path) -> None:
    line = Line([TASK, DONE])
    line.uploads.append(TransferError("the round is over", code="round-over"))
    made, stop = agent(line)
    assert made.run() is Ending.DONE
    assert stop.waits == []
    assert list(tmp_path.iterdir()) == []


def test_who_is_not_known_any_more_ends(agent: Make) -> None:
    made, _ = agent(Line([IdentityError("revoked", code="revoked")]))
    with pytest.raises(IdentityError):
        made.run()


def test_a_server_of_another_version_ends_it(agent: Make) -> None:
    made, _ = agent(Line([TransferError("update fedloom", code="protocol")]))
    with pytest.raises(TransferError, match="update fedloom"):
        made.run()


@pytest.mark.parametrize(("after", "least"), [(None, 300.0), (40.0, 40.0)])
def test_a_benched_device_waits(agent: Make, after: float | None, least: float) -> None:
    made, stop = agent(Line([TransferError("benched", code="benched", retry_after=after), DONE]))
    assert made.run() is Ending.DONE
    assert least <= stop.waits[0] <= least + 1.0


def test_the_owner_s_limits_are_kept(agent: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = deque(["it is noon", "it is noon", ""])
    monkeypatch.setattr(module, "may_not_work", lambda *_: reasons.popleft())
    line = Line([DONE])
    made, stop = agent(line)
    assert made.run() is Ending.DONE
    assert (stop.waits, len(line.requests)) == ([60.0, 60.0], 1)


def test_a_stop_between_turns(agent: Make) -> None:
    made, stop = agent(Line([]))
    stop.set()
    assert made.run() is Ending.STOPPED


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (100, "2 min"), (3600, "60 min"), (7380, "2 h 3 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert module._duration(seconds) == text
