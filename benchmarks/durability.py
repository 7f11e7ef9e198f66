"""Whether files survive: kills at random times while they are written, and damage to each kind of file.

    python benchmarks/durability.py                        # prints the table
    python benchmarks/durability.py --kills 200 --harm 60  # kills in all; flips and cuts of each kind

A kill (SIGKILL) strikes a process that overwrites one file again and again; then the file must load. Damage is one bit
flipped, or the end cut off, anywhere in the file; then loading must raise ph.DataFileError and nothing else.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch

import phlogiston as ph
from phlogiston.posterior import checkpoint

Y = torch.tensor([1.2, 0.4, -0.3])


def program() -> None:
    s = pyro.param("s", torch.tensor(1.0))
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("i", 3):
        pyro.sample("y", dist.Normal(z + s, 1.0))


def posterior(path: Path) -> Callable[[], object]:
    """Saves a posterior of chains, over and over."""
    model = ph.Model(program).observe(y=Y)
    made = ph.infer(model, "nuts", num_chains=2, num_samples=50, num_warmup=50, seed=0, engine="graph", progress=False)
    return lambda: made.save(path)


def training(path: Path) -> Callable[[], object]:
    """Saves a training, over and over."""
    made = ph.train(ph.Model(program).observe(y=Y), "svi", num_steps=30, seed=0, progress=False)
    return lambda: made.save(path)


def calibration(path: Path) -> Callable[[], object]:
    """Calibrates with a checkpoint, which goes on from the file of the call before until all is done."""
    data = ph.Model(program).observe(y=Y)
    settings = {"num_particles": 100, "seed": 0, "progress": False}

    def work() -> None:
        ph.calibrate(data, "importance", num_simulations=20, checkpoint=path, **settings)
        checkpoint.write(checkpoint.read(path), path)

    return work


def _posterior_is_whole(path: Path) -> bool:
    found = ph.load(path)
    return found.num_draws == 50 and bool(found.state)


def _training_is_whole(path: Path) -> bool:
    return bool(ph.load(path, model=ph.Model(program).observe(y=Y)).state)


def _calibration_is_whole(path: Path) -> bool:
    return bool(checkpoint.read(path)["done"])


KINDS = {
    "posterior": (posterior, _posterior_is_whole),
    "training": (training, _training_is_whole),
    "calibration": (calibration, _calibration_is_whole),
}


def killed(kind: str, folder: Path, times: int, rng: random.Random) -> Counter[str]:
    """How often the file was whole after its writer was killed."""
    path, found = folder / f"killed-{kind}", Counter[str]()
    for _ in range(times):
        arguments = [sys.executable, "-W", "ignore", __file__, "--write", kind, str(path)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.5))
            child.send_signal(signal.SIGKILL)
        found[outcome(kind, path)] += 1
    return found


def outcome(kind: str, path: Path) -> str:
    """What loading gives: "whole", "partial", "refused" for the library's sentence, or the name of a raw error."""
    try:
        return "whole" if KINDS[kind][1](path) else "partial"
    except ph.DataFileError:
        return "refused"
    except Exception as error:
        return f"raw {type(error).__name__}"


def harmed(content: bytes, times: int, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """The file with one bit flipped, then with its end cut off, at random places."""
    for _ in range(times):
        at = rng.randrange(len(content))
        flipped = bytearray(content)
        flipped[at] ^= 1 << rng.randrange(8)
        yield "flip", bytes(flipped)
    for _ in range(times):
        yield "cut", content[: rng.randrange(len(content))]


def damaged(kind: str, path: Path, times: int, rng: random.Random) -> Counter[str]:
    """What loading makes of damaged copies of a file."""
    found, copy = Counter[str](), path.with_name(f"damaged-{kind}")
    for harm, content in harmed(path.read_bytes(), times, rng):
        copy.write_bytes(content)
        found[f"{harm} {outcome(kind, copy)}"] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--harm", type=int, default=60)
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        kind, path = arguments.write
        work = KINDS[kind][0](Path(path))
        work()
        print("ready", flush=True)
        while True:
            work()
    rng = random.Random(0)
    print("| file | after kills | after damage |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for kind in KINDS:
            folder = Path(name)
            kills = killed(kind, folder, arguments.kills // len(KINDS), rng)
            KINDS[kind][0](folder / kind)()
            print(f"| {kind} | {dict(kills)} | {dict(damaged(kind, folder / kind, arguments.harm, rng))} |", flush=True)


if __name__ == "__main__":
    main()
