"""Whether the mean of an adapter's tensors is the mean of what it does, as its flag says.

At one site at a time, as affinity is of the changed weights: the network in between is not linear.
"""

from typing import Any

import numpy as np
import pytest
import torch
from cohorts import CASES, Folders, Ragged
from torch import Tensor

from fedloom.backbones.base import Sites
from fedloom.core.component import Component, Option
from fedloom.core.registry import create
from fedloom.core.types import Params

ADAPTERS: dict[str, dict[str, Option]] = {
    "lora": {"rank": 3},
    "fed-sb": {"rank": 3},
    "ia3": {},
    "bitfit": {},
    "bottleneck": {},
}
"""Those that act at sites; ``head`` and ``full`` are their own mean."""


def outputs(sites: Sites, inputs: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """What each site makes of the same input and output of its frozen operation."""
    found = {}
    for name, site in sites.items():
        x, y = inputs[name]
        for way, attachment in (("before", site.before), ("after", site.after)):
            if attachment is not None:
                out = x if way == "before" else y
                found[f"{name} {way}"] = attachment.forward(x, out.clone())[0].clone()
    return found


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_flag_is_what_a_mean_of_two_says(
    name: str, model_folder: Folders, ragged: Ragged
) -> None:
    case, component = CASES["bert"], Component(name, ADAPTERS[name])
    model, examples = case.build(model_folder, component), case.examples(ragged)
    begun, draw = model.initial(3), np.random.default_rng(0)
    moving = {spec.name for spec in begun.layout if spec.trains}
    states = []
    for _ in range(2):
        vector = begun.vector.copy()
        for spec in begun.layout:
            if spec.name in moving:
                noise = draw.normal(scale=0.3, size=spec.size).astype(np.float32)
                vector[begun.layout.span(spec.name)] += noise
        states.append(vector)
    states.append((states[0] + states[1]) / np.float32(2))
    torch.manual_seed(0)
    inputs: dict[str, tuple[Tensor, Tensor]] = {}
    made = []
    for vector in states:
        params = Params(begun.layout, vector)
        sites = model.session(params, ("*",), examples).store(params, 1).sites
        for module in sites:
            if module not in inputs:
                d_out, d_in = model_shape(model_folder, module)
                inputs[module] = torch.randn(1, 4, d_in), torch.randn(1, 4, d_out)
        with torch.no_grad():
            made.append(outputs(sites, inputs))
    one, two, middle = made
    assert middle
    scale = max(float((one[key] - two[key]).abs().max()) for key in middle)
    apart = max(float((middle[k] - (one[k] + two[k]) / 2).abs().max()) for k in middle)
    adapter: Any = create("adapters", component)
    assert adapter.affine == (apart < 1e-5 * scale)


def model_shape(folders: Folders, module: str) -> tuple[int, int]:
    from safetensors import safe_open

    with safe_open(CASES["bert"].folder(folders) / "model.safetensors", "pt") as file:
        names = [key for key in file.keys() if key.endswith(f"{module}.weight")]  # noqa: SIM118
        shape = file.get_slice(names[0]).get_shape()
    return (shape[0], shape[1]) if len(shape) == 2 else (shape[0], shape[0])
