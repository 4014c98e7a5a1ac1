"""The map of a model's blocks: named, ordered pieces that partition its parameters.

Names of parameters are enough, as transformers' state dicts and checkpoints have them: a list of
alike modules is a stack of layers, what stands before it embeds, what stands after it is the final
norm, a pooler, or a head. Models with an encoder and a decoder have two stacks, and their blocks
are named after them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from fedloom.core.errors import ModelError

__all__ = ["Block", "BlockMap", "block_names", "map_of"]

_NUMBERED = re.compile(r"^(.*?)\.(\d+)\.")
_SIDES = ("encoder", "decoder")
_EMBED = ("wte", "wpe", "shared")
_HEADS = ("head", "classifier", "score", "proj_out", "cls", "qa_outputs")


@dataclass(frozen=True)
class Block:
    """One piece.

    Attributes:
        name: ``embeddings``, ``layer.0``, ``final``, ``pooler``, ``head``; where there are two
            stacks, those of a stack begin with ``encoder.`` or ``decoder.``.
        tensors: names of its parameters, in order.
        parameters: how many numbers they hold.
    """

    name: str
    tensors: tuple[str, ...]
    parameters: int

    def nbytes(self, itemsize: int = 4) -> int:
        """Memory of its parameters, at so many bytes each."""
        return self.parameters * itemsize


@dataclass(frozen=True)
class BlockMap:
    """All blocks from input to output; every parameter is in exactly one."""

    blocks: tuple[Block, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the blocks in order."""
        return tuple(block.name for block in self.blocks)

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        return sum(block.parameters for block in self.blocks)

    def __getitem__(self, name: str) -> Block:
        """The block of that name.

        Raises:
            ModelError: there is none; the message says what there is.
        """
        for block in self.blocks:
            if block.name == name:
                return block
        known = ", ".join(self.names)
        raise ModelError(f"no block {name!r}; the model has {known}")


def map_of(shapes: Mapping[str, tuple[int, ...]], base: str = "") -> BlockMap:
    """The block map of a model.

    Args:
        shapes: shape of every parameter by name, in the model's order; a tied one once.
        base: prefix of the names inside the base model (transformers' ``base_model_prefix``);
            what lies outside is the head. Ignored where no name has it.
    """
    named = block_names(tuple(shapes), base)
    found: dict[str, list[str]] = {}
    for tensor in shapes:
        found.setdefault(named[tensor], []).append(tensor)
    blocks = (
        Block(name, tuple(tensors), sum(prod(shapes[t]) for t in tensors))
        for name, tensors in found.items()
    )
    return BlockMap(tuple(sorted(blocks, key=lambda block: _place(block.name))))


def block_names(tensors: Sequence[str], base: str = "") -> dict[str, str]:
    """The block of every parameter by name; arguments as in `map_of`."""
    inner = f"{base}."
    headed = bool(base) and any(name.startswith(inner) for name in tensors)
    stacks = _stacks(name for name in tensors if not headed or name.startswith(inner))
    passed: set[str] = set()
    blocks = {}
    for name in tensors:
        side = _side(name, stacks)
        match = _NUMBERED.match(f"{name}.")
        prefix = f"{side}." if side else ""
        if headed and not name.startswith(inner):
            blocks[name] = "head"
        elif match is not None and match.group(1) == stacks.get(side):
            blocks[name] = f"{prefix}layer.{int(match.group(2))}"
            passed.add(side)
        else:
            blocks[name] = _outside(name, prefix, after=side in passed or "" in passed)
    return blocks


def _outside(name: str, prefix: str, *, after: bool) -> str:
    """The block of what is in no layer."""
    path = name.split(".")
    if any("pooler" in part for part in path):
        return f"{prefix}pooler"
    if any(part in _HEADS or part.endswith("_head") for part in path):
        return "head"
    embeds = any("emb" in part or part in _EMBED for part in path)
    # Files may hold tensors in the order of their names: a norm ends a stack wherever it stands.
    ends = after or any("norm" in part or part.startswith(("final", "ln_")) for part in path)
    return f"{prefix}final" if ends and not embeds else f"{prefix}embeddings"


def _stacks(tensors: Iterable[str]) -> dict[str, str]:
    """The path of the list of layers on each side: the one with most parameters in it.

    One side, called ``""``, where the model is not an encoder with a decoder.
    """
    counts: dict[str, int] = {}
    for name in tensors:
        match = _NUMBERED.match(f"{name}.")
        if match is not None:
            counts[match.group(1)] = counts.get(match.group(1), 0) + 1
    sides = {side: [p for p in counts if side in p.split(".")] for side in _SIDES}
    if not all(sides.values()):
        sides = {"": list(counts)}
    return {side: max(paths, key=lambda p: counts[p]) for side, paths in sides.items() if paths}


def _side(name: str, stacks: Mapping[str, str]) -> str:
    path = name.split(".")
    return next((side for side in stacks if side in path), "")


def _place(name: str) -> tuple[int, int, int]:
    """Where a block stands: the stacks one after the other between embeddings and head."""
    side, _, rest = name.rpartition(".") if name.startswith(_SIDES) else ("", "", name)
    if "layer." in name:
        side, _, number = name.rpartition("layer.")
        return _stack_place(side.rstrip(".")), 1, int(number)
    if rest == "head":
        return 9, 0, 0
    if not side:
        order = {"embeddings": (-1, 0, 0), "final": (5, 0, 0), "pooler": (6, 0, 0)}
        return order[rest]
    return _stack_place(side), {"embeddings": 0, "final": 2, "pooler": 3}[rest], 0


def _stack_place(side: str) -> int:
    return {"encoder": 0, "decoder": 1, "": 0}[side]
