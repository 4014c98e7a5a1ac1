"""Tensors that this device keeps for itself, on its disk; nothing here is ever sent."""

import hashlib
import json
from pathlib import Path

from fedloom.client.logs import log
from fedloom.client.manifest import Manifest
from fedloom.core.checkpoint import load_state, save_state
from fedloom.core.errors import RunError, TransferError
from fedloom.core.layout import Layout
from fedloom.core.types import Params, State
from fedloom.security.private import make_folder
from fedloom.tuning.own import first_held

__all__ = ["OwnTensors"]

_ROUNDS = 4
"""Rounds of which the tensors are on the disk: a task may come again, and a server that was set
back asks for rounds that are done."""


class OwnTensors:
    """What the device has kept of a job's model, round by round.

    They are of one federation, seed and model: a job that goes on with another number of rounds
    finds them again. Those of other jobs stay where they are until the owner deletes them.

    Args:
        folder: of all jobs; made when missing, for the owner's eyes only.
        manifest: the job.
        layout: the tensors that are kept.
    """

    def __init__(self, folder: Path, manifest: Manifest, layout: Layout) -> None:
        own = [manifest.federation, manifest.job.seed, manifest.layout, layout.digest]
        name = hashlib.sha256(json.dumps(own).encode()).hexdigest()[:32]
        self._folder, self._layout = folder / name, layout
        make_folder(folder)
        make_folder(self._folder)

    def before(self, round: int, params: Params) -> Params:
        """What a round starts from: the newest tensors of earlier rounds, else the global model's.

        Args:
            round: its number; the same round starts from the same tensors however often it comes.
            params: the global model.
        """
        rounds = self._rounds()
        earlier = [number for number in rounds if number < round]
        if not earlier and len(rounds) >= _ROUNDS:
            log.warning("round %d: own tensors are of round %d at the oldest", round, rounds[0])
            earlier = rounds[:1]
        for number in reversed(earlier):
            try:
                return load_state(self._path(number), self._layout)[0].params
            except RunError as error:
                log.warning("tensors that were kept cannot be read: %s", error)
        return first_held(self._layout, params)

    def keep(self, round: int, params: Params) -> None:
        """Keep the tensors that a round has led to; they are on the disk when this returns.

        Raises:
            TransferError: the disk does not take them (``disk-full``).
        """
        try:
            save_state(self._path(round), State(params, round), {})
            for number in self._rounds()[:-_ROUNDS]:
                self._path(number).unlink()
        except (RunError, OSError) as error:
            raise TransferError(str(error), code="disk-full", retry_after=30.0) from None

    def _rounds(self) -> list[int]:
        found = (path.stem.removeprefix("round-") for path in self._folder.glob("round-*"))
        return sorted(int(number) for number in found if number.isdecimal())

    def _path(self, round: int) -> Path:
        return self._folder / f"round-{round:06d}.safetensors"
