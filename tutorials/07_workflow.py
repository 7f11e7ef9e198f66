# %% [markdown]
# # 7. From data to a report that a colleague can check
#
# **Aim:** take one small data set through the whole of a Bayesian analysis, prior predictive, fit, diagnose, repair,
# agree, compare, calibrate, report, and catch at each step the mistake that the step is there to catch.
#
# Every step appears as mathematics and a loop first, and then as one line of `phlogiston`. Every equation is checked by
# an `assert`; where it concerns random numbers, the tolerance is four standard errors.
#
# Data: eighteen baseball players after 45 times at bat in 1970, and the rest of their season
# ([Efron and Morris 1975](https://doi.org/10.1080/01621459.1975.10479864)). `SMOKE=1` makes everything small.

# %%
import os
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.special import expit, logsumexp
from scipy.stats import binom, chi2, norm

import phlogiston as ph

SMOKE = os.environ.get("SMOKE", "0") not in ("", "0")  # tiny sizes, for continuous integration
HERE = Path(__file__).parent if "__file__" in globals() else Path.cwd()
FOLDER = Path(os.environ.get("TUTORIAL_OUT", HERE / "output"))
FOLDER.mkdir(parents=True, exist_ok=True)

torch.set_num_threads(1)  # on tensors this small, threads wait for each other
if SMOKE:  # so few draws that the library rightly complains; at full size only runs that are meant to fail may warn
    warnings.simplefilter("ignore", ph.PhlogistonWarning)

BLUE, ORANGE, GREEN, RED, GREY = "#2b6cb0", "#dd7a1e", "#2f855a", "#c53030", "#8a8f98"
plt.rcParams.update({"figure.dpi": 110, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"legend.frameon": False, "lines.linewidth": 1.8, "figure.constrained_layout.use": True})


def keep(figure, name):  # write a picture to the output folder
    figure.savefig(FOLDER / f"07_{name}.png")


def close(value, truth, se, sigmas=4.0):  # assert that a random value is within some standard errors of the truth
    off = np.abs(np.asarray(value) - np.asarray(truth)) / np.maximum(np.asarray(se), 1e-12)
    assert np.all(off <= sigmas), f"{value} is {np.max(off):.1f} standard errors from {truth}"


# %% [markdown]
# ## 1. The question and the data
#
# After 45 times at bat a player has $y_i$ hits. How well will he do in the rest of the season? His average so far is
# mostly luck: with a true rate of 0.27, the average over 45 has a standard deviation of
# $\sqrt{0.27\cdot0.73/45}=0.066$, as wide as the whole league. The rest of the season, some 370 times at bat each, is
# kept aside: nobody looks at it before section 7.

# %%
PLAYERS = ["Clemente", "F. Robinson", "F. Howard", "Johnstone", "Berry", "Spencer", "Kessinger", "Alvarado", "Santo"]
PLAYERS += ["Swoboda", "Unser", "Williams", "Scott", "Petrocelli", "E. Rodriguez", "Campaneris", "Munson", "Alvis"]
hits = np.array([18, 17, 16, 15, 14, 14, 13, 12, 11, 11, 10, 10, 10, 10, 10, 9, 8, 7.0])
later = [0.346, 0.298, 0.276, 0.222, 0.273, 0.270, 0.263, 0.210, 0.269, 0.230]
later = np.array([*later, 0.264, 0.256, 0.303, 0.264, 0.226, 0.286, 0.316, 0.200])
BATS, N = 45, len(PLAYERS)
assert len(hits) == len(later) == N == 18
assert abs(np.sqrt(0.27 * 0.73 / BATS) - 0.066) < 1e-3
print(f"averages from {hits.min() / BATS:.3f} to {hits.max() / BATS:.3f}, sd {hits.std() / BATS:.3f}; luck has 0.066")

# %% [markdown]
# ## 2. A model, and what it believes before it sees data
#
# The players come from one league. On the logit scale, $\eta=\log\frac{\theta}{1-\theta}$:
#
# $$\mu\sim\mathcal N(m,s^2),\quad \tau\sim\mathrm{HalfNormal}(t),\quad \eta_i\sim\mathcal N(\mu,\tau^2),\quad
#   y_i\sim\mathrm{Binomial}\big(45,\ \theta_i=\sigma(\eta_i)\big).$$
#
# "Let the data speak" suggests wide priors, $m=0,s=10,t=10$. The **prior predictive** distribution
# $p(y)=\int p(y\mid\eta)\,p(\eta)\,d\eta$ says what that means. A logit beyond $\pm4$ is a rate below 2 % or above
# 98 %: given $\tau$, $\eta\sim\mathcal N(0,s^2+\tau^2)$, hence
#
# $$P(|\eta|>4)=2\int_0^\infty\Phi\Big(\frac{-4}{\sqrt{s^2+\tau^2}}\Big)\,p(\tau)\,d\tau .$$


# %%
def league(centre, spread, width, count):
    """The hierarchy as it is said: eta around mu."""
    mu = pyro.sample("mu", dist.Normal(centre, spread))
    tau = pyro.sample("tau", dist.HalfNormal(width))
    with pyro.plate("player", count):
        eta = pyro.sample("eta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Binomial(BATS, logits=eta))


coords = {"player": PLAYERS}
wide = ph.Model(league, 0.0, 10.0, 10.0, N, coords=coords).observe(y=hits)
told = ph.Model(league, -1.0, 0.5, 0.5, N, coords=coords).observe(
    y=hits
)  # 0.27 is a logit of -1; 0.12 to 0.5 are usual
draws = {name: model.simulate(2000 if SMOKE else 20_000, seed=0) for name, model in (("wide", wide), ("told", told))}

tau_grid = np.linspace(0.0, 60.0, 60_001)
density = 2.0 * norm.pdf(tau_grid, 0.0, 10.0)
outside = np.trapezoid(2.0 * norm.cdf(-4.0 / np.sqrt(100.0 + tau_grid**2)) * density, tau_grid)
first = draws["wide"]["eta"][:, 0].abs().numpy() > 4.0  # one player a draw: independent
close(first.mean(), outside, first.std() / np.sqrt(first.size))
print(f"wide priors: P(a player hits almost never or almost always) = {outside:.2f}")

figure, panels = plt.subplots(1, 2, figsize=(9, 3), sharex=True)
for axes, (name, drawn) in zip(panels, draws.items(), strict=True):
    axes.hist(drawn["y"].numpy().ravel(), np.arange(-0.5, BATS + 1), density=True, color=GREY)
    axes.plot(hits, np.full(N, 0.004), "|", color=RED, ms=12)
    axes.set(title=f"{name} priors", xlabel="hits of 45", yticks=[])
panels[0].set_ylabel("prior predictive")
keep(figure, "prior")

# %% [markdown]
# The "uninformative" prior is sure that most players hit always or never. The other one covers what batters do, and
# leaves room. `post.predictive_check(..., prior=True)` puts a p-value to it, once there is a posterior.
#
# ## 3. Fit, and read the verdict
#
# `post.diagnose()` is a report: every check with its number and its limit, what it means, what to do.

# %%
size = {"num_warmup": 100, "num_samples": 100, "max_tree_depth": 5, "engine": "graph"} if SMOKE else {}
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ph.PhlogistonWarning)  # we read the verdict instead
    centred = ph.infer(told, ph.NUTS(**size), seed=1, progress=False)
verdict = centred.diagnose()
print(verdict)
assert verdict.verdict != "trust"
assert any("diverged" in finding.message or "E-BFMI" in finding.message for finding in verdict)

# %% [markdown]
# **What it looks at.** Some checks need only the draws: R-hat, effective sample size, divergences with the place where
# they gather, here small $\tau$. Others hold the draws against the model's own density. For draws of $p$ on
# $\mathbb R^D$ and any tame $f$, integration by parts gives **Stein's identity**
#
# $$\mathbb E\big[f(u)\,\partial_j\log p(u)+\partial_jf(u)\big]=\int\partial_j\big(f\,p\big)\,du=0 ,$$
#
# with $f=1$ for location and $f=u_k-m_k$ for spread. Normalising constants drop out of $\partial\log p$, so that no
# evidence is needed. For a normal with precision $\Lambda$ the score is $-\Lambda(u-m)$: draws with covariance $C$
# make $\mathbb E[(u_k-m_k)\,\partial_j\log p]+\delta_{jk}=\delta_{jk}-(\Lambda C)_{jk}$, which vanishes only for
# $C=\Lambda^{-1}$. Half the variance shows as $\frac12$:

# %%
rng = np.random.default_rng(0)
sigma = np.array([[1.0, 0.6], [0.6, 1.0]])
for factor in (1.0, 0.5):
    u = np.sqrt(factor) * rng.standard_normal((20_000, 2)) @ np.linalg.cholesky(sigma).T
    score = -u @ np.linalg.inv(sigma)
    values = u[:, :, None] * score[:, None, :] + np.eye(2)
    close(values.mean(0), (1.0 - factor) * np.eye(2), values.std(0) / np.sqrt(len(u)))

# %% [markdown]
# ## 4. Repair
#
# The report names the repair: where $\tau$ is small, $\eta_i$ is squeezed against $\mu$, and no step size suits both
# ends (tutorial 3). Non-centred, $\eta_i=\mu+\tau z_i$ with $z_i\sim\mathcal N(0,1)$: the same model, as
# $\mu+\tau\,\mathcal N(0,1)=\mathcal N(\mu,\tau^2)$.


# %%
def non_centred(centre, spread, width, count):
    """The same hierarchy in coordinates of equal width."""
    mu = pyro.sample("mu", dist.Normal(centre, spread))
    tau = pyro.sample("tau", dist.HalfNormal(width))
    with pyro.plate("player", count):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", torch.sigmoid(mu + tau * z), event_dim=0)
        pyro.sample("y", dist.Binomial(BATS, theta))


model = ph.Model(non_centred, -1.0, 0.5, 0.5, N, coords=coords).observe(y=hits)
post = ph.infer(model, ph.NUTS(**size, target_accept_prob=0.95), seed=1, progress=False)
verdict = post.diagnose()
print(verdict)
assert SMOKE or verdict.verdict == "trust"
keep(post.plot.forest("theta"), "forest")

# %% [markdown]
# **The exact answer**, for once. Given $(\mu,\tau)$ the players are independent, so that all that is left is one
# integral a player, by Gauss and Hermite's rule, and one over the plane:
#
# $$p(y\mid\mu,\tau)=\prod_i\int\mathrm{Binomial}\big(y_i;45,\sigma(\mu+\tau z)\big)\,\mathcal N(z;0,1)\,dz,\qquad
#   \mathbb E[\theta_i\mid y]=\mathbb E_{\mu,\tau\mid y}\,\mathbb E[\theta_i\mid\mu,\tau,y_i].$$


# %%
def plane(y, num_nodes=24, size=100, mu=(-2.2, 0.0), tau=(0.0, 1.6)):
    """Over a grid of mu and tau: both axes, log evidence, posterior mass, and E[theta | mu, tau, y] by value of y."""
    nodes, masses = np.polynomial.hermite_e.hermegauss(num_nodes)
    masses = np.log(masses / masses.sum())
    mu, tau = np.linspace(*mu, size), np.linspace(*tau, size)
    eta = mu[:, None, None] + tau[None, :, None] * nodes  # [mu, tau, node]
    rates, rows = expit(eta), {}
    for value in np.unique(y):
        terms = binom.logpmf(value, BATS, rates) + masses
        total = logsumexp(terms, -1)
        rows[value] = total, np.sum(np.exp(terms - total[..., None]) * rates, -1)
    joint = norm.logpdf(mu, -1.0, 0.5)[:, None] + np.log(2.0) + norm.logpdf(tau, 0.0, 0.5)
    joint += sum(rows[value][0] for value in y)
    ends = np.ones(size)
    ends[[0, -1]] = 0.5
    weights = joint + np.log(ends)[:, None] + np.log(ends) + np.log((mu[1] - mu[0]) * (tau[1] - tau[0]))
    evidence = logsumexp(weights)
    return mu, tau, evidence, np.exp(weights - evidence), {value: mean for value, (_, mean) in rows.items()}


def exact(y, **size):
    """Log evidence, and posterior means of mu, tau and theta."""
    mu, tau, evidence, mass, rates = plane(y, **size)
    theta = np.array([(mass * rates[value]).sum() for value in y])
    return evidence, {"mu": mass.sum(1) @ mu, "tau": mass.sum(0) @ tau, "theta": theta}


log_evidence, truth = exact(hits)
assert SMOKE or abs(log_evidence - exact(hits, num_nodes=48, size=200)[0]) < 1e-4  # the rule has converged
for site in ("mu", "tau", "theta"):
    close(post.moments(site).mean, truth[site], post.moments(site).mean_se)
print(f"exact: mu {truth['mu']:.4f}, tau {truth['tau']:.4f}; NUTS: mu {post.expect('mu')}, tau {post.expect('tau')}")

# %% [markdown]
# ## 5. Agree: the same model by methods that fail differently
#
# Without a quadrature to lean on, let methods with different weaknesses answer the same question. If two estimates
# $a,b$ are right, $(a-b)/\sqrt{se_a^2+se_b^2}$ is about standard normal. Where they disagree, the diagnostics say whom
# to doubt. Gibbs draws each latent given all others, and creeps where they are tied together; importance sampling from
# the prior wastes nearly all of its particles. Neither knows of gradients, which NUTS lives by.

# %%
particles = 20_000 if SMOKE else 400_000
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ph.ConvergenceWarning)  # of Gibbs, which the verdicts below repeat
    gibbs = ph.infer(model, ph.Gibbs(num_samples=100 if SMOKE else 800, num_chains=16), seed=3, progress=False)
answers = {
    "nuts": post,
    "importance": ph.infer(model, "importance", num_particles=particles, seed=2, progress=False),
    "gibbs": gibbs,
}
largest = 0.0
for first in answers.values():
    for second in answers.values():
        a, b = first.moments("theta"), second.moments("theta")
        largest = max(largest, np.max(np.abs(a.mean - b.mean) / (np.hypot(a.mean_se, b.mean_se) + 1e-12)))
        close(a.mean, b.mean, np.hypot(a.mean_se, b.mean_se) + 1e-9, sigmas=4.5)  # 18 players, 3 pairs
print(f"by hand: means of theta differ by at most {largest:.1f} standard errors")

# %% [markdown]
# `ph.agree` does that for every mean and spread, with a limit for all comparisons together, lets a classifier try to
# tell the draws apart, puts the evidences side by side (from chains by bridge sampling), and says whom to doubt. It
# runs methods by itself, `ph.agree(model, methods=["nuts", "gibbs"])`, or takes posteriors that are there.

# %%
agreement = ph.agree(answers, seed=0)
print(agreement)
assert SMOKE or agreement.outlier in ("", "gibbs")
assert not agreement.differ("nuts", "importance")
keep(agreement.plot(), "agreement")
agreement.report(FOLDER / "07_agreement.html")

# %% [markdown]
# ## 6. Does it predict data like these?
#
# A **posterior predictive check** draws data sets $y^\mathrm{rep}\sim p(y^\mathrm{rep}\mid y)$ and asks how often a
# statistic is larger than in the data, $p=P\big(T(y^\mathrm{rep})>T(y)\big)$ (half of ties). The loop, and the line:

# %%
replicated = post.predict(seed=0)["y"].flatten(0, 1).numpy()
by_hand = np.mean(replicated.std(1) > hits.std()) + 0.5 * np.mean(replicated.std(1) == hits.std())
check = post.predictive_check("sd", seed=0)
assert abs(float(check.p_value.value) - by_hand) < 2e-3  # the library's sd divides by n - 1: ties may fall otherwise
for statistic in ("mean", "sd", "min", "max"):
    print(post.predictive_check(statistic))
    assert not post.predictive_check(statistic).extreme
keep(check.plot(), "check")
pit = post.loo_pit()
print(pit)
assert pit.p_value > 0.01
keep(pit.plot(), "pit")

# %% [markdown]
# ## 7. Compare: is a hierarchy worth its latents?
#
# Three models of the league: all players alike (**pooled**), nothing in common (**separate**), and the hierarchy
# between them. The **evidence** $p(y)=\int p(y\mid z)p(z)\,dz$ asks how well the prior predicted the data;
# leave-one-out, $\mathrm{elpd}=\sum_i\log p(y_i\mid y_{-i})$, how well the rest predicts each datum. The pooled model
# has one latent $\eta$, hence its evidence is one integral:
#
# $$p(y)=\int\prod_i\mathrm{Binomial}(y_i;45,\sigma(\eta))\;\mathcal N(\eta;-1,0.5^2)\,d\eta .$$
#
# Separate players tell nothing of each other, $p(y_i\mid y_{-i})=p(y_i)$: their elpd *is* their log evidence. Leaving
# one out by importance weights cannot find that, as without $y_i$ the posterior of $\eta_i$ is the whole prior; and
# k-hat says so.


# %%
def pooled(count):
    """One rate for all."""
    eta = pyro.sample("eta", dist.Normal(-1.0, 0.5))
    with pyro.plate("player", count):
        pyro.sample("y", dist.Binomial(BATS, logits=eta))


def separate(count):
    """A rate of his own for each, with a prior as wide as the hierarchy's."""
    with pyro.plate("player", count):
        eta = pyro.sample("eta", dist.Normal(-1.0, 0.7))
        pyro.sample("y", dist.Binomial(BATS, logits=eta))


grid = np.linspace(-3.0, 1.0, 4001)
likelihood = sum(binom.logpmf(y, BATS, expit(grid)) for y in hits)
pooled_evidence = logsumexp(likelihood + norm.logpdf(grid, -1.0, 0.5) + np.log(grid[1] - grid[0]))
rivals = {"pooled": ph.Model(pooled, N), "separate": ph.Model(separate, N), "hierarchy": model}
fits = {
    name: post if name == "hierarchy" else ph.infer(rival.observe(y=hits), ph.NUTS(**size), seed=4, progress=False)
    for name, rival in rivals.items()
}
comparison = ph.compare(fits, seed=5)  # evidences by bridge sampling from the draws
print(comparison)
evidences, elpd = comparison.log_evidence, comparison.loo
close(evidences["pooled"].value, pooled_evidence, evidences["pooled"].se + 1e-4)
close(evidences["hierarchy"].value, log_evidence, evidences["hierarchy"].se + 1e-4)
factor = comparison.log_bayes_factor("hierarchy", "separate")
print(f"the hierarchy against separate players: Bayes factor {np.exp(factor.value):.1f}")
assert np.exp(factor.value) > 10.0
assert any("separate: leave-one-out is not to be trusted" in warning for warning in comparison.warnings)
alone = norm.logpdf(grid, -1.0, 0.7) + np.log(grid[1] - grid[0])
separate_evidence = sum(logsumexp(binom.logpmf(y, BATS, expit(grid)) + alone) for y in hits)
close(evidences["separate"].value, separate_evidence, evidences["separate"].se + 2e-4)
assert elpd["separate"].elpd - separate_evidence > 1.0  # far too good
assert (elpd["separate"].khat > elpd["separate"].limit).sum() > N / 3  # and known to be
assert SMOKE or (elpd["hierarchy"].khat > elpd["hierarchy"].limit).sum() <= 2

# %% [markdown]
# Nothing in these 45 times at bat tells the hierarchy from one rate for all, a Bayes factor of about two; but players
# with nothing in common are out. And the judge that no statistician can bribe, the rest of the season: shrinking each
# average towards the league's more than halves the squared error, the paradox of Stein that made these data famous
# ([Efron and Morris 1977](https://doi.org/10.1038/scientificamerican0577-119)).

# %%
guess = {"his own average": hits / BATS, "the league's": np.full(N, hits.mean() / BATS), "hierarchy": truth["theta"]}
error = {name: float(np.sum((value - later) ** 2)) for name, value in guess.items()}
print(*(f"{name}: squared error {value:.4f}" for name, value in error.items()), sep="\n")
assert error["hierarchy"] < 0.5 * error["his own average"]

figure, axes = plt.subplots(figsize=(7.5, 4.2))
for i, name in enumerate(PLAYERS):
    axes.plot([hits[i] / BATS, truth["theta"][i]], [i, i], color=GREY, lw=1)
    axes.text(0.102, i, name, va="center", fontsize=8)
for values, colour, label in (
    (hits / BATS, GREY, "45 at bat"),
    (truth["theta"], BLUE, "hierarchy"),
    (later, RED, "rest"),
):
    axes.plot(values, range(N), "o", color=colour, ms=5, label=label)
axes.set(xlabel="rate of hits", yticks=[], xlim=(0.1, 0.42), title="Shrunk towards the league, and nearer to what came")
axes.invert_yaxis()
axes.legend(loc="lower right")
keep(figure, "shrinkage")

# %% [markdown]
# ## 8. Calibrate: would the method have found the truth?
#
# Draw the truth from the prior, data from the truth, and infer. Averaged over data, the posterior *is* the prior,
#
# $$\int p(\theta\mid y)\,p(y\mid\theta^*)\,p(\theta^*)\,d\theta^*\,dy=p(\theta),$$
#
# so that $\theta^*$ is one more draw of its own posterior, and its rank among $L$ of them is uniform on $0,\dots,L$
# ([Talts et al. 2018](https://arxiv.org/abs/1804.06788)). A posterior that is too narrow makes a $\cup$: the truth
# falls outside too often. By hand, with draws from the quadrature above, which is exact:


# %%
def by_quadrature(y, count, rng):
    """Draws of mu and tau from the exact posterior: a cell of the grid, and a point in it."""
    mu, tau, _, mass, _ = plane(y, num_nodes=16, size=90, mu=(-3.0, 1.0), tau=(0.0, 2.0))
    cells = rng.choice(mass.size, count, p=mass.ravel() / mass.sum())
    within = rng.uniform(-0.5, 0.5, (2, count))
    found = mu[cells // 90] + within[0] * (mu[1] - mu[0]), np.abs(tau[cells % 90] + within[1] * (tau[1] - tau[0]))
    return {"mu": found[0], "tau": found[1]}


simulations, bins, kept = (20, 4, 19) if SMOKE else (200, 10, 99)
truths = model.unobserved().simulate(simulations, seed=6)
rng, ranks = np.random.default_rng(0), {"mu": [], "tau": []}
for s in range(simulations):
    for site, values in by_quadrature(truths["y"][s].numpy(), kept, rng).items():
        ranks[site].append(np.sum(values < float(truths[site][s])))
for site, found in ranks.items():
    counts = np.histogram(found, np.linspace(0, kept + 1, bins + 1))[0]
    p_value = chi2.sf(np.sum((counts - simulations / bins) ** 2) / (simulations / bins), bins - 1)
    print(f"quadrature, {site}: p = {p_value:.2g}")
    assert p_value > 1e-3

# %% [markdown]
# `ph.calibrate` does it for any method: it simulates, infers, thins the draws to nearly independent ones, ranks, and
# says what a shape means. NUTS runs many simulations in one block of chains; other methods trace the model once for
# all. On trial: NUTS, and importance sampling from the prior with a thousand particles, which can be short of particles
# where the data are unusual. Does it know?

# %%
short = {"num_warmup": 60, "num_samples": 60} if SMOKE else {"num_warmup": 500, "num_samples": 500}
trials = {
    "nuts": ph.NUTS(**short, target_accept_prob=0.95, max_tree_depth=5 if SMOKE else 10),
    "importance": ph.Importance(num_particles=1000),
}
for name, method in trials.items():
    found = ph.calibrate(model, method, sites=("mu", "tau"), num_simulations=simulations, seed=8, progress=False)
    print(found)
    keep(found.plot(), f"calibration_{name}")
    assert SMOKE or found.calibrated == (name == "nuts")
    if name == "importance":
        assert SMOKE or found.flagged.mean() > 0.25  # it does know

# %% [markdown]
# ## 9. The report
#
# One page for a colleague: the verdict first, the model's graph, the summary, traces and ranks, energy, pairs,
# predictive checks, leave-one-out, and what it takes to do it again, down to a digest of the data. One file, which
# fetches nothing. `phlogiston run model.py --method nuts --report` writes the same.

# %%
page = post.report(FOLDER / "07_report.html")
text = page.read_text(encoding="utf-8")
print(f"{page}: {page.stat().st_size / 1e6:.2f} MB")
assert page.stat().st_size < 2e6
assert "<script" not in text
assert text.index(verdict.headline) < text.index("Reproducibility") < text.index("sha256")

# %% [markdown]
# ## 10. What to take away
#
# 1. Simulate before you fit: a prior that looks modest on one scale is fanatical on another.
# 2. Read the verdict before the mean. A finding names its place, and mostly its repair.
# 3. Draws can be held against the density itself, and methods against each other: agreement of methods that fail
#    differently is worth more than any number of draws from one.
# 4. Evidence judges prior and likelihood together, leave-one-out the prediction; neither says that a model is right.
#    Predictive checks say where it is wrong.
# 5. Calibration asks whether the whole pipeline would have found the truth. Do it once for each model that matters.
# 6. Hand on a page that can be checked, with what it takes to run it again.
