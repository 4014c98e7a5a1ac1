"""Sessions that step together: who is waited for, and in which order their batches lie."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import pytest
import torch
from cohorts import CASES, Folders, Ragged, start
from splits import Split, fused
from torch import Tensor

from fedloom.backbones.lengths import Lengths, packing_of
from fedloom.core.types import LocalWork
from fedloom.server.gang_host import GangHost
from fedloom.tuning.cut import Cut
from fedloom.tuning.gang import Batch, Gang
from fedloom.tuning.ordering import StageOptions

Noted: TypeAlias = tuple[GangHost, list[list[str]]]
PACKING = packing_of(Lengths(((3,),), "first"))
SESSIONS = {"ann": "ann/1", "bob": "bob/1"}


@pytest.fixture
def noted(model_folder: Folders, ragged: Ragged, monkeypatch: pytest.MonkeyPatch) -> Noted:
    """A host, and the sessions of every pass in the order of their batches."""
    case, passes = CASES["bert"], list[list[str]]()
    model = fused(case, model_folder, torch.float32)
    split = Split(model, start(model), case.examples(ragged), Cut(1, 2))
    forward = Gang.forward

    def noting(gang: Gang, step: int, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        passes.append(list(batches))
        return forward(gang, step, batches)

    monkeypatch.setattr(Gang, "forward", noting)
    stage = split.stage(LocalWork(lr=0.1), StageOptions("concat"))
    return GangHost(stage, patience=60.0), passes


def sent(host: GangHost, client: str) -> Tensor:
    hidden = torch.full((1, 3, 32), 0.1)
    return host.forward(SESSIONS[client], 1, hidden, PACKING, train=True)


def test_the_first_pass_waits_for_all_that_are_expected(noted: Noted) -> None:
    # Bob comes first, and nobody else has a session; Ann is waited for, and lies before him.
    host, passes = noted
    host.expect(["ann", "bob"], wait=True)
    with ThreadPoolExecutor(2) as threads:
        host.join(SESSIONS["bob"])
        bob = threads.submit(sent, host, "bob")
        assert not passes
        host.join(SESSIONS["ann"])
        sent(host, "ann")
        bob.result(10)
    assert passes == [["ann/1", "bob/1"]]


def test_who_will_not_come_is_not_waited_for(noted: Noted) -> None:
    host, passes = noted
    host.expect(["ann", "bob"], wait=True)
    with ThreadPoolExecutor(1) as threads:
        bob = threads.submit(sent, host, "bob")
        threading.Timer(0.05, host.give_up, ["ann"]).start()
        bob.result(10)
    assert passes == [["bob/1"]]


def test_a_host_that_goes_on_waits_for_nobody_new(noted: Noted) -> None:
    host, passes = noted
    host.expect(["ann", "bob"], wait=False)
    sent(host, "bob")
    assert passes == [["bob/1"]]
