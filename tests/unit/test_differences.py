"""Finite differences of polynomials, whose errors are known exactly; what is refused before."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.base import Losses, Rows
from fedloom.tuning.learners.differences import Differences
from fedloom.tuning.learners.finite_difference import FiniteDifference
from fedloom.tuning.learners.spot import Spot, Trials, segments
from fedloom.tuning.learning import Assignment
from fedloom.tuning.store import Store

D = 24
WORK = LocalWork(steps=1, batch_size=4, lr=0.1)


@dataclass
class Polynomial:
    """The loss of every example is ``sum_j w_j^power``, in float64; in float32 with 1 before it."""

    power: int = 2
    dtype: torch.dtype = torch.float32
    noise: float = 0.0
    coarse: bool = False
    calls: int = 0

    def store(self, params: Params, clients: int) -> Store:
        return Store(params, ("*",), clients=clients, dtype=self.dtype)

    def losses(self, store: Store, rows: Rows) -> Losses:
        self.calls += 1
        counts = torch.tensor([float(len(r)) for r in rows])
        values = (store.values[: len(rows)].double() ** self.power).sum(1) + self.noise * self.calls
        if self.coarse:
            values = (1 + values).float().double()
        each = values.repeat_interleave(counts.long())
        zeros = torch.zeros(len(each), dtype=torch.int64)
        return Losses(values.float(), counts, counts, each, zeros, zeros)

    def tokens(self, rows: NDArray[np.int64]) -> int:
        return len(rows)

    def flops(self, tokens: int) -> float:
        return 4.0 * tokens

    def memory(self, tokens: int, *, backward: bool) -> int:
        return 8 * tokens

    def over(self, rows: NDArray[np.int64]) -> "Polynomial":
        return self


def point(scale: float = 1 / 16) -> Params:
    """Multiples of 1/16 of 2 bits and more: what is added to them below is exact in float32."""
    values = scale * np.random.default_rng(0).integers(-64, 64, D)
    return Params(Layout((TensorSpec("w", (D,)),)), values.astype(np.float32))


def errors(gauge: Differences, session: Polynomial) -> NDArray[np.float64]:
    params, rows = point(), [np.arange(3)]
    store = session.store(params, 1)
    spot = Spot(session, params, store, torch.arange(D))
    z = torch.ones(4, D)
    z[1:] = torch.sign(torch.randn(3, D, generator=torch.Generator().manual_seed(0)))
    owner = np.zeros(4, dtype=np.int64)
    found = gauge.slopes(
        spot, Trials(owner, np.arange(4), rows * 4, z, False), session.losses(store, rows)
    )
    w = params.vector.astype(np.float64)
    slope = session.power * w ** (session.power - 1)
    error: NDArray[np.float64] = found - z.double().numpy() @ slope
    return error


def test_the_error_of_central_differences_is_of_second_order() -> None:
    # (w + h)^3 - (w - h)^3 = 6 w^2 h + 2 h^3: the error is h^2 sum z^3, a ninth for a third of h.
    coarse, fine = (errors(Differences(True, h), Polynomial(3)) for h in (3 / 16, 1 / 16))
    np.testing.assert_allclose(coarse, 9 * fine, rtol=1e-9, atol=1e-9)
    assert coarse[0] == pytest.approx(D * 9 / 256)


def test_the_error_of_one_sided_differences_is_of_first_order() -> None:
    # (w + h)^2 - w^2 = 2 w h + h^2: the error is h d, whatever the signs.
    coarse, fine = (errors(Differences(False, h), Polynomial(2)) for h in (3 / 16, 1 / 16))
    np.testing.assert_allclose(coarse, D * 3 / 16, rtol=1e-12)
    np.testing.assert_allclose(fine, D / 16, rtol=1e-12)


def cohort(count: int = 1) -> list[Assignment]:
    return [Assignment(f"c{i}", np.arange(6), round=1, seed=0) for i in range(count)]


def test_random_losses_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"the same batch gave the losses .* dropout is active"):
        FiniteDifference(2).train(Polynomial(noise=0.01), point(), WORK, cohort())


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 5e-8), (torch.bfloat16, 0.003)])
def test_a_step_below_the_weights_last_bit_is_refused(dtype: torch.dtype, least: float) -> None:
    session = Polynomial(dtype=dtype)
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(ConfigError, match=rf"h = 1e-09: at least .*in {kind}") as error:
        FiniteDifference(2, h=1e-9).train(session, point(), WORK, cohort())
    said = float(str(error.value).split("at least ")[1].split(":")[0])
    assert least < said < 10 * least
    least_usual = FiniteDifference(2, h=max(said * 1.001, 0.001), largest=4096.0)
    least_usual.train(session, point(), WORK, cohort())


def test_too_large_slopes_are_clipped_and_counted() -> None:
    # Slopes of sum w^2 are 2 z . w, several tens; with largest = 1 nearly all are too large.
    (found,) = FiniteDifference(8, largest=1.0).train(Polynomial(), point(), WORK, cohort())
    assert found.steps is not None
    assert found.metrics["clipped"] == (np.abs(found.steps.scalars) == 32767).sum() > 4
    (found,) = FiniteDifference(8, largest=512.0).train(Polynomial(), point(), WORK, cohort())
    assert found.metrics["clipped"] == 0


def test_a_pools_repeated_directions_stay_within_their_bits() -> None:
    work = LocalWork(steps=40, batch_size=4, lr=1e-6)
    learner = FiniteDifference(4, scheme="pool", pool=3, largest=256.0, bits=16)
    (found,) = learner.train(Polynomial(), point(), work, cohort())
    assert found.steps is not None
    assert np.abs(found.steps.scalars).max() == 32767
    assert found.metrics["clipped"] > 10


def test_what_is_no_number_is_said_in_the_delta() -> None:
    params = point()
    spoiled = Params(params.layout, params.vector * np.float32(np.nan))
    (found,) = FiniteDifference(2).train(Polynomial(), spoiled, WORK, cohort())
    assert np.isnan(found.delta).all()
    assert found.steps is None


@pytest.mark.parametrize(("difference", "passes"), [("one-sided", 1), ("central", 2)])
def test_forwards_are_counted(difference: str, passes: int) -> None:
    session = Polynomial()
    learner = FiniteDifference(20, difference, largest=512.0)
    (found,) = learner.train(session, point(), WORK, cohort())
    assert found.metrics["forwards"] == 1 + 20 * passes
    # The first batch twice more; 20 directions in three passes, eight at a time.
    assert session.calls == 1 + 2 + 3 * passes


def test_sums_of_pieces() -> None:
    found = segments(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 0.0, 1.0]))
    assert found.tolist() == [3.0, 0.0, 4.0]
    assert found.dtype == torch.float64


@pytest.mark.parametrize(("tokens", "rows"), [(0, 8), (100, 8), (512, 4), (1500, 1), (10**6, 1)])
def test_small_batches_are_filled_up_with_directions(tokens: int, rows: int) -> None:
    assert Differences(False, 0.0).at_once(tokens, torch.device("cpu")) == rows


def test_a_guided_estimate_is_unbiased_and_exact_along_the_guide() -> None:
    # N directions in d dimensions miss a gradient by sqrt(d / N) of its length: 0.05 here. Central
    # differences of squares are exact.
    params, work = point(), LocalWork(steps=1, batch_size=4, lr=1.0)
    guide = np.arange(D, dtype=np.float32) - 3
    unit, gradient = guide / np.linalg.norm(guide), 2.0 * params.vector
    for count, error in ((4, 3.0), (9600, 0.1)):
        learner = FiniteDifference(count, "central", h=1 / 16, guided=True, send="tensors")
        (found,) = learner.train(Polynomial(), params, work, cohort(), {"guide": guide})
        assert np.linalg.norm(found.delta + gradient) < error * np.linalg.norm(gradient)
        assert -found.delta @ unit == pytest.approx(gradient @ unit, rel=1e-5)


def test_a_gpu_takes_more() -> None:
    assert Differences(False, 0.0).at_once(8192, torch.device("cuda")) == 8


def test_a_step_that_losses_cannot_show_is_refused() -> None:
    # Weights of zero, such as LoRA's B, take any step; the losses, of the order of 1, do not.
    start = Params(point().layout, np.zeros_like(point().vector))
    linear = Polynomial(1, coarse=True)
    with pytest.raises(
        ConfigError, match=r"h = 1e-12: at least .*last bits of the losses"
    ) as error:
        FiniteDifference(2, h=1e-12).train(linear, start, WORK, cohort())
    said = float(str(error.value).split("at least ")[1].split(":")[0])
    assert 1e-8 < said < 1e-4
    FiniteDifference(2, h=said * 1.001).train(linear, start, WORK, cohort())
