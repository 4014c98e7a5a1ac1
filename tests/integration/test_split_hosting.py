"""Who may have a session of which round; the others are told why not."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hosted_federation import opened, ports, table_of

from fedloom.backbones.lengths import Lengths, packing_of
from fedloom.client.channel import Channel
from fedloom.client.span import RemoteFar, SpanPlan
from fedloom.core.errors import ConfigError, FedloomError, SplitError
from fedloom.core.split import session_plan
from fedloom.core.types import Client, ClientTask, LocalWork
from fedloom.server.federation import Federation
from fedloom.server.records import OpenRound
from fedloom.server.split_hosting import Hosting

TASKS = {name: ClientTask(name, 3, 2) for name in ("ann", "bob")}
COHORT = tuple(Client(name, 10) for name in TASKS)
ROUND = OpenRound(3, 1, 0, COHORT, {}, closed=False, opened=0.0)
PACKING = packing_of(Lengths(((3,),), "first"))


@contextmanager
def federation_of(model: Path, folder: Path, **split: Any) -> Iterator[tuple[Federation, int]]:
    table = table_of(model, {"mode": "v1", **split})
    with opened(table, folder) as federation, ports(federation) as port:
        yield federation, port


def hosting_of(federation: Federation) -> Hosting:
    assert federation.hosting is not None
    return federation.hosting


def begin(federation: Federation, **changes: Any) -> None:
    opened_round = replace(ROUND, **changes)
    hosting_of(federation).begin(opened_round, federation.plan.start, TASKS)


@contextmanager
def session(port: int, client: str, plan: SpanPlan) -> Iterator[RemoteFar]:
    channel = Channel("127.0.0.1", port, name=client)
    far = RemoteFar(channel.split, plan, attempts=1)
    try:
        yield far
    finally:
        far.drop()
        channel.close()


def plan_of(federation: Federation, round: int = 3) -> SpanPlan:
    return SpanPlan(session_plan(federation.job.sha256, round), 1, 2)


def refused(port: int, client: str, plan: SpanPlan) -> str:
    """Code and text of a refusal."""
    with session(port, client, plan) as far, pytest.raises(FedloomError) as caught:
        far.open()
    error: Any = caught.value
    return f"{error.code}: {error}"


def test_sessions_are_of_the_round_that_is_open(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    with federation_of(text_model["classify"], tmp_path) as (federation, port):
        plan, hosting = plan_of(federation), hosting_of(federation)
        assert refused(port, "ann", plan).startswith("busy: no round has begun")
        begin(federation)
        other = refused(port, "ann", plan_of(federation, 2))
        assert other.startswith("plan: plan = ")
        assert "open is round 3" in other
        said = refused(port, "cy", plan)
        assert said == "plan: nothing of this client is worked on in round 3: it was not asked"
        assert refused(port, "ann", replace(plan, first=0)).startswith("cut: blocks 0 to 2")
        assert refused(port, "ann", replace(plan, far_labels=True)).startswith("labels: ")
        assert refused(port, "ann", replace(plan, up="bf16")).startswith("codec: ")
        assert refused(port, "ann", replace(plan, dtype=torch.float64)).startswith("dtype: ")
        assert hosting.present is not None
        hosting.present.leave("bob")
        assert refused(port, "bob", plan).endswith("in round 3: its result is in")


def test_what_is_open_when_the_round_ends_is_told_so(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    with federation_of(text_model["classify"], tmp_path) as (federation, port):
        begin(federation)
        plan, hidden = plan_of(federation), torch.ones(1, 3, 32)
        with session(port, "ann", plan) as far:
            far.forward(1, hidden, PACKING, train=True)
            hosting_of(federation).over()
            with pytest.raises(SplitError, match="round 3 takes no more results") as caught:
                far.forward(2, hidden, PACKING, train=True)
            assert caught.value.code == "plan"
        assert refused(port, "bob", plan) == "plan: round 3 takes no more results"
        assert list(hosting_of(federation).folder.glob("3-*.sqlite"))
        hosting_of(federation).clear()
        assert not hosting_of(federation).folder.exists()


def test_a_round_whose_results_are_in_takes_no_session(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    with federation_of(text_model["classify"], tmp_path) as (federation, port):
        begin(federation, closed=True)
        assert refused(port, "ann", plan_of(federation)) == "plan: round 3 takes no more results"


def test_who_shares_the_far_tensors_does_the_same_work(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    with federation_of(text_model["classify"], tmp_path, mode="v2") as (federation, _):
        tasks = TASKS | {"bob": replace(TASKS["bob"], work=LocalWork(lr=0.5))}
        with pytest.raises(ConfigError, match="asked for different work; v1 allows it"):
            hosting_of(federation).begin(ROUND, federation.plan.start, tasks)


def test_a_client_without_a_session_moved_nothing(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    with federation_of(text_model["classify"], tmp_path) as (federation, _):
        begin(federation)
        present = hosting_of(federation).present
        assert present is not None
        assert present.moved("ann") == (None, None)
