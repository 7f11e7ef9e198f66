"""Seconds an epoch of the MNIST VAE (784-400-20, 8,000 images) on the CPU and on a GPU, by batch size and tier.

    python benchmarks/device.py [--epochs 20] [--batches 128 2048] [--devices cpu cuda]

The median epoch counts; the first ones, which trace and compile, stand apart. Each test ELBO is the mean of eight draws
on the same 2,000 images, from the result, which is on the CPU whatever the device was.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import phlogiston as ph
from phlogiston.errors import DeviceWarning
from phlogiston.training.amortised import fit

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import vae_mnist


def run(images: torch.Tensor, batch: int, epochs: int, device: str, engine: Any) -> tuple[ph.Fitted, np.ndarray]:
    """What was trained, and the seconds of each epoch, by windows of at least a hundred steps."""
    ends, whole = [time.perf_counter()], fit.learn

    def timed(*args: Any, **kwargs: Any) -> Any:
        return whole(*args, **{**kwargs, "after_window": lambda at: ends.append(time.perf_counter())})

    each = -(-len(images) // batch)
    window = each * -(-100 // each)
    settings = ph.SVI(
        guide=ph.Amortized(hidden=(vae_mnist.HIDDEN,)),
        batch_size=batch,
        num_steps=max(3, epochs * each // window) * window,
        optim=ph.Adam(learning_rate=1e-3 * max(1.0, batch / 512)),
        stop=False,
        engine=engine,
        device=device,
    )
    fit.learn = timed
    try:
        fitted = ph.train(vae_mnist.model_of(images), settings, seed=0, progress=False)
    finally:
        fit.learn = whole
    return fitted, np.diff(ends) * each / window


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batches", type=int, nargs="*", default=[128, 2048])
    parser.add_argument("--devices", nargs="*", default=["cpu", "cuda"])
    parser.add_argument("--engines", nargs="*", default=["graph", "compiled"])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DeviceWarning)
    x_train, x_test = vae_mnist.data()
    for i in range(torch.cuda.device_count()):
        print(f"cuda:{i} is {torch.cuda.get_device_name(i)}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads of the CPU")
    print(f"{'batch':>6} {'device':>7} {'s/epoch':>9} {'first':>8} {'ELBO':>9}  tier", flush=True)
    for batch in arguments.batches:
        for device in arguments.devices:
            for engine in arguments.engines:
                fitted, seconds = run(x_train, batch, arguments.epochs, device, engine)
                elbo = float(fitted.estimate_elbo(x=x_test, num_samples=8, seed=0).mean.value)
                numbers = f"{np.median(seconds[1:]):9.4f} {seconds[0]:8.2f} {elbo:9.2f}"
                print(f"{batch:6} {device:>7} {numbers}  {fitted.engine}", flush=True)


if __name__ == "__main__":
    main()
