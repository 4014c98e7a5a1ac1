"""Names to objects: a built-in name, an entry point, or ``package.module:Name``.

Each of the extension points is a group. A third party adds to one by an entry point of the group
``fedloom.<group>`` or by writing ``module:Name`` in a configuration; a module may be a file in the
current folder. A strategy of another framework is written with the framework's name before it.
"""

import inspect
import typing
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from fedloom.core.component import Component, Option
from fedloom.core.config import convert
from fedloom.core.errors import ConfigError, UnknownNameError, nearest
from fedloom.core.modules import module_of
from fedloom.core.raised import told

__all__ = [
    "BUILT_IN",
    "DIALECTS",
    "GROUPS",
    "Component",
    "Option",
    "create",
    "find",
    "inside",
    "load",
    "names",
]

BUILT_IN: Mapping[str, Mapping[str, str]] = {
    "strategies": {
        "composed": "fedloom.strategies.of_parts:composed",
        "fedavg": "fedloom.strategies.fedavg:fedavg",
        "fedavgm": "fedloom.strategies.fedopt:fedavgm",
        "fedprox": "fedloom.strategies.fedavg:fedprox",
        "fedadam": "fedloom.strategies.fedopt:fedadam",
        "feddyn": "fedloom.strategies.drift:FedDyn",
        "fednova": "fedloom.strategies.fednova:fednova",
        "ifca": "fedloom.strategies.ifca:Ifca",
        "qfedavg": "fedloom.strategies.fairness:qfedavg",
        "scaffold": "fedloom.strategies.drift:Scaffold",
        "fedyogi": "fedloom.strategies.fedopt:fedyogi",
        "fedadagrad": "fedloom.strategies.fedopt:fedadagrad",
        "median": "fedloom.strategies.coordinatewise:median",
        "trimmed-mean": "fedloom.strategies.coordinatewise:trimmed_mean",
        "krum": "fedloom.strategies.krum:krum",
        "multi-krum": "fedloom.strategies.krum:multi_krum",
        "bulyan": "fedloom.strategies.bulyan:bulyan",
        "rfa": "fedloom.strategies.geometric_median:rfa",
        "centred-clipping": "fedloom.strategies.centred_clipping:CentredClipping",
        "norm-bounding": "fedloom.strategies.norm_bounding:norm_bounding",
        "fltrust": "fedloom.strategies.fltrust:fltrust",
        "zeroth-order": "fedloom.strategies.zeroth_order:zeroth_order",
        "bbtv2": "fedloom.strategies.black_box:BBTv2",
        "fed-bbpt": "fedloom.strategies.black_box:fed_bbpt",
        "fwdllm": "fedloom.strategies.pacing:paced",
        "fedkseed": "fedloom.strategies.kseed:fedkseed",
        "spry": "fedloom.strategies.spry:spry",
        "fedbfpt": "fedloom.strategies.fedbfpt:fedbfpt",
        "fedpeptao": "fedloom.strategies.fedpeptao:FedPepTAO",
        "fedadapter": "fedloom.strategies.fedadapter:FedAdapter",
        "fedit": "fedloom.strategies.lora.means:fedit",
        "ffa-lora": "fedloom.strategies.lora.means:ffa_lora",
        "rolora": "fedloom.strategies.lora.means:rolora",
        "fedsa-lora": "fedloom.strategies.lora.means:fedsa_lora",
        "fedex-lora": "fedloom.strategies.lora.exact:fedex_lora",
        "flora": "fedloom.strategies.lora.exact:flora",
        "flexlora": "fedloom.strategies.lora.mixed:flexlora",
        "hetlora": "fedloom.strategies.lora.mixed:hetlora",
        "lora-fair": "fedloom.strategies.lora.mixed:lora_fair",
    },
    "codecs": {
        "float32": "fedloom.codecs.dense:Float32",
        "bf16": "fedloom.codecs.dense:BFloat16",
        "fp16": "fedloom.codecs.dense:Float16",
        "int8": "fedloom.codecs.quantized:Int8",
        "block-drop": "fedloom.codecs.block_drop:BlockDrop",
        "blockwise": "fedloom.codecs.blockwise:Blockwise",
        "nnadq": "fedloom.codecs.nnadq:Nnadq",
        "scalars": "fedloom.codecs.scalars:Scalars",
    },
    "adapters": {
        "lora": "fedloom.tuning.lora:Lora",
        "fed-sb": "fedloom.tuning.core_lora:CoreLora",
        "ia3": "fedloom.tuning.adapters:Ia3",
        "bitfit": "fedloom.tuning.adapters:BitFit",
        "bottleneck": "fedloom.tuning.adapters:Bottleneck",
        "full": "fedloom.tuning.full:Full",
        "kv-parallel": "fedloom.tuning.kv_parallel:KvParallel",
        "fedperfix": "fedloom.tuning.perfix:Perfix",
        "peqa": "fedloom.tuning.peqa:Peqa",
        "prefix": "fedloom.tuning.deep_prompts:Prefix",
        "head": "fedloom.tuning.adapters:HeadOnly",
        "peft": "fedloom.tuning.peft_bridge:AnyPeft",
        "qa-lora": "fedloom.tuning.qa_lora:QaLora",
    },
    "learners": {
        "backprop": "fedloom.tuning.learners.backprop:Backprop",
        "finite-difference": "fedloom.tuning.learners.finite_difference:FiniteDifference",
        "black-box": "fedloom.tuning.learners.black_box:BlackBox",
        "ditto": "fedloom.tuning.learners.ditto:Ditto",
        "subspace-search": "fedloom.tuning.learners.subspace_search:SubspaceSearch",
        "forward-gradient": "fedloom.tuning.learners.forward_gradient:ForwardGradient",
        "feddyn": "fedloom.tuning.learners.controlled:feddyn",
        "ifca": "fedloom.tuning.learners.clustered:Clustered",
        "pseudo-labels": "fedloom.tuning.learners.pseudo_labels:PseudoLabels",
        "hetlora": "fedloom.tuning.learners.hetlora:HetLora",
        "scaffold": "fedloom.tuning.learners.controlled:scaffold",
    },
    "devices": {
        "none": "fedloom.core.devices:none",
        "custom": "fedloom.core.devices:Device",
        "rpi4": "fedloom.core.devices:rpi4",
        "rpi5": "fedloom.core.devices:rpi5",
        "tx2": "fedloom.core.devices:tx2",
        "orin": "fedloom.core.devices:orin",
        "phone": "fedloom.core.devices:phone",
        "laptop": "fedloom.core.devices:laptop",
    },
    "attacks": {
        "none": "fedloom.simulation.attacks:none",
        "sign-flip": "fedloom.simulation.attacks:sign_flip",
        "gaussian": "fedloom.simulation.attacks:gaussian",
        "label-flip": "fedloom.simulation.attacks:label_flip",
        "alie": "fedloom.simulation.attacks:alie",
        "ipm": "fedloom.simulation.attacks:ipm",
    },
    "partitions": {
        "natural": "fedloom.simulation.partition:natural",
        "iid": "fedloom.simulation.partition:iid",
        "dirichlet": "fedloom.simulation.partition:dirichlet",
        "quantity": "fedloom.simulation.partition:quantity",
        "shards": "fedloom.simulation.partition:shards",
    },
}
GROUPS = tuple(BUILT_IN)
DIALECTS: Mapping[tuple[str, str], str] = {
    ("strategies", "flwr"): "fedloom.strategies.flower.named:named",
}
"""What makes the names of another framework, written ``dialect:name``: by group and dialect."""


def names(group: str) -> dict[str, str]:
    """Every registered name of a group with the ``module:Name`` it stands for."""
    installed = {e.name: e.value for e in entry_points(group=f"fedloom.{group}")}
    return {**installed, **BUILT_IN[group]}


def find(group: str, name: str) -> Callable[..., object]:
    """The object that `name` stands for in `group`.

    Raises:
        UnknownNameError: nothing answers to the name; the message lists what does.
    """
    dialect, _, inner = name.partition(":")
    if (group, dialect) in DIALECTS:
        made_by: Callable[[str], Callable[..., object]] = load(group, DIALECTS[group, dialect])
        return made_by(inner)
    # What is installed is looked through only for names that are not built in: it takes 10 ms.
    return load(group, BUILT_IN[group].get(name) or names(group).get(name, name))


def load(group: str, target: str) -> Callable[..., Any]:
    """What a ``module:Name`` stands for in `group`; a module may be a file in the current folder.

    Raises:
        UnknownNameError: there is no such module, or nothing of that name in it.
        ConfigError: the module raised when it was imported.
    """
    module_name, colon, attribute = target.partition(":")
    if not colon:
        hint = nearest(target, names(group))
        raise UnknownNameError(f"{group}: unknown name {target!r}; {hint}, or 'module:Name'")
    where = f"{group}: {target!r}"
    module = module_of(module_name, where)
    found = getattr(module, attribute, None)
    if found is None:
        public = [n for n in vars(module) if not n.startswith("_")]
        text = f"{group}: module {module_name!r} has no {attribute!r}; {nearest(attribute, public)}"
        raise UnknownNameError(text)
    if not callable(found):
        raise UnknownNameError(f"{where} is a {type(found).__name__}; expected a class or function")
    made: Callable[..., Any] = found
    return made


def create(group: str, component: Component) -> object:
    """Call the object that a component names with the component's options.

    What stands for a component already, because it was given as an object, is given back.

    Raises:
        UnknownNameError: nothing answers to the name.
        ConfigError: an option is unknown, missing, of another type or refused; or what is not
            built in raised, be it when it was imported.
    """
    if component.made is not None:
        return component.made
    factory = find(group, component.name)
    where = f"{group}.{component.name}"
    signature = _signature(factory, where)
    try:
        signature.bind(**component.options)
    except TypeError as error:
        unknown = [key for key in component.options if key not in signature.parameters]
        if unknown:
            hint = nearest(unknown[0], signature.parameters)
            raise ConfigError(f"{where}: unknown option {unknown[0]!r}; {hint}") from None
        options = ", ".join(signature.parameters)
        raise ConfigError(f"{where}: {error}; options: {options}") from None
    typed = _typed(component.options, signature, where)
    try:
        return factory(**typed)
    except ConfigError as error:
        raise type(error)(f"{where}: {error}") from None
    except Exception as error:
        if component.name in BUILT_IN[group]:
            raise  # a defect, and no mistake of the user's
        raise ConfigError(f"{where}: {told(error)}") from error


def _signature(factory: Callable[..., object], where: str) -> inspect.Signature:
    try:
        return inspect.signature(factory)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{where}: does not say what it takes; expected a class or function of Python's"
        ) from None


def _typed(
    options: Mapping[str, Option], signature: inspect.Signature, where: str
) -> dict[str, object]:
    """The options as the types that the signature states, where it states plain ones."""
    typed: dict[str, object] = {}
    for key, value in options.items():
        parameter = signature.parameters.get(key)
        hint = parameter.annotation if parameter else object
        typed[key] = convert(hint, value, f"{where}.{key}") if _is_plain(hint) else value
    return typed


def _is_plain(hint: object) -> bool:
    if typing.get_origin(hint) is tuple:
        return all(arg is ... or _is_plain(arg) for arg in typing.get_args(hint))
    return hint in (str, int, float, bool, Component)


def inside(group: str, component: Component) -> list[Component]:
    """The components of the same group that a component is made of: its options of that type.

    Raises:
        UnknownNameError: nothing answers to the name.
    """
    signature = inspect.signature(find(group, component.name))
    typed = _typed(component.options, signature, f"{group}.{component.name}")
    return [value for value in typed.values() if isinstance(value, Component)]
