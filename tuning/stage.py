"""The far side of a split model: a frozen span of blocks with the tensors that train in it.

The frozen weights are there once; `tuning.ordering` says whose batches move what.
"""

import torch
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.core.errors import SplitError
from fedloom.core.layout import Layout, Selector
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.cut import Cut, own_params, own_train
from fedloom.tuning.far import FarLosses
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.lanes import Lane, Lanes, Sitting
from fedloom.tuning.legs import check_grad, check_hidden, check_places
from fedloom.tuning.ordering import ALONE, StageOptions
from fedloom.tuning.readout import losses_at
from fedloom.tuning.tapes import Tape, Tapes
from fedloom.tuning.targets import Places

__all__ = ["Stage"]


class Stage:
    """A span of a model, for any number of sessions; one thread at a time.

    A session is one client; in a simulation it may be k clients that step together.

    Args:
        model: the whole model.
        params: its tensors, far ones at least.
        train: what trains of the whole model; the far ones of it train here.
        work: the optimizer. Gradients are clipped on this side alone.
        cut: what is far away.
        options: how it works.

    Raises:
        SplitError: the model cannot be cut so.
    """

    def __init__(
        self,
        model: FusedModel,
        params: Params,
        train: Selector,
        work: LocalWork,
        *,
        cut: Cut,
        options: StageOptions,
    ) -> None:
        self.cut, self.options = cut, options
        side = self._side = model.holding(cut.far(model.depth))
        own = own_params(params, side.layout)
        names = own_train(model.layout, train, side.layout)
        self._lanes = Lanes(side, own, names, side.active(own, names), work)
        self._common = self._lanes.make(1)
        self._sessions: dict[str, Sitting] = {}
        self._tapes = Tapes(options.credit, options.max_bytes)

    @property
    def trained(self) -> Layout:
        """The far tensors that train."""
        return self._common.store.trained

    @property
    def held_bytes(self) -> int:
        """Memory of the steps that wait for their gradient."""
        return self._tapes.nbytes

    @property
    def width(self) -> int:
        """Of hidden states: d."""
        return self._side.backbone.shape.width

    @property
    def language(self) -> bool:
        """Whether tokens are predicted, and not one class for each example."""
        return self._side.task.kind == "causal-lm"

    def check(
        self, where: str, hidden: Tensor, packing: Packing, places: Places | None = None
    ) -> None:
        """Refuse a batch that the span, or the head, cannot run; `where` begins the message.

        Raises:
            SplitError: of another shape or type, not finite, an example is longer than agreed, or
                a label is none.
        """
        check_hidden(where, hidden, packing, self._side, self.options.max_length)
        if places is not None:
            check_places(places, packing, self._side)

    def version(self, session: str) -> int:
        """How often the tensors that a session works with have stepped."""
        return self._session(session).lane.version

    def done(self, session: str) -> int:
        """The last step of a session that is done; 0 for none."""
        return self._session(session).done

    def open(self, session: str, clients: int = 1) -> None:
        """Begin a session.

        Args:
            session: its name.
            clients: k; with more than one they step together, which v2 and sequential have not.

        Raises:
            SplitError: it is open already; or another one is, and they take turns.
        """
        mode = self.options.mode
        if session in self._sessions:
            raise SplitError(f"session {session}: open already", code="order")
        if mode == "sequential" and self._sessions:
            raise SplitError(f"session {session}: another client has its turn", code="busy")
        if clients > 1 and mode in ("sequential", "v2"):
            text = f"{clients} clients step together; mode {mode} takes them one by one"
            raise SplitError(f"session {session}: {text}", code="shape")
        lane = self._lanes.make(clients) if mode in ALONE else self._common
        self._sessions[session] = Sitting(lane, clients)

    def close(self, session: str) -> Tensor:
        """End a session.

        Returns:
            What its far tensors have moved, float32 ``[k, P]``; those of all sessions where they
            share them, ``[1, P]``.
        """
        moved = self._session(session).lane.store.deltas()
        self._tapes.drop(session)
        del self._sessions[session]
        return moved

    def lane(self, session: str = "") -> Lane:
        """The tensors that a session works with; without a name those that sessions share."""
        return self._session(session).lane if session else self._common

    def skip(self, session: str, done: int) -> None:
        """Go on after step `done` of a session that began in another process."""
        self._session(session).done = done

    def evict(self, session: str, step: int | None = None) -> None:
        """Let go of a step whose gradient nobody will ask for, or of all of a session's."""
        self._tapes.drop(session, step)

    def _session(self, session: str) -> Sitting:
        try:
            return self._sessions[session]
        except KeyError:
            raise SplitError(f"session {session}: not open", code="order") from None

    def forward(
        self, session: str, step: int, hidden: Tensor, packing: Packing, *, train: bool
    ) -> Tensor:
        """Run the span; see `Far.forward`.

        Raises:
            SplitError: the hidden states cannot be used, or the step is done already.
        """
        own = self._checked(session, step, hidden, packing, train=train)
        if self.cut.labels != "home":
            raise SplitError("forward: the labels of this session are far away", code="labels")
        if not train:
            with torch.no_grad():
                return self._run(self._still(own, packing), hidden, packing)
        leaf, graph = self._leaf(hidden), not self.options.recompute
        with torch.set_grad_enabled(graph):  # whatever the caller's is
            out = self._run(own.lane, leaf, packing)
        kept = out if graph else None
        size = self._bytes(leaf, graph)
        self._tapes.put(session, step, Tape(leaf, kept, packing, own.lane.version, size))
        return out.detach()

    def backward(self, session: str, step: int, grad: Tensor) -> Tensor:
        """Pass a gradient back and step; see `Far.backward`.

        Where the tensors have moved since the step's forward (batches of other sessions), it is
        run again: the gradient is that at the tensors as they are.

        Raises:
            SplitError: the step is not held (``evicted``), is done, or the gradient is unusable.
        """
        own = self._session(session)
        self._in_order(own, session, step)
        tape = self._tapes.get(session, step)
        read = self._trims(tape.packing)
        check_grad(step, grad, tape.leaf, tape.packing, trimmed=read)
        self._tapes.drop(session, step)
        leaf, out = tape.leaf, tape.out
        if out is None or tape.version != own.lane.version:
            leaf = self._leaf(leaf)
            with torch.enable_grad():
                out = self._run(own.lane, leaf, tape.packing)
        self._descend(own.lane, out, grad.to(out.device, out.dtype), tape.packing)
        own.done = step
        assert leaf.grad is not None
        return leaf.grad

    def losses(
        self,
        session: str,
        step: int,
        hidden: Tensor,
        packing: Packing,
        places: Places,
        *,
        train: bool,
    ) -> tuple[FarLosses, Tensor]:
        """Run the span, the head and the loss, and step; see `Far.losses`.

        Raises:
            SplitError: the hidden states or labels cannot be used, or the step is done already.
        """
        own = self._checked(session, step, hidden, packing, train=train)
        if self.cut.labels != "far":
            raise SplitError("losses: the labels of this session stay at home", code="labels")
        check_places(places, packing, self._side)
        lane = own.lane if train else self._still(own, packing)
        leaf, k = self._leaf(hidden), packing.clients
        with torch.set_grad_enabled(train):
            out = self._run(lane, leaf, packing)
            one = lane.seen(packing).to(out.device)
            read = out.view(one.clients, -1, out.shape[-1])
            found = losses_at(self._side, lane.store, read, one, places, clients=k)
        if train:
            self._descend(lane, found.loss, torch.ones_like(found.loss), packing)
            own.done = step
        loss = found.loss.detach()
        said = FarLosses(loss, found.correct, found.count, found.each, found.predicted)
        return said, leaf.new_zeros(leaf.shape) if leaf.grad is None else leaf.grad

    def _checked(
        self, session: str, step: int, hidden: Tensor, packing: Packing, *, train: bool
    ) -> Sitting:
        own = self._session(session)
        self.check(f"step {step}", hidden, packing)
        if train:
            self._in_order(own, session, step)
            if packing.clients > own.clients:
                text = f"{packing.clients} clients; the session has {own.clients}"
                raise SplitError(f"step {step}: {text}", code="shape")
        return own

    @staticmethod
    def _in_order(own: Sitting, session: str, step: int) -> None:
        if step <= own.done:
            text = f"step {step} after step {own.done}, which is done"
            raise SplitError(f"session {session}: {text}", code="order")

    def _leaf(self, hidden: Tensor) -> Tensor:
        backbone = self._side.backbone
        return hidden.detach().to(backbone.device, backbone.dtype).requires_grad_()

    def _still(self, own: Sitting, packing: Packing) -> Lane:
        """Whose tensors are looked at without training: of k clients' own copies, the start."""
        return own.lane if own.clients in (1, packing.clients) else self._common

    def _trims(self, packing: Packing) -> bool:
        return packing.read is not None and self.cut.last == self._side.depth

    def _run(self, lane: Lane, hidden: Tensor, packing: Packing) -> Tensor:
        """The span on ``[k, L, d]``; ``[k, b, d]`` where only some tokens are read after it."""
        side, one = self._side, lane.seen(packing)
        lane.store.activate(one.clients)
        backbone = side.backbone
        x = hidden.to(backbone.device, backbone.dtype).view(one.clients, one.length, -1)
        out = backbone.run(
            x,
            one.to(backbone.device),
            first=self.cut.first,
            last=self.cut.last,
            sites=side.relative(lane.store.sites),
            trim=self._trims(packing),
        )
        return out.view(packing.clients, -1, out.shape[-1])

    def _descend(self, lane: Lane, out: Tensor, grad: Tensor, packing: Packing) -> None:
        """Find the gradients, and step."""
        store = lane.store
        try:
            torch.autograd.backward(out, grad)
        except Exception:
            store.stepped()  # what half a pass has added must not move anything
            raise
        if self.options.mode == "concat":
            store.grad.div_(packing.clients)
        lane.optimizer.step()
        lane.version += 1

    def _bytes(self, leaf: Tensor, graph: bool) -> int:
        """Memory of a waiting step."""
        whole = leaf.numel() * leaf.element_size()
        if graph:
            tokens, blocks = leaf.shape[0] * leaf.shape[1], self.cut.last - self.cut.first
            whole += self._side.backbone.saved_bytes_per_token() * blocks * tokens
        return whole
