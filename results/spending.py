"""What a run cost in all, and two ratios of it.

Woisetschlaeger et al., "Federated Fine-Tuning of LLMs on the Very Edge: The Good, the Bad, the
Ugly", 2023 (arXiv 2310.03150):

- energy efficiency ``eta_e = (tokens / second) / watt``, which is tokens per joule;
- granularity ``G = T_comp / T_comm``: far above 1 a round is computing, far below it is waiting for
  the network.
"""

from fedloom.core.types import Cost

__all__ = ["spending"]


def spending(cost: Cost, simulated_seconds: float) -> dict[str, float]:
    """The sums of all rounds by name; what was not counted is left out.

    >>> found = spending(Cost(tokens=600, joules=30.0, device_seconds=8, network_seconds=2), 5.0)
    >>> found["eta_e"], found["granularity"], found["simulated_seconds"]
    (20.0, 4.0, 5.0)

    Args:
        cost: the sum over all updates.
        simulated_seconds: how long the rounds took the devices, one after the other.
    """
    found = {
        "simulated_seconds": simulated_seconds,
        "device_seconds": cost.device_seconds,
        "network_seconds": cost.network_seconds,
        "joules": cost.joules,
        "bytes_up": float(cost.bytes_up),
        "bytes_down": float(cost.bytes_down),
        "flops": cost.flops,
        "tokens": float(cost.tokens),
        "peak_memory": float(cost.peak_memory),
    }
    if cost.joules and cost.tokens:
        found["eta_e"] = cost.tokens / cost.joules
    if cost.network_seconds:
        found["granularity"] = cost.device_seconds / cost.network_seconds
    return {name: value for name, value in found.items() if value}
