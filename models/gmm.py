"""A mixture of three normals with full covariances on Fisher's irises, learned without their names.

    species_i  ~ Categorical(weights)
    features_i ~ MultivariateNormal(locs[species_i], factors[species_i] factors[species_i]')

Weights, means and factors are parameters; the species is summed out, so that training climbs the likelihood itself: the
maximum that EM finds, from gradients.

Data: scikit-learn's copy of Fisher's table, 150 flowers and four lengths in centimetres.

`python models/gmm.py` trains and prints the log likelihood beside that of scikit-learn's GaussianMixture (EM), and how
the components meet the species.
Dempster, Laird and Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm.
https://doi.org/10.1111/j.2517-6161.1977.tb01600.x
"""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture
from torch import Tensor

import phlogiston as ph

flowers, species = load_iris(return_X_y=True)
features = torch.tensor(flowers)
KINDS = 3


def mixture(starts: Tensor, num_flowers: int) -> None:
    """``starts`` [kinds, 4] are where the means begin."""
    constraints = dist.constraints
    weights = pyro.param("weights", torch.ones(KINDS) / KINDS, constraint=constraints.simplex)
    locs = pyro.param("locs", starts)
    factors = pyro.param("factors", 0.5 * torch.eye(4).repeat(KINDS, 1, 1), constraint=constraints.lower_cholesky)
    with pyro.plate("flower", num_flowers):
        kind = pyro.sample("species", dist.Categorical(weights))
        pyro.sample("features", dist.MultivariateNormal(locs[kind], scale_tril=factors[kind]))


starts = features[np.random.default_rng(1).choice(150, KINDS, replace=False)]
model = ph.Model(mixture, starts, len(features)).observe(features=features)
svi = ph.SVI(num_steps=3000, optim=ph.Adam(learning_rate=0.05), dtype="float64")


def pictures(fitted: ph.Fitted) -> dict[str, Any]:
    """Petals, coloured by the component that most likely made them."""
    from phlogiston.report.plots import images as pictures_of

    found = ph.infer(fitted.model, "exact", seed=0, progress=False).marginals["species"].argmax(-1).numpy()
    title = "Petal length and width (cm), coloured by component"
    figure = pictures_of.latent_plane(flowers[:, 2:], np.array(["a", "b", "c"])[found], title=title)
    figure.axes[0].set(xlabel="petal length", ylabel="petal width")
    return {"petals": figure}


def main() -> None:
    """Print likelihood and agreement, beside EM's."""
    fitted = ph.train(model, svi, seed=0)
    same = {"means_init": starts.numpy(), "precisions_init": 4.0 * np.eye(4)[None].repeat(KINDS, 0)}
    em = GaussianMixture(KINDS, tol=1e-8, max_iter=5000, weights_init=np.ones(KINDS) / KINDS, **same).fit(flowers)
    best = GaussianMixture(KINDS, n_init=10, random_state=0, tol=1e-8, max_iter=1000).fit(flowers).score(flowers)
    found = f"{fitted.history['elbo'][-1] / 150:.4f}"
    print(f"log likelihood a flower: {found}, EM from the same start {em.score(flowers):.4f}, best of ten {best:.4f}")
    found = ph.infer(fitted.model, "exact", seed=0, progress=False).marginals["species"].argmax(-1).numpy()
    print("rows: species, columns: component")
    print(np.array([[int(((species == s) & (found == c)).sum()) for c in range(KINDS)] for s in range(KINDS)]))


if __name__ == "__main__":
    main()
