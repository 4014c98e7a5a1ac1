"""What every device must know of a job, as the server writes it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from fedloom.backbones.files import is_wanted
from fedloom.core.component import Component
from fedloom.core.config import build
from fedloom.core.contract import PROTOCOL
from fedloom.core.errors import ConfigError, FedloomError, LayoutError, TransferError
from fedloom.core.job import Job, job_from
from fedloom.core.layout import Layout
from fedloom.core.registry import inside, names
from fedloom.core.types import ClientTask

__all__ = [
    "Manifest",
    "Order",
    "ResourceFile",
    "check_inside",
    "layout_of_the_server",
    "read_manifest",
    "read_order",
]


@dataclass(frozen=True)
class ResourceFile:
    """A file of the backbone: its name in the folder, and its content."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """A job, for a device.

    Attributes:
        federation: a UUID.
        job: without what only the server reads.
        classes: names of the classes, in order; empty for a language model.
        layout: digest of the layout of the model that the device must come to build.
        files: the backbone.
        weights: digest of the whole model, where others serve some of its blocks.
    """

    federation: str
    job: Job
    classes: tuple[str, ...]
    layout: str
    files: tuple[ResourceFile, ...]
    weights: str = ""


@dataclass(frozen=True)
class Order:
    """The work order of one task.

    Attributes:
        task: what is asked.
        stage: index of the job's stage.
    """

    task: ClientTask
    stage: int


def read_manifest(data: bytes, *, allow: Sequence[str] = ()) -> Manifest:
    """Read a job's manifest.

    Args:
        data: JSON.
        allow: components outside fedloom and its plug-ins that the owner lets a job name.

    Raises:
        TransferError: it is not what this version understands (``protocol``).
        ConfigError: it names a component that the owner has not allowed, or a value that this
            version does not know.
    """
    table = _object(data, "the job's manifest")
    if table.get("protocol") != PROTOCOL:
        found = table.get("protocol")
        text = f"the job's manifest is of protocol {found!r}, this device's fedloom of {PROTOCOL}"
        raise TransferError(text, code="protocol")
    try:
        files = tuple(_file(entry) for entry in table["backbone"]["files"])
        job = job_from(table["job"])
        classes = tuple(str(name) for name in table["classes"])
        own = str(table["federation"]), job, classes, str(table["layout"]), files
        manifest = Manifest(*own, str(table.get("weights", "")))
    except (KeyError, TypeError, ValueError) as error:
        text = f"the job's manifest lacks or has another {error}"
        raise TransferError(text, code="protocol") from None
    _check_parts(job, allow, deep=False)
    theirs = (*(stage.codec_up for stage in job.stages), *(tier.codec for tier in job.tiers))
    for codec in (job.codec_up, job.codec_down, *theirs):
        _check_trusted("codecs", codec, allow)
    return manifest


def check_inside(manifest: Manifest, *, allow: Sequence[str] = ()) -> None:
    """Look at what adapter and learners are made of, too, before any of it is made.

    Apart from `read_manifest`, since it loads torch, which a device that waits has no need of.

    Raises:
        ConfigError: as in `read_manifest`.
    """
    _check_parts(manifest.job, allow, deep=True)


def layout_of_the_server(layout: Layout, manifest: Manifest) -> None:
    """Look whether the model that this device builds is the server's.

    Raises:
        LayoutError: it is another.
    """
    if layout.digest != manifest.layout:
        found = f"{layout.digest[:12]} of {layout.size:,} numbers"
        text = f"this device builds a model of layout {found}; the server has another"
        raise LayoutError(f"{text} ({manifest.layout[:12]}): other versions of fedloom?")


def _check_parts(job: Job, allow: Sequence[str], *, deep: bool) -> None:
    _check_trusted("adapters", job.adapter, allow, deep=deep)
    for learner in (job.learner, *(tier.learner for tier in job.tiers)):
        _check_trusted("learners", learner, allow, deep=deep)


def read_order(text: str, manifest: Manifest, *, allow: Sequence[str] = ()) -> Order:
    """Read a task's work order.

    Raises:
        TransferError: it is not what this version understands (``protocol``).
        ConfigError: as in `read_manifest`.
    """
    table = _object(text.encode(), "the work order")
    try:
        task, stage = build(ClientTask, table["task"], "task"), int(table["stage"])
    except (KeyError, TypeError, ValueError) as error:
        raise TransferError(f"the work order lacks {error}", code="protocol") from None
    except FedloomError as error:
        raise TransferError(f"the work order: {error}", code="protocol") from None
    stages = len(manifest.job.stages)
    if not 0 <= stage < stages:
        text = f"the work order is of stage {stage}; the job has {stages}"
        raise TransferError(text, code="protocol")
    _check_trusted("codecs", task.codec, allow)
    _check_trusted("learners", task.learner, allow)
    return Order(task, stage)


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise TransferError(f"{what} is not JSON: {error}", code="protocol") from None
    if not isinstance(found, dict):
        raise TransferError(f"{what} is no JSON object", code="protocol")
    return found


def _file(entry: Any) -> ResourceFile:
    file = ResourceFile(str(entry["name"]), str(entry["sha256"]), int(entry["size"]))
    path = PurePosixPath(file.name)
    if path.name != file.name or file.name in ("", ".", "..") or "\\" in file.name:
        raise ValueError(f"file name {file.name!r}")
    if not is_wanted(file.name):
        raise ValueError(f"file {file.name!r}: of a kind that no device reads")
    return file


def _check_trusted(
    group: str, component: Component | None, allow: Sequence[str], *, deep: bool = True
) -> None:
    """A server may choose among what is installed here, not name any function of any module."""
    if component is None:
        return
    name = component.name
    if name not in names(group) and name not in allow:
        text = f"the job names {name!r} ({group}), which is neither fedloom's nor a plug-in here"
        raise ConfigError(f"{text}; the setting `allow` of this device lists what it may name")
    if deep:
        for part in inside(group, component):
            _check_trusted(group, part, allow)
