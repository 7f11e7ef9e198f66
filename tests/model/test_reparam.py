"""The same model in other coordinates: its density, its names, and chains that get where they could not."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.engine.program.locscale import centred_sites

NUTS = ph.NUTS(num_chains=8, num_samples=300, num_warmup=200, target_accept_prob=0.95, engine="graph")


def hierarchy(size: int, scale: float) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(2.0))
    with pyro.plate("group", size):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, scale))


def of_groups(scale: float = 1.0) -> ph.Model:
    return ph.Model(hierarchy, 4, scale, coords={"group": list("abcd")}).observe(y=[0.5, -0.2, 1.1, 0.4])


def test_the_sites_whose_scale_is_a_latent_are_found(load_model: Any) -> None:
    found = centred_sites(model := of_groups(), model.structure)
    assert [(site.site, site.loc, site.scale) for site in found] == [("theta", ("mu",), ("tau",))]
    assert str(found[0]) == "theta is drawn around mu with the latent scale tau"
    schools = load_model("eight_schools").model
    assert centred_sites(schools, schools.structure) == ()


@pytest.mark.parametrize("centred", [0.0, 0.3])
def test_the_density_is_that_of_the_same_model(centred: float) -> None:
    model = of_groups()
    changed = ph.reparam(model, centred)
    values = {"mu": torch.tensor(0.3), "tau": torch.tensor(0.7), "theta": torch.tensor([0.1, 0.9, -0.4, 0.6])}
    drawn = (values["theta"] - values["mu"]) * values["tau"] ** (centred - 1.0) + centred * values["mu"]
    inside = {"mu": values["mu"], "tau": values["tau"], "theta_decentered": drawn}
    jacobian = 4 * (1.0 - centred) * math.log(0.7)  # d theta / d drawn
    assert float(changed.target().log_joint(inside)) == pytest.approx(
        float(model.target().log_joint(values)) + jacobian, rel=1e-6
    )
    again = changed.target().deterministics({name: value.double() for name, value in inside.items()})["theta"]
    torch.testing.assert_close(again, values["theta"].double(), rtol=1e-6, atol=1e-6)


def test_sites_keep_their_names_dims_and_predictions() -> None:
    model = of_groups()
    changed = ph.reparam(model, 0.0)
    assert {name: site.role for name, site in changed.sites.items()} == {
        "mu": "latent",
        "tau": "latent",
        "theta_decentered": "latent",
        "theta": "deterministic",
        "y": "observed",
    }
    assert changed.sites["theta"].dims == ("group",)
    post = ph.infer(changed, ph.Importance(num_particles=4000), seed=0, progress=False)
    assert post.draws["theta"].shape == (1, 4000, 4)
    assert "theta[c]" in post.summary().index
    assert post.predict(6, 1.0)["y"].shape == (1, 4000, 6)
    direct = ph.infer(model, ph.Importance(num_particles=4000), seed=1, progress=False)
    assert abs(post.log_evidence.value - direct.log_evidence.value) < 4 * math.hypot(
        post.log_evidence.se, direct.log_evidence.se
    )
    assert pickle.loads(pickle.dumps(changed)).sites.keys() == changed.sites.keys()
    assert changed.name == "hierarchy"


def test_one_site_may_be_named_and_others_stay() -> None:
    changed = ph.reparam(of_groups(), {"theta": 1.0})
    assert changed.sites["theta"].role == "latent"
    assert "theta_decentered" not in changed.sites


def learned(scale: float) -> float:
    return float(ph.reparam(of_groups(scale)).program.centred["theta"])


def test_learned_centredness_follows_the_data() -> None:
    assert learned(5.0) < 0.3  # the data say little: non-centred
    assert learned(0.02) > 0.7  # the data hold theta fast: as written


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")
def test_centred_eight_schools_passes_in_other_coordinates(load_model: Any) -> None:
    module = load_model("eight_schools")
    posterior = ph.infer(ph.reparam(module.centred_model), NUTS, seed=0, progress=False)
    report = posterior.diagnose()
    assert report.verdict == "trust", str(report)
    for site in ("mu", "tau", "theta"):
        found = posterior.moments(site)
        assert (np.abs(found.mean - np.asarray(module.reference.mean[site])) <= 4.5 * found.mean_se).all()
        assert (np.abs(found.sd - np.asarray(module.reference.sd[site])) <= 4.5 * found.sd_se).all()


@pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")
def test_the_centred_funnel_passes_in_other_coordinates(load_model: Any) -> None:
    model = load_model("funnel").centred_model
    posterior = ph.infer(ph.reparam(model), NUTS, seed=0, progress=False)
    report = posterior.diagnose()
    assert report.verdict == "trust", str(report)
    found = posterior.moments("v")
    assert abs(found.mean) < 4.5 * found.mean_se
    assert abs(found.sd - 3.0) < 4.5 * found.sd_se
    assert posterior.draws["x"].shape == (8, 300, 9)


def test_bad_input_is_refused_with_the_line_to_write(load_model: Any) -> None:
    with pytest.raises(ph.UnsupportedModel, match="program 'eight_schools': found no latent of a location-scale"):
        ph.reparam(load_model("eight_schools").model)
    with pytest.raises(ph.UnknownName, match="reparam: found site 'thetta'; did you mean 'theta'"):
        ph.reparam(of_groups(), {"thetta": 0.0})
    for wrong in (1.5, "never", True):
        with pytest.raises(ph.SettingError, match="expected 'learn' or a number from 0 to 1"):
            ph.reparam(of_groups(), wrong)

    def counted() -> None:
        tau = pyro.sample("tau", dist.HalfNormal(1.0))
        pyro.sample("n", dist.Poisson(1.0))
        pyro.sample("theta", dist.Normal(0.0, tau))

    with pytest.raises(ph.UnsupportedModel, match=r"cannot be learned with site 'n'.*write: ph.reparam\(model, 0.0\)"):
        ph.reparam(ph.Model(counted))
    assert ph.reparam(ph.Model(counted), 0.0).sites["theta"].role == "deterministic"
