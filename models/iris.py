"""Fisher's iris flowers, classified twice: by modelling the flowers, and by modelling the decision.

    gaussian_classes:  species_i  ~ Categorical(class_probabilities)
                       features_i ~ MultivariateNormal(means[species_i], covariances[species_i])
    logistic:          weights    ~ Normal(0, 5)                          of shape [3, 5], a bias and 4 slopes
                       species_i  ~ Categorical(logits = weights (1, features_i))

The first goes from species to flower, and Bayes' rule turns it round. It gives P(species | flower) and also
p(flower): it can say that a flower is unlike any seen before, fill in a missing petal, and draw new flowers.
The second gives P(species | flower) alone. However strange the flower, it must name a species, and the
further the flower lies from the boundary the surer it is. In return it assumes nothing about how flowers are
spread.

Data: scikit-learn's copy of Fisher's table: 150 flowers, 100 to train on and 50 to test on, with the species
in equal parts.

Reference, for `model`: by Bayes' rule with SciPy's Gaussian density, flower by flower; the evidence is
sum_i log p(features_i). Means and covariances are the maximum-likelihood ones of the training flowers.
Fisher (1936), The use of multiple measurements in taxonomic problems.
https://doi.org/10.1111/j.1469-1809.1936.tb02137.x
Ng and Jordan (2001), On discriminative vs. generative classifiers.
https://papers.nips.cc/paper/2001/hash/7b7a53e239400a13bd6be6c91c4f6c4e-Abstract.html
"""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris
from torch import Tensor

import phlogiston as ph

flowers, labels = load_iris(return_X_y=True)
shuffled = np.random.default_rng(0).permutation(len(labels))
by_species = shuffled[np.argsort(labels[shuffled], kind="stable")]
test = np.sort(by_species[::3])
train = np.setdiff1d(by_species, test)

train_classes = [flowers[train][labels[train] == c] for c in range(3)]
means = torch.tensor(np.stack([group.mean(0) for group in train_classes]))
covariances = torch.tensor(np.stack([np.cov(group.T, bias=True) for group in train_classes]))
class_probabilities = torch.tensor([len(group) / len(train) for group in train_classes], dtype=torch.float64)


def gaussian_classes(means: Tensor, covariances: Tensor, class_probabilities: Tensor, num_flowers: int) -> None:
    """``means``, ``covariances`` and ``class_probabilities`` have shapes [3, 4], [3, 4, 4] and [3]."""
    with pyro.plate("flower", num_flowers):
        species = pyro.sample("species", dist.Categorical(class_probabilities))
        pyro.sample("features", dist.MultivariateNormal(means[species], covariances[species]))


def logistic(features: Tensor) -> None:
    """Multinomial logistic regression; ``features`` has shape [flowers, 5], a column of ones first."""
    weights = pyro.sample("weights", dist.Normal(0.0, 5.0).expand([3, 5]).to_event(2))
    with pyro.plate("flower", len(features)):
        logits = (weights * features[:, None, :]).sum(-1)
        pyro.sample("species", dist.Categorical(logits=logits))


def standardised(rows: np.ndarray) -> Tensor:
    """Features of some flowers in units of the training flowers' spread, with a column of ones in front."""
    scaled = (flowers[rows] - flowers[train].mean(0)) / flowers[train].std(0)
    return torch.tensor(np.column_stack([np.ones(len(rows)), scaled]))


def _reference() -> ph.Reference:
    density = [multivariate_normal(means[c], covariances[c]).logpdf(flowers[test]) for c in range(3)]
    log_joint = np.stack(density, axis=-1) + np.log(class_probabilities.numpy())
    log_evidence = np.logaddexp.reduce(log_joint, axis=-1)  # log p(features_i), one number a flower
    probabilities = np.exp(log_joint - log_evidence[:, None])
    index = np.arange(3.0)
    mean = probabilities @ index
    variance = (probabilities * (index - mean[:, None]) ** 2).sum(-1)
    return ph.Reference(
        mean={"species": mean},
        sd={"species": np.sqrt(variance)},
        log_evidence=float(log_evidence.sum()),
        probabilities={"species": probabilities},
        source="Bayes' rule with scipy.stats.multivariate_normal",
        regenerate="models/iris.py, _reference()",
    )


model = ph.Model(
    gaussian_classes, means, covariances, class_probabilities, len(test), coords={"flower": test.tolist()}
).observe(features=torch.tensor(flowers[test]))
logistic_model = ph.Model(logistic, standardised(train), coords={"flower": train.tolist()}).observe(
    species=torch.tensor(labels[train])
)
reference = _reference()


def compare() -> None:
    """Print accuracy and mean log loss on the test flowers for the two ways of classifying them."""
    from sklearn.linear_model import LogisticRegression

    generative = ph.infer(model, "exact").marginals["species"].numpy()
    # The prior's variance is scikit-learn's C; it leaves the intercept unpenalised.
    regression = LogisticRegression(C=25.0).fit(standardised(train)[:, 1:], labels[train])
    discriminative = regression.predict_proba(standardised(test)[:, 1:])
    for name, probabilities in (("generative", generative), ("discriminative", discriminative)):
        accuracy = (probabilities.argmax(-1) == labels[test]).mean()
        log_loss = -np.log(probabilities[np.arange(len(test)), labels[test]]).mean()
        print(f"{name:>14}: accuracy {accuracy:.2f}, log loss {log_loss:.3f}")


if __name__ == "__main__":
    compare()
