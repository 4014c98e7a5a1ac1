import numpy as np
import pytest
import torch
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.packing import pack_images
from fedloom.core.errors import SplitError
from fedloom.tuning.far import FarLosses, remote_loss, remote_span
from fedloom.tuning.targets import Places


class Doubling:
    """A far side that doubles, and forgets its steps as often as it is told to."""

    def __init__(self, forgets: int = 0) -> None:
        self.forgets, self.calls = forgets, list[str]()

    def forward(self, step: int, hidden: Tensor, packing: Packing, *, train: bool) -> Tensor:
        self.calls.append(f"forward {step} {'train' if train else 'infer'}")
        assert not hidden.requires_grad
        return hidden * 2

    def backward(self, step: int, grad: Tensor) -> Tensor:
        self.calls.append(f"backward {step}")
        if self.forgets:
            self.forgets -= 1
            raise SplitError(f"step {step}: evicted", code="evicted")
        return grad * 2

    def losses(
        self, step: int, hidden: Tensor, packing: Packing, places: Places, *, train: bool
    ) -> tuple[FarLosses, Tensor]:
        self.calls.append(f"losses {step} {'train' if train else 'infer'}")
        assert not hidden.requires_grad
        k = packing.clients
        loss = (hidden**2).sum(dim=(1, 2))
        ones = torch.ones(k)
        return FarLosses(loss, ones, ones, loss, torch.zeros(k, dtype=torch.int64)), hidden * 2


class Shrinking(Doubling):
    def forward(self, step: int, hidden: Tensor, packing: Packing, *, train: bool) -> Tensor:
        return hidden[:, :1]


PACKING = pack_images(2, 1, 3, read=None)
NOWHERE = Places(np.zeros(2, np.int64), np.zeros(2, np.int64), np.arange(2))


def hidden() -> Tensor:
    return torch.arange(12, dtype=torch.float32).view(2, 3, 2).requires_grad_()


def test_the_gradient_passes_the_far_side() -> None:
    far, x = Doubling(), hidden()
    out = remote_span(far, 7, x, PACKING)
    (out * 3).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full((2, 3, 2), 6.0))
    assert far.calls == ["forward 7 train", "backward 7"]


def test_a_far_side_is_asked_though_nothing_below_trains() -> None:
    far = Doubling()
    remote_span(far, 1, hidden().detach(), PACKING).sum().backward()
    assert far.calls == ["forward 1 train", "backward 1"]


def test_without_gradients_two_legs_travel() -> None:
    far = Doubling()
    with torch.no_grad():
        assert torch.equal(remote_span(far, 1, hidden(), PACKING), hidden() * 2)
    assert far.calls == ["forward 1 infer"]


def test_an_evicted_step_is_sent_again() -> None:
    far, x = Doubling(forgets=2), hidden()
    remote_span(far, 4, x, PACKING).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full((2, 3, 2), 2.0))
    assert far.calls == ["forward 4 train", "backward 4"] + ["forward 4 train", "backward 4"] * 2


def test_a_step_that_is_evicted_again_and_again_is_given_up() -> None:
    with pytest.raises(SplitError, match=r"step 4: evicted"):
        remote_span(Doubling(forgets=4), 4, hidden(), PACKING).sum().backward()


def test_another_shape_is_refused() -> None:
    with pytest.raises(SplitError, match=r"forward .*\[2, 1, 2\]; expected \[2, 3, 2\]") as caught:
        remote_span(Shrinking(), 1, hidden(), PACKING)
    assert caught.value.code == "shape"


def test_losses_come_with_their_gradient() -> None:
    far, x = Doubling(), hidden()
    loss, found = remote_loss(far, 2, x, PACKING, NOWHERE)
    loss.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, x.detach() * 2)
    assert torch.equal(loss.detach(), found.loss)
    with torch.no_grad():
        remote_loss(far, 3, x, PACKING, NOWHERE)
    assert far.calls == ["losses 2 train", "losses 3 infer"]


def test_weighted_losses_are_refused() -> None:
    loss, _ = remote_loss(Doubling(), 2, hidden(), PACKING, NOWHERE)
    with pytest.raises(SplitError, match=r"differentiate loss.sum\(\)"):
        (loss * 0.5).sum().backward()
