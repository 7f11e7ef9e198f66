"""``python -m mcmc_peers TARGET PEER``: one peer on one target, one line of JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys

from mcmc_peers.measure import Result, measure
from mcmc_peers.peers import PEERS
from mcmc_peers.targets import TARGETS


def main() -> None:
    """Measure; whatever a peer prints goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m mcmc_peers", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--limit", type=float, default=180.0, help="seconds that the process is given (180)")
    parser.add_argument("--once", action="store_true", help="only the cold run, for its time")
    options = parser.parse_args()
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        result = measure(options.target, options.peer, options.limit, once=options.once)
    except Exception as error:  # a peer may raise anything, and the table says what
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        text = " ".join(f"{type(error).__name__}: {error}".split())
        result = Result(failed=True, note=text if len(text) <= 160 else text[:157] + "...")
    with os.fdopen(out, "w") as stream:
        print(json.dumps(dataclasses.asdict(result)), file=stream)


if __name__ == "__main__":
    main()
