"""A mistake as the command line tells it: one line, and more of somebody else's code on request."""

import os
import sys
import traceback

from fedloom.core.errors import ConfigError, FedloomError, StrategyError
from fedloom.core.raised import place_of

__all__ = ["WHOLE", "complain"]

WHOLE = "FEDLOOM_TRACEBACK"
"""The environment variable that asks for the traceback of what somebody else's code raised."""


def complain(error: FedloomError) -> None:
    """Write a mistake to the standard error."""
    cause, hint = error.__cause__, ""
    if isinstance(error, ConfigError | StrategyError) and place_of(cause):
        if os.environ.get(WHOLE):
            traceback.print_exception(cause)
        else:
            hint = f"; {WHOLE}=1 shows the whole traceback"
    print(f"fedloom: error: {error}{hint}", file=sys.stderr)
