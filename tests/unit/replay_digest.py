"""The golden ledger of `test_replay`, also run alone where numpy may use no SIMD, or on ARM.

It prints a SHA-256 and how many of the processor's features numpy uses. ARM, emulated, without
installing anything (Debian 12; R a folder for the foreign system, A the apt options that follow):

    A="-o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State=$R/state
       -o Dir::State::status=$R/status -o Dir::Cache=$R/cache"
    mkdir -p $R/state/lists/partial $R/cache/archives/partial; touch $R/status; apt-get $A update
    apt-get download qemu-user-static
    apt-get $A download python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 \
        libgcc-s1 libstdc++6 libssl3 zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5 libuuid1
    for deb in *.deb; do dpkg -x $deb $R; done
    pip download --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 \
        --python-version 3.11 numpy && python -m zipfile -e numpy-*.whl $R/site
    PYTHONPATH=$R/site:. $R/usr/bin/qemu-aarch64-static -L $R $R/usr/bin/python3.11 \
        tests/unit/replay_digest.py
"""

import hashlib

import numpy as np

from fedloom.core.gaussian import Gaussian
from fedloom.core.perturbation_keys import client_number, keys, run_id
from fedloom.core.perturbations import Rademacher
from fedloom.core.replay import apply, entries_of, replay
from fedloom.core.scalars import quantize
from fedloom.core.seeds import stream

SIZE = 100_003


def demo_digest() -> str:
    """SHA-256 of the model after 16 clients' entries, in signs and then in Gaussian numbers."""
    numbers = stream(7, "demo ledger")
    model = (numbers.uniform(SIZE) - 0.5).astype(np.float32)
    listed = []
    for client in range(16):
        names = keys(run_id(7), 8, round=1, client=client_number(f"client {client}"))
        listed += entries_of(names, quantize(numbers.uniform(8) * 8 - 4, 2.0**-10))
    for family in (Rademacher(), Gaussian()):
        total = replay(listed, SIZE, family=family, threads=2)
        model = apply(model, total, -1e-3 / 128 * 2.0**-10 * family.unit)
    return hashlib.sha256(model.astype("<f4").tobytes()).hexdigest()


def used_features() -> list[str]:
    """The processor's features that numpy may use beyond its baseline."""
    return list(np.show_config(mode="dicts")["SIMD Extensions"].get("found", ()))


if __name__ == "__main__":
    print(demo_digest(), len(used_features()))
