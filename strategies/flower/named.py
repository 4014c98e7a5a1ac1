"""Flower's strategies by name: ``flwr:FedAdam``, or ``flwr:my_module:MyStrategy`` for one's own."""

import inspect
from collections.abc import Callable
from typing import Any

from fedloom.core.component import Component
from fedloom.core.errors import ConfigError, UnknownNameError, nearest
from fedloom.core.registry import create, load
from fedloom.strategies.flower.hosting import flower
from fedloom.strategies.flower.strategy import FlowerStrategy, Judged

__all__ = ["hosted", "named"]

_HOOKS = ("configure_evaluate", "aggregate_evaluate")
_AVERAGES = ("evaluate_metrics_aggr_fn", "evaluate_metrics_aggregation_fn")


def named(name: str) -> Callable[..., FlowerStrategy]:
    """What makes the strategy of a name, with the options of Flower's class.

    An option ``strategy`` names the one inside, for the strategies of Flower's that wrap another.

    Args:
        name: of a class of ``flwr.serverapp.strategy``, or ``module:Name``.

    Raises:
        ConfigError: Flower is not installed.
        UnknownNameError: nothing answers to the name.
    """
    known: Any = flower().serverapp.strategy
    if ":" in name:
        found = load("strategies", name)
    elif name in known.__all__ and name not in ("Strategy", "Result"):
        found = getattr(known, name)
    else:
        names = [one for one in known.__all__ if one not in ("Strategy", "Result")]
        raise UnknownNameError(f"strategies: unknown name 'flwr:{name}'; {nearest(name, names)}")

    from fedloom.strategies.flower.legacy import with_start

    signature = inspect.signature(found)
    required = {n for n, one in signature.parameters.items() if one.default is one.empty}

    def make(**options: Any) -> FlowerStrategy:
        if "strategy" in options:
            options["strategy"] = _inside(options["strategy"], found)
        try:
            return hosted(found(**with_start(found, options, required.__contains__)))
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error)) from None

    kept = [one for n, one in signature.parameters.items() if n != "initial_parameters"]
    make.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return make


def hosted(strategy: Any) -> FlowerStrategy:
    """A strategy of Flower's as one of ours; also an older one (``flwr.server.strategy``).

    Raises:
        ConfigError: it is none of Flower's, or aggregates trees.
    """
    flower()
    from fedloom.strategies.flower.legacy import Bridge, Legacy

    if isinstance(strategy, Legacy):
        strategy = Bridge(strategy)
    return (Judged if _evaluates(strategy) else FlowerStrategy)(strategy)


def _inside(option: Any, around: Callable[..., Any]) -> Any:
    """The strategy that another wraps, from its name or table; both are newer, or both older."""
    from fedloom.strategies.flower.legacy import Bridge, is_legacy

    table = {"name": option} if isinstance(option, str) else dict(option)
    name = table.pop("name", "")
    if not name.startswith("flwr:"):
        raise ConfigError(f"strategy = {name!r}: expected one of Flower's, such as 'flwr:FedAvg'")
    made = create("strategies", Component(name, table))
    assert isinstance(made, FlowerStrategy)
    if isinstance(made.inner, Bridge) != is_legacy(around):
        outer = getattr(around, "__name__", "it")
        text = f"{outer} wraps strategies of its own kind, of flwr.server.strategy or not"
        raise ConfigError(f"strategy = {name!r}: {text}")
    return made.inner.legacy if isinstance(made.inner, Bridge) else made.inner


def _evaluates(strategy: Any) -> bool:
    """Whether hooks that are not Flower's own follow the evaluation; Flower's only average it."""
    strategy = getattr(strategy, "legacy", strategy)
    while strategy is not None:
        owners = [_owner(type(strategy), hook) for hook in _HOOKS]
        averaging = [getattr(strategy, name, None) for name in _AVERAGES]
        if not all(_is_flowers(one) for one in (*owners, *averaging)):
            return True
        strategy = getattr(strategy, "strategy", None)
    return False


def _owner(cls: type, hook: str) -> object:
    return next(base for base in cls.__mro__ if hook in vars(base))


def _is_flowers(thing: object) -> bool:
    return thing is None or str(getattr(thing, "__module__", "")).split(".")[0] == "flwr"
