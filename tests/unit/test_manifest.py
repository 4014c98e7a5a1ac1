import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from small_server import LAYOUT, plan_of

from fedloom.client.manifest import read_manifest
from fedloom.core.contract import PROTOCOL
from fedloom.core.running import RunConfig
from fedloom.core.serving import ServerConfig
from fedloom.server.contents import Content
from fedloom.server.manifest import manifest
from fedloom.server.split_plan import SplitPlan

FILES = {"config.json": Content("ab" * 32, 12), "model.safetensors": Content("cd" * 32, 99)}


def test_a_device_reads_what_was_written(tmp_path: Path) -> None:
    plan = replace(plan_of(tmp_path, seed=7, rounds=3), classes=("x", "y"))
    found = read_manifest(manifest(plan, "f", FILES))
    assert (found.federation, found.classes, found.layout) == ("f", ("x", "y"), LAYOUT.digest)
    assert [(file.name, file.sha256, file.size) for file in found.files] == [
        (name, content.sha256, content.size) for name, content in FILES.items()
    ]
    # all of the job but what is the server's own affair
    own = replace(plan.job, run=RunConfig(), server=ServerConfig())
    assert found.job == own


def test_nothing_of_the_server_is_told(tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    text = manifest(plan_of(tmp_path, data={"path": str(secret)}), "f", {})
    assert b"secret" not in text
    assert str(tmp_path).encode() not in text
    table = json.loads(text)
    assert table["protocol"] == PROTOCOL == 1
    assert not {"run", "server", "partition"} & table["job"].keys()


def test_it_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    assert manifest(plan_of(tmp_path), "f", FILES) == manifest(plan_of(tmp_path), "f", FILES)


def test_a_device_knows_what_weights_stages_must_serve(tmp_path: Path) -> None:
    whole = plan_of(tmp_path)
    split = SimpleNamespace(weights="5d" * 32)
    plan = replace(whole, split=cast(SplitPlan, split))
    assert read_manifest(manifest(plan, "f", FILES)).weights == "5d" * 32
    assert read_manifest(manifest(whole, "f", FILES)).weights == ""
