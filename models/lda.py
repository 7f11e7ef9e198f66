"""Latent Dirichlet allocation with an amortised guide: topics from documents of any length.

    shares_d    ~ Dirichlet(1/2)                              of 10 topics
    word_{d,n}  ~ Categorical(shares_d topics)                the topic of each word summed out

The topics are parameters; the encoder reads a document as a set of words, so that their order does not matter and
documents may be of any length (a mask says where each ends).

Data: the bars of Griffiths and Steyvers, where the truth is known: an image of 5 x 5 words, ten topics, each one row or
column of it; 1,500 documents of 40 to 120 words, drawn with NumPy's generator 0.

`python models/lda.py` trains, prints how far each learned topic is from the true one, and writes a picture.
Blei, Ng and Jordan (2003), Latent Dirichlet allocation. https://www.jmlr.org/papers/v3/blei03a.html
Griffiths and Steyvers (2004), Finding scientific topics. https://doi.org/10.1073/pnas.0307752101
Srivastava and Sutton (2017), Autoencoding variational inference for topic models. https://arxiv.org/abs/1703.01488
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import phlogiston as ph
from phlogiston.report.plots import images as pictures_of

SIDE, DOCUMENTS, LONGEST = 5, 1500, 120
WORDS, TOPICS = SIDE * SIDE, 2 * SIDE

grid = np.arange(WORDS).reshape(SIDE, SIDE)
truth = np.zeros((TOPICS, WORDS))
for i in range(SIDE):
    truth[i, grid[i]] = truth[SIDE + i, grid[:, i]] = 1.0 / SIDE


def simulated(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Words [documents, longest] and where there are any, [documents, longest]."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(TOPICS, 0.5), size=DOCUMENTS)
    lengths = rng.integers(40, LONGEST + 1, size=DOCUMENTS)
    words = np.array([rng.choice(WORDS, size=LONGEST, p=row @ truth) for row in shares])
    mask = np.arange(LONGEST) < lengths[:, None]
    return torch.tensor(np.where(mask, words, 0)), torch.tensor(mask)


def lda(starts: Tensor, mask: Tensor) -> None:
    """``starts`` [topics, words] are where the topics begin; ``mask`` [documents, longest] says where words are."""
    topics = pyro.param("topics", starts, constraint=dist.constraints.simplex)
    with pyro.plate("document", mask.shape[0], dim=-2) as rows:
        shares = pyro.sample("shares", dist.Dirichlet(0.5 * torch.ones(TOPICS)))
        with pyro.plate("position", mask.shape[1], dim=-1), poutine.mask(mask=mask[rows]):
            pyro.sample("word", dist.Categorical(shares @ topics))


words, mask = simulated()
chosen = np.random.default_rng(3).choice(DOCUMENTS, TOPICS, replace=False)  # each topic begins as one document
counts = np.stack([np.bincount(words[d][mask[d]], minlength=WORDS) + 1.0 for d in chosen])
starts = torch.tensor(counts / counts.sum(1, keepdims=True))
model = ph.Model(lda, starts, mask).observe(word=words)
svi = ph.SVI(
    guide=ph.Amortized(hidden=(100,), inputs=("word",)),
    batch_size=150,
    num_steps=2000,
    optim=ph.Adam(learning_rate=0.005),
    cosine=True,
    kl_warmup=1000,  # without it, some topics are never used
)


def matched(fitted: ph.Fitted) -> tuple[np.ndarray, np.ndarray]:
    """The learned topics in the order of the true ones they are nearest to, and the distances (total variation)."""
    topics = fitted.params["topics"].double().numpy()
    distance = 0.5 * np.abs(truth[:, None] - topics[None]).sum(-1)
    rows, columns = linear_sum_assignment(distance)
    return topics[columns], distance[rows, columns]


def pictures(fitted: ph.Fitted) -> dict[str, Any]:
    """The true topics above the learned ones."""
    learned = matched(fitted)[0].reshape(-1, SIDE, SIDE)
    figure = pictures_of.reconstructions(
        truth.reshape(-1, SIDE, SIDE), learned, title="Topics that made the documents (above), and what was learned"
    )
    return {"topics": figure}


if __name__ == "__main__":
    trained = ph.train(model, svi, seed=0)
    print(trained, f"in {trained.seconds:.0f} s on tier {trained.engine}")
    print("total variation between true and learned topics:", np.round(matched(trained)[1], 3))
    Path("runs/lda").mkdir(parents=True, exist_ok=True)
    pictures(trained)["topics"].savefig("runs/lda/topics.png", dpi=130)
