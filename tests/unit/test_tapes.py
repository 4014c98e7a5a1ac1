import contextlib

import pytest
import torch

from fedloom.backbones.packing import pack_images
from fedloom.core.errors import SplitError
from fedloom.tuning.tapes import Tape, Tapes

PACKING = pack_images(1, 1, 1)


def tape(nbytes: int) -> Tape:
    return Tape(torch.zeros(1, 1, 1), None, PACKING, 0, nbytes)


def held(tapes: Tapes) -> list[tuple[str, int]]:
    found = []
    for session in ("a", "b"):
        for step in range(1, 5):
            with contextlib.suppress(SplitError):
                tapes.get(session, step)
                found.append((session, step))
    return found


def test_a_session_holds_as_many_steps_as_its_credit() -> None:
    tapes = Tapes(2, 100)
    for step in (1, 2, 3):
        tapes.put("a", step, tape(10))
    tapes.put("b", 1, tape(10))
    assert held(tapes) == [("a", 2), ("a", 3), ("b", 1)]
    with pytest.raises(SplitError, match="step 1: not held; send its hidden states") as caught:
        tapes.get("a", 1)
    assert caught.value.code == "evicted"


def test_the_oldest_of_all_make_room() -> None:
    tapes = Tapes(3, 30)
    tapes.put("a", 1, tape(10))
    tapes.put("b", 1, tape(10))
    tapes.put("b", 2, tape(15))  # 35: a's goes
    assert held(tapes) == [("b", 1), ("b", 2)]
    assert tapes.nbytes == 25
    with pytest.raises(SplitError, match=r"step 3: 31 bytes; at most 30 are held"):
        tapes.put("b", 3, tape(31))
    assert tapes.nbytes == 25


def test_a_step_that_is_sent_again_is_held_once() -> None:
    tapes = Tapes(1, 30)
    tapes.put("a", 1, tape(20))
    tapes.put("a", 1, tape(25))
    assert tapes.nbytes == 25
    tapes.put("b", 1, tape(5))
    tapes.drop("a")
    tapes.drop("b", 2)
    assert held(tapes) == [("b", 1)]
