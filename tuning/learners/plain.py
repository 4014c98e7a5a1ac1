"""Which numbers of local training integer steps can say."""

from fedloom.core.errors import require
from fedloom.core.types import LocalWork

__all__ = ["check_work"]


def check_work(work: LocalWork) -> None:
    """Refuse numbers of local training that scalars cannot say.

    Raises:
        ConfigError: the optimizer is not plain SGD.
    """
    text = "sgd; or learner option send = 'tensors'"
    require(work.optimizer == "sgd", "local.optimizer", work.optimizer, text)
    for name in ("momentum", "weight_decay", "prox_mu", "clip_norm"):
        value = getattr(work, name)
        text = "0: scalars cannot say it; or learner option send = 'tensors'"
        require(value == 0, f"local.{name}", value, text)
