"""The golden chain of `test_downlink`, also run alone where numpy may use no SIMD, or on ARM.

It prints a SHA-256 and how many of the processor's features numpy uses; `replay_digest` says how to
run such a script on an emulated ARM.
"""

import hashlib

from replay_digest import used_features
from step_runs import LAYOUT, SEED, STEP, advance, start

from fedloom.codecs.dense import Float32
from fedloom.codecs.downlink import Downlink, follow
from fedloom.core.step_ledger import advanced
from fedloom.core.types import State

__all__ = ["chain_digest"]


def chain_digest() -> str:
    """SHA-256 of what is sent of 12 rounds of each scheme, and of the models that come of it."""
    found = hashlib.sha256()
    for scheme in ("distinct", "shared", "candidates", "pool"):
        state = State(start())
        for number in range(1, 13):
            state = advanced(state, advance(number, scheme), SEED, step=STEP)
        form = Downlink(state, Float32(), LAYOUT, number=12).form(0)
        mine = follow(start(), Float32(), form.payload, LAYOUT, base=start(), seed=SEED)
        found.update(form.payload.frame + mine.params.vector.astype("<f4").tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    print(chain_digest(), len(used_features()))
