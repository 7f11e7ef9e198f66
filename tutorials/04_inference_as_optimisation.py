# %% [markdown]
# # 4. Inference as optimisation
#
# **Aim:** turn the posterior into the top of a hill, climb it, and measure what is left: $\log p(x)-\mathrm{ELBO}$ *is*
# the distance to the posterior, in nats.
#
# First as loops in a few lines of NumPy, then by `phlogiston`. Every equation is checked by an `assert`; where it
# concerns random numbers, the tolerance is four standard errors.
#
# Data: Rubin's eight schools, and 569 breast biopsies (Wolberg 1995, bundled with scikit-learn). `SMOKE=1` makes
# everything small.

# %%
import math
import os
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.stats import norm
from sklearn.datasets import load_breast_cancer

import phlogiston as ph

SMOKE = os.environ.get("SMOKE", "0") not in ("", "0")  # tiny sizes, for continuous integration
HERE = Path(__file__).parent if "__file__" in globals() else Path.cwd()
FOLDER = Path(os.environ.get("TUTORIAL_OUT", HERE / "output"))
FOLDER.mkdir(parents=True, exist_ok=True)
sys.path.insert(0, str(HERE.parent / "models"))  # programs with data and exact answers
import eight_schools as rubin
import normal_normal
import ppca

torch.set_num_threads(1)  # on tensors this small, threads wait for each other
warnings.simplefilter("ignore", ph.WeightWarning)  # several guides below are meant to fail, and their k-hat is printed
if SMOKE:  # so few steps that the library rightly complains
    warnings.simplefilter("ignore", ph.ConvergenceWarning)

BLUE, ORANGE, GREEN, RED, GREY = "#2b6cb0", "#dd7a1e", "#2f855a", "#c53030", "#8a8f98"
plt.rcParams.update({"figure.dpi": 110, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"legend.frameon": False, "lines.linewidth": 1.8, "figure.constrained_layout.use": True})


def keep(figure, name):  # write a picture to the output folder
    figure.savefig(FOLDER / f"04_{name}.png")


def agree(value, truth, se, sigmas=4.0):  # assert that a random value is within some standard errors of the truth
    off = np.abs(np.asarray(value) - np.asarray(truth)) / np.asarray(se)
    assert np.all(off <= sigmas), f"{value} is {np.max(off):.1f} standard errors from {truth}"


# %% [markdown]
# ## 1. Jensen's inequality, and what it loses
#
# Importance sampling (tutorial 2) writes the evidence as a mean, $p(x)=\mathbb E_q[w]$ with $w=p(x,z)/q(z)$. The
# logarithm is concave: it lies below its tangent at $\mathbb E w$, $\log w\le\log\mathbb Ew+(w-\mathbb Ew)/\mathbb Ew$.
# Take the mean of both sides:
#
# $$\underbrace{\mathbb E_q\Big[\log\frac{p(x,z)}{q(z)}\Big]}_{\mathrm{ELBO}(q)}\ \le\ \log\mathbb E_q[w]=\log p(x).$$
#
# What was lost? Put $p(x,z)=p(z\mid x)\,p(x)$ into the left side:
#
# $$\mathrm{ELBO}(q)=\log p(x)+\mathbb E_q\Big[\log\frac{p(z\mid x)}{q(z)}\Big]
#   =\log p(x)-\mathrm{KL}[q,\,p(z\mid x)].$$
#
# So the loss is the KL divergence from $q$ to the posterior, which is never negative. And as $\log p(x)$ does not
# depend on $q$: **to maximise the ELBO is to minimise that divergence**, without ever knowing the posterior.
#
# The example: $\mu\sim\mathcal N(0,2^2)$, five observations $y_i\sim\mathcal N(\mu,1)$. Everything is known: the
# posterior is $\mathcal N(m^*,s^{*2})$ with $1/s^{*2}=\tfrac14+5$ and $m^*=s^{*2}\sum y_i$. For $q=\mathcal N(m,s^2)$,
#
# $$\mathrm{ELBO}(m,s)=\underbrace{-\tfrac12\textstyle\sum_i\big[\log2\pi+(y_i-m)^2+s^2\big]
#   -\tfrac12\big[\log8\pi+\tfrac{m^2+s^2}{4}\big]}_{\mathbb E_q\log p(x,z)}
#   +\underbrace{\tfrac12\log2\pi e s^2}_{\text{entropy}} .$$

# %%
y = normal_normal.model.observed["y"].numpy()
s_star = (0.25 + len(y)) ** -0.5
m_star, log_evidence = s_star**2 * y.sum(), normal_normal.reference.log_evidence


def elbo(m, s):  # in closed form
    likelihood = sum(-0.5 * (math.log(2 * math.pi) + (y_i - m) ** 2 + s**2) for y_i in y)
    prior = -0.5 * (math.log(8 * math.pi) + (m**2 + s**2) / 4)
    return likelihood + prior + 0.5 * np.log(2 * math.pi * math.e * s**2)


def kl(m, s, m2, s2):  # KL[N(m, s^2), N(m2, s2^2)]
    return np.log(s2 / s) + (s**2 + (m - m2) ** 2) / (2 * s2**2) - 0.5


rng = np.random.default_rng(0)
for m, s in zip(rng.normal(0, 2, 100), rng.gamma(2.0, 0.5, 100), strict=True):
    assert abs(log_evidence - elbo(m, s) - kl(m, s, m_star, s_star)) < 1e-9  # log p(x) - ELBO = KL, for every q
assert abs(elbo(m_star, s_star) - log_evidence) < 1e-9  # no gap at the posterior

# %% [markdown]
# ### The ELBO as a functional
#
# Nothing so far asks $q$ to be normal. The ELBO maps *functions* to numbers, and its maximum over all of them follows
# from the calculus of variations: with a multiplier for $\int q=1$,
#
# $$\frac{\delta}{\delta q(z)}\Big[\int q\,(\log p(x,z)-\log q)\,dz+\lambda\Big(\int q\,dz-1\Big)\Big]
#   =\log p(x,z)-\log q(z)-1+\lambda=0\ \Longrightarrow\ q\propto p(x,z):$$
#
# the posterior. On a grid, where a function is a vector, any other $q$ loses exactly its KL divergence.

# %%
grid = np.linspace(-4, 5, 400)
step = grid[1] - grid[0]
log_joint = norm.logpdf(grid, 0, 2) + norm.logpdf(y[:, None], grid, 1).sum(0)
best = np.exp(log_joint - np.logaddexp.reduce(log_joint)) / step
assert abs(np.logaddexp.reduce(log_joint) + math.log(step) - log_evidence) < 1e-6


def functional(q):  # the ELBO of any density on the grid
    return float(np.sum(np.where(q > 0, q * (log_joint - np.log(np.maximum(q, 1e-300))), 0.0)) * step)


assert abs(functional(best) - log_evidence) < 1e-6
for _ in range(50):
    other = best * np.exp(0.5 * np.sin(rng.uniform(1, 4) * grid + rng.uniform(0, 6)))  # a bent posterior
    other /= other.sum() * step
    divergence = float(np.sum(other * np.log(other / best)) * step)
    assert abs(functional(other) - (functional(best) - divergence)) < 1e-9
    assert functional(other) < functional(best)

# %% [markdown]
# ### The same number, written twice
#
# $$\mathrm{ELBO}=\underbrace{\mathbb E_q\log p(x,z)}_{\text{be where the joint is high}}
#   +\underbrace{H[q]}_{\text{but stay wide}}
#   =\underbrace{\mathbb E_q\log p(x\mid z)}_{\text{reconstruction}}
#   -\underbrace{\mathrm{KL}[q,\,p(z)]}_{\text{what it costs to leave the prior}}$$
#
# The second follows from the first by $p(x,z)=p(x\mid z)\,p(z)$, and is the form of the variational autoencoder.

# %%
m, s = 0.3, 0.7
reconstruction = sum(-0.5 * (math.log(2 * math.pi) + (y_i - m) ** 2 + s**2) for y_i in y)
assert abs(reconstruction - kl(m, s, 0.0, 2.0) - elbo(m, s)) < 1e-9

# %% [markdown]
# ## 2. Climbing with noise
#
# The gradient of an expectation over $q_\phi$ cannot simply move inside. Two ways:
#
# $$\nabla_\phi\mathbb E_{q_\phi}[f(z)]=\mathbb E_{q_\phi}\big[f(z)\,\nabla_\phi\log q_\phi(z)\big]\quad\text{(score)},
#   \qquad z=m+s\epsilon:\ \ \nabla_\phi\mathbb E_\epsilon[f(m+s\epsilon)]=\mathbb E_\epsilon\big[\nabla_\phi
#   f(m+s\epsilon)\big]\quad\text{(pathwise)}.$$
#
# The first is $\nabla q=q\,\nabla\log q$ and needs only values of $f$: it serves discrete latents. The second uses the
# slope of $f$. Here $f=\log p(x,z)-\log q_\phi(z)$ with slope $(m^*-z)/s^{*2}+\epsilon/s$. A third drops the term
# $-\nabla_\phi\log q_\phi(z)$ at fixed $z$, the score, whose mean is zero ([sticking the landing](
# https://arxiv.org/abs/1703.09194)). For $\partial/\partial m$ the noise is then
#
# $$\frac{\partial}{\partial m}\mathrm{ELBO}=\frac{m^*-m}{s^{*2}};\qquad
#   \text{pathwise: }\frac{m^*-z}{s^{*2}},\ \text{variance }\frac{s^2}{s^{*4}};\qquad
#   \text{sticking: }\frac{m^*-z}{s^{*2}}+\frac{\epsilon}{s},\ \text{variance }\Big(\frac1s-\frac s{s^{*2}}\Big)^2,$$
#
# the last of which vanishes at $s=s^*$: at the top, the gradient has no noise at all.

# %%
draws = 20_000 if SMOKE else 400_000


def gradients(m, s, eps):  # three estimates of d ELBO / d m, one a draw
    z = m + s * eps
    f = norm.logpdf(z, 0, 2) + sum(norm.logpdf(y_i, z, 1) for y_i in y) - norm.logpdf(z, m, s)
    return {
        "score": f * eps / s,
        "score, baseline": (f - f.mean()) * eps / s,
        "pathwise": (m_star - z) / s_star**2,
        "sticking": (m_star - z) / s_star**2 + eps / s,
    }


variances = {}
for s in (0.2, 0.3, s_star, 0.7, 1.2):
    for name, g in gradients(0.5, s, rng.standard_normal(draws)).items():
        agree(g.mean(), (m_star - 0.5) / s_star**2, g.std() / math.sqrt(draws))
        variances.setdefault(name, []).append(g.var())
assert np.allclose(variances["pathwise"][2], 1 / s_star**2, rtol=0.1)
assert variances["sticking"][2] < 1e-20
assert variances["score"][2] > 10 * variances["pathwise"][2]

# The loop: Adam is not needed for two numbers.
m, log_s, path = -2.5, 0.5, []
for _ in range(300):
    eps = rng.standard_normal(4)
    s = math.exp(log_s)
    slope = (m_star - m - s * eps) / s_star**2 + eps / s
    m, log_s = m + 0.02 * slope.mean(), log_s + 0.02 * (slope * s * eps).mean()
    path.append((m, math.exp(log_s)))
path = np.array(path)
assert np.abs(path[-1] - [m_star, s_star]).max() < 0.02

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.9))
means, spreads = np.meshgrid(np.linspace(-3, 3, 120), np.geomspace(0.1, 3, 120))
gap = log_evidence - elbo(means, spreads)
levels = [0, 0.1, 0.3, 1, 3, 10, 30, 100, 1000]
shades = plt.get_cmap("Blues_r")(np.linspace(0.15, 0.95, len(levels) - 1))
shown = left.contourf(means, spreads, gap, levels=levels, colors=shades)
left.plot(*path.T, ".-", color=ORANGE, ms=3, lw=1, label="ascent, 4 draws a step")
left.plot(m_star, s_star, "*", color=RED, ms=13, label="posterior: gap 0")
left.set_yscale("log")
left.set_yticks([0.1, 0.3, 1.0, 3.0], ["0.1", "0.3", "1", "3"])
left.minorticks_off()
left.set(xlabel="m", ylabel="s", title="The gap, log p(x) - ELBO, of every normal guide")
left.legend(fontsize=8, loc="upper right")
figure.colorbar(shown, ax=left, label="nats", format="%g")
fine = np.geomspace(0.15, 1.4, 100)
for (name, values), colour in zip(variances.items(), (RED, ORANGE, BLUE, GREEN), strict=True):
    right.plot((0.2, 0.3, s_star, 0.7, 1.2), np.maximum(values, 1e-2), "o", color=colour, label=name)
right.plot(fine, fine**2 / s_star**4, color=BLUE, lw=1)
right.plot(fine, np.maximum((1 / fine - fine / s_star**2) ** 2, 1e-2), color=GREEN, lw=1)
right.axvline(s_star, color=GREY, lw=0.8)
right.text(s_star * 1.05, 0.03, "posterior's s", color=GREY, fontsize=8)
right.set(xscale="log", yscale="log", xlabel="s", ylabel="variance", title="One slope, four estimates")
right.set_xticks([0.2, 0.3, 0.5, 0.7, 1.0], ["0.2", "0.3", "0.5", "0.7", "1"])
right.minorticks_off()
right.legend(fontsize=8)
keep(figure, "bound_and_gradients")

# %% [markdown]
# The library does this for any program, on the unconstrained scale. `post.elbo`, `post.gap` and `post.log_evidence`
# carry errors; printing `post.decomposition` writes the bound both ways.

# %%
quick = {"engine": "graph", "window": 50, "num_steps": 1500}
if SMOKE:
    quick["num_steps"] = 300
post = ph.infer(normal_normal.model, ph.SVI(**quick), seed=0)
print(post.decomposition)
assert abs(post.gap.value) < 0.01
assert abs(post.log_evidence.value - log_evidence) < 0.01
parts = post.decomposition
assert abs(parts.expected_log_joint.value + parts.entropy.value - parts.elbo.value) < 1e-9
assert abs(parts.reconstruction.value - parts.kl.value - parts.elbo.value) < 1e-9

# %% [markdown]
# ## 3. What a family cannot say: mean field
#
# With independent coordinates, $q(z)=\prod_iq_i(z_i)$, a correlation cannot be expressed. For a normal posterior with
# precision $\Lambda$, setting the derivative for each variance to zero gives
#
# $$\mathrm{KL}=\tfrac12\Big[\sum_i\Lambda_{ii}s_i^2-d-\sum_i\log s_i^2-\log|\Lambda|\Big]\ \Longrightarrow\
#   s_i^2=\frac1{\Lambda_{ii}},\qquad \mathrm{KL}^*=\tfrac12\Big[\sum_i\log\Lambda_{ii}-\log|\Lambda|\Big].$$
#
# $1/\Lambda_{ii}$ is the variance of $z_i$ *given the others*: too small, and the more so the stronger the correlation.
# In two dimensions $s_i^2=1-\rho^2$ instead of 1, and the gap is $-\tfrac12\log(1-\rho^2)$.


# %%
def correlated(rho):  # two standard normals with correlation rho
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
    return ph.Model(lambda: pyro.sample("z", dist.MultivariateNormal(torch.zeros(2, dtype=torch.float64), covariance)))


rhos = (0.5, 0.9, 0.99)
measured = [ph.infer(correlated(rho), ph.SVI(guide="normal", num_samples=4000, **quick), seed=1) for rho in rhos]
for rho, post in zip(rhos, measured, strict=True):
    print(f"rho {rho}: ELBO {post.elbo.value:.3f} ± {post.elbo.se:.3f}, k-hat {post.figures['pareto_k']:.2f}")
    agree(post.elbo.value, 0.5 * math.log(1 - rho**2), post.elbo.se + (0.05 if SMOKE else 0.004))
full = ph.infer(correlated(0.9), ph.SVI(guide="multivariate_normal", **quick), seed=1)
assert abs(full.gap.value) < (0.05 if SMOKE else 0.005)

figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8))
fine = np.linspace(0, 0.995, 200)
left.plot(fine, -0.5 * np.log(1 - fine**2), color=BLUE, label=r"$-\frac{1}{2}\log(1-\rho^2)$")
left.errorbar(
    rhos, [-p.elbo.value for p in measured], [2 * p.elbo.se for p in measured], fmt="o", color=ORANGE, label="measured"
)
left.set(xlabel=r"correlation $\rho$", ylabel="gap, nats", title="The gap of independent coordinates")
left.legend()
angle = np.linspace(0, 2 * np.pi, 200)
circle = np.array([np.cos(angle), np.sin(angle)])
root = np.linalg.cholesky([[1.0, 0.9], [0.9, 1.0]])
for radius in (1.0, 2.0):
    right.plot(*(radius * root @ circle), color=BLUE, label="posterior" if radius == 1 else None)
    scale = np.exp(measured[1].state["guide/log_scale"])[:, None]
    right.plot(*(radius * scale * circle), color=ORANGE, label="mean field" if radius == 1 else None)
right.set(aspect="equal", xlabel="$z_1$", ylabel="$z_2$", title=r"$\rho=0.9$: it hides inside the ridge")
right.legend(loc="upper left", fontsize=9)
keep(figure, "mean_field")

# %% [markdown]
# ## 4. Tighter bounds from more draws
#
# Average $K$ weights *inside* the logarithm. By Jensen again, and as a mean of $K$ weights is a mean of means of $K-1$,
#
# $$\mathcal L_K=\mathbb E\log\frac1K\sum_{k=1}^Kw_k,\qquad\mathrm{ELBO}=\mathcal L_1\le\mathcal L_2\le\dots\le
#   \log p(x),\qquad \log p(x)-\mathcal L_K\approx\frac{\mathrm{Var}[w]}{2K\,p(x)^2}$$
#
# ([Burda, Grosse and Salakhutdinov 2016](https://arxiv.org/abs/1509.00519)). The best diagonal guide of a two-factor
# model (`models/ppca.py`) is 0.0450 nats short; the same guide with $K$ draws:

# %%
post = ph.infer(ppca.model, ph.SVI(guide="normal", num_samples=2000 if SMOKE else 64_000, **quick), seed=2)
log_weights = post.log_weights[0].numpy()
agree(post.gap.value, 0.045032, post.gap.se + (0.02 if SMOKE else 0.0005))
ks, bounds = (1, 2, 5, 20, 100), []
for k in ks:
    groups = np.logaddexp.reduce(log_weights[: len(log_weights) // k * k].reshape(-1, k), 1) - math.log(k)
    bounds.append((groups.mean(), groups.std(ddof=1) / math.sqrt(len(groups))))
bounds, exact = np.array(bounds), ppca.reference.log_evidence
assert np.all(np.diff(bounds[:, 0]) > -4 * bounds[1:, 1])
assert np.all(bounds[:, 0] < exact + 4 * bounds[:, 1])
ratio = np.exp(log_weights - exact)
figure, axes = plt.subplots(figsize=(5.5, 3.6))
axes.errorbar(ks, bounds[:, 0], 2 * bounds[:, 1], fmt="o", color=ORANGE, label=r"$\mathcal{L}_K$, measured")
axes.plot(np.geomspace(2, 100), exact - ratio.var() / (2 * np.geomspace(2, 100)), color=GREEN, lw=1.2, label="large K")
axes.axhline(exact, color=BLUE, lw=1.2, label="log p(x)")
axes.set(xscale="log", xlabel="K", ylabel="nats", title="More draws inside the logarithm, a tighter bound")
axes.legend(fontsize=9)
keep(figure, "importance_weighted")

# %% [markdown]
# ## 5. Eight schools: which guide, and how would one know?
#
# Nobody knows the gap of a real posterior; but log p(x) can be estimated by importance sampling *from the guide*, and
# its k-hat says whether that estimate deserves belief (below 0.7 it does). The exact log evidence of eight schools is
# $-31.3113$ (tutorial 2): so the last column can be checked.
#
# * **normal**: independent. **multivariate_normal**: any covariance. **structured**: schools depend on $\mu,\tau$ and
#   not on each other. **flow**: noise pushed through splines ([zuko](https://github.com/probabilists/zuko)), any shape.
# * **Laplace**: the normal with the mode's curvature; **Pathfinder**: the best of the normals along the way there.

# %%
size = {"engine": "graph", "num_samples": 500 if SMOKE else 4000, "num_steps": 200 if SMOKE else 4000, "window": 100}
fits = {
    name: ph.infer(rubin.model, ph.SVI(guide=name, **size), seed=3)
    for name in ("normal", "multivariate_normal", "structured")
}
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ph.ConvergenceWarning)  # it could go on for longer
    slow = ph.Adam(learning_rate=0.01)
    fits["flow"] = ph.infer(rubin.model, ph.SVI(guide="flow", optim=slow, num_particles=16, **size), seed=3)
    fits["laplace"] = ph.infer(rubin.model, "laplace", num_samples=size["num_samples"], engine="graph", seed=3)
fits["pathfinder"] = ph.infer(rubin.model, "pathfinder", num_samples=size["num_samples"], engine="graph", seed=3)
print(f"{'guide':>20} {'ELBO':>9} {'gap, measured':>16} {'k-hat':>6} {'log p(x)':>18} {'steps':>6} {'seconds':>8}")
for name, post in fits.items():
    print(
        f"{name:>20} {post.elbo.value:9.3f} {post.gap.value:7.3f} ± {post.gap.se:5.3f} {post.figures['pareto_k']:7.2f}"
        f" {post.log_evidence!s:>18} {post.figures.get('steps', 0):6.0f} {post.seconds:8.1f}"
    )
exact = rubin.reference.log_evidence
assert all(post.elbo.value < exact + 4 * post.elbo.se for post in fits.values())  # a bound is a bound
assert SMOKE or fits["flow"].elbo.value > fits["normal"].elbo.value + 0.1
assert SMOKE or fits["flow"].gap.value < 0.15
assert SMOKE or abs(fits["flow"].log_evidence.value - exact) < 0.05
print(fits["flow"].decomposition)

# %% [markdown]
# The estimates of $\log p(x)$ tend to lie *below* it, by more than their errors: a guide that lacks the far tail of
# $\tau$ rarely meets the largest weights, and a sample without them underrates both the mean and the error.
#
# What mean field does to $\tau$, how much schools differ: its normal on $\log\tau$ cannot lean. Weights repair what a
# guide covers, and k-hat says when it does not.

# %%
log_tau = np.linspace(-4.0, 4.0, 300)  # the exact density of log tau: mu and theta integrated out (tutorial 2)
spread = rubin.sigma.numpy() ** 2 + np.exp(2.0 * log_tau)[:, None]
precision = 1.0 / 25.0 + (1.0 / spread).sum(1)
curve = -0.5 * (np.log(spread) + rubin.y.numpy() ** 2 / spread).sum(1) - 0.5 * np.log(precision)
curve += 0.5 * (rubin.y.numpy() / spread).sum(1) ** 2 / precision + log_tau - np.log1p(np.exp(2.0 * log_tau) / 25.0)
curve = np.exp(curve - np.logaddexp.reduce(curve)) / (log_tau[1] - log_tau[0])
figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
for axes, weighted in zip(panels, (False, True), strict=True):
    for name, colour in (("normal", ORANGE), ("flow", GREEN), ("laplace", RED)):
        height = np.log(fits[name].draws["tau"][0].numpy()).clip(-4, 4)
        weights = fits[name].weights[0].numpy() if weighted else None
        label = f"{name}, k-hat {fits[name].figures['pareto_k']:.2f}"
        axes.hist(height, 40, range=(-4, 4), density=True, weights=weights, histtype="step", color=colour, label=label)
    axes.plot(log_tau, curve, color="black", lw=1.2, label="exact")
    axes.set(xlabel=r"$\log\tau$", title="with their weights" if weighted else "the guides as they are")
panels[0].set(ylabel="density", ylim=(0, 0.75))
panels[0].legend(fontsize=8, loc="upper left")
keep(figure, "eight_schools")

# %% [markdown]
# ## 6. Minibatches
#
# The log joint is a sum over rows: a batch $B$, each row counting $N/B$ times, has the right mean,
#
# $$\mathbb E_B\Big[\frac NB\sum_{n\in B}\log p(x_n\mid z)\Big]=\sum_n\log p(x_n\mid z),$$
#
# so the gradient stays unbiased. `batch_size=` splits the plate; every row comes once an epoch. Malignant or benign,
# from five measurements of 569 biopsies, by logistic regression:

# %%
data = load_breast_cancer()
x = torch.tensor(data.data[:, [0, 1, 4, 5, 8]], dtype=torch.float64)  # radius, texture, smoothness, ...
x = (x - x.mean(0)) / x.std(0)
malignant = torch.tensor(1.0 - data.target, dtype=torch.float64)


def logistic(x):
    bias = pyro.sample("bias", dist.Normal(0.0, 2.0))
    beta = pyro.sample("beta", dist.Normal(torch.zeros(x.shape[1], dtype=x.dtype), 2.0).to_event(1))
    with pyro.plate("biopsy", len(x)) as rows:
        pyro.sample("malignant", dist.Bernoulli(logits=bias + x[rows] @ beta))


model = ph.Model(logistic, x).observe(malignant=malignant)
short = {"engine": "graph", "num_steps": 200 if SMOKE else 2000, "window": 50, "guide": "multivariate_normal"}
whole = ph.infer(model, ph.SVI(**short), seed=4)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ph.ConvergenceWarning)
    batched = ph.infer(model, ph.SVI(batch_size=64, num_particles=4, **short), seed=4)
    chains = ph.infer(
        model, ph.NUTS(num_chains=8, num_warmup=100, num_samples=100 if SMOKE else 300, engine="graph"), seed=4
    )
truth = chains.moments("beta")
for name, post in (("NUTS", chains), ("all rows", whole), ("64 rows a step", batched)):
    print(f"{name:>16}: beta {np.round(post.moments('beta').mean, 2)}, {post.seconds:.1f} s")
if not SMOKE:
    agree(whole.moments("beta").mean, truth.mean, np.hypot(truth.mean_se, whole.moments("beta").mean_se))
    assert np.abs(batched.moments("beta").mean - truth.mean).max() < 0.3 * truth.sd.max()
    assert whole.gap.value < 0.1

figure, axes = plt.subplots(figsize=(6.5, 3.6))
axes.plot(batched.history["elbo"], color=GREY, lw=0.5, alpha=0.7, label="64 rows a step, each estimate")
smooth = np.convolve(batched.history["elbo"], np.ones(9) / 9, "valid")  # an epoch has nine batches
axes.plot(np.arange(len(smooth)) + 4, smooth, color=ORANGE, lw=1, label="the mean of an epoch")
axes.plot(whole.history["elbo"], color=BLUE, lw=1, label="all 569 rows")
axes.axhline(whole.log_evidence.value, color="black", lw=0.8, ls="--", label="log p(x)")
axes.set(xlabel="step", ylabel="ELBO, nats", title="The same hill, seen through a tenth of the data", xscale="log")
axes.set_ylim(whole.log_evidence.value - 120, whole.log_evidence.value + 80)
axes.legend(fontsize=8, loc="upper left")
keep(figure, "minibatches")

# %% [markdown]
# ## 7. What to take away
#
# 1. $\log p(x)=\mathrm{ELBO}+\mathrm{KL}[q,p]$: climbing the bound *is* approaching the posterior; the gap is a number.
# 2. The ELBO alone does not say how large the gap is. Importance sampling from the guide does, and k-hat says whether
#    to believe that.
# 3. Mean field errs on the narrow side, and predictably: $1/\Lambda_{ii}$. Give correlations to the guide, or bends.
# 4. A gradient that vanishes with the gap ("sticking") makes the last digits cheap; several draws in the logarithm make
#    the bound tight.
# 5. Sums over data may be sampled. That is how the next tutorial trains a network.
