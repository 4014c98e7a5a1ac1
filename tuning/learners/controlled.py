"""Clients that correct their drift: backpropagation with a control that each client remembers.

A constant vector, one of each client's own, is added to every gradient of its round; after the
round it becomes another. With steps tau, rates eta, the round's start theta and end theta_k:

SCAFFOLD (Karimireddy, Kale, Mohri, Reddi, Stich and Suresh, ICML 2020, Algorithm 1; eq. 3, and
option II of eq. 4) steps along ``g - c_k + c``, where c comes from the server:

    c_k <- c_k - c + (theta - theta_k) / (tau eta)

FedDyn (Acar, Zhao, Matas, Mattina, Whatmough and Saligrama, ICLR 2021) steps along
``g - h_k + alpha (w - theta)``; alpha is the task's `prox_mu`:

    h_k <- h_k - alpha (theta_k - theta)

None of it is sent: the server finds what it needs of it from the update alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedloom.core.errors import ConfigError, require
from fedloom.core.layout import Layout
from fedloom.core.slopes import slope_of
from fedloom.core.types import Briefing, Delta, LocalWork, Params
from fedloom.tuning.base import Session
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learning import NOTHING, Assignment, LocalResult
from fedloom.tuning.own import CONTROL, called, part_of, without

__all__ = ["Controlled", "feddyn", "scaffold"]


def scaffold() -> "Controlled":
    """Clients step along the gradient, less their own control, plus everybody's (SCAFFOLD)."""
    return Controlled("scaffold")


def feddyn() -> "Controlled":
    """Clients step along the gradient of a loss that is tilted by their earlier rounds (FedDyn)."""
    return Controlled("feddyn")


class Controlled:
    """Backpropagation, corrected as a strategy with the same `correction` expects.

    Args:
        correction: ``scaffold`` or ``feddyn``.
    """

    keeps = True
    """Clients may have tensors of their own."""

    def __init__(self, correction: str) -> None:
        known = ("scaffold", "feddyn")
        require(correction in known, "correction", correction, f"one of {', '.join(known)}")
        self.correction = correction

    def remembers(self, sent: Layout) -> Layout:
        """A control of every tensor that is sent."""
        return called(CONTROL, sent)

    def train(
        self,
        session: Session,
        params: Params,
        work: LocalWork,
        cohort: Sequence[Assignment],
        briefing: Briefing = NOTHING,
    ) -> list[LocalResult]:
        """As `Backprop.train`; a client that holds no control has one of zeros, and keeps none.

        Raises:
            ConfigError: steps that are not along the gradient alone, or without FedDyn's alpha.
        """
        self._check(work)
        common = self._common(params, briefing)
        controls = [_control(one.own) for one in cohort]
        leaning = [
            replace(
                one,
                own=None if one.own is None else without(CONTROL, one.own),
                pull=_pull(control, common),
            )
            for one, control in zip(cohort, controls, strict=True)
        ]
        results = Backprop().train(session, params, work, leaning, briefing)
        return [
            result if one.own is None else self._kept(result, one.own, common, work)
            for result, one in zip(results, cohort, strict=True)
        ]

    def _check(self, work: LocalWork) -> None:
        if self.correction == "feddyn":
            require(work.prox_mu > 0, "local.prox_mu", work.prox_mu, "above 0: alpha of FedDyn")
            return
        plain = work.optimizer == "sgd" and not (work.momentum or work.weight_decay or work.prox_mu)
        if not plain or work.clip_norm:
            text = "plain SGD: no momentum, weight_decay, prox_mu or clip_norm"
            raise ConfigError(f"local: the learner 'scaffold' finds gradients in steps of {text}")

    def _common(self, params: Params, briefing: Briefing) -> Params:
        """Everybody's control, float32 ``[P]``; zero before the first, and for FedDyn."""
        zeros = np.zeros(params.layout.size, dtype=np.float32)
        if self.correction == "feddyn" or "control" not in briefing:
            return Params(params.layout, zeros)
        return Params(params.layout, np.asarray(briefing["control"], dtype=np.float32))

    def _kept(
        self, result: LocalResult, own: Params, common: Params, work: LocalWork
    ) -> LocalResult:
        """The result with the client's next control in its record."""
        control = part_of(CONTROL, own)
        here = Layout(tuple(spec for spec in control.layout if spec.name in result.layout))
        delta = Delta(here, result.layout.gather(result.delta, here))
        before = control.only(here).vector
        if self.correction == "feddyn":
            after = before - np.float32(work.prox_mu) * delta.vector
        else:
            slope = slope_of(delta, work, result.num_examples)
            after = before - common.only(here).vector + slope
        record = own.having(Params(called(CONTROL, here), after))
        return replace(result, kept=record.having(result.kept) if result.kept else record)


def _control(own: Params | None) -> Params:
    return Params(Layout(()), np.zeros(0, np.float32)) if own is None else part_of(CONTROL, own)


def _pull(control: Params, common: Params) -> Params:
    """What is added to a client's gradients: everybody's control less its own."""
    minus = common.only(control.layout).vector - control.vector
    return common.having(Params(control.layout, minus))
