"""fedloom: federated fine-tuning of foundation models, simulated and deployed by one code."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedloom.api import simulate, sweep
    from fedloom.serving import serve

__all__ = ["__version__", "serve", "simulate", "sweep"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """What runs a job is imported when it is first asked for: `import fedloom` loads no torch."""
    if name == "simulate":
        from fedloom.api import simulate

        return simulate
    if name == "sweep":
        from fedloom.api import sweep

        return sweep
    if name == "serve":
        from fedloom.serving import serve

        return serve
    raise AttributeError(f"module 'fedloom' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
