"""The formats of matrices in 8 and 4 bits, by name. Nothing here loads torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedloom.core.errors import ConfigError, ModelError

__all__ = ["NF4", "SCHEMES", "Scheme", "scheme_of"]

NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""The 16 levels of NF4 (Dettmers et al., "QLoRA", NeurIPS 2023, appendix E)."""


@dataclass(frozen=True)
class Scheme:
    """A format of stored numbers.

    Attributes:
        kind: ``int8``: integers of -127 to 127, a float32 scale for each row; ``int4``: integers
            of -8 to 7, a bfloat16 scale for each group; ``nf4``: indices of `NF4`, scales as for
            int4.
        group: numbers of a row that share a scale; 0 for all of them.
    """

    kind: str
    group: int = 0

    @property
    def name(self) -> str:
        """As a configuration and a file call it."""
        return f"{self.kind}-{self.group}" if self.group else self.kind

    @property
    def bits(self) -> int:
        """Of a code."""
        return 8 if self.kind == "int8" else 4

    def codes(self, rows: int, columns: int) -> tuple[int, int]:
        """Shape of the codes of a matrix: one or two numbers in a byte."""
        return rows, columns * self.bits // 8

    def scales(self, rows: int, columns: int) -> tuple[int, ...]:
        """Shape of its scales."""
        return (rows, columns // self.group) if self.group else (rows,)

    @property
    def scale_type(self) -> str:
        """Of scales, as stored."""
        return "bfloat16" if self.group else "float32"

    def check(self, name: str, columns: int) -> None:
        """Check that rows of so many numbers can be stored so.

        Raises:
            ConfigError: groups do not divide them.
        """
        if self.group and columns % self.group:
            text = f"rows of {columns} numbers are not whole groups of {self.group}"
            raise ConfigError(f"{self.name}: tensor {name!r}: {text}")


SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("int8"),
        *(Scheme("int4", group) for group in (32, 64, 128)),
        Scheme("nf4", 64),
    )
}
"""All formats by name."""


def scheme_of(name: str) -> Scheme:
    """The format of that name; ``int4`` is ``int4-32``, ``nf4`` is ``nf4-64``.

    Raises:
        ModelError: there is none.
    """
    found = SCHEMES.get({"int4": "int4-32", "nf4": "nf4-64"}.get(name, name))
    if found is None:
        raise ModelError(f"format {name!r}: expected one of {', '.join(SCHEMES)}")
    return found
