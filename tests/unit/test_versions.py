import sys

import numpy as np

from fedloom import __version__
from fedloom.results.versions import versions


def test_versions_of_what_computes() -> None:
    found = versions()
    assert found["numpy"] == np.__version__
    assert found["fedloom"] == __version__
    assert found["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert found["cpu"].endswith("cores")
    assert found["platform"]
