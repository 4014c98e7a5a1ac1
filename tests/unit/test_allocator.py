"""What is asked of the C library and of oneDNN about memory."""

import os

import pytest

from fedloom.backbones.allocator import (
    give_back,
    keep_few_shapes,
    keep_large_blocks,
    return_large_blocks,
)

NAME = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


def test_few_shapes_unless_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "7")
    keep_few_shapes()
    assert os.environ[NAME] == "7"
    monkeypatch.delenv(NAME)
    keep_few_shapes()
    assert os.environ[NAME] == "128"


def test_where_there_is_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert not give_back()
    assert not keep_large_blocks()
    assert not return_large_blocks()
