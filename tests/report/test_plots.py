"""Pictures: what each shows, what it refuses, and that nothing global is touched."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure

import phlogiston as ph
from phlogiston.report.plots import DoesNotApply, Plots, components, densities
from phlogiston.stats.moments import quantiles
from phlogiston.stats.weights import log_mean_exp

SCHOOLS = ["Choate", "Deerfield", "Andover"]
PICTURES = [
    "trace",
    "marginals",
    "forest",
    "pair",
    "rank",
    "weights",
    "predictive",
    "energy",
    "khat",
    "evidence",
    "gap",
    "history",
]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def schools() -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("school", 3):
        theta = pyro.sample("theta", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(theta, 1.0))


def model(labels: list[str] | None = None) -> ph.Model:
    coords = {"school": labels} if labels else None
    return ph.Model(schools, coords=coords).observe(y=[1.0, 2.0, 3.0])


def of_chains(num_chains: int = 4, num_draws: int = 60, **more: Any) -> ph.Posterior:
    size = (num_chains, num_draws)
    diverging = torch.zeros(size, dtype=torch.bool)
    diverging[0, ::20] = True
    given: dict[str, Any] = {
        "draws": {"mu": normal(*size), "theta": normal(*size, 3, seed=1)},
        "stats": {"energy": normal(*size, seed=2), "diverging": diverging},
        "model": model(SCHOOLS),
        "method": "nuts",
        "is_chain": True,
        "seed": 0,
    }
    return ph.Posterior(**given | more)


def weighted(spread: float = 0.3) -> ph.Posterior:
    draws = {"mu": normal(1, 500), "theta": normal(1, 500, 3, seed=1)}
    log_weights = spread * normal(1, 500, seed=2)
    return ph.Posterior(draws=draws, log_weights=log_weights, model=model(SCHOOLS), method="importance", seed=0)


def independent(draws: dict[str, Any], **more: Any) -> ph.Posterior:
    return ph.Posterior(draws={name: torch.as_tensor(v) for name, v in draws.items()}, method="exact", **more)


def drawn(figure: Figure) -> Figure:
    """A figure that has been drawn once, as saving it does."""
    figure.savefig(io.BytesIO())
    return figure


def labels_of(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def title_of(figure: Figure) -> str:
    return figure.get_suptitle().replace("\n", " ")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("trace", 8),
        ("marginals", 4),
        ("pair", 10),
        ("rank", 4),
        ("predictive", 1),
        ("energy", 1),
        ("forest", 1),
        ("khat", 1),
    ],
)
def test_pictures_of_chains(name: str, count: int, tmp_path: Path) -> None:
    figure = getattr(of_chains().plot, name)()
    assert isinstance(figure, Figure)
    assert len(figure.axes) == count
    assert title_of(figure).endswith(")") or "4 chains × 60 draws" in title_of(figure)
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "count"), [("marginals", 4), ("pair", 10), ("weights", 2), ("predictive", 1), ("forest", 1), ("khat", 1)]
)
def test_pictures_of_weighted_draws(name: str, count: int) -> None:
    figure = getattr(weighted().plot, name)()
    assert len(figure.axes) == count
    assert "500 weighted draws" in title_of(figure)


def test_components_are_called_by_the_models_labels() -> None:
    expected = ["mu", "theta[Choate]", "theta[Deerfield]", "theta[Andover]"]
    assert labels_of(of_chains().plot.trace()) == expected
    assert labels_of(of_chains().plot.rank()) == expected
    assert labels_of(of_chains(model=model()).plot.marginals()) == ["mu", "theta[0]", "theta[1]", "theta[2]"]
    assert labels_of(of_chains(model=None).plot.marginals()) == ["mu", "theta[0]", "theta[1]", "theta[2]"]


def test_long_and_mathematical_names_stay_legible() -> None:
    post = independent({"a_name_that_goes_on_and_on_and_on": normal(1, 9, 2), "$x$": normal(1, 9)})
    assert labels_of(post.plot.marginals()) == [
        "a_name_that_goes_on_and_…[0]",
        "a_name_that_goes_on_and_…[1]",
        r"\$x\$",
    ]


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        ("mu", ["mu"]),
        (["theta"], ["theta[Choate]", "theta[Deerfield]", "theta[Andover]"]),
        (("theta[Andover]", "mu"), ["theta[Andover]", "mu"]),
        (["theta[0]", "theta[Choate]"], ["theta[Choate]"]),
    ],
)
def test_sites_and_single_components_can_be_asked_for(sites: Any, expected: list[str]) -> None:
    assert labels_of(of_chains().plot.marginals(sites)) == expected


@pytest.mark.parametrize("name", ["trace", "marginals", "pair", "rank"])
def test_unknown_sites_are_named_with_the_nearest(name: str) -> None:
    with pytest.raises(ph.UnknownName, match="found no site 'thets'; did you mean 'theta'"):
        getattr(of_chains().plot, name)(var_names=["thets"])
    with pytest.raises(ph.UnknownName, match=r"site 'theta' has no component 'theta\[Choat\]'; did you mean"):
        getattr(of_chains().plot, name)(var_names="theta[Choat]")


@pytest.mark.parametrize(
    ("post", "name", "message"),
    [
        (weighted, "trace", "trace (importance): found weighted draws, which have no order to look at; expected the "
         "draws of chains, such as those of 'nuts'; write: post.plot.weights()"),
        (weighted, "rank", "rank (importance): found weighted draws"),
        (lambda: independent({"x": normal(1, 9)}), "trace", "found independent draws, which have no order to look at"),
        (lambda: of_chains(1), "rank", "rank: found one chain; expected several to compare; write: num_chains=4"),
        (of_chains, "weights", "weights (nuts): found draws that count the same; expected weighted draws, such as "
         "those of 'importance'; write: post.plot.marginals()"),
        (lambda: of_chains(stats={}), "energy", "energy (nuts): found no energies; expected those of a Hamiltonian"),
        (lambda: independent({"x": normal(1, 9)}), "pair", "pair: found one component; expected two or more"),
        (lambda: of_chains(model=None), "predictive", "found a posterior without its model; expected one; "
         "write: ph.load(path, model=model)"),
        (lambda: of_chains(model=ph.Model(schools)), "predictive", "found no observed site"),
    ],
)  # fmt: skip
def test_what_does_not_apply_is_refused_with_what_does(
    post: Callable[[], ph.Posterior], name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=r"; expected ") as caught:
        getattr(post().plot, name)()
    assert isinstance(caught.value, DoesNotApply)
    assert message in str(caught.value)


def test_ten_thousand_components_take_seconds_and_the_worst_are_shown() -> None:
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((4, 200, 100, 100))
    draws[2, :, 7, 77] += 2.0  # one chain elsewhere
    draws[:, :, 42, 42] = np.cumsum(draws[:, :, 42, 42], axis=1)  # a random walk
    draws[3, :, 1, 23] *= 5.0  # one chain wider
    draws[0, 17, 90, 0] = np.nan
    draws[..., 50, 0] = 3.0  # a constant is no worry
    post = ph.Posterior(
        draws={"w": torch.from_numpy(draws), "scale": torch.from_numpy(rng.random((4, 200)))},
        method="nuts",
        is_chain=True,
    )
    began = time.process_time()
    figure = post.plot.trace()
    assert time.process_time() - began < 20.0  # about three
    assert len(figure.axes) == 2 * components.LIMIT
    assert "the 12 of 10,001 components with the worst R-hat and ESS" in title_of(figure)
    assert {"w[7, 77]", "w[42, 42]", "w[1, 23]", "w[90, 0]"} <= set(labels_of(figure))
    assert "w[50, 0]" not in labels_of(figure)
    assert len(post.plot.pair().axes) == 15
    assert "the 5 of 10,001" in title_of(post.plot.pair())


def test_draws_that_are_no_chains_show_the_first_components() -> None:
    figure = independent({"x": normal(1, 50, 2_000)}).plot.marginals()
    assert labels_of(figure) == [f"x[{i}]" for i in range(12)]
    assert "the first 12 of 2,000 components" in title_of(figure)


def test_no_global_is_touched(tmp_path: Path) -> None:
    from matplotlib import pyplot

    with mpl.rc_context({"axes.facecolor": "black", "font.size": 30}):
        before, figures, style = dict(mpl.rcParams), pyplot.get_fignums(), list(warnings.filters)
        states = torch.get_rng_state(), np.random.get_state()[1].tolist()
        for post in (of_chains(), weighted()):
            post.plot.all(tmp_path)
            figure = post.plot.marginals()
            assert figure.axes[0].get_facecolor() == (1.0, 1.0, 1.0, 1.0)
        assert dict(mpl.rcParams) == before
        assert pyplot.get_fignums() == figures
        assert list(warnings.filters) == style
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.random.get_state()[1].tolist() == states[1]


def test_a_picture_that_breaks_leaves_the_style_as_it_was() -> None:
    before = dict(mpl.rcParams)
    with pytest.raises(DoesNotApply):
        weighted().plot.trace()
    assert dict(mpl.rcParams) == before


def test_matplotlib_is_imported_when_something_is_drawn() -> None:
    code = "import sys, phlogiston; assert not any(name.startswith('matplotlib') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_notebooks_show_pictures() -> None:
    assert of_chains().plot.energy()._repr_png_().startswith(b"\x89PNG")


def test_all_writes_what_applies(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    names = [path.name for path in of_chains().plot.all(folder)]
    chains = ["trace", "marginals", "forest", "pair", "rank", "predictive", "energy", "khat"]
    assert names == [f"{name}.png" for name in chains]
    assert sorted(names) == sorted(path.name for path in folder.iterdir())
    names = [path.name for path in weighted().plot.all(str(tmp_path))]
    assert names == [f"{name}.png" for name in ("marginals", "forest", "pair", "weights", "predictive", "khat")]


def test_every_public_picture_is_documented_and_written_by_all() -> None:
    public = {name for name in vars(Plots) if not name.startswith("_")} - {"posterior", "all"}
    assert public == set(PICTURES)


def test_divergences_are_counted_and_marked() -> None:
    figure = of_chains().plot.trace("mu")
    assert "3 divergences (ticks)" in title_of(figure)
    rugs = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "|"]
    assert [len(line.get_xdata()) for line in rugs] == [3, 3]
    np.testing.assert_array_equal(rugs[1].get_xdata(), [0, 20, 40])
    pairs = of_chains().plot.pair(["mu", "theta[0]"])
    assert [len(points.get_offsets()) for points in pairs.axes[1].collections] == [237, 3]
    one = torch.zeros(4, 60, dtype=torch.bool)
    one[1, 1] = True
    assert "1 divergence" in title_of(of_chains(stats={"diverging": one}).plot.trace())
    assert "no divergences" in title_of(of_chains(stats={"diverging": one & False}).plot.trace())


def test_traces_show_every_chain_with_its_verdict() -> None:
    figure = of_chains(3).plot.trace("theta")
    left, right = figure.axes[0], figure.axes[1]
    colours = {line.get_color() for line in right.lines if line.get_marker() != "|"}
    assert len(colours) == 3
    assert len([line for line in left.lines if line.get_marker() != "|"]) == 3
    assert right.get_title(loc="right").startswith("R-hat ")
    assert "ESS" in right.get_title(loc="right")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["chain 0", "chain 1", "chain 2"]
    assert "R-hat" not in of_chains(1).plot.trace("mu").axes[1].get_title(loc="right")


def test_many_chains_are_shaded_and_their_worst_ranked() -> None:
    draws = normal(20, 50)
    draws[13] += 5.0
    post = of_chains(20, 50, draws={"x": draws}, stats={}, model=None)
    assert "chains from dark to light" in title_of(post.plot.trace())
    ranks = post.plot.rank()
    assert "the 8 chains" in title_of(ranks)
    assert "13" in [text.get_text() for text in ranks.axes[0].get_yticklabels()]


def test_ranks_of_tied_draws_look_level() -> None:
    draws = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (2, 1000)))
    figure = of_chains(draws={"b": draws}, stats={}, model=None).plot.rank()
    heights = [patch.get_data().values - patch.get_data().baseline for patch in figure.axes[0].patches]
    assert len(heights) == 2
    np.testing.assert_allclose(heights, 1.0, atol=0.35)


def test_marginals_mark_mean_interval_and_reference() -> None:
    figure = weighted(2.0).plot.marginals("mu", reference={"mu": 9.0, "theta": [1.0, 2.0, 3.0]})
    axes = figure.axes[0]
    post = weighted(2.0)
    assert post.weights is not None
    mean = float((post.weights * post.draws["mu"]).sum())
    verticals = [line.get_xdata() for line in axes.lines if len(set(line.get_xdata())) == 1]
    assert [float(x[0]) for x in verticals] == pytest.approx([mean, 9.0])
    assert axes.get_xlim()[1] > 9.0
    row = post.summary().loc["mu"]
    bar = next(line.get_xdata() for line in axes.lines if line.get_linewidth() > 2.0)
    assert list(bar) == pytest.approx([row["q5"], row["q95"]])
    assert "dashed: reference" in title_of(figure)


def test_references_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ph.UnknownName, match="reference names no site 'm'; did you mean 'mu'"):
        of_chains().plot.marginals(reference={"m": 1.0})
    message = r"marginals: reference of site 'theta': found shape \(2,\); expected shape \(3,\)"
    with pytest.raises(ValueError, match=message):
        of_chains().plot.marginals(reference={"theta": [1.0, 2.0]})


def test_whole_numbers_are_bars_and_exact_probabilities_exact() -> None:
    draws = {"z": torch.tensor([[0, 1, 1, 2]]), "k": torch.tensor([[3.0, 5.0, 5.0, 5.0]])}
    figure = independent(draws, marginals={"z": torch.tensor([0.2, 0.3, 0.5])}).plot.marginals()
    z, k = figure.axes
    assert [patch.get_height() for patch in z.patches] == pytest.approx([0.2, 0.3, 0.5])
    assert [(p.get_x() + p.get_width() / 2, p.get_height()) for p in k.patches] == [
        (3.0, 0.25),
        (4.0, 0.0),
        (5.0, 0.75),
    ]
    assert "exact probabilities where filled dark" in title_of(figure)


def test_states_are_called_by_their_labels() -> None:
    def flowers() -> None:
        pyro.sample("species", dist.Categorical(torch.tensor([0.5, 0.5])))

    named = ph.Model(flowers, coords={"species_state": ["setosa", "virginica"]})
    exact = {"species": torch.tensor([0.4, 0.6])}
    figure = independent({"species": torch.tensor([[0, 1]])}, marginals=exact, model=named).plot.marginals()
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["setosa", "virginica"]


def test_weighted_histograms_and_pairs_follow_the_weights() -> None:
    values = torch.cat([torch.zeros(500), torch.ones(500)])[None] + 0.01 * normal(1, 1000)
    log_weights = torch.where(values > 0.5, 0.0, -50.0).double()
    post = ph.Posterior(draws={"x": values, "y": normal(1, 1000)}, log_weights=log_weights, method="importance", seed=0)
    shown = post.plot.pair().axes[1].collections[0].get_offsets()[:, 0]
    assert shown.min() > 0.9
    low, _ = post.plot.marginals("x").axes[0].get_xlim()
    assert low > 0.9  # draws without weight do not stretch the axis


def test_weights_say_whether_to_believe_them() -> None:
    good, bad = title_of(weighted(0.3).plot.weights()), title_of(weighted(8.0).plot.weights())
    assert ": to be believed; ESS" in good
    assert "not to be believed; ESS" in bad
    post = ph.Posterior(draws={"x": normal(1, 100)}, log_weights=torch.zeros(1, 100).double(), method="importance")
    assert "the largest weights are equal" in title_of(post.plot.weights())
    assert "ESS 100 of 100 (100 %)" in title_of(post.plot.weights())


def test_impossible_draws_have_no_place_on_log_axes() -> None:
    log_weights = torch.full((1, 50), -torch.inf, dtype=torch.float64)
    log_weights[0, :3] = 0.0
    post = ph.Posterior(draws={"x": normal(1, 50)}, log_weights=log_weights, method="importance", seed=0)
    for name in ("weights", "marginals"):
        figure = drawn(getattr(post.plot, name)())
        assert "3" in title_of(figure) or "50 weighted draws" in title_of(figure)
        assert all(np.isfinite(ax.get_xlim()).all() and np.isfinite(ax.get_ylim()).all() for ax in figure.axes)


def test_energy_says_its_bfmi() -> None:
    assert "E-BFMI by chain" in title_of(of_chains().plot.energy())
    post = of_chains(20, 30, draws={"x": normal(20, 30)}, stats={"energy": normal(20, 30)}, model=None)
    assert "E-BFMI lowest" in title_of(post.plot.energy())


def test_forests_have_a_row_a_component_and_a_line_a_chain() -> None:
    axes = of_chains().plot.forest().axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["mu", *(f"theta[{name}]" for name in SCHOOLS)]
    assert sum(len(line.get_xdata()) == 2 for line in axes.lines) >= 2 * 4 * 4
    assert sum("R-hat" in text.get_text() for text in axes.texts) == 4
    many = of_chains(draws={"x": normal(4, 60, 100)}, model=None).plot.forest()
    assert "the 40 of 100 components with the worst R-hat and ESS" in title_of(many)
    assert len(many.axes[0].get_yticklabels()) == 40


def test_weighted_forests_show_weighted_quantiles() -> None:
    post = weighted(2.0)
    lines = post.plot.forest("mu").axes[0].lines
    values, weights = post.draws["mu"].numpy(), post.weights.numpy()
    low, high = quantiles(values, (0.05, 0.95), weights)
    assert np.allclose(lines[0].get_xdata(), [low, high])


def test_khat_marks_the_observations_above_its_limit() -> None:
    draws = {"mu": normal(4, 60), "theta": torch.tensor([1.0, 2.0, 3.0]) + 3.0 * normal(4, 60, 3, seed=1)}
    post = of_chains(draws=draws)
    found = post.loo("y")
    axes = post.plot.khat().axes[0]
    assert {text.get_text() for text in axes.texts} == {SCHOOLS[i] for i in np.nonzero(found.khat > found.limit)[0]}
    assert axes.texts
    assert np.allclose(np.sort(np.concatenate([line.get_ydata() for line in axes.lines[:2]])), np.sort(found.khat))


def test_evidence_settles_where_it_is_stated() -> None:
    post = weighted()
    with pytest.raises(DoesNotApply, match=r"evidence \(importance\): found no estimate"):
        post.plot.evidence()
    logs = post.log_weights.reshape(-1).numpy()
    stated = dataclasses.replace(post, log_evidence=log_mean_exp(logs))
    axes = stated.plot.evidence().axes[0]
    assert np.isclose(axes.lines[0].get_ydata()[-1], stated.log_evidence.value)
    alone = dataclasses.replace(of_chains(), log_evidence=ph.Estimate(-3.0, 0.1)).plot.evidence()
    assert "log p(observed) = -3.0000 ± 0.1000" in title_of(alone)


def test_gaps_and_histories_are_drawn_for_guides(load_model: Any) -> None:
    svi = ph.SVI(num_steps=400, engine="graph")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        post = ph.infer(load_model("ppca").model, svi, seed=0, progress=False)
    figure = post.plot.gap()
    assert f"KL[q, p] = {post.gap.value:.3f}" in title_of(figure)
    bar = figure.axes[0].patches[0]
    assert np.isclose(bar.get_width(), post.gap.value)
    assert labels_of(post.plot.history()) == [name for name in post.history if name != "step"]
    for name in ("gap", "history"):
        with pytest.raises(DoesNotApply, match=name):
            getattr(of_chains().plot, name)()


def test_draws_that_are_not_finite_or_do_not_vary_are_drawn_all_the_same() -> None:
    draws = {"nan": torch.full((4, 60), torch.nan), "same": torch.full((4, 60), 3.7), "inf": normal(4, 60)}
    draws["inf"][0, 0] = torch.inf
    post = of_chains(draws=draws, model=None)
    for name in ("trace", "marginals", "pair", "rank"):
        figure = drawn(getattr(post.plot, name)())
        assert len(figure.axes) >= 3
        assert all(np.isfinite(ax.get_xlim()).all() and np.isfinite(ax.get_ylim()).all() for ax in figure.axes)
    assert "no finite draws" in [text.get_text() for text in post.plot.marginals("nan").axes[0].texts]


@pytest.mark.parametrize(("chains", "draws"), [(1, 1), (2, 2), (2, 3), (4, 5)])
def test_a_handful_of_draws_is_drawn_all_the_same(chains: int, draws: int, tmp_path: Path) -> None:
    post = of_chains(chains, draws)
    assert post.plot.all(tmp_path)


# ---------------------------------------------------------------- predictions


def counts(n: int, rate: float) -> ph.Posterior:
    def program() -> None:
        rates = pyro.sample("rate", dist.Gamma(rate, 1.0))
        with pyro.plate("town", n):
            pyro.sample("y", dist.Poisson(rates))

    rng = np.random.default_rng(0)
    predicted = torch.from_numpy(rng.poisson(rate, (1, 100, n))).double()
    return independent(
        {"rate": normal(1, 100).exp()},
        model=ph.Model(program).observe(y=rng.poisson(rate, n).astype(float)),
        predictions={"posterior_predictive": {"y": predicted}},
    )


def test_predictions_are_compared_one_by_one() -> None:
    axes = of_chains().plot.predictive().axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == SCHOOLS
    assert axes.get_xlabel() == "school"
    dots = next(line for line in axes.lines if line.get_marker() == "o")
    np.testing.assert_allclose(dots.get_ydata(), [1.0, 2.0, 3.0])
    assert axes.get_title(loc="right").endswith("of 3 observed within 90 %")


@pytest.mark.parametrize(
    ("n", "rate", "legend"),
    [
        (10, 0.5, "shade: predicted probability"),
        (10, 50.0, "lines: central 50 % and 90 %"),
        (60, 0.5, "bars: observed"),
        (60, 50.0, "blue: 50 predicted data sets"),
    ],
)
def test_each_kind_of_data_has_its_picture(n: int, rate: float, legend: str) -> None:
    figure = counts(n, rate).plot.predictive()
    assert len(figure.axes) == 1
    assert legend in title_of(figure)
    assert drawn(figure).axes[0].has_data()


def test_kept_predictions_are_used() -> None:
    kept = {"posterior_predictive": {"y": torch.full((4, 60, 3), 7.5)}}
    axes = of_chains(predictions=kept).plot.predictive().axes[0]
    assert axes.get_title(loc="right") == "0 of 3 observed within 90 %"


def several() -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("row", 3):
        pyro.sample("table", dist.Normal(z, torch.ones(2)).to_event(1))
    pyro.sample("number", dist.Normal(z, 1.0))


def test_columns_have_a_panel_each_and_sites_a_picture_each(tmp_path: Path) -> None:
    observed = ph.Model(several).observe(table=torch.zeros(3, 2), number=0.5)
    post = independent({"z": normal(1, 50)}, model=observed, seed=0)
    assert [axes.get_ylabel() for axes in post.plot.predictive("table").axes] == ["table[0]", "table[1]"]
    assert "of predictions are as large" in post.plot.predictive("number").axes[0].get_title(loc="right")
    with pytest.raises(ValueError, match=r'found 2 observed sites .* write: post.plot.predictive\("table"\)'):
        post.plot.predictive()
    with pytest.raises(ph.UnknownName, match="found no observed site 'tabel'; did you mean 'table'"):
        post.plot.predictive("tabel")
    names = [path.name for path in post.plot.all(tmp_path)]
    pictures = ["marginals", "forest", "predictive_table", "predictive_number", "khat_table", "khat_number"]
    assert names == [f"{name}.png" for name in pictures]


def test_single_values_are_shown_together() -> None:
    def series() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        for t in range(4):
            pyro.sample(f"y_{t}", dist.Normal(z, 1.0))

    observed = ph.Model(series).observe(y_0=0.0, y_1=0.1, y_2=0.2, y_3=0.3)
    axes = independent({"z": normal(1, 50)}, model=observed, seed=0).plot.predictive().axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["y_0", "y_1", "y_2", "y_3"]


# ---------------------------------------------------------------- densities


def test_a_density_integrates_to_one_and_stands_up_at_a_bound() -> None:
    values = np.random.default_rng(0).exponential(size=4000)
    low, high = densities.view(values)
    points, heights = densities.curve(values, low, high)
    assert (heights * np.diff(points)[0]).sum() == pytest.approx(1.0, abs=0.01)
    assert low >= 0.0
    assert heights[0] > 0.8


def test_a_narrow_mode_is_not_smoothed_away() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.0, 0.1, 500), rng.normal(5.0, 1.0, 500)])
    points, heights = densities.curve(values, -1.0, 9.0)
    assert heights[np.abs(points) < 0.2].max() > 0.9  # 2.0 in truth; Silverman's own rule finds 0.35


def test_tails_do_not_hide_the_rest() -> None:
    rng = np.random.default_rng(0)
    low, high = densities.view(rng.standard_cauchy(10_000))
    assert -60.0 < low < -10.0 < 10.0 < high < 60.0
    whole = rng.normal(size=10_000)
    low, high = densities.view(whole)
    assert ((whole > low) & (whole < high)).mean() > 0.998
