"""Learning programs with amortised guides: the linear VAE against principal components, and how training behaves."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.datasets import load_iris
from torch import nn

import phlogiston as ph
from phlogiston.training.amortised import epochs
from phlogiston.training.fitted import Fitted

FLOWERS = torch.tensor(load_iris().data).float()
FLOWERS = (FLOWERS - FLOWERS.mean(0)) / FLOWERS.std(0, correction=0)


def linear(decoder: nn.Linear, num_rows: int) -> None:
    pyro.module("decoder", decoder)
    sigma = pyro.param("sigma", torch.tensor(1.0), constraint=dist.constraints.positive)
    with pyro.plate("flower", num_rows):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(decoder(z), sigma).to_event(1))


def linear_model() -> ph.Model:
    torch.manual_seed(0)
    return ph.Model(linear, nn.Linear(2, 4), len(FLOWERS)).observe(x=FLOWERS)


def svi(**settings: Any) -> ph.SVI:
    usual = {"guide": ph.Amortized(hidden=()), "num_steps": 2500, "optim": ph.Adam(learning_rate=0.02), "cosine": True}
    return ph.SVI(**{**usual, "engine": "graph", **settings})


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return ph.train(linear_model(), svi(), seed=0, progress=False)


def ppca_maximum(x: np.ndarray, components: int) -> float:
    """Nats a datum: Tipping and Bishop (1999), equation 10 at the maximum."""
    d = x.shape[1]
    values = np.sort(np.linalg.eigvalsh(np.cov(x.T, bias=True)))[::-1]
    noise = values[components:].mean()
    determinant = np.log(values[:components]).sum() + (d - components) * math.log(noise)
    return float(-0.5 * (d * math.log(2.0 * math.pi) + determinant + d))


def test_the_linear_vae_is_principal_components(fitted: Fitted) -> None:
    best = ppca_maximum(FLOWERS.numpy().astype(float), 2)
    elbo = fitted.estimate_elbo(num_samples=64, seed=0)
    assert abs(float(elbo.mean.value) - best) < 0.05
    bound = fitted.bound_log_likelihood(num_samples=500, seed=0)
    assert abs(float(bound.mean.value) - best) < 0.05
    assert float(bound.mean.value) < best + 4 * float(bound.mean.se)


def test_its_amortised_posterior_is_the_closed_form(fitted: Fitted) -> None:
    weight = fitted.params["decoder$$$weight"].double()
    bias, sigma2 = fitted.params["decoder$$$bias"].double(), fitted.params["sigma"].double() ** 2
    precision = torch.eye(2) + weight.T @ weight / sigma2
    covariance = torch.linalg.inv(precision)
    exact_mean = (FLOWERS - bias) @ weight / sigma2 @ covariance
    assert fitted.guide is not None
    with torch.no_grad():
        loc, scale = fitted.guide.encoder(FLOWERS)
    difference = loc.double() - exact_mean
    trace = (precision.diagonal() * scale.double() ** 2).sum(-1)
    mahalanobis = torch.einsum("ni,ij,nj->n", difference, precision, difference)
    kl = 0.5 * (trace + mahalanobis - 2.0 - torch.logdet(precision) - 2.0 * scale.double().log().sum(-1))
    assert float(kl.mean()) < 0.01
    post = fitted.posterior(x=FLOWERS[:1], num_samples=2000, seed=1)
    found = post.moments("z")
    assert (np.abs(found.mean[0] - exact_mean[0].numpy()) < 4.5 * found.mean_se[0] + 1e-3).all()


def test_the_curve_and_what_is_reported_are_the_bound_at_weight_one() -> None:
    warmed = ph.train(linear_model(), svi(num_steps=60, kl_warmup=50), seed=0, progress=False)
    history = warmed.history
    np.testing.assert_allclose(history["elbo"], history["reconstruction"] - history["kl"], rtol=1e-5)
    np.testing.assert_allclose(history["kl_weight"][[0, 24, 49, 59]], [0.02, 0.5, 1.0, 1.0])
    assert len(history["elbo"]) == 60


def test_the_weight_of_the_kl_and_its_floor_move_training_as_they_should() -> None:
    plain = ph.train(linear_model(), svi(num_steps=300), seed=0, progress=False)
    warmed = ph.train(linear_model(), svi(num_steps=300, kl_warmup=299), seed=0, progress=False)
    floored = ph.train(linear_model(), svi(num_steps=300, free_bits=4.0), seed=0, progress=False)
    assert warmed.history["kl"][50] > plain.history["kl"][50] + 15.0
    kl = [float(np.asarray(found.usage().kl).min()) for found in (plain, floored)]
    assert kl[1] > 3.5 > kl[0]


@pytest.mark.parametrize("engine", ["graph", "loop"])
def test_a_resumed_training_is_the_straight_one_bit_for_bit(engine: str, tmp_path: Path) -> None:
    settings = {"batch_size": 40, "engine": engine, "cosine": False}
    straight = ph.train(linear_model(), svi(num_steps=20, **settings), seed=5, progress=False)
    file = tmp_path / "half.pt"
    ph.train(linear_model(), svi(num_steps=10, **settings), seed=5, progress=False, checkpoint=file)
    resumed = ph.train(linear_model(), svi(num_steps=20, **settings), seed=5, progress=False, resume_from=file)
    for name, value in straight.params.items():
        assert torch.equal(value, resumed.params[name])
    np.testing.assert_array_equal(straight.history["elbo"], resumed.history["elbo"])
    assert straight.guide is not None
    assert resumed.guide is not None
    for a, b in zip(straight.guide.encoder.parameters(), resumed.guide.encoder.parameters(), strict=True):
        assert torch.equal(a, b)
    loaded = ph.load(file, model=linear_model())
    assert loaded.estimate_elbo(num_samples=2, seed=0).elbo.shape == (150,)
    other = ph.train(linear_model(), svi(num_steps=20, **settings), seed=6, progress=False)
    assert not torch.equal(other.params["sigma"], straight.params["sigma"])


def test_graph_loop_and_machine_code_take_the_same_steps() -> None:
    found = {
        engine: ph.train(linear_model(), svi(num_steps=8, batch_size=64, dtype="float64", engine=engine), seed=0)
        for engine in ("graph", "loop", "compiled")
    }
    for engine in ("loop", "compiled"):
        np.testing.assert_allclose(found[engine].history["elbo"], found["graph"].history["elbo"], rtol=1e-9)
    assert [fit.engine for fit in found.values()] == ["graph", "loop", "compiled"]


def test_every_datum_is_seen_once_an_epoch() -> None:
    seen: list[torch.Tensor] = []

    class Spy:
        names, initial, rest, record_names = ("a",), (torch.zeros(1),), 0, ("elbo", "reconstruction", "kl")

        def gradient(self, params: Any, inputs: Any) -> Any:
            seen.append(inputs[0])
            return torch.zeros(3), (torch.zeros(1),)

    plan = epochs.EpochRun(
        num_steps=8,
        rows=10,
        batch_size=3,
        dim=1,
        rest=0,
        learning_rate=0.1,
        cosine=False,
        kl_warmup=0,
        tolerance=None,
        optim=epochs.AdamConfig(0.9, 0.999, 1e-8, None),
    )
    epochs.learn(Spy(), plan, np.random.SeedSequence(0), tier="loop", progress=False, start=None)  # type: ignore[arg-type]
    assert [len(rows) for rows in seen] == [3, 3, 3, 1, 3, 3, 3, 1]
    first, second = torch.cat(seen[:4]), torch.cat(seen[4:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()


def test_the_minibatch_bound_is_unbiased_for_latents_that_all_data_share() -> None:
    def program(num_rows: int) -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("row", num_rows):
            z = pyro.sample("z", dist.Normal(0.0, scale))
            pyro.sample(
                "y", dist.Normal(z, pyro.param("noise", torch.tensor(1.0), constraint=dist.constraints.positive))
            )

    y = FLOWERS[:, 0]
    curves = []
    for batch in (150, 25):
        model = ph.Model(program, 150).observe(y=y)
        made = svi(num_steps=400, batch_size=batch, optim=ph.Adam(learning_rate=1e-9), cosine=False)
        curves.append(ph.train(model, made, seed=0, progress=False).history["elbo"])
    error = math.hypot(*(curve.std() / len(curve) ** 0.5 for curve in curves))
    assert abs(curves[0].mean() - curves[1].mean()) < 4 * error


def test_labels_that_are_known_in_part_are_learned_from() -> None:
    labels = torch.tensor(load_iris().target).float()
    some = torch.where(torch.arange(150) % 5 == 0, labels, torch.nan)

    def classes(num_rows: int) -> None:
        loc = pyro.param("loc", torch.zeros(3, 2))
        with pyro.plate("row", num_rows):
            kind = pyro.sample("kind", dist.Categorical(torch.ones(3) / 3))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 0.3).to_event(1))
            pyro.sample("x", dist.Normal(loc[kind] + z, 0.3).to_event(1))

    model = ph.Model(classes, 150).observe(x=FLOWERS[:, 2:]).observe(kind=some, missing="latent")
    trained = ph.train(model, svi(num_steps=600), seed=0, progress=False)
    means = torch.stack([FLOWERS[labels == c][:, 2:].mean(0) for c in range(3)])
    assert float((trained.params["loc"] - means).abs().max()) < 0.25  # each label at its own flowers


def test_infer_with_an_amortised_guide_leaves_the_program_as_it_is() -> None:
    def program() -> None:
        with pyro.plate("row", 150):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 0.5))

    model = ph.Model(program).observe(y=FLOWERS[:, 0])
    guide = ph.Amortized(hidden=())
    post = ph.infer(model, ph.SVI(guide=guide, num_steps=1500, optim=ph.Adam(learning_rate=0.02), cosine=True), seed=0)
    exact = FLOWERS[:, 0].numpy() / 1.25
    assert np.abs(post.moments("z").mean - exact).max() < 0.1
    evidence = dist.Normal(0.0, 1.25**0.5).log_prob(FLOWERS[:, 0]).sum().item()
    assert post.log_evidence is not None
    assert float(post.log_evidence.value) == pytest.approx(evidence, abs=0.5)


def test_what_would_train_wrongly_is_refused() -> None:
    model = linear_model()
    with pytest.raises(ph.SettingError, match="batch_size: found 151; expected at most 150, the size of the data"):
        ph.train(model, svi(batch_size=151))
    with pytest.raises(ph.SettingError, match=r"kl_warmup, free_bits: found 100 steps of 100.*write: kl_warmup=50"):
        ph.train(model, svi(num_steps=100, kl_warmup=100))
    with pytest.raises(ph.SettingError, match="dtype: found 'float16'"):
        svi(dtype="float16")
    with pytest.raises(ph.SettingError, match=r"kl_warmup, free_bits: .*-1.0 nats"):
        svi(free_bits=-1.0)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "one.pt"
    ph.train(linear_model(), svi(num_steps=5), seed=0, progress=False, checkpoint=file)
    with pytest.raises(ph.DataFileError, match=r"parameter 'guide/body\.1\.1\.bias' of shape none"):
        ph.train(linear_model(), svi(num_steps=9, guide=ph.Amortized(hidden=(3,))), resume_from=file)
    with pytest.raises(ph.SettingError, match="num_steps: found 5, and 5 steps done already"):
        ph.train(linear_model(), svi(num_steps=5), resume_from=file)
    other = ph.Model(linear, nn.Linear(2, 4, bias=False), len(FLOWERS)).observe(x=FLOWERS)
    with pytest.raises(ph.DataFileError, match=r"training of another model: parameter 'decoder\$\$\$bias'"):
        ph.train(other, svi(num_steps=9), resume_from=file)


def test_a_training_that_explodes_keeps_what_it_had() -> None:
    def fragile(num_rows: int) -> None:
        shift = pyro.param("shift", torch.tensor(0.0))
        with pyro.plate("row", num_rows):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z + torch.log(1.0 - shift), 1.0))

    model = ph.Model(fragile, 150).observe(y=FLOWERS[:, 0] - 9.0)
    with pytest.warns(ph.ConvergenceWarning, match=r"train: step \d+ met .* that is not finite"):
        found = ph.train(model, svi(optim=ph.Adam(learning_rate=0.3), cosine=False), seed=0, progress=False)
    assert not found.converged
    assert all(bool(torch.isfinite(value).all()) for value in found.params.values())
    assert np.isfinite(found.history["elbo"]).all()


def test_half_precision_trains_to_about_the_same_bound() -> None:
    bounds = []
    for dtype in ("float32", "bfloat16"):
        found = ph.train(linear_model(), svi(num_steps=300, dtype=dtype), seed=0, progress=False)
        bounds.append(float(found.history["elbo"][-50:].mean()) / 150)
        assert all(value.dtype == torch.float32 for value in found.params.values())
    assert bounds[1] == pytest.approx(bounds[0], abs=0.15)
    assert bounds[0] != bounds[1]


def test_a_users_modules_stay_as_they_were() -> None:
    decoder = nn.Linear(2, 4)
    before = [value.detach().clone() for value in decoder.parameters()]
    model = ph.Model(linear, decoder, len(FLOWERS)).observe(x=FLOWERS)
    found = ph.train(model, svi(num_steps=5), seed=0, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, decoder.parameters(), strict=True))
    decoder.load_state_dict(found.state_dict("decoder"))
    assert torch.equal(decoder.weight, found.params["decoder$$$weight"])
    exported = torch.export.export(decoder, (torch.zeros(3, 2),)).module()
    torch.testing.assert_close(exported(torch.ones(3, 2)), decoder(torch.ones(3, 2)))
    with pytest.raises(ph.UnknownName, match=r"no module 'decodr'; did you mean 'decoder'"):
        found.state_dict("decodr")
    made = found.generate(7, seed=0)
    assert (made["z"].shape, made["x"].shape) == ((7, 2), (7, 4))


def test_grey_pixels_are_warned_of_and_a_plate_of_a_minibatch_is_refused() -> None:
    def program(num_images: int) -> None:
        with pyro.plate("image", num_images):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=z.unsqueeze(-1).expand(-1, 3)).to_event(1))

    grey = ph.Model(program, 4).observe(x=torch.full((4, 3), 0.4))
    (found,) = grey.check()
    assert found.severity == "warning"
    with pytest.warns(ph.ShapeWarning, match=r"site 'x': found grey values .*; write: x=\(x > 0.5\)"):
        ph.train(grey, svi(num_steps=2, guide=ph.Amortized()), seed=0, progress=False)
    with pytest.raises(ph.ModelError, match=r'write: pyro.plate\("image", 40\); ph.SVI\(batch_size=4\) takes'):
        ph.Model(program, 4).observe(x=torch.zeros(40, 3))


def test_an_interrupted_training_keeps_the_last_window_and_goes_on_from_it(monkeypatch: Any) -> None:
    count = 0
    whole = epochs.make_update

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        tier, step = whole(*args, **kwargs)

        def stepped(*given: Any) -> Any:
            nonlocal count
            count += 1
            if count == 130:
                raise KeyboardInterrupt
            return step(*given)

        return tier, stepped

    straight = ph.train(linear_model(), svi(num_steps=200, cosine=False), seed=3, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(epochs, "make_update", interrupted)
        half = ph.train(linear_model(), svi(num_steps=200, cosine=False), seed=3, progress=False)
    assert half.interrupted
    assert half.stop_reason == "interrupted after 100 steps"
    assert len(half.history["elbo"]) == 100
    on = ph.train(linear_model(), svi(num_steps=200, cosine=False), seed=3, progress=False, resume_from=half)
    np.testing.assert_array_equal(on.history["elbo"], straight.history["elbo"])
    assert torch.equal(on.params["sigma"], straight.params["sigma"])


def test_training_stops_once_the_bound_no_longer_rises() -> None:
    found = ph.train(linear_model(), svi(num_steps=20_000, cosine=False), seed=0, progress=False)
    assert found.converged
    assert 2000 <= len(found.history["elbo"]) < 20_000
    assert found.stop_reason.startswith("the smoothed ELBO stopped rising")


class LogVariance(nn.Module):
    """An encoder as a VAE by hand has it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 6))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loc, log_var = self.body(x).chunk(2, -1)
        return loc, torch.exp(0.5 * log_var)


def test_training_is_the_loop_by_hand_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    encoder, decoder = LogVariance(), nn.Linear(3, 12)
    x = torch.bernoulli(torch.rand(200, 12)).double()
    given: list[Any] = []
    whole = epochs.make_update

    def watched(*args: Any, **kwargs: Any) -> Any:
        tier, step = whole(*args, **kwargs)
        return tier, lambda at, rate, inputs: (given.append(inputs), step(at, rate, inputs))[1]

    def program(network: nn.Module) -> None:
        pyro.module("network", network)
        with pyro.plate("row", 200):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=network(z)).to_event(1))

    monkeypatch.setattr(epochs, "make_update", watched)
    usual = svi(guide=ph.Amortized(encoder=encoder), num_steps=60, batch_size=64, cosine=False, dtype="float64")
    ours = ph.train(ph.Model(program, decoder).observe(x=x), usual, seed=0, progress=False)

    networks = [copy.deepcopy(network).double() for network in (encoder, decoder)]
    optimiser = torch.optim.Adam([value for network in networks for value in network.parameters()], lr=0.02)
    by_hand = []
    for index, noise, _, _ in given:
        loc, scale = networks[0](x[index])
        logits = networks[1](loc + scale * noise)
        cost = nn.functional.binary_cross_entropy_with_logits(logits, x[index], reduction="sum")
        kl = 0.5 * (loc.square() + scale.square() - 1.0).sum() - scale.log().sum()
        optimiser.zero_grad()
        ((cost + kl) / len(index)).backward()
        optimiser.step()
        by_hand.append(-float((cost + kl).detach()) / len(index))
    np.testing.assert_allclose(ours.history["elbo"] / 200, by_hand, rtol=1e-9)
    torch.testing.assert_close(ours.params["network$$$weight"], networks[1].weight.detach(), rtol=1e-7, atol=1e-9)
