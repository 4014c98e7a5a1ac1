"""A strategy put together in a configuration, of the parts that other strategies are made of."""

import inspect
from dataclasses import replace
from typing import Any

from fedloom.core.component import Component
from fedloom.core.errors import ConfigError
from fedloom.core.registry import create, find
from fedloom.strategies.compose import Composed

__all__ = ["composed"]

FEDAVG = Component("fedavg")
_HOOKS = {"planner": ("plan",), "aggregator": ("add", "mean"), "optimizer": ("step",)}


def composed(
    planner: Component = FEDAVG, aggregator: Component = FEDAVG, optimizer: Component = FEDAVG
) -> Composed:
    """One strategy's planner, another's aggregator and the server optimizer of a third.

    A part is named by a strategy that has it, with options of that strategy, or it is one of your
    own, as ``module:Name``. The planner of fedavg asks everybody for the job's work, its aggregator
    is the mean weighted by examples, its optimizer SGD.

    Args:
        planner: who trains, sends and receives what.
        aggregator: how updates become one mean delta.
        optimizer: how the mean delta moves the model.

    Raises:
        ConfigError: a strategy has no such part, or an option is of another part of it.
    """
    parts = {"planner": planner, "aggregator": aggregator, "optimizer": optimizer}
    return Composed(**{role: _part(role, of) for role, of in parts.items()})


def _part(role: str, of: Component) -> Any:
    found = _taken(role, of)
    for option in of.options:
        rest = {name: value for name, value in of.options.items() if name != option}
        try:
            without = _taken(role, replace(of, options=rest))
        except ConfigError:
            continue  # it is required
        if without == found and not _is_default(of, option):
            text = f"{role} = {of.name!r}: its {role} has no use for the option {option!r}"
            raise ConfigError(text)
    return found


def _taken(role: str, of: Component) -> Any:
    """The part of what a component names, or the thing itself where it is such a part."""
    made = create("strategies", of)
    if isinstance(made, Composed):
        return getattr(made, role)
    if all(callable(getattr(made, hook, None)) for hook in _HOOKS[role]):
        return made
    text = f"a strategy that is made of three parts, or your own with {' and '.join(_HOOKS[role])}"
    raise ConfigError(f"{role} = {of.name!r}: expected {text}")


def _is_default(of: Component, option: str) -> bool:
    parameter = inspect.signature(find("strategies", of.name)).parameters[option]
    return bool(parameter.default == of.options[option])
