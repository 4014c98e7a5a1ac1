"""Light clients in a process of their own: ``crowd.py ADDRESS CLIENTS SECONDS [PREFIX]``.

They are those of ``fedloom load``; what they measured is printed as one line of JSON.
"""

import json
import sys

from fedloom.load import LoadPlan, run_load
from fedloom.security.floor import only_tls13


def main() -> None:
    """Load a server until its job is done or the time is over."""
    address, clients, seconds, prefix = (*sys.argv[1:], "load")[:4]
    plan = LoadPlan(address, int(clients), float(seconds), prefix=prefix)
    measured = run_load(plan)
    calls = {
        kind: {"count": len(s.seconds), "span": s.span, "bytes": s.bytes, "p": s.percentiles()}
        for kind, s in measured.series.items()
    }
    refusals = {f"{kind}: {code}": count for (kind, code), count in measured.refusals.items()}
    print(json.dumps({"calls": calls, "refusals": refusals}))


if __name__ == "__main__":
    only_tls13()
    main()
