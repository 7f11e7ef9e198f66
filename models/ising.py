"""The Ising model on a 3 x 3 square with free edges: nine spins that like to agree with their neighbours.

    s_i   ~ Categorical(1/2, 1/2)             0 is spin down, 1 is spin up
    p(s)  multiplied by exp(beta * sum over the 12 bonds (i, j) of spin_i spin_j),  spin = 2 s - 1

There is no data: the coupling plays the part of the likelihood. `bonds` is the sum over bonds.

Reference: all 512 states are enumerated. With the prior's 1/2 per spin the evidence is Z / 2^9, where Z is
the physicist's partition function; at beta = 0.2, log Z = 6.483045. Up and down are alike, so each P(s_i) is
1/2, which a chain stuck in one phase gets wrong.
Ising (1925), Beitrag zur Theorie des Ferromagnetismus. https://doi.org/10.1007/BF02980577
"""

from itertools import product

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import phlogiston as ph

SIDE = 3
ACROSS = [(i, i + 1) for i in range(SIDE * SIDE) if (i + 1) % SIDE]
DOWN = [(i, i + SIDE) for i in range(SIDE * (SIDE - 1))]
BONDS = ACROSS + DOWN
beta = torch.tensor(0.2, dtype=torch.float64)


def ising(beta: Tensor) -> None:
    """``beta`` is the coupling in units of the temperature, a scalar."""
    fair = beta.new_tensor([0.5, 0.5])
    state = [pyro.sample(f"s_{i}", dist.Categorical(fair)) for i in range(SIDE * SIDE)]
    spin = [2.0 * s.to(beta.dtype) - 1.0 for s in state]
    total = sum((spin[i] * spin[j] for i, j in BONDS), start=beta.new_zeros(()))
    bonds = pyro.deterministic("bonds", total, event_dim=0)
    pyro.factor("coupling", beta * bonds)


def _reference() -> ph.Reference:
    states = np.array(list(product((0, 1), repeat=SIDE * SIDE)))
    spin = 2.0 * states - 1.0
    bonds = sum(spin[:, i] * spin[:, j] for i, j in BONDS)
    weight = np.exp(float(beta) * bonds) / len(states)
    evidence = weight.sum()
    weight = weight / evidence
    up = weight @ states
    mean, second = weight @ bonds, weight @ bonds**2
    return ph.Reference(
        mean={"bonds": mean} | {f"s_{i}": p for i, p in enumerate(up)},
        sd={"bonds": np.sqrt(second - mean**2)} | {f"s_{i}": np.sqrt(p * (1.0 - p)) for i, p in enumerate(up)},
        log_evidence=float(np.log(evidence)),
        probabilities={f"s_{i}": np.array([1.0 - p, p]) for i, p in enumerate(up)},
        source="enumeration of the 512 states",
        regenerate="models/ising.py, _reference()",
    )


model = ph.Model(ising, beta)
reference = _reference()
