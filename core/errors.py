"""Everything fedloom raises on purpose.

FedloomError                a user can act on it; the command line prints one line and exits with 2
├── ConfigError             a setting is missing, unknown or out of range
│   └── UnknownNameError    a name that no built-in, entry point or module answers to
├── DataError               a data file is missing, malformed or does not fit the task
├── ModelError              a backbone cannot be found, read, cut or held in memory
├── LayoutError             tensors that should fit together do not
├── CodecError              a payload that its codec cannot have written
├── UpdateRefusedError      one client's update is unusable; the round goes on without it
├── StrategyError           a strategy broke its contract
├── RunError                a run directory, state folder or checkpoint cannot be used
├── IdentityError           who someone is cannot be proved: a token, key or certificate
├── SplitError              a leg of a split step that the other side cannot use
└── TransferError           something did not arrive whole, or was not let in
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "CodecError",
    "ConfigError",
    "DataError",
    "FedloomError",
    "IdentityError",
    "LayoutError",
    "ModelError",
    "RunError",
    "SplitError",
    "StrategyError",
    "TransferError",
    "UnknownNameError",
    "UpdateRefusedError",
    "nearest",
    "one_of",
    "require",
]


class FedloomError(Exception):
    """A mistake that its message explains in one line: what, where, and what to do."""


class ConfigError(FedloomError):
    """A setting is missing, unknown or out of range."""


class UnknownNameError(ConfigError):
    """No built-in, entry point or module answers to a name."""


class DataError(FedloomError):
    """A data file is missing, malformed or does not fit the task."""


class ModelError(FedloomError):
    """A backbone cannot be found, read, cut or held in memory."""


class LayoutError(FedloomError):
    """Tensors that should fit together do not."""


class CodecError(FedloomError):
    """A payload that its codec cannot have written.

    Attributes:
        code: one word for programs and counters: ``codec``, ``layout`` or ``not-finite``.
    """

    def __init__(self, text: str, *, code: str = "codec") -> None:
        super().__init__(text)
        self.code = code


class UpdateRefusedError(FedloomError):
    """One client's update is unusable: NaN, infinite, of another layout or round.

    Attributes:
        code: one word for programs and counters, such as ``not-finite``.
    """

    def __init__(self, text: str, *, code: str = "refused") -> None:
        super().__init__(text)
        self.code = code


class StrategyError(FedloomError):
    """A strategy broke its contract; the message names the hook and the round."""


class RunError(FedloomError):
    """A run directory, state folder or checkpoint cannot be used."""


class IdentityError(FedloomError):
    """Who someone is cannot be proved: a token, key or certificate that does not hold.

    Attributes:
        code: one word for programs and counters, such as ``not-enrolled``.
    """

    def __init__(self, text: str, *, code: str = "identity") -> None:
        super().__init__(text)
        self.code = code


class SplitError(FedloomError):
    """A leg of a split step that the other side cannot use, or no longer holds.

    Attributes:
        code: one word for programs and counters: ``cut``, ``shape``, ``dtype``, ``not-finite``,
            ``order``, ``busy``, ``length``, ``credit``, ``memory``, ``labels``, ``weights``, or
            ``evicted`` for a step whose input has to be sent again.
    """

    def __init__(self, text: str, *, code: str) -> None:
        super().__init__(text)
        self.code = code


class TransferError(FedloomError):
    """Something did not arrive whole, or was not let in.

    Attributes:
        code: one word for programs and counters, such as ``chunk-crc``.
        retry_after: seconds after which trying again may help, or None where it will not.
    """

    def __init__(self, text: str, *, code: str = "transfer", retry_after: float | None = None):
        super().__init__(text)
        self.code = code
        self.retry_after = retry_after


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``known: a, b, c; did you mean 'b'?`` for an unknown `name`."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"known: {', '.join(names) or 'none'}{hint}"


def require(condition: bool, field: str, value: object, allowed: str) -> None:
    """Raise `ConfigError` naming the field, its value and what is allowed, unless `condition`."""
    if not condition:
        raise ConfigError(f"{field} = {value!r}: {allowed}")


def one_of(field: str, value: object, known: tuple[str, ...]) -> None:
    """Refuse a value that is none of those that are known.

    Raises:
        ConfigError: it is not.
    """
    require(value in known, field, value, f"one of {', '.join(known)}")
