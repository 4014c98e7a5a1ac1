import re

import pytest

from fedloom.core import errors
from fedloom.core.errors import ConfigError, FedloomError, nearest, require


def test_every_error_is_a_fedloom_error_and_drawn_in_the_tree() -> None:
    drawn = set(re.findall(r"\w+Error", errors.__doc__ or ""))
    raised = {name for name in errors.__all__ if name.endswith("Error")}
    assert drawn == raised
    assert all(issubclass(getattr(errors, name), FedloomError) for name in raised)


def test_nearest_names_the_known_and_the_closest() -> None:
    assert nearest("fedadm", ["fedavg", "fedadam"]) == (
        "known: fedadam, fedavg; did you mean 'fedadam'?"
    )
    assert nearest("zzz", ["b", "a"]) == "known: a, b"
    assert nearest("x", []) == "known: none"


def test_require_names_field_value_and_what_is_allowed() -> None:
    require(True, "lr", 1, "above 0")
    with pytest.raises(ConfigError, match=r"^lr = -1: above 0$"):
        require(False, "lr", -1, "above 0")
