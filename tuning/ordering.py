"""Whose batches move which tensors of a far side, and how much of them it holds.

With f_i the loss of client i's batch and eta the learning rate
(SplitFed: Thapa et al., AAAI 2022, algorithms 1 and 2; ``concat``: SplitLoRA, Lin et al., arXiv
2407.00952), written for plain SGD:

    v1           S_i <- S_i - eta grad f_i(S_i)               each session has its own copy
    v2           S   <- S   - eta grad f_i(S)                 one copy, moved by each batch in turn
    sequential   as v2, and one session at a time
    concat       S   <- S   - eta / k sum_i grad f_i(S)       the batches of k clients as one
    frozen       S   stays                                    there is nothing far that trains

The frozen weights are there once. A client's own gradient is that of its own loss in every mode.
"""

from dataclasses import dataclass

from fedloom.core.errors import require
from fedloom.core.split import MODES

__all__ = ["ALONE", "StageOptions"]

ALONE = ("v1", "frozen")
"""Modes in which no session's batches touch another's tensors."""


@dataclass(frozen=True)
class StageOptions:
    """How a far side works.

    Attributes:
        mode: whose batches move which tensors: one of `MODES`.
        recompute: keep only what went in, and find the rest again for the gradient: a third more
            work, far less memory.
        credit: steps of one session that may wait for their gradient.
        max_bytes: memory of all waiting steps together; the oldest are let go.
        max_length: tokens of an example at most (0: any).

    Raises:
        ConfigError: one of them is out of range.
    """

    mode: str = "v2"
    recompute: bool = False
    credit: int = 2
    max_bytes: int = 2**31
    max_length: int = 0

    def __post_init__(self) -> None:
        require(self.mode in MODES, "split.mode", self.mode, f"one of {', '.join(MODES)}")
        for name, least in (("credit", 1), ("max_bytes", 1), ("max_length", 0)):
            value = getattr(self, name)
            require(value >= least, f"split.{name}", value, f"{least} or more")
