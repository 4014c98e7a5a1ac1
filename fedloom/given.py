"""A strategy that a program made itself, in the place of a name."""

from collections.abc import Mapping

from fedloom.core.component import Component
from fedloom.core.errors import ConfigError

__all__ = ["with_objects"]

_HOOKS = ("init", "configure", "accumulate", "apply")


def with_objects(changes: Mapping[str, object]) -> dict[str, object]:
    """Settings in which a strategy given as an object is a component that has it.

    It may be ours (`fedloom.strategies.base.Strategy`), or one of Flower's. What is written down of
    it is ``module:Class``, without its options.

    Raises:
        ConfigError: an object is neither.
    """
    out = dict(changes)
    found = out.get("strategy")
    if found is not None and not isinstance(found, str | Mapping | Component):
        out["strategy"] = _component(found)
    return out


def _component(found: object) -> Component:
    name = f"{type(found).__module__}:{type(found).__qualname__}"
    if any(base.__module__.split(".")[0] == "flwr" for base in type(found).__mro__):
        from fedloom.strategies.flower.named import hosted

        return Component(f"flwr:{name}", made=hosted(found))
    lacking = [hook for hook in _HOOKS if not callable(getattr(found, hook, None))]
    if lacking:
        text = f"expected a name, a table, or a strategy; it has no {lacking[0]!r}"
        raise ConfigError(f"strategy = {type(found).__name__}: {text}")
    return Component(name, made=found)
