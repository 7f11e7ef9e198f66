"""The VAE of MNIST (784-400-20, 8,000/2,000 images, batch 128, Adam 1e-3): seconds an epoch and test ELBO, in one run.

Sides, each in a process of its own: PyTorch by hand, eager and under `torch.compile`; this library on its compiled
tier, the same with products of networks in bfloat16, and on its eager tier; Pyro's `SVI` (`TraceMeanField_ELBO`);
NumPyro, one jitted scan an epoch; pythae. Peers that are not installed are left out, saying so; `--peers PYTHON` names
another interpreter that has them. Each side's test ELBO is the mean of eight evaluations on the same 2,000 images, one
draw an image each, KL in closed form. The median epoch counts, and the best one and its processor time stand beside
it; the first, which compiles, stands apart.

    python benchmarks/vae.py [--epochs 10] [--threads 2] [--peers /path/to/python]
    python benchmarks/vae.py --curves 3

The second compares the course of the ELBO, epoch by epoch over so many seeds, with that of the loop by hand.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIDES = ("by_hand", "by_hand_compiled", "ours", "ours_bfloat16", "ours_eager", "pyro", "numpyro", "pythae")
BATCH, LATENTS, HIDDEN, RATE = 128, 20, 400, 1e-3


def now() -> np.ndarray:
    """Wall clock and processor seconds; the second says what a side costs on a machine that is not idle."""
    return np.array([time.perf_counter(), time.process_time()])


def data() -> tuple[np.ndarray, np.ndarray]:
    """Training and test images, black or white."""
    path = Path(os.environ.get("PHLOGISTON_DATA", "")) / "mnist_t10k.npz"
    if not path.is_file():
        raise SystemExit("benchmarks/vae.py: PHLOGISTON_DATA has to name a folder with mnist_t10k.npz")
    images = (np.load(path)["images"].reshape(-1, 784) > 127.5).astype(np.float32)
    return images[:8000], images[8000:]


def networks(seed: int) -> tuple[Any, Any]:
    """Encoder and decoder, untrained."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Linear(784, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENTS))
    return encoder, nn.Sequential(nn.Linear(LATENTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 784))


def by_hand(
    epochs: int, *, compiled: bool = False, seed: int = 0, curve: list[Any] | None = None
) -> tuple[list[list[float]], float]:
    """The loop that a PyTorch user writes; ``curve`` takes each step's loss."""
    import torch
    import torch.nn.functional as F

    encoder, decoder = networks(seed)
    x_train, x_test = (torch.from_numpy(part) for part in data())
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE)

    def negative_elbo(x: Any) -> Any:
        loc, log_var = encoder(x).chunk(2, -1)
        z = loc + torch.exp(0.5 * log_var) * torch.randn_like(loc)
        reconstruction = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        kl = -0.5 * (1.0 + log_var - loc.square() - log_var.exp()).sum()
        return (reconstruction + kl) / len(x)

    loss = torch.compile(negative_elbo) if compiled else negative_elbo
    seconds = []
    for _ in range(epochs):
        began, order = now(), torch.randperm(len(x_train))
        for rows in order.split(BATCH):
            optimiser.zero_grad()
            found = loss(x_train[rows])
            found.backward()
            optimiser.step()
            if curve is not None:
                curve.append(found.detach())
        seconds.append(now() - began)
    with torch.no_grad():
        return np.array(seconds).tolist(), -float(torch.stack([negative_elbo(x_test) for _ in range(8)]).mean())


def ours(epochs: int, *, engine: str = "auto", dtype: str = "auto", seed: int = 0) -> tuple[list[list[float]], float]:
    """`ph.train`; epochs are timed between the checkpoints of the run, by its own progress."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
    import torch
    import vae_mnist

    import phlogiston as ph
    from phlogiston.training.amortised import fit

    x_train, x_test = (torch.from_numpy(part) for part in data())
    ends = [now()]
    whole = fit.learn

    def timed(*args: Any, **kwargs: Any) -> Any:
        return whole(*args, **{**kwargs, "after_window": lambda at: ends.append(now())})

    fit.learn = timed
    # a window is at least a hundred steps: two epochs of 63
    fitted = ph.train(
        vae_mnist.model_of(x_train, seed),
        vae_mnist.svi_of(8000, epochs, engine=engine, dtype=dtype),
        seed=seed,
        progress=False,
    )
    seconds = [0.5 * (b - a) for a, b in itertools.pairwise(ends) for _ in range(2)]
    return np.array(seconds).tolist(), float(fitted.estimate_elbo(x=x_test, num_samples=8, seed=0).mean.value)


def pyro(epochs: int, *, seed: int = 0) -> tuple[list[list[float]], float]:
    """Pyro as its tutorial writes it, with the KL in closed form."""
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer import SVI, TraceMeanField_ELBO
    from torch import nn

    pyro.set_rng_seed(seed)
    pyro.clear_param_store()
    x_train, x_test = (torch.from_numpy(part) for part in data())
    encoder = nn.Sequential(nn.Linear(784, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENTS))
    decoder = nn.Sequential(nn.Linear(LATENTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 784))

    def model(x: Any) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=1.0 / len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), LATENTS), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=1.0 / len(x)):
            loc, log_var = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, torch.exp(0.5 * log_var)).to_event(1))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": RATE}), TraceMeanField_ELBO())
    seconds = []
    for _ in range(epochs):
        began, order = now(), torch.randperm(len(x_train))
        for rows in order.split(BATCH):
            svi.step(x_train[rows])
        seconds.append(now() - began)
    return np.array(seconds).tolist(), -sum(svi.evaluate_loss(x_test) for _ in range(8)) / 8


def numpyro(epochs: int, *, seed: int = 0) -> tuple[list[list[float]], float]:
    """NumPyro with one jitted scan an epoch (the last, short batch is left out, as a scan wants equal ones)."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    import optax
    from numpyro.infer import SVI, TraceMeanField_ELBO

    x_train, x_test = (jnp.asarray(part) for part in data())

    def dense(name: str, inputs: int, outputs: int) -> Any:
        def initial(key: Any) -> Any:
            return jax.random.uniform(key, (inputs, outputs), minval=-1.0, maxval=1.0) / inputs**0.5

        return numpyro.param(f"{name}.w", initial), numpyro.param(f"{name}.b", jnp.zeros(outputs))

    def forward(layers: Any, x: Any) -> Any:
        (w, b), (v, c) = layers
        return jax.nn.relu(x @ w + b) @ v + c

    def model(x: Any) -> None:
        layers = dense("d1", LATENTS, HIDDEN), dense("d2", HIDDEN, 784)
        with numpyro.plate("data", len(x)), numpyro.handlers.scale(scale=1.0 / len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros((len(x), LATENTS)), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=forward(layers, z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        layers = dense("e1", 784, HIDDEN), dense("e2", HIDDEN, 2 * LATENTS)
        with numpyro.plate("data", len(x)), numpyro.handlers.scale(scale=1.0 / len(x)):
            loc, log_var = jnp.split(forward(layers, x), 2, -1)
            numpyro.sample("z", dist.Normal(loc, jnp.exp(0.5 * log_var)).to_event(1))

    svi = SVI(model, guide, optax.adam(RATE), TraceMeanField_ELBO())
    state = svi.init(jax.random.key(seed), x_train[:BATCH])

    @jax.jit
    def epoch(state: Any, key: Any) -> Any:
        whole = len(x_train) // BATCH
        order = jax.random.permutation(key, len(x_train))[: whole * BATCH].reshape(whole, BATCH)
        return jax.lax.scan(lambda s, rows: svi.update(s, x_train[rows]), state, order)

    seconds = []
    for i in range(epochs):
        began = now()
        state, losses = epoch(state, jax.random.key(1000 + i))
        jax.block_until_ready(losses)
        seconds.append(now() - began)
    losses = []
    for _ in range(8):
        state = state._replace(rng_key=jax.random.split(state.rng_key)[0])
        losses.append(float(svi.evaluate(state, x_test)))
    return np.array(seconds).tolist(), -sum(losses) / 8


def pythae(epochs: int, *, seed: int = 0) -> tuple[list[list[float]], float]:
    """pythae's model in the loop that its trainer runs, without the trainer's files."""
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig

    torch.manual_seed(seed)
    x_train, x_test = (torch.from_numpy(part) for part in data())
    model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENTS, reconstruction_loss="bce"))
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    images = BaseDataset(x_train.reshape(-1, 1, 28, 28), torch.zeros(len(x_train)))
    loader = torch.utils.data.DataLoader(images, batch_size=BATCH, shuffle=True)
    seconds = []
    for _ in range(epochs):
        began = now()
        for batch in loader:
            optimiser.zero_grad()
            model(batch).loss.backward()
            optimiser.step()
        seconds.append(now() - began)
    with torch.no_grad():
        held = BaseDataset(x_test.reshape(-1, 1, 28, 28), torch.zeros(len(x_test)))
        return np.array(seconds).tolist(), -float(model(held[:]).loss)


RUNS: dict[str, Callable[[int], tuple[list[list[float]], float]]] = {
    "by_hand": by_hand,
    "by_hand_compiled": lambda epochs: by_hand(epochs, compiled=True),
    "ours": lambda epochs: ours(epochs, engine="compiled"),
    "ours_bfloat16": lambda epochs: ours(epochs, engine="compiled", dtype="bfloat16"),
    "ours_eager": lambda epochs: ours(epochs, engine="graph"),
    "pyro": pyro,
    "numpyro": numpyro,
    "pythae": pythae,
}


def run_side(side: str, epochs: int, threads: int) -> None:
    """In a process of its own: print the epochs and the ELBO as JSON."""
    if side != "numpyro":
        import torch

        torch.set_num_threads(threads)
    seconds, elbo = RUNS[side](epochs)
    print(json.dumps({"seconds": seconds, "elbo": elbo}))


def measured(side: str, arguments: argparse.Namespace) -> dict[str, Any] | None:
    """One side's run; None where it is not installed."""
    python = arguments.peers if side in ("numpyro", "pythae") and arguments.peers else sys.executable
    command = [python, __file__, "--side", side, "--epochs", str(arguments.epochs), "--threads", str(arguments.threads)]
    flags = f"--xla_cpu_multi_thread_eigen={'true' if arguments.threads > 1 else 'false'}"
    threads = {"OMP_NUM_THREADS": str(arguments.threads), "XLA_FLAGS": flags}
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{side}: left out ({done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no output'})")
        return None
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{side}: {' '.join(f'{wall:.3f}' for wall, _ in found['seconds'])}", flush=True)
    return found


def curve_of_ours(epochs: int, seed: int) -> np.ndarray:
    """The bound of each step, a datum, with the networks of the loop by hand."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
    import torch
    import vae_mnist

    import phlogiston as ph

    class Encoder(torch.nn.Module):
        def __init__(self, body: Any) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Any) -> tuple[Any, Any]:
            loc, log_var = self.body(x).chunk(2, -1)
            return loc, torch.exp(0.5 * log_var)

    encoder, decoder = networks(1000 + seed)
    images = torch.from_numpy(data()[0])
    model = ph.Model(vae_mnist.vae, decoder, len(images)).observe(x=images)
    steps = epochs * -(-len(images) // BATCH)
    guide = ph.Amortized(encoder=Encoder(encoder))
    svi = ph.SVI(guide=guide, batch_size=BATCH, num_steps=steps, optim=ph.Adam(learning_rate=RATE), stop=False)
    return ph.train(model, svi, seed=seed, progress=False).history["elbo"] / len(images)


def compare_curves(seeds: int, epochs: int) -> None:
    """Print the mean bound of each epoch, ours and by hand, and how many standard errors lie between them."""
    sides: dict[str, list[np.ndarray]] = {"ours": [], "by hand": []}
    for seed in range(seeds):
        losses: list[Any] = []
        by_hand(epochs, seed=seed, curve=losses)
        sides["by hand"].append(-np.array([float(loss) for loss in losses]))
        sides["ours"].append(curve_of_ours(epochs, seed))
    smooth = {side: np.stack(runs).reshape(seeds, epochs, -1).mean(-1) for side, runs in sides.items()}
    difference = smooth["ours"].mean(0) - smooth["by hand"].mean(0)
    errors = np.sqrt(sum(runs.var(0, ddof=1) for runs in smooth.values()) / seeds)
    print(f"{'epoch':>5} {'ours':>9} {'by hand':>9} {'difference':>11} {'se':>7} {'in se':>6}")
    for i, (gap, error) in enumerate(zip(difference, errors, strict=True)):
        means = f"{smooth['ours'][:, i].mean():9.3f} {smooth['by hand'][:, i].mean():9.3f}"
        print(f"{i + 1:5} {means} {gap:+11.3f} {error:7.3f} {gap / error:+6.2f}")
    print(f"largest: {np.abs(difference / errors).max():.2f} standard errors, over {seeds} seeds a side")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", default="")
    parser.add_argument("--sides", nargs="*", default=list(SIDES))
    parser.add_argument("--side", default="")
    parser.add_argument("--curves", type=int, default=0, metavar="SEEDS")
    arguments = parser.parse_args()
    if arguments.curves:
        compare_curves(arguments.curves, arguments.epochs)
        return
    if arguments.side:
        run_side(arguments.side, arguments.epochs, arguments.threads)
        return
    found = {side: made for side in arguments.sides if (made := measured(side, arguments)) is not None}
    print(
        f"{'':18} {'s/epoch':>8} {'best':>7} {'cpu s':>7} {'x by hand':>10} {'cpu x':>7} {'first':>7} {'test ELBO':>10}"
    )
    hand = np.median(found["by_hand"]["seconds"][2:], 0) if "by_hand" in found else np.full(2, np.nan)
    for side, made in found.items():
        later, first = np.array(made["seconds"][2:]), made["seconds"][0][0]
        (wall, cpu), least = np.median(later, 0), later[:, 0].min()
        print(
            f"{side:18} {wall:8.3f} {least:7.3f} {cpu:7.3f} {wall / hand[0]:10.2f} {cpu / hand[1]:7.2f} {first:7.2f} "
            f"{made['elbo']:10.2f}"
        )


if __name__ == "__main__":
    main()
