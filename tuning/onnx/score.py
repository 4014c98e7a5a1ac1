"""How good a classifier is on some examples, without torch."""

import numpy as np

from fedloom.core.types import Params
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.onnx.session import OnnxSession
from fedloom.tuning.scores import batches_of, macro_f1

__all__ = ["score"]


def score(session: OnnxSession, params: Params, examples: TextExamples) -> dict[str, float]:
    """``loss``, ``accuracy`` and ``macro_f1``, as `fedloom.tuning.evaluate` has them.

    Args:
        session: the model, set up for these examples.
        params: the model.
        examples: what it is evaluated on.
    """
    values = params.layout.gather(params.vector, session.trained)[None]
    order = np.argsort(examples.lengths(), kind="stable")
    found = [
        session.losses(session.near(batch), values, [batch])
        for batch in batches_of(order, examples.lengths(), session.at_once)
    ]
    each = np.concatenate([losses.each[0] for losses in found])
    predicted = np.concatenate([losses.predicted[0] for losses in found])
    target = np.concatenate([losses.target[0] for losses in found])
    return {
        "loss": float(each.mean(dtype=np.float64)),
        "accuracy": float((predicted == target).mean()),
        "macro_f1": macro_f1(target, predicted),
    }
