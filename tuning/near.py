"""A far side in this process: the same mathematics, codecs and bytes as over a wire."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.lengths import lengths_of
from fedloom.core.errors import SplitError
from fedloom.core.seeds import stream
from fedloom.tuning.activation_codecs import ActivationCodec
from fedloom.tuning.far import FarLosses
from fedloom.tuning.leg_bytes import figure_bytes, length_bytes, place_bytes
from fedloom.tuning.stage import Stage
from fedloom.tuning.targets import Places

__all__ = ["Bytes", "Codecs", "NearStage"]


@dataclass(frozen=True)
class Codecs:
    """How hidden states and gradients travel.

    Attributes:
        up: to the far side.
        down: from it.
        seed: of rounding.
        round: number of the round, which has its own random numbers.
    """

    up: ActivationCodec
    down: ActivationCodec
    seed: int = 0
    round: int = 0


@dataclass
class Bytes:
    """What the legs of k clients have taken so far, client by client.

    Attributes:
        up: to the far side: hidden states, gradients, lengths, labels.
        down: from it: hidden states, gradients, losses.
    """

    up: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)

    def add(self, leg: str, client: int, count: int) -> None:
        """Count `count` bytes of one client's ``up`` or ``down`` leg."""
        own: list[int] = getattr(self, leg)
        own.extend([0] * (client + 1 - len(own)))
        own[client] += count


class NearStage:
    """A `Far` over a stage of this process, for one session of one or more clients.

    Every client's tokens are packed alone, as it would send them; padding does not travel. Rounding
    draws from the seed by client, step and leg, so that runs repeat. A client whose numbers are no
    longer finite is shut out of the batch, and told so by NaN, as the others go on.

    Args:
        stage: the far side.
        names: of the clients of the session, in the order of the rows.
        codecs: how legs are packed.

    Attributes:
        bytes: what the legs took.
    """

    def __init__(self, stage: Stage, names: tuple[str, ...], codecs: Codecs) -> None:
        self._stage, self._names, self._codecs = stage, names, codecs
        self.session = "+".join(names)
        self.bytes = Bytes()
        self._sent: dict[int, Packing] = {}
        stage.open(self.session, len(names))

    def close(self) -> Tensor:
        """End the session; see `Stage.close`."""
        return self._stage.close(self.session)

    def forward(self, step: int, hidden: Tensor, packing: Packing, *, train: bool) -> Tensor:
        """See `Far.forward`."""
        sent, sound = self._up("forward", step, hidden, packing)
        self._count_lengths(packing)
        out = self._stage.forward(self.session, step, sent, packing, train=train)
        if train:
            self._sent[step] = packing
            for old in list(self._sent)[: -self._stage.options.credit]:
                del self._sent[old]
        return _marked(self._down("forward", step, out, packing), sound)

    def backward(self, step: int, grad: Tensor) -> Tensor:
        """See `Far.backward`."""
        packing = self._sent.pop(step, None)
        if packing is None:
            raise SplitError(f"step {step}: not held; send it again", code="evicted")
        sent, sound = self._up("backward", step, grad, packing)
        found = self._stage.backward(self.session, step, sent)
        return _marked(self._down("backward", step, found, packing), sound)

    def losses(
        self, step: int, hidden: Tensor, packing: Packing, places: Places, *, train: bool
    ) -> tuple[FarLosses, Tensor]:
        """See `Far.losses`."""
        sent, sound = self._up("forward", step, hidden, packing)
        self._count_lengths(packing)
        said, grad = self._stage.losses(self.session, step, sent, packing, places, train=train)
        for client in range(packing.clients):
            own = int((places.owner == client).sum())
            self.bytes.add("up", client, place_bytes(own))
            self.bytes.add("down", client, figure_bytes(own))
        if train:
            grad = self._down("backward", step, grad, packing)
        bad = FarLosses(
            said.loss.masked_fill(~sound, torch.nan),
            said.correct,
            said.count,
            said.each,
            said.predicted,
        )
        return bad, _marked(grad, sound)

    def _count_lengths(self, packing: Packing) -> None:
        for client, own in enumerate(lengths_of(packing).tokens):
            self.bytes.add("up", client, length_bytes(len(own)))

    def _up(self, what: str, step: int, values: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """What arrives over there, and which clients' numbers were finite, bool ``[k]``."""
        sound = torch.isfinite(values).flatten(1).all(1)
        clean = values.detach().masked_fill(~sound.view(-1, 1, 1), 0.0)
        return self._through("up", f"{what} up", step, clean, packing), sound

    def _down(self, what: str, step: int, values: Tensor, packing: Packing) -> Tensor:
        sound = torch.isfinite(values).flatten(1).all(1)
        clean = values.masked_fill(~sound.view(-1, 1, 1), 0.0)
        return _marked(self._through("down", f"{what} down", step, clean, packing), sound)

    def _through(self, leg: str, what: str, step: int, values: Tensor, packing: Packing) -> Tensor:
        """Values after packing and unpacking, each client's own tokens alone."""
        codec: ActivationCodec = getattr(self._codecs, leg)
        out = torch.zeros_like(values)
        whole = values.shape[1] == packing.length
        for client, own in enumerate(lengths_of(packing).tokens):
            count = sum(own) if whole else len(own)
            name = self._names[client] if client < len(self._names) else self.session
            purpose = f"split.{what}.{step}"
            draw = stream(self._codecs.seed, purpose, round=self._codecs.round, client=name)
            piece = values[client, :count]
            body = codec.encode(piece, draw)
            out[client, :count] = codec.decode(body, tuple(piece.shape)).to(out)
            self.bytes.add(leg, client, len(body))
        return out


def _marked(values: Tensor, sound: Tensor) -> Tensor:
    """NaN for the clients whose numbers were not finite."""
    if bool(sound.all()):
        return values
    return values.masked_fill(~sound.view(-1, *[1] * (values.dim() - 1)), torch.nan)
