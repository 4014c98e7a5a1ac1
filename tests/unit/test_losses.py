import math

import numpy as np
import pytest
import torch

from fedloom.tuning.losses import (
    class_losses,
    client_losses,
    owners,
    taught_losses,
    valid_slots,
)

UNIFORM = [0.0, 0.0]  # log 2 whatever the target
SURE = [math.log(3), 0.0]  # 3/4 for class 0: log(4/3); class 1: log 4


def test_each_client_has_the_mean_over_its_own_predictions() -> None:
    logits = torch.tensor([UNIFORM, SURE, SURE, SURE])
    found = client_losses(logits, torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1]), clients=2)
    sure, wrong = math.log(4 / 3), math.log(4)
    assert found.loss.tolist() == pytest.approx([(math.log(2) + sure) / 2, (sure + wrong) / 2])
    assert found.each.tolist() == pytest.approx([math.log(2), sure, sure, wrong])
    assert found.correct.tolist() == [2, 1]
    assert found.count.tolist() == [2, 2]
    assert found.predicted.tolist() == [0, 0, 0, 0]
    assert found.target.tolist() == [0, 0, 0, 1]


def test_a_client_without_predictions_has_loss_zero() -> None:
    found = client_losses(torch.tensor([UNIFORM]), torch.tensor([0]), torch.tensor([1]), clients=2)
    assert found.loss.tolist() == pytest.approx([0, math.log(2)])
    assert found.count.tolist() == [0, 1]


def test_the_sum_gives_each_client_its_own_gradient() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target, owner = torch.tensor([0, 2, 1, 1, 0]), torch.tensor([0, 0, 0, 1, 1])
    client_losses(logits, target, owner, clients=2).loss.sum().backward()
    for rows in (slice(0, 3), slice(3, 5)):
        alone = logits.detach()[rows].requires_grad_()
        torch.nn.functional.cross_entropy(alone, target[rows]).backward()
        assert logits.grad is not None
        torch.testing.assert_close(logits.grad[rows], alone.grad)


def test_a_loss_that_is_not_finite_stays_with_its_client() -> None:
    logits = torch.tensor([[math.nan, 0.0], UNIFORM], requires_grad=True)
    found = client_losses(logits, torch.tensor([0, 0]), torch.tensor([0, 1]), clients=2)
    found.loss.sum().backward()
    assert logits.grad is not None
    assert not logits.grad[0].isfinite().all()
    assert logits.grad[1].tolist() == [-0.5, 0.5]  # softmax - one-hot


def test_half_precision_logits_are_compared_in_float32() -> None:
    found = client_losses(
        torch.zeros(1, 3, dtype=torch.bfloat16), torch.tensor([1]), torch.tensor([0]), clients=1
    )
    assert found.loss.dtype == torch.float32
    assert found.loss.tolist() == pytest.approx([math.log(3)])


def test_empty_slots_are_left_out() -> None:
    labels = np.array([1, 0, 1], dtype=np.int64)
    rows = [np.array([2, 1]), np.array([0])]
    logits = torch.tensor([SURE, SURE, SURE, [math.nan, math.nan]])  # the last slot is empty
    found = class_losses(logits, labels, rows)
    assert found.target.tolist() == [1, 0, 1]
    assert found.count.tolist() == [2, 1]
    assert found.loss.tolist() == pytest.approx([(math.log(4) + math.log(4 / 3)) / 2, math.log(4)])


def test_slots_and_owners() -> None:
    rows = [np.arange(3), np.arange(1), np.arange(2)]
    slots = valid_slots(rows)
    assert slots is not None
    assert slots.tolist() == [0, 1, 2, 3, 6, 7]  # of three slots for each of three clients
    assert valid_slots([np.arange(2), np.arange(2)]) is None
    assert owners([2, 0, 3]).tolist() == [0, 0, 2, 2, 2]


def test_a_label_taught_is_the_label() -> None:
    logits, rows = torch.tensor([UNIFORM, SURE, SURE]), [np.array([4, 2]), np.array([7])]
    own = client_losses(logits, torch.tensor([0, 1, 0]), torch.tensor([0, 0, 1]), clients=2)
    taught = taught_losses(logits, np.eye(2, dtype=np.float32)[[0, 1, 0]], rows)
    for name in ("loss", "correct", "count", "each", "predicted", "target"):
        torch.testing.assert_close(getattr(taught, name), getattr(own, name))


def test_probabilities_taught_are_a_divergence() -> None:
    # KL((3/4, 1/4) || (1/2, 1/2)) = log 2 - H = 3/4 log 3 - log 2, and 0 for what is known
    taught = np.array([[0.75, 0.25], [0.75, 0.25]], dtype=np.float32)
    found = taught_losses(torch.tensor([UNIFORM, SURE]), taught, [np.arange(2)])
    assert found.each.tolist() == pytest.approx([0.75 * math.log(3) - math.log(2), 0], abs=1e-6)
