"""The models that are trained: each trains for a few steps, and its pictures are drawn."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import phlogiston as ph


def briefly(module: Any, model: ph.Model, svi: ph.SVI, steps: int = 60) -> ph.Fitted:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)  # of having stopped early
        short = dataclasses.replace(svi, num_steps=steps, kl_warmup=0, engine="graph")
        return ph.train(model, short, seed=0, progress=False)


@pytest.mark.parametrize(
    ("name", "which"),
    [("vae_digits", ""), ("vae_digits", "conv_"), ("ssvae_digits", ""), ("gmm", "")],
)
def test_a_few_steps_raise_the_bound_and_pictures_are_drawn(name: str, which: str, load_model: Any) -> None:
    module = load_model(name)
    fitted = briefly(module, getattr(module, which + "model"), getattr(module, which + "svi"))
    elbo = fitted.history["elbo"]
    assert elbo[-5:].mean() > elbo[:5].mean()
    for figure in module.pictures(fitted).values():
        assert figure.axes


def test_the_generative_classifier_learns_from_few_labels(load_model: Any) -> None:
    module = load_model("ssvae_digits")
    fitted = briefly(module, module.model, module.svi, steps=250)
    _, _, test = module.split(0)
    probabilities = module.classify(fitted, module.pixels[test[:100]], num_samples=10)
    np.testing.assert_allclose(probabilities.sum(-1), 1.0, rtol=1e-6)
    assert (probabilities.argmax(-1) == module.labels[test[:100]]).mean() > 0.6


@pytest.mark.slow
def test_the_generative_classifier_is_ahead_of_logistic_regression(load_model: Any) -> None:
    module = load_model("ssvae_digits")
    found = np.array([module.accuracies(seed) for seed in range(5)])
    print("generative, logistic regression:", found.mean(0))
    assert found[:, 0].mean() > found[:, 1].mean()


def test_documents_of_any_length_are_read(load_model: Any) -> None:
    module = load_model("lda")
    few = ph.Model(module.lda, module.starts, module.mask[:150]).observe(word=module.words[:150])
    fitted = briefly(module, few, dataclasses.replace(module.svi, batch_size=50), steps=30)
    topics, distance = module.matched(fitted)
    np.testing.assert_allclose(topics.sum(-1), 1.0, rtol=1e-4)
    assert distance.shape == (10,)
    assert module.pictures(fitted)["topics"].axes
    shares = fitted.posterior(num_samples=20, seed=0).draws["shares"]
    torch.testing.assert_close(shares.sum(-1), torch.ones(shares.shape[:-1]).double(), rtol=1e-4, atol=1e-4)


def test_the_linear_vae_of_the_ppca_file_has_the_known_maximum(load_model: Any) -> None:
    module = load_model("ppca")
    svi = ph.SVI(
        guide=ph.Amortized(hidden=()), num_steps=1500, optim=ph.Adam(learning_rate=0.02), cosine=True, engine="graph"
    )
    model = module.linear_vae_model()
    bound = ph.train(model, svi, seed=0, progress=False).estimate_elbo(num_samples=50, seed=0)
    assert abs(bound.mean.value - module.maximum(model.observed["x"].double().numpy(), 2)) < 0.05


def test_mnist_trains_where_it_is_to_be_had(mnist: Any, load_model: Any) -> None:
    module = load_model("vae_mnist")
    train, test = module.data()
    assert train.shape == (8000, 784)
    fitted = briefly(module, module.model_of(train[:1000]), module.svi_of(1000, 1), steps=40)
    assert fitted.estimate_elbo(x=test[:50], num_samples=1, seed=0).mean.value > -300.0
    assert set(module.pictures(fitted, test)) == {"samples", "reconstructions"}
