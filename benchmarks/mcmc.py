"""MCMC's speed: this library, PyMC + nutpie, NumPyro, BlackJAX and Pyro on the same posteriors, in one run.

Eleven posteriors, nine of them posteriordb's. Every side runs every posterior in a process of its own, which measures
the import, the cold run (the model's definition to draws in hand, compilation included), the warm run (again in the
same process, another seed, warm-up included), and on the warm draws the smallest bulk ESS, the largest R-hat,
divergences, gradients, and how far the means are from reference draws. Sides that keep compiled code on disk run a
process with empty caches first. A side that takes too long or fails says so in its row.

    POSTERIORDB=.../posterior_database python benchmarks/mcmc.py [--only TARGET ...] [--peers PEER ...] [--update]
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import mcmc_cold
from mcmc_peers import report
from mcmc_peers.measure import Result
from mcmc_peers.peers import PEERS
from mcmc_peers.process import run
from mcmc_peers.targets import TARGETS, database
from results import replace_block

RESULTS = Path(__file__).parent / "RESULTS.md"
STORE = Path(__file__).parents[1] / "runs" / "mcmc.json"


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="TARGET")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds that a process may take (180)")
    parser.add_argument(
        "--update", action="store_true", help=f"write the tables to {RESULTS.name}, and keep the numbers in {STORE}"
    )
    return parser.parse_args()


def main() -> None:
    """Run all sides on all targets, print a table as soon as it is complete."""
    chosen = options()
    database()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the process under way is ended too
    machine = report.machine()
    print(machine)
    found: dict[str, dict[str, list[Result]]] = {}
    for target in chosen.only:
        results = {}
        for peer in chosen.peers:
            results[peer] = run(target, peer, chosen.limit)
            print(f"  {target}, {PEERS[peer].title}: {report.in_short(results[peer])}", flush=True)
        section = report.section(target, results, machine)
        print(f"\n{report.table(section)}\n", flush=True)
        found[target] = {side: [results[side]] for side in mcmc_cold.SIDES if side in results}
        if chosen.update:
            report.update(RESULTS, report.keep(STORE, section))
    # of some targets only, it would take the others' rows away
    if chosen.update and set(found) == set(TARGETS) and set(mcmc_cold.SIDES) <= set(chosen.peers):
        replace_block(RESULTS, mcmc_cold.BEGIN, mcmc_cold.END, mcmc_cold.table(found))


if __name__ == "__main__":
    main()
