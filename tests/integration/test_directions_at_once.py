"""Directions of a client one by one, or some at once: the same slopes."""

import numpy as np
import pytest
from cohorts import CASES, Folders, Ragged, cohort
from walks import ONE, prepared, steps_of

from fedloom.core.errors import ConfigError
from fedloom.tuning.learners.finite_difference import FiniteDifference


@pytest.mark.parametrize("at_once", [1, 3])
def test_how_many_run_at_once_changes_no_slope(
    model_folder: Folders, ragged: Ragged, at_once: int
) -> None:
    _, params, session = prepared(CASES["bert-mean"], model_folder, ragged, "fused")
    few = FiniteDifference(10, at_once=at_once).train(session, params, ONE, cohort())
    all_eight = FiniteDifference(10).train(session, params, ONE, cohort())
    for one, other in zip(few, all_eight, strict=True):
        # Noise of float additions, about 1e-7, over h = 0.003, changes a scalar by a step of 0.002.
        apart = steps_of(one).scalars - steps_of(other).scalars
        assert int(np.abs(apart).max()) <= 1
        assert one.metrics == other.metrics


@pytest.mark.parametrize("at_once", [0, 9])
def test_one_to_eight_run_at_once(at_once: int) -> None:
    with pytest.raises(ConfigError, match=rf"at_once = {at_once}: 1 to 8"):
        FiniteDifference(at_once=at_once)
