r"""FedAvg in which no client counts with more than a given L2 norm: a strategy of your own.

    fedloom simulate text-classification.toml --set strategy=own_strategy:NormClipped
    fedloom simulate text-classification.toml \
      --set 'strategy={name="own_strategy:NormClipped", norm=0.1}'

A strategy answers four calls; three of them are FedAvg's here. `check_strategy` holds it to what
every strategy must satisfy: `python own_strategy.py`.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from fedloom.core.errors import require
from fedloom.core.types import ClientUpdate, Delta
from fedloom.strategies import check_strategy, fedavg


class NormClipped:
    """FedAvg over updates that are scaled down to at most `norm`."""

    def __init__(self, norm: float = 1.0) -> None:
        require(norm > 0, "norm", norm, "above 0")
        self.norm, inner = norm, fedavg()
        self.init, self.configure, self.apply = inner.init, inner.configure, inner.apply
        self.fold = inner.accumulate

    def accumulate(self, total: Any | None, update: ClientUpdate) -> Any:
        """Fold one update in; the longest that it can be is `norm`."""
        length = float(np.linalg.norm(update.delta.vector))
        scale = np.float32(min(1.0, self.norm / max(length, 1e-12)))
        clipped = Delta(update.delta.layout, scale * update.delta.vector)
        return self.fold(total, replace(update, delta=clipped))


if __name__ == "__main__":
    check_strategy(NormClipped(norm=0.1))
    print("NormClipped keeps every promise of a strategy")
