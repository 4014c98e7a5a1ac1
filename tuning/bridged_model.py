"""A model of the `peft` library as a `CohortModel` of one client."""

import enum
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function
from torch.func import functional_call

from fedloom.backbones.blocks import block_names
from fedloom.backbones.four_bit import weight_count
from fedloom.backbones.huggingface import linears_of, load
from fedloom.core.errors import ConfigError, ModelError
from fedloom.core.layout import Layout, Selector, TensorSpec, Vector
from fedloom.core.seeds import derive
from fedloom.core.types import Params
from fedloom.tuning.base import Losses, Rows, Task
from fedloom.tuning.composition import Composition
from fedloom.tuning.examples import Examples
from fedloom.tuning.exported import Exported
from fedloom.tuning.heads import HEAD, heads_of, owns_head
from fedloom.tuning.module_words import word_start
from fedloom.tuning.padded import activation_bytes, module_memory, padded_inputs, padded_losses
from fedloom.tuning.peft_format import arguments_of, auto_of
from fedloom.tuning.store import Store
from fedloom.tuning.word_heads import mask_head_of

if TYPE_CHECKING:
    from fedloom.tuning.peft_bridge import AnyPeft

__all__ = ["BridgedModel"]


class BridgedModel:
    """PEFT's modules around a `transformers` model, trained for one client at a time.

    Several threads may train one client each: the model is called with the client's tensors as
    arguments and holds no state of a client.

    Args:
        folder: the model, in transformers' format.
        method: of the peft library.
        task: what it is trained for.
        dtype: of the frozen weights and activations.
        device: where it runs.
        four_bit: the layers' linear maps are kept in bitsandbytes' NF4, as QLoRA has them.
    """

    batched = False

    def __init__(
        self,
        folder: Path,
        method: "AnyPeft",
        task: Task,
        *,
        dtype: torch.dtype,
        device: torch.device,
        four_bit: bool = False,
    ) -> None:
        self.folder, self.method, self.task = folder, method, task
        self.dtype, self.device, self.four_bit = dtype, device, four_bit
        self.lock = threading.Lock()  # parameters are exchanged while the model is called
        self.mask_head = mask_head_of(folder, task, device)
        self.module, self.own_heads = self._load(0)
        self.pad = int(getattr(self.module.config, "pad_token_id", None) or 0)
        self.parameters = _trainable(self.module)
        blocks = block_names([stored for stored, _ in self.module.named_parameters()])
        specs = [
            _spec(name, stored, tensor, blocks[stored])
            for name, (stored, tensor) in self.parameters.items()
        ]
        self.layout = Layout((*specs, *self.own_heads.layout))
        self._check_trains(specs)

    def _load(self, seed: int) -> tuple[Any, Composition]:
        """PEFT's model, and the head where it is ours, as a run with this seed starts."""
        task = self.task
        module, new = load(
            self.folder,
            task=task.kind,
            pooling=task.pooling,
            classes=task.classes,
            dtype=self.dtype,
            device=self.device,
            four_bit=self.four_bit,
        )
        base = "" if owns_head(task) else str(cast(Any, module).base_model_prefix)
        start = word_start(module, self.folder, task, self.mask_head)
        heads = heads_of(module, linears_of(module, base), task, new, start=start)
        inner = [] if owns_head(task) else heads
        for head in inner:
            for name, value in head.initial(seed).items():
                module.get_parameter(name).data.copy_(torch.from_numpy(value))
        with torch.random.fork_rng():
            torch.manual_seed(derive(seed, "initial") % 2**63)
            wrapped = self.method.wrap(module, task, [head.module for head in inner])
        own = heads if owns_head(task) else []
        return wrapped.to(self.device).eval(), Composition(tuple(own))

    def _check_trains(self, specs: list[TensorSpec]) -> None:
        where = f"adapter peft, method {self.method.method!r}"
        if not specs:
            raise ConfigError(f"{where}: it trains nothing here")
        headed = self.task.kind == "causal-lm" or owns_head(self.task)
        if not headed and not any("head" in spec.tags for spec in specs):
            raise ConfigError(
                f"{where}: PEFT trains no head with it; use backbone.pooling = 'mean'"
            )

    @property
    def note(self) -> str:
        """That clients are trained one by one."""
        method = self.method.method
        return f"peft method {method} has no batched form: clients are trained one by one"

    @property
    def bytes_per_token(self) -> int:
        """Memory of one token in a training step through every layer."""
        return activation_bytes(self.module.config, self.dtype)

    def initial(self, seed: int) -> Params:
        """The model before the first round, as PEFT starts it; the backbone is read once more."""
        module, _ = self._load(seed)
        tensors = {name: _array(tensor) for name, (_, tensor) in _trainable(module).items()}
        head = self.own_heads.initial(seed)
        tensors |= head.layout.unflatten(head.vector)
        return Params(self.layout, self.layout.flatten(dict(tensors)))

    def session(self, params: Params, train: Selector, examples: Examples) -> "BridgedSession":
        """Set the model up to train some tensors on some examples."""
        return BridgedSession(self, train, examples)

    def exported(self) -> Exported:
        """PEFT's own format, written by PEFT's own code."""
        config = _plain(self.module.peft_config["default"].to_dict())
        config |= {"inference_mode": True, "base_model_name_or_path": None}
        task = self.task
        return Exported(config, auto_of(task), arguments_of(task), convert=self._saved)

    def _saved(self, tensors: Mapping[str, Vector]) -> dict[str, Vector]:
        from peft import get_peft_model_state_dict

        with self.lock, torch.no_grad():
            for name, (_, parameter) in self.parameters.items():
                parameter.copy_(torch.from_numpy(tensors[name]))
            state = get_peft_model_state_dict(self.module)
            return {name: _array(tensor) for name, tensor in state.items()}


class BridgedSession:
    """One way of working with a `BridgedModel`.

    Attributes:
        one_row: a store of it has one row.
    """

    one_row = True

    alone = True
    """A store has one row."""

    def __init__(self, model: BridgedModel, train: Selector, examples: Examples) -> None:
        self._model, self._train, self._examples = model, train, examples
        self._lengths = examples.lengths()
        self._weights = weight_count(model.module)

    def store(self, params: Params, clients: int) -> Store:
        """A row for one client.

        Raises:
            ModelError: more clients are asked for.
        """
        model = self._model
        if clients != 1:
            raise ModelError(f"{clients} clients at once; {model.note}")
        store = Store(params, self._train, clients=1, device=model.device, dtype=model.dtype)
        store.sites = Composition.sites(model.own_heads.parts, store)
        return store

    def tokens(self, rows: NDArray[np.int64]) -> int:
        """Tokens in the examples `rows`."""
        return int(self._lengths[rows].sum())

    def over(self, rows: NDArray[np.int64]) -> "BridgedSession":
        """Itself: every layer runs each time."""
        return self

    def flops(self, tokens: int) -> float:
        """Forward and input gradient through every weight: 4 operations per weight and token."""
        return 4.0 * self._weights * tokens

    def memory(self, tokens: int, *, backward: bool) -> int:
        """All weights, and activations of every layer; of two at a time without a backward pass."""
        return module_memory(self._model.module, self._model.dtype, tokens, backward=backward)

    def losses(self, store: Store, rows: Rows) -> Losses:
        """One batch of the client."""
        model = self._model
        inputs = padded_inputs(self._examples, rows, pad=model.pad, device=model.device)
        given = {
            stored: _of_row(store, name, parameter.dtype)
            for name, (stored, parameter) in model.parameters.items()
        }
        with model.lock:
            out = functional_call(model.module, given, kwargs=inputs)
        return padded_losses(
            out,
            inputs,
            store=store,
            task=model.task,
            examples=self._examples,
            rows=rows,
            mask_head=model.mask_head,
        )


def _of_row(store: Store, name: str, dtype: torch.dtype) -> Tensor:
    """A tensor of the client, whose gradient is added to the store."""
    if store.grad_view(name) is None or not torch.is_grad_enabled():
        return store.view(name, dtype=dtype)[0]
    return cast(Tensor, _OfRow.apply(store.anchor, store, name, dtype))  # type: ignore[no-untyped-call]


class _OfRow(Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, store: Store, name: str, dtype: torch.dtype) -> Tensor:
        ctx.grad = store.grad_view(name)
        return store.view(name, dtype=dtype)[0].detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None, None]:
        ctx.grad[0].add_(grads[0])
        return None, None, None, None


def _trainable(module: Any) -> dict[str, tuple[str, Tensor]]:
    """What trains, by the name that PEFT saves it under: its name in the module, and the tensor.

    A tensor that PEFT saves in another form has its name in the module instead.
    """
    from peft import get_peft_model_state_dict

    saved = {t.data_ptr(): name for name, t in get_peft_model_state_dict(module).items()}
    found = {}
    for stored, parameter in module.named_parameters():
        if parameter.requires_grad:
            name = saved.get(parameter.data_ptr(), stored.replace(".default", ""))
            short = name.removeprefix("base_model.").removeprefix("model.")
            found[short] = (stored, parameter)
    return found


def _spec(name: str, stored: str, tensor: Tensor, block: str) -> TensorSpec:
    shape = tuple(tensor.shape)
    if ".modules_to_save." in stored:
        return TensorSpec(name, shape, HEAD, frozenset({"head"}))
    return TensorSpec(name, shape, block, frozenset({"peft"}))


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy().copy()
    return array


def _plain(value: Any) -> Any:
    """A configuration as JSON has it."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_plain(item) for item in value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
