"""How good a model is on some examples, without torch."""

import numpy as np

from fedloom.core.types import Params
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.onnx.head import HeadLosses
from fedloom.tuning.onnx.session import OnnxSession
from fedloom.tuning.scores import batches_of, macro_f1

__all__ = ["score"]


def score(session: OnnxSession, params: Params, examples: TextExamples) -> dict[str, float]:
    """What `fedloom.tuning.evaluate` finds: ``loss``, ``accuracy``, ``macro_f1``.

    Of a language model ``perplexity`` in place of the last.

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
    count = max(sum(int(losses.counts.sum()) for losses in found), 1)
    loss = sum(float(losses.sums.sum()) for losses in found) / count
    accuracy = sum(int(losses.correct.sum()) for losses in found) / count
    metrics = {"loss": loss, "accuracy": accuracy}
    heads = [losses for losses in found if isinstance(losses, HeadLosses)]
    if not heads:
        return {**metrics, "perplexity": float(np.exp(min(loss, 700.0)))}
    predicted = np.concatenate([losses.predicted[0] for losses in heads])
    target = np.concatenate([losses.target[0] for losses in heads])
    return {**metrics, "macro_f1": macro_f1(target, predicted)}
