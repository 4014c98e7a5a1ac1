import json
from typing import Any

import pytest

from fedloom.client.manifest import ResourceFile, read_manifest, read_order
from fedloom.core.config import to_table
from fedloom.core.errors import ConfigError, TransferError
from fedloom.core.types import ClientTask, LocalWork, Selectors

SHA = "a" * 64


def manifest(**changes: Any) -> bytes:
    table: dict[str, Any] = {
        "protocol": 1,
        "federation": "f",
        "job": {"name": "small", "stages": [{"rounds": 2}, {"rounds": 3, "train": ["head"]}]},
        "classes": ["a", "b"],
        "layout": "digest",
        "backbone": {"files": [{"name": "config.json", "sha256": SHA, "size": 3}]},
    }
    return json.dumps({**table, **changes}).encode()


def test_a_manifest() -> None:
    found = read_manifest(manifest())
    assert (found.federation, found.classes, found.layout) == ("f", ("a", "b"), "digest")
    assert [stage.rounds for stage in found.job.stages] == [2, 3]
    assert found.files == (ResourceFile("config.json", SHA, 3),)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "no JSON object"),
        (manifest(protocol=2), "of protocol 2, this device's fedloom of 1"),
        (manifest(backbone={}), "lacks or has another 'files'"),
        (manifest(classes=3), "lacks or has another"),
    ],
)
def test_another_version_is_said(data: bytes, message: str) -> None:
    with pytest.raises(TransferError, match=message) as caught:
        read_manifest(data)
    assert caught.value.code == "protocol"


@pytest.mark.parametrize("name", ["../key.pem", "/etc/passwd", "a/b", "", "..", "a\\b"])
def test_a_file_stays_in_its_folder(name: str) -> None:
    files = {"files": [{"name": name, "sha256": SHA, "size": 3}]}
    with pytest.raises(TransferError, match="file name"):
        read_manifest(manifest(backbone=files))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling_x.py", "model.pkl"])
def test_neither_pickles_nor_code_are_taken(name: str) -> None:
    files = {"files": [{"name": name, "sha256": SHA, "size": 3}]}
    with pytest.raises(TransferError, match="of a kind that no device reads"):
        read_manifest(manifest(backbone=files))


@pytest.mark.parametrize("key", ["adapter", "learner", "codec_up", "codec_down"])
def test_a_server_names_no_function_of_this_device(key: str) -> None:
    job = {key: {"name": "os:system", "command": "true"}}
    with pytest.raises(ConfigError, match=r"names 'os:system'.*`allow` of this device"):
        read_manifest(manifest(job=job))
    assert read_manifest(manifest(job=job), allow=("os:system",)).job.name == "run"


@pytest.mark.parametrize("inner", ["os:system", {"name": "block-drop", "inner": "os:system"}])
def test_a_server_names_none_within_another_either(inner: object) -> None:
    codec = {"name": "block-drop", "inner": inner}
    for job in ({"codec_up": codec}, {"stages": [{"codec_up": codec}]}):
        with pytest.raises(ConfigError, match=r"names 'os:system'.*`allow` of this device"):
            read_manifest(manifest(job=job))


def order(**changes: Any) -> str:
    task = ClientTask(
        "c", 4, 3, LocalWork(lr=0.5), Selectors(train=("head",)), seed=7, blocks=(0, 2, 2)
    )
    return json.dumps({"task": to_table(task), "stage": 1, **changes})


def test_a_work_order() -> None:
    found = read_order(order(), read_manifest(manifest()))
    assert found.stage == 1
    assert found.task == ClientTask(
        "c", 4, 3, LocalWork(lr=0.5), Selectors(train=("head",)), seed=7, blocks=(0, 2, 2)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        (order(stage=2), "of stage 2; the job has 2"),
        (order(task=None), "task = None: expected a table"),
        (order(stage=None), "the work order lacks"),
    ],
)
def test_an_order_of_another_version(text: str, message: str) -> None:
    with pytest.raises(TransferError, match=message) as caught:
        read_order(text, read_manifest(manifest()))
    assert caught.value.code == "protocol"


def test_an_order_names_no_function_of_this_device() -> None:
    task = {**json.loads(order())["task"], "codec": {"name": "os:system"}}
    with pytest.raises(ConfigError, match="names 'os:system'"):
        read_order(order(task=task), read_manifest(manifest()))
