"""Compare the first aggregated update of several systems, saved with `--save-update`."""

import argparse
import sys
from pathlib import Path

import numpy as np


def main() -> int:
    """Print each file's largest difference from the first; return 1 if one exceeds the bound."""
    parser = argparse.ArgumentParser(prog="python -m baselines.compare", description=__doc__)
    parser.add_argument("updates", type=Path, nargs="+", help=".npy files of one work and dtype")
    parser.add_argument("--tolerance", type=float, default=1e-6, help="largest absolute difference")
    options = parser.parse_args()
    reference = np.load(options.updates[0], allow_pickle=False)
    print(f"{options.updates[0]}: largest entry {np.abs(reference).max():.3e}")
    worst = 0.0
    for path in options.updates[1:]:
        difference = float(np.abs(np.load(path, allow_pickle=False) - reference).max())
        print(f"{path}: differs by at most {difference:.3e}")
        worst = max(worst, difference)
    return int(not worst <= options.tolerance)


if __name__ == "__main__":
    sys.exit(main())
