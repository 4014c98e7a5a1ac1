"""Attacks by hand, who is chosen for them, and what they are refused with."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import cast

import numpy as np
import pytest

from fedloom.codecs.dense import Float32
from fedloom.core.errors import ConfigError, UnknownNameError
from fedloom.core.job import Job, job_from
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.registry import Component, create
from fedloom.core.seeds import stream
from fedloom.core.types import ClientTask, ClientUpdate, Delta, Refusal
from fedloom.simulation.attackers import Attackers, attacked, attackers_of
from fedloom.simulation.attacks import (
    Attack,
    Spread,
    alie,
    gaussian,
    ipm,
    largest_hidden,
    sign_flip,
)
from fedloom.simulation.holdings import Partition

LAYOUT = Layout((TensorSpec("a", (2,)), TensorSpec("b", (1,))))
NOISE = stream(0, "test")
DELTA = np.array([1, -2, 0], dtype=np.float32)
THREE = np.array([1, 2, 3], dtype=np.float32)
SPREAD = Spread(THREE, np.array([0.5, 0, 1], dtype=np.float32), clients=50, attackers=12)


class Hundred:
    """A partition as far as `attackers_of` looks at it."""

    def __len__(self) -> int:
        return 100

    def name_of(self, index: int) -> str:
        return f"c{index}"


def chosen(job: Job) -> Attackers:
    return attackers_of(job, cast(Partition, Hundred()))


def test_forged_updates_by_hand() -> None:
    assert sign_flip(strength=2).forge(DELTA, NOISE, None).tolist() == [-2, 4, 0]
    assert ipm(strength=0.5).forge(DELTA, NOISE, SPREAD).tolist() == [-0.5, -1, -1.5]
    assert alie(strength=2).forge(DELTA, NOISE, SPREAD).tolist() == [0, 2, 1]


def test_alie_hides_as_far_away_as_it_can() -> None:
    # n = 50, m = 12: s = 26 - 12 = 14, Phi(z) = (38 - 14) / 38 = 0.6316, z = 0.336.
    assert largest_hidden(50, 12) == pytest.approx(0.336, abs=5e-4)
    # n = 10, m = 2: s = 4, Phi(z) = 4 / 8: the mean itself is as far as it can go.
    assert largest_hidden(10, 2) == 0
    found = alie().forge(DELTA, NOISE, SPREAD)
    np.testing.assert_allclose(found, [1 - 0.168, 2, 3 - 0.336], atol=5e-4)


def test_noise_is_of_the_strength_asked_for_and_of_the_stream() -> None:
    zeros = np.zeros(4000, dtype=np.float32)
    found = gaussian(strength=3).forge(zeros, stream(1, "x"), None)
    again = gaussian(strength=3).forge(zeros, stream(1, "x"), None)
    assert found.tobytes() == again.tobytes()
    assert found.dtype == np.float32
    assert 2.8 < float(found.std()) < 3.2


def test_attackers_follow_from_the_seed() -> None:
    first = chosen(job_from({"attack": "sign-flip", "seed": 1}))
    assert len(first.names) == 20
    assert first.names == chosen(job_from({"attack": "ipm", "seed": 1})).names
    assert first.names != chosen(job_from({"attack": "sign-flip", "seed": 2})).names
    three = job_from({"attack": {"name": "sign-flip", "clients": 3}, "seed": 1})
    assert len(chosen(three).names) == 3
    assert not chosen(Job()).names


def test_whom_the_strategy_trusts_does_not_attack() -> None:
    strategy = {"name": "fltrust", "root": "c7"}
    job = {"attack": {"name": "sign-flip", "clients": 99}, "strategy": strategy}
    assert chosen(job_from(job)).names == {f"c{i}" for i in range(100)} - {"c7"}


@pytest.mark.parametrize(
    ("job", "text"),
    [
        ({"attack": {"name": "ipm", "clients": 101}}, "clients = 101; there are 100"),
        ({"attack": {"name": "ipm", "share": 2.0}}, "share = 2.0: 0 to 1"),
        ({"attack": {"name": "ipm", "clients": -1}}, "clients = -1: 0 .the share. or more"),
        ({"attack": {"name": "ipm", "strength": -1.0}}, "strength = -1.0: 0 or more, and finite"),
        ({"attack": "alie", "codec_up": "scalars"}, "it sends steps along known directions"),
        ({"attack": "alie", "strategy": "bbtv2"}, "strategy 'bbtv2': its clients send steps along"),
        ({"attack": "alie", "split": {"mode": "v1"}}, "updates of a split model are not forged"),
    ],
)
def test_what_does_not_go_together_is_refused(job: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        chosen(job_from(job))


def test_an_unknown_attack_is_told_its_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'sign-flip'"):
        create("attacks", Component("sign-flop"))


def updates_of(attack: Attack, names: set[str]) -> dict[str, list[float]]:
    """What comes of three clients whose deltas are 1, 2 and 3 everywhere; a fourth one is idle."""
    codec = Float32()

    async def dispatch(
        tasks: Mapping[str, ClientTask],
    ) -> AsyncIterator[ClientUpdate | Refusal]:
        for value, name in enumerate(tasks, start=1):
            delta = Delta(LAYOUT, np.full(3, value, dtype=np.float32))
            payload = codec.encode(delta, seed=0)
            yield ClientUpdate(name, 1, 1, payload) if name != "d" else Refusal(name, "idle")

    async def collected() -> dict[str, list[float]]:
        tasks = {name: ClientTask(name, 1, 0) for name in "abcd"}
        found = {}
        whole = attacked(dispatch, Attackers(attack, names), LAYOUT, lambda task: codec)
        async for update in whole(tasks):
            if isinstance(update, ClientUpdate):
                assert update.payload is not None
                found[update.client] = codec.decode(update.payload, LAYOUT).vector.tolist()
        return found

    return asyncio.run(collected())


def test_only_attackers_send_something_else() -> None:
    found = updates_of(sign_flip(), {"b", "d"})
    assert found == {"a": [1] * 3, "b": [-2] * 3, "c": [3] * 3}


def test_colluding_attackers_know_their_own_kind_alone() -> None:
    # Of 2 and 3 the mean is 2.5 and the deviation 0.5.
    found = updates_of(ipm(strength=2), {"b", "c"})
    assert found == {"a": [1] * 3, "b": [-5] * 3, "c": [-5] * 3}
    assert updates_of(alie(strength=1), {"b", "c"})["c"] == [2] * 3
