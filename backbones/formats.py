"""The formats of matrices in 8 and 4 bits, by name. Nothing here loads torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
        kind: ``int8``: integers of -128 to 127; ``int4``: integers of -8 to 7; ``uint4``: integers
            of 0 to 15, and a least value that is added; ``nf4``: indices of `NF4`. Each times a
            scale.
        group: numbers of a row that share a scale; 0 for all of them.
        gguf: scales and least values are float16, as GGUF's blocks have them. Else scales of groups
            are bfloat16, those of rows and least values float32.
        wide: scales of groups are float32, as what was trained of them is merged.
    """

    kind: str
    group: int = 0
    gguf: bool = False
    wide: bool = False

    @property
    def name(self) -> str:
        """As a configuration and a file call it; llama.cpp's name for what are its blocks."""
        if self.gguf:
            return {"int8": "q8_0", "int4": "q4_0", "uint4": "q4_1"}[self.kind]
        grouped = f"{self.kind}-{self.group}" if self.group else self.kind
        return f"{grouped}-wide" if self.wide else grouped

    @property
    def bits(self) -> int:
        """Of a code."""
        return 8 if self.kind == "int8" else 4

    @property
    def raised(self) -> bool:
        """Whether groups have a least value."""
        return self.kind == "uint4"

    def codes(self, rows: int, columns: int) -> tuple[int, int]:
        """Shape of the codes of a matrix: one or two numbers in a byte."""
        return rows, columns * self.bits // 8

    def scales(self, rows: int, columns: int) -> tuple[int, ...]:
        """Shape of its scales."""
        return (rows, columns // self.group) if self.group else (rows,)

    @property
    def types(self) -> tuple[str, ...]:
        """Types of codes, scales and, where groups have them, least values, as stored."""
        codes = "int8" if self.bits == 8 else "uint8"
        if self.gguf:
            own: tuple[str, ...] = (codes, "float16", "float16")
        else:
            own = (codes, "bfloat16" if self.group and not self.wide else "float32", "float32")
        return own if self.raised else own[:2]

    def check(self, name: str, columns: int) -> None:
        """Check that rows of so many numbers can be stored so.

        Raises:
            ConfigError: groups do not divide them.
        """
        if self.group and columns % self.group:
            text = f"rows of {columns} numbers are not whole groups of {self.group}"
            raise ConfigError(f"{self.name}: tensor {name!r}: {text}")

    def check_tensors(
        self, name: str, types: Sequence[str], shapes: Sequence[tuple[int, ...]]
    ) -> None:
        """Check that codes, scales and least values are some of this format, of one matrix.

        Args:
            name: of the matrix, for the message.
            types: of each, such as ``float16``.
            shapes: of each.

        Raises:
            ModelError: they are not.
        """
        codes, *others = shapes
        rows, columns = codes if len(codes) == 2 else (0, 0)
        expected = self.scales(rows, columns * 8 // self.bits)
        if not rows or tuple(types) != self.types or any(shape != expected for shape in others):
            raise ModelError(f"{name}: not {self.name}: {codes}")


_OWN = (
    Scheme("int8"),
    *(Scheme("int4", group) for group in (32, 64, 128)),
    Scheme("nf4", 64),
    *(Scheme("uint4", group) for group in (32, 64, 128)),
)
_BLOCKS = tuple(Scheme(kind, 32, gguf=True) for kind in ("int8", "int4", "uint4"))
_WIDE = tuple(replace(scheme, wide=True) for scheme in (*_OWN, Scheme("int8", 32)) if scheme.group)
SCHEMES: Mapping[str, Scheme] = {scheme.name: scheme for scheme in (*_OWN, *_BLOCKS, *_WIDE)}
"""All formats by name; those that are wide come of merging."""


def scheme_of(name: str) -> Scheme:
    """The format of that name; ``int4`` is ``int4-32``, ``nf4`` is ``nf4-64``.

    Raises:
        ModelError: there is none.
    """
    found = SCHEMES.get({"int4": "int4-32", "nf4": "nf4-64"}.get(name, name))
    if found is None:
        raise ModelError(f"format {name!r}: expected one of {', '.join(SCHEMES)}")
    return found
