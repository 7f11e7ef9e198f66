"""A hidden Markov model with two states and two symbols, over five steps.

    z_0 ~ Categorical(1/2, 1/2)
    z_t ~ Categorical(transition[z_{t-1}]),  transition = [[.9, .1], [.2, .8]]
    y_t ~ Categorical(emission[z_t]),        emission   = [[.8, .2], [.3, .7]]

Data: y = 0, 0, 1, 1, 0, invented.

Reference: the forward-backward recursions,
    forward_t(j) = p(y_0..t, z_t = j),  backward_t(j) = p(y_t+1..4 | z_t = j),
whose product over p(y) is P(z_t = j | y). The most probable path is 0, 0, 0, 0, 0, with log joint -5.002896.
Rabiner (1989), A tutorial on hidden Markov models. https://doi.org/10.1109/5.18626
"""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import phlogiston as ph

initial = torch.tensor([0.5, 0.5], dtype=torch.float64)
transition = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
emission = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)
y = torch.tensor([0, 0, 1, 1, 0])


def hmm(initial: Tensor, transition: Tensor, emission: Tensor, num_steps: int) -> None:
    """``initial`` has shape [states], ``transition`` [states, states], ``emission`` [states, symbols]."""
    probabilities = initial
    for t in pyro.markov(range(num_steps)):
        z = pyro.sample(f"z_{t}", dist.Categorical(probabilities))
        pyro.sample(f"y_{t}", dist.Categorical(emission[z]))
        probabilities = transition[z]


def _reference() -> ph.Reference:
    step, likelihood = transition.numpy(), emission.numpy()[:, y.numpy()].T  # likelihood[t, state]
    num_steps = len(likelihood)
    forward, backward = np.ones((num_steps, 2)), np.ones((num_steps, 2))
    forward[0] = initial.numpy() * likelihood[0]
    for t in range(1, num_steps):
        forward[t] = (forward[t - 1] @ step) * likelihood[t]
    for t in reversed(range(num_steps - 1)):
        backward[t] = step @ (likelihood[t + 1] * backward[t + 1])
    evidence = forward[-1].sum()
    smoothed = forward * backward / evidence  # P(z_t | y), of shape [steps, states]
    return ph.Reference(
        mean={f"z_{t}": p[1] for t, p in enumerate(smoothed)},
        sd={f"z_{t}": np.sqrt(p[0] * p[1]) for t, p in enumerate(smoothed)},
        log_evidence=float(np.log(evidence)),
        probabilities={f"z_{t}": p for t, p in enumerate(smoothed)},
        source="forward-backward recursions",
        regenerate="models/hmm.py, _reference()",
    )


observed = {f"y_{t}": symbol for t, symbol in enumerate(y)}
model = ph.Model(hmm, initial, transition, emission, len(y)).observe(**observed)
reference = _reference()
