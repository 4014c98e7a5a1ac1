"""What a far side gets through a guard, and what comes back."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.lengths import Lengths, packing_of
from fedloom.core.errors import SplitError
from fedloom.core.split import SplitConfig
from fedloom.tuning.far import FarLosses, remote_loss, remote_span
from fedloom.tuning.guard import Guard, guarded
from fedloom.tuning.noise import SecretNoise, SeededNoise
from fedloom.tuning.targets import Places

PACKING = packing_of(Lengths(((2, 1), (2,)), None))  # L = 3: the second client has one padding
PLACES = Places(np.zeros(2, np.int64), np.zeros(2, np.int64), np.arange(2))
QUIET = SeededNoise(1, 1, ("a", "b"))
HIDDEN = torch.tensor(
    [[[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], [[-6.0, 8.0], [0.0, 2.0], [30.0, 40.0]]]
)


class Echo:
    """A far side that keeps what it gets, and passes it on; it may forget its steps."""

    def __init__(self, forgets: int = 0) -> None:
        self.forgets, self.got = forgets, list[tuple[str, Tensor]]()

    def forward(self, step: int, hidden: Tensor, packing: Packing, *, train: bool) -> Tensor:
        self.got.append(("forward", hidden.clone()))
        return hidden

    def backward(self, step: int, grad: Tensor) -> Tensor:
        self.got.append(("backward", grad.clone()))
        if self.forgets:
            self.forgets -= 1
            raise SplitError(f"step {step}: evicted", code="evicted")
        return 10 * grad

    def losses(
        self, step: int, hidden: Tensor, packing: Packing, places: Places, *, train: bool
    ) -> tuple[FarLosses, Tensor]:
        self.got.append(("losses", hidden.clone()))
        ones = torch.ones(packing.clients)
        return FarLosses(ones, ones, ones, ones, torch.zeros(2, dtype=torch.int64)), 5 * hidden


def guard(far: Echo, config: SplitConfig, noise: SecretNoise | SeededNoise = QUIET) -> Guard:
    found = guarded(far, config, noise)
    assert isinstance(found, Guard)
    return found


def test_vectors_are_scaled_to_the_bound() -> None:
    # Norms 5, 0.5, 0 and 10, 2; bound 1: a fifth, as it is, as it is; a tenth, a half. What stands
    # at padding stays.
    far = Echo()
    guard(far, SplitConfig(clip=1.0)).forward(1, HIDDEN, PACKING, train=False)
    expected = [[[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]], [[-0.6, 0.8], [0.0, 1.0], [30.0, 40.0]]]
    torch.testing.assert_close(far.got[0][1], torch.tensor(expected), rtol=1e-7, atol=0)


def test_gradients_have_a_bound_of_their_own_and_pass_straight_through() -> None:
    # The gradient of out.sum() is ones, of norm sqrt(2): scaled to 1 it goes up, and ten times that
    # comes down, whatever was clipped on the way forward.
    far, x = Echo(), HIDDEN.clone().requires_grad_()
    out = remote_span(guard(far, SplitConfig(clip=1.0, clip_grad=1.0)), 1, x, PACKING)
    (out * torch.ones(2, 3, 2)).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad[0], torch.full((3, 2), 10 / math.sqrt(2)))
    assert torch.equal(far.got[1][1][1, 2], torch.ones(2))  # padding
    assert torch.allclose(far.got[1][1][1, :2], torch.full((2, 2), 1 / math.sqrt(2)))


def test_where_one_leg_is_clipped_the_other_goes_as_it_is() -> None:
    far, x = Echo(), HIDDEN.clone().requires_grad_()
    remote_span(guard(far, SplitConfig(clip_grad=0.5)), 1, x, PACKING).sum().backward()
    assert torch.equal(far.got[0][1], HIDDEN)
    assert torch.allclose(far.got[1][1][0].norm(dim=-1), torch.full((3,), 0.5))


def test_without_a_bound_there_is_no_guard() -> None:
    far = Echo()
    assert guarded(far, SplitConfig(), QUIET) is far


def test_a_wide_bound_changes_no_bit() -> None:
    far, x = Echo(), HIDDEN.clone().requires_grad_()
    remote_span(guard(far, SplitConfig(clip=1e6, clip_grad=1e6)), 1, x, PACKING).sum().backward()
    assert torch.equal(far.got[0][1], HIDDEN)
    assert torch.equal(far.got[1][1], torch.ones_like(HIDDEN))


def test_only_read_tokens_have_gradients_where_the_last_block_is_far() -> None:
    # [k, b, d] for b = 2 examples; the second client has one, and its other slot is not looked at.
    packing = packing_of(Lengths(((2, 1), (2,)), "first"))
    far, grad = Echo(), torch.full((2, 2, 4), 3.0)
    config = SplitConfig(clip_grad=2.0)
    with torch.no_grad():
        own = guard(far, config)
        own.forward(1, torch.zeros(2, 3, 4), packing, train=True)
        own.backward(1, grad)
    sent = far.got[1][1]
    assert torch.allclose(sent[:, 0], torch.ones(2, 4))
    assert torch.equal(sent[1, 1], torch.full((4,), 3.0))


def test_noise_has_the_stated_deviation() -> None:
    # 2 x 40,000 numbers: their mean is within 4 / sqrt(n) deviations of 0, their variance within
    # 4 sqrt(2 / n) of 1.
    tokens, width, n = 100, 400, 80_000
    packing = packing_of(Lengths(((tokens,), (tokens,)), None))
    far = Echo()
    guard(far, SplitConfig(clip=2.0, noise=0.25)).forward(
        1, torch.zeros(2, tokens, width, dtype=torch.float64), packing, train=False
    )
    z = far.got[0][1] / (0.25 * 2.0)
    assert abs(float(z.mean())) < 4 / math.sqrt(n)
    assert abs(float(z.square().mean()) - 1) < 4 * math.sqrt(2 / n)
    a, b = z.flatten(1)
    assert abs(float(a @ b) / len(a)) < 4 / math.sqrt(len(a))


def test_noisy_numbers_lie_on_a_grid_that_says_nothing_of_them() -> None:
    # Deviation 0.5 * 0.6 = 0.3, a power of two below it is 2^-2; steps are 2^-22.
    far = Echo()
    values = torch.full((2, 3, 2), math.pi / 100, dtype=torch.float64)
    guard(far, SplitConfig(clip=0.6, noise=0.5)).forward(1, values, PACKING, train=False)
    steps = far.got[0][1][0] * 2.0**22
    assert torch.equal(steps, steps.round())


@pytest.mark.parametrize("noise", [QUIET, SecretNoise(bytes(range(32)))], ids=["seed", "secret"])
def test_a_step_that_is_sent_again_is_the_same(noise: SecretNoise | SeededNoise) -> None:
    far, x = Echo(forgets=2), HIDDEN.clone().requires_grad_()
    config = SplitConfig(clip=1.0, clip_grad=1.0, noise=0.5)
    remote_span(guard(far, config, noise), 3, x, PACKING).sum().backward()
    for leg in ("forward", "backward"):
        first, *rest = [sent for name, sent in far.got if name == leg]
        assert len(rest) == 2
        assert all(torch.equal(first, again) for again in rest)
    assert not torch.equal(far.got[0][1][0], far.got[1][1][0])


def test_other_steps_and_other_contents_get_other_noise() -> None:
    far, noise = Echo(), SecretNoise(bytes(range(32)))
    own = guard(far, SplitConfig(clip=1.0, noise=0.5), noise)
    for step, values in ((1, HIDDEN), (2, HIDDEN), (1, HIDDEN / 100)):
        own.forward(step, values, PACKING, train=False)
    apart = [far.got[i][1][0] - far.got[0][1][0] for i in (1, 2)]
    plain = torch.zeros(3, 2), HIDDEN[0] / 100 - torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])
    for found, without in zip(apart, plain, strict=True):
        assert ((found - without).abs() > 1e-4).all()


def test_with_far_labels_hidden_states_alone_go_up() -> None:
    far, x = Echo(), HIDDEN.clone().requires_grad_()
    own = guard(far, SplitConfig(labels="far", clip=1.0, clip_grad=1.0))
    loss, _ = remote_loss(own, 1, x, PACKING, PLACES)
    loss.sum().backward()
    assert [name for name, _ in far.got] == ["losses"]
    assert x.grad is not None
    assert torch.equal(x.grad, 5 * far.got[0][1])


def test_a_gradient_of_a_step_that_was_not_sent_is_asked_for_again() -> None:
    with pytest.raises(SplitError, match="step 4: not held") as caught:
        guard(Echo(), SplitConfig(clip_grad=1.0)).backward(4, HIDDEN)
    assert caught.value.code == "evicted"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    far, values = Echo(), HIDDEN.clone()
    values[0, 1, 0] = bad
    own = guard(far, SplitConfig(clip=1.0, noise=0.1))
    own.forward(1, values, PACKING, train=False)
    assert torch.isfinite(far.got[0][1]).all(-1).tolist() == [[True, False, True], [True] * 3]


def test_large_numbers_do_not_overflow_on_the_way() -> None:
    # Their squares are beyond float32.
    far = Echo()
    values = torch.full((2, 3, 2), 1e30)
    guard(far, SplitConfig(clip=1.0)).forward(1, values, PACKING, train=False)
    assert torch.allclose(far.got[0][1][0], torch.full((3, 2), 1 / math.sqrt(2)))
