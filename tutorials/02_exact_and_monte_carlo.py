# %% [markdown]
# # 2. Exact inference and Monte Carlo
#
# **Aim:** see why $p(x)=\sum_z p(x,z)$ is hard, and answer the three questions asked of any posterior
# (how probable were the data? what is a quantity on average? what comes next?) with random numbers and honest errors.
#
# Every method appears twice: first by hand in a few lines of NumPy, then by `phlogiston`. Every equation is checked by
# an `assert`; where it concerns random numbers, the tolerance is four standard errors.
#
# Data: Rubin's eight schools, and a few invented numbers where a closed form is to be checked. `SMOKE=1` makes
# everything small.

# %%
import math
import os
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch

import phlogiston as ph

SMOKE = os.environ.get("SMOKE", "0") not in ("", "0")  # tiny sizes, for continuous integration
HERE = Path(__file__).parent if "__file__" in globals() else Path.cwd()
FOLDER = Path(os.environ.get("TUTORIAL_OUT", HERE / "output"))
FOLDER.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)  # on tensors this small, threads wait for each other

DOTS = {"fmt": "o", "ms": 5, "capsize": 3}
BLUE, ORANGE, GREEN, RED, GREY = "#2b6cb0", "#dd7a1e", "#2f855a", "#c53030", "#8a8f98"
plt.rcParams.update({"figure.dpi": 110, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"legend.frameon": False, "lines.linewidth": 1.8, "figure.constrained_layout.use": True})


def keep(figure, name):
    """Write a picture to the output folder."""
    figure.savefig(FOLDER / f"02_{name}.png")


def agree(value, truth, se, sigmas=4.0):
    """Assert that a random value is within some standard errors of the truth."""
    off = np.abs(np.asarray(value) - np.asarray(truth)) / np.asarray(se)
    assert np.all(off <= sigmas), f"{value} is {np.max(off):.1f} standard errors from {truth}"


# %% [markdown]
# ## 1. Why exact inference is hard
#
# A generative model is a joint density $p(x,z)=p(z)\,p(x\mid z)$ over things seen, $x$, and things not seen, $z$.
# Bayes' rule divides by a sum over everything that could have happened:
#
# $$p(z\mid x)=\frac{p(x,z)}{p(x)},\qquad p(x)=\sum_{z}p(x,z).$$
#
# With $n$ binary latents the sum has $2^n$ terms. Here is that sum done naively for a hidden Markov model, a chain
# $z_1\to z_2\to\dots\to z_n$ of hidden states, each of which emits one symbol:
#
# $$p(x,z)=\pi_{z_1}B_{z_1x_1}\prod_{t=2}^{n}A_{z_{t-1}z_t}B_{z_tx_t}.$$

# %%
START = np.array([0.5, 0.5])  # pi
STEP = np.array([[0.9, 0.1], [0.2, 0.8]])  # A
EMIT = np.array([[0.8, 0.2], [0.3, 0.7]])  # B


def brute_force(x):
    """Log p(x) and P(z_t = 1 | x), by summing over all 2^n paths."""
    paths = (np.arange(2 ** len(x))[:, None] >> np.arange(len(x))) & 1  # row = one assignment of every latent
    joint = START[paths[:, 0]] * EMIT[paths[:, 0], x[0]]
    for t in range(1, len(x)):
        joint *= STEP[paths[:, t - 1], paths[:, t]] * EMIT[paths[:, t], x[t]]
    return np.log(joint.sum()), joint @ paths / joint.sum()


# %% [markdown]
# The chain offers a way out. Write $\alpha_t(j)=p(x_1,\dots,x_t,z_t=j)$. Splitting off the last step and using the
# distributive law, $\sum_z a\,b(z)=a\sum_z b(z)$, to move each sum as far to the right as it goes,
#
# $$\alpha_t(j)=\sum_{z_1,\dots,z_{t-1}}p(x_{1:t},z_{1:t-1},z_t=j)
#   =B_{jx_t}\sum_i A_{ij}\underbrace{\sum_{z_1,\dots,z_{t-2}}p(x_{1:t-1},z_{1:t-2},z_{t-1}=i)}_{\alpha_{t-1}(i)},
#   \qquad p(x)=\sum_j\alpha_n(j).$$
#
# This is the forward recursion: $4n$ multiplications instead of $n\,2^n$. Nothing was approximated.


# %%
def forward(x):
    """Log p(x) by the forward recursion."""
    alpha = START * EMIT[:, x[0]]
    for symbol in x[1:]:
        alpha = EMIT[:, symbol] * (alpha @ STEP)
    return np.log(alpha.sum())


x = np.array([0, 0, 1, 1, 0])
log_evidence, smoothed = brute_force(x)
assert abs(log_evidence - forward(x)) < 1e-12
assert abs(log_evidence - -3.823924) < 1e-6
assert np.allclose(smoothed, [0.296963, 0.326916, 0.566566, 0.574103, 0.361498], atol=1e-6)

# %% [markdown]
# In the library the same model is a Pyro program. `pyro.markov` says that each step depends on the one before it
# only; `ph.infer(model, "exact")` then finds the order of the sums itself (tensor variable elimination).


# %%
def hmm(start, step, emit, n):
    """A chain of n hidden states."""
    probabilities = start
    for t in pyro.markov(range(n)):
        z = pyro.sample(f"z_{t}", dist.Categorical(probabilities))
        pyro.sample(f"x_{t}", dist.Categorical(emit[z]))
        probabilities = step[z]


def hmm_of(x):
    """The program, bound to its inputs and to the symbols seen."""
    return ph.Model(hmm, START, STEP, EMIT, len(x)).observe(**{f"x_{t}": symbol for t, symbol in enumerate(x)})


# One posterior draw, by running the program: here we want the sum, which costs the same whatever num_samples is.
THE_SUM = ph.Exact(num_samples=1, engine="loop")
exact = ph.infer(hmm_of(x), THE_SUM, seed=0)
assert exact.log_evidence.kind == "exact"
assert abs(exact.log_evidence.value - log_evidence) < 1e-12
assert np.allclose([exact.marginals[f"z_{t}"][1] for t in range(5)], smoothed, atol=1e-12)
exact

# %% [markdown]
# ### A model with nothing to exploit
#
# Now let $n$ fair coins with values $w_1,\dots,w_n$ be thrown into a bag, the heads only, and let the bag be weighed:
#
# $$z_i\sim\mathrm{Bernoulli}(\tfrac12),\qquad x\sim\mathcal N\Big(\sum_i w_iz_i,\ 0.1^2\Big).$$
#
# The coins are independent beforehand. Weighing the bag couples *all* of them: the factor $p(x\mid z_1,\dots,z_n)$
# has every latent in it, so no sum can be moved past it, and the table that must be summed has $2^n$ entries.
#
# **Hardness.** Let the $w_i$ be whole numbers and $x=T$ too. A subset whose total is not $T$ is off by at least 1,
# ten standard deviations, and contributes nothing visible. What remains is
#
# $$p(T)=2^{-n}\,\mathcal N(0;0,0.1^2)\cdot\#\{\text{subsets of } w \text{ that sum to } T\}.$$
#
# So whoever computes evidences exactly also *counts the solutions of subset-sum problems*, which is #P-complete
# (numbers of $n$ digits are meant; small numbers have a shortcut by dynamic programming). Nobody has a polynomial
# algorithm, and even a guaranteed relative error is NP-hard in general
# ([Cooper 1990](https://doi.org/10.1016/0004-3702(90)90060-D),
# [Dagum and Luby 1993](https://doi.org/10.1016/0004-3702(93)90036-B),
# [Roth 1996](https://doi.org/10.1016/0004-3702(94)00092-1)).
# No method below repeals that. What a good one does is to say when it has failed.


# %%
def bag(w):
    """Coins of values w, of which the heads are weighed together."""
    z = [pyro.sample(f"z_{i}", dist.Bernoulli(0.5)) for i in range(len(w))]
    pyro.sample("x", dist.Normal(sum(w_i * z_i for w_i, z_i in zip(w, z, strict=True)), 0.1))


def bag_of(n):
    """n coins of values between 1 and 50, and a bag that weighs half of their total."""
    w = np.random.default_rng(n).integers(1, 50, n).astype(float)
    return w, ph.Model(bag, w).observe(x=float(w.sum() // 2))


w, model = bag_of(12)
subsets = (np.arange(2**12)[:, None] >> np.arange(12)) & 1
count = int((subsets @ w == w.sum() // 2).sum())
density_at_zero = 1.0 / (0.1 * math.sqrt(2.0 * math.pi))
exact = ph.infer(model, THE_SUM, seed=0)
assert count > 0
assert abs(math.exp(exact.log_evidence.value) * 2**12 / density_at_zero - count) < 1e-8
assert exact.figures["largest_table"] == 2**12
f"{count} of {2**12} subsets have the right weight"

# %% [markdown]
# Measure the cost of all three: the naive sum, the chain by elimination, the bag by elimination. The library works
# out the size of the largest table *before* it makes any, and refuses above `max_table` numbers.


# %%
def seconds(f):
    """Processor time of one call, and its result."""
    began = time.process_time()
    result = f()
    return time.process_time() - began, result


naive_n = [4, 8, 12] if SMOKE else [4, 8, 12, 14, 16, 18, 20]
chain_n = [4, 8] if SMOKE else [4, 8, 16, 32, 64]
bag_n = [4, 8] if SMOKE else [4, 8, 12, 16, 20, 22]
symbols = np.random.default_rng(0).integers(0, 2, 64)  # any data will do: the cost does not depend on them
naive_cost, chain_cost, bag_cost, chain_table, bag_table = [], [], [], [], []
for n in naive_n:
    naive_cost.append(seconds(lambda n=n: brute_force(symbols[:n]))[0])
for n in chain_n:
    cost, exact = seconds(lambda n=n: ph.infer(hmm_of(symbols[:n]), THE_SUM, seed=0))
    assert abs(exact.log_evidence.value - forward(symbols[:n])) < 1e-10
    chain_cost.append(cost)
    chain_table.append(exact.figures["largest_table"])
for n in bag_n:
    cost, exact = seconds(lambda n=n: ph.infer(bag_of(n)[1], THE_SUM, seed=0))
    bag_cost.append(cost)
    bag_table.append(exact.figures["largest_table"])
assert chain_table == [4] * len(chain_n)  # one 2 x 2 table, whatever the length
assert bag_table == [2**n for n in bag_n]

# %%
refusal = ""
try:
    ph.infer(bag_of(24)[1], THE_SUM, seed=0)
except ph.UnsupportedModel as error:
    refusal = str(error)
print(refusal)
assert f"{2**24:.3g}" in refusal

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
ahead = np.arange(naive_n[-1], 41)
left.plot(naive_n, naive_cost, "o-", color=RED, label="chain, naive sum (NumPy)")
left.plot(ahead, naive_cost[-1] * 2.0 ** (ahead - naive_n[-1]), ":", color=RED, label="  doubling with each latent")
left.plot(bag_n, bag_cost, "s-", color=ORANGE, label='bag, "exact"')
left.plot(chain_n, chain_cost, "o-", color=BLUE, label='chain, "exact"')
left.set(yscale="log", ylabel="processor seconds", title="What the sum costs", ylim=(3e-5, 1e11))
right.plot(bag_n, bag_table, "s-", color=ORANGE, label="bag: $2^n$")
right.plot(chain_n, chain_table, "o-", color=BLUE, label="chain: 4, at any length")
right.plot([24], [2**24], "x", color=RED, ms=9, mew=2.5, label="bag of 24: refused")
right.set(yscale="log", ylabel="numbers", title="Largest table of the sum", ylim=(1, 1e11))
for axes, height, text in ((left, 86_400, "a day"), (right, 1e7, "max_table")):
    axes.axhline(height, color=GREY, lw=0.8)
    axes.text(0.99, 1.4 * height, text, color=GREY, ha="right", transform=axes.get_yaxis_transform())
    axes.set(xlabel="number of binary latents n", xlim=(2, 66))
    axes.legend(fontsize=8, loc="upper left")
keep(figure, "cost")

# %% [markdown]
# At first the library looks slow: it pays for running the program, a price per latent. Then the naive sum overtakes it.
# The lesson: cost follows the *structure* of the model, not the number of latents. Tell the program about plates and
# `pyro.markov`, and exact inference goes far. Where everything is coupled, or a latent is continuous, we need random
# numbers.

# %% [markdown]
# ## 2. Monte Carlo: an expectation is an average
#
# Let $z_1,\dots,z_N$ be independent draws from $p$, and let $f(z)$ have mean $\mu$ and finite variance $\sigma^2$. Put
#
# $$\hat\mu_N=\frac1N\sum_{i=1}^N f(z_i).$$
#
# *Unbiased*, by linearity: $\mathbb E[\hat\mu_N]=\frac1N\sum_i\mathbb E[f(z_i)]=\mu$.
# *The law of the error*: variances of independent terms add, and constants come out squared,
#
# $$\mathrm{Var}[\hat\mu_N]=\frac1{N^2}\sum_{i=1}^N\mathrm{Var}[f(z_i)]=\frac{\sigma^2}{N}
#   \quad\Longrightarrow\quad \text{root-mean-square error}=\frac{\sigma}{\sqrt N}.$$
#
# The dimension of $z$ appears nowhere; it can only enter through $\sigma$. By the central limit theorem $\hat\mu_N$
# is nearly normal, so $\hat\mu_N\pm1.96\,\hat\sigma/\sqrt N$ covers $\mu$ in 95 % of runs.
#
# **An evidence is an expectation** under the prior: $p(x)=\int p(z)\,p(x\mid z)\,dz=\mathbb E_{p(z)}[L(z)]$, with the
# likelihood $L(z)=p(x\mid z)$. The example is a coin of unknown bias that fell heads $k=7$ times in $n=10$:
#
# $$\theta\sim\mathrm{Beta}(a,b),\ a=2,\ b=3,\qquad k\sim\mathrm{Binomial}(n,\theta),\qquad
#   L(\theta)=\tbinom nk\theta^k(1-\theta)^{n-k}.$$
#
# The first two moments of $L$ under the prior are Beta integrals, so we know what the errors must be:
#
# $$p(k)=\tbinom nk\frac{B(a+k,b+n-k)}{B(a,b)},\qquad
#   \mathbb E[L^2]=\tbinom nk^2\frac{B(a+2k,b+2(n-k))}{B(a,b)}.$$

# %%
a, b, n, k = 2.0, 3.0, 10, 7


def log_beta(a, b):
    """Log of the Beta function."""
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def likelihood(theta):
    """L(theta), the probability of k heads in n tosses."""
    return math.comb(n, k) * theta**k * (1.0 - theta) ** (n - k)


evidence = math.comb(n, k) * math.exp(log_beta(a + k, b + n - k) - log_beta(a, b))
second_moment = math.comb(n, k) ** 2 * math.exp(log_beta(a + 2 * k, b + 2 * (n - k)) - log_beta(a, b))
sd_likelihood = math.sqrt(second_moment - evidence**2)
assert abs(math.log(evidence) - -2.526728) < 1e-6

# %% [markdown]
# The loop is one line. Run it many times at each $N$ to see the spread of its answers.

# %%
rng = np.random.default_rng(1)
runs = 100 if SMOKE else 400
sizes = [10, 100, 1000] if SMOKE else [10, 100, 1000, 10_000, 50_000]
rms, rms_se = [], []
for N in sizes:
    answers = np.array([likelihood(rng.beta(a, b, N)).mean() for _ in range(runs)])
    agree(answers.mean(), evidence, sd_likelihood / math.sqrt(N * runs))  # unbiased at every N
    squares = (answers - evidence) ** 2
    mean_square, its_se = squares.mean(), squares.std(ddof=1) / math.sqrt(runs)
    agree(mean_square, sd_likelihood**2 / N, its_se)  # the variance law
    rms.append(math.sqrt(mean_square))
    rms_se.append(its_se / (2.0 * rms[-1]))

# %%
N, runs = 1000, 300 if SMOKE else 2000
draws = likelihood(rng.beta(a, b, (runs, N)))
half_width = 1.96 * draws.std(1, ddof=1) / math.sqrt(N)
covered = np.abs(draws.mean(1) - evidence) < half_width
agree(covered.mean(), 0.95, math.sqrt(0.95 * 0.05 / runs))

# %% [markdown]
# The library: a program, bound to its input, conditioned on what was seen. Drawing from the prior and averaging the
# likelihood is what `"importance"` does by default. Its number is the mean of its own weights, and agrees with the
# truth within the error that it states.


# %%
def coin(n):
    """n tosses of a coin of unknown bias."""
    theta = pyro.sample("theta", dist.Beta(2.0, 3.0))
    pyro.sample("k", dist.Binomial(n, theta))


coin_model = ph.Model(coin, n).observe(k=float(k))
post = ph.infer(coin_model, "importance", num_particles=10_000, seed=0)
L = post.log_weights.exp().numpy().ravel()
assert np.allclose(L, likelihood(post.draws["theta"].numpy().ravel()))
assert abs(math.exp(post.log_evidence.value) - L.mean()) < 1e-12
assert abs(post.log_evidence.se - L.std(ddof=1) / (L.mean() * math.sqrt(L.size))) < 1e-12  # error of a log: relative
agree(post.log_evidence.value, math.log(evidence), post.log_evidence.se)
post

# %%
figure, axes = plt.subplots(figsize=(6, 4))
line = np.array([5, 100_000])
axes.plot(line, sd_likelihood / np.sqrt(line), color=GREY, label=r"$\sigma/\sqrt{N}$, no free parameter")
axes.errorbar(sizes, rms, yerr=4.0 * np.array(rms_se), **DOTS, color=BLUE, label="measured, ± 4 s.e.")
axes.set(xscale="log", yscale="log", xlabel="draws N", ylabel="root-mean-square error of $p(k)$")
axes.set_title("A hundred times the work for one more digit")
axes.legend()
keep(figure, "rate")

# %% [markdown]
# ## 3. Rejection sampling
#
# We have an average over the prior; now we want *draws from the posterior*. Let $M\ge L(z)$ for every $z$. Draw $z$
# from the prior and $u$ uniformly from $(0,1)$; keep $z$ if $uM<L(z)$. Then
#
# $$P(\text{accept})=\int p(z)\,P\Big(u<\frac{L(z)}M\Big)dz=\int p(z)\frac{L(z)}M\,dz=\frac{p(x)}M,$$
#
# $$p(z\mid\text{accept})=\frac{p(z)\,P(\text{accept}\mid z)}{P(\text{accept})}
#   =\frac{p(z)\,L(z)/M}{p(x)/M}=\frac{p(z)\,p(x\mid z)}{p(x)}=p(z\mid x).$$
#
# Accepted draws are independent and *exactly* from the posterior, and the acceptance rate measures the evidence:
# $p(x)=M\cdot P(\text{accept})$. The number of attempts for one draw is geometric with mean $M/p(x)$.
#
# Two ways to choose:
#
# * **bound**: $M=\max_\theta L(\theta)=L(k/n)$, the smallest possible;
# * **match**: simulate data $x'$ from the drawn $z$ and keep $z$ if $x'=x$. Given $z$ that happens with probability
#   $L(z)$: this is the rule with $M=1$. It needs no density at all, only a simulator and discrete data.

# %%
M = likelihood(k / n)
attempts = 20_000 if SMOKE else 200_000
theta = rng.beta(a, b, attempts)
height = rng.random(attempts) * M
kept = height < likelihood(theta)
matched = rng.binomial(n, theta) == k

rate_bound, rate_match = evidence / M, evidence
assert abs(rate_bound - 0.299519) < 1e-6
assert abs(rate_match - 0.079920) < 1e-6


def binomial_se(rate, attempts):
    """Standard error of a measured rate."""
    return math.sqrt(rate * (1.0 - rate) / attempts)


agree(kept.mean(), rate_bound, binomial_se(rate_bound, attempts))
agree(matched.mean(), rate_match, binomial_se(rate_match, attempts))

# %% [markdown]
# By conjugacy the posterior is $\mathrm{Beta}(a+k,b+n-k)=\mathrm{Beta}(9,6)$: mean $0.6$, variance $0.015$. Compare
# not only moments but the whole distribution: the largest gap between the empirical and the true distribution
# function, times $\sqrt N$, exceeds $2.27$ with a probability of about $2e^{-2\cdot2.27^2}=7\cdot10^{-5}$
# (Kolmogorov), four standard errors' worth.

# %%
grid = np.linspace(0.0, 1.0, 20_001)
posterior_pdf = grid**8 * (1.0 - grid) ** 5 / math.exp(log_beta(9.0, 6.0))
posterior_cdf = np.concatenate([[0.0], np.cumsum((posterior_pdf[1:] + posterior_pdf[:-1]) / 2 * np.diff(grid))])


def distance(draws):
    """Kolmogorov's distance from the posterior, times the root of the number of draws."""
    draws = np.sort(draws)
    cdf = np.interp(draws, grid, posterior_cdf)
    steps = np.arange(draws.size + 1) / draws.size
    return max(np.abs(cdf - steps[1:]).max(), np.abs(cdf - steps[:-1]).max()) * math.sqrt(draws.size)


for draws in (theta[kept], theta[matched]):
    agree(draws.mean(), 0.6, math.sqrt(0.015 / draws.size))
    assert distance(draws) < 2.27
assert distance(theta[:1000]) > 2.27  # the prior is told apart: the check has teeth

# %% [markdown]
# By the library. `likelihood_bound` takes $\log M$ where we can prove one (as here), `"find"` looks for it, `"match"`
# simulates. The error of the log evidence is that of a measured rate $r$: $\sqrt{(1-r)/\text{accepted}}$.

# %%
num_samples = 1000 if SMOKE else 10_000
by_bound = ph.infer(coin_model, ph.Rejection(num_samples=num_samples, likelihood_bound=math.log(M)), seed=0)
by_match = ph.infer(coin_model, ph.Rejection(num_samples=num_samples, likelihood_bound="match"), seed=0)
for found, rate, by_hand in ((by_bound, rate_bound, kept.mean()), (by_match, rate_match, matched.mean())):
    tried = found.figures["attempts"]
    agree(found.figures["acceptance_rate"], rate, binomial_se(rate, tried))
    agree(found.figures["acceptance_rate"] - by_hand, 0.0, binomial_se(rate, tried) + binomial_se(rate, attempts))
    agree(found.log_evidence.value, math.log(evidence), found.log_evidence.se)
    accepted = found.figures["acceptance_rate"] * tried
    assert abs(found.log_evidence.se - math.sqrt((1.0 - accepted / tried) / accepted)) < 1e-9
    agree(found.expect("theta").value, 0.6, found.expect("theta").se)
    assert distance(found.draws["theta"].numpy().ravel()) < 2.27
by_bound

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
prior_pdf = 12.0 * grid * (1.0 - grid) ** 2  # Beta(2, 3)
shown = slice(0, 1500)
at_prior = 12.0 * theta[shown] * (1.0 - theta[shown]) ** 2
point = height[shown] / M * at_prior  # uniform below the prior's curve
for yes, colour, label in ((False, GREY, "rejected"), (True, BLUE, "accepted")):
    rows = kept[shown] == yes
    left.plot(theta[shown][rows], point[rows], ".", ms=3, color=colour, alpha=0.7, label=label)
left.plot(grid, prior_pdf, color="black", label=r"envelope: prior $p(\theta)$")
left.plot(grid, prior_pdf * likelihood(grid) / M, color=RED, label=r"$p(\theta)\,L(\theta)/M$")
left.set(xlabel=r"$\theta$", ylabel="density", title="29.95 % of the points are accepted")
left.set_ylim(0, 2.7)
left.legend(fontsize=8, ncols=2, loc="upper right", markerscale=3)
right.hist(theta[kept], bins=60, density=True, color=BLUE, alpha=0.5, label="accepted, by hand")
library_draws = by_bound.draws["theta"].numpy().ravel()
right.hist(library_draws, bins=60, density=True, histtype="step", color=ORANGE, lw=1.4, label="by the library")
right.plot(grid, posterior_pdf, color=RED, label="posterior Beta(9, 6)")
right.plot(grid, prior_pdf, "--", color="black", lw=1.2, label="prior Beta(2, 3)")
right.set(xlabel=r"$\theta$", title="What was accepted", xlim=(0, 1))
right.legend(fontsize=8, loc="upper left")
keep(figure, "rejection")

# %% [markdown]
# ### The curse of dimension
#
# Take $d$ independent means, each measured once: $z_i\sim\mathcal N(0,\tau^2)$ and $x_i\sim\mathcal N(z_i,\sigma^2)$.
# Then $x_i\sim\mathcal N(0,\sigma^2+\tau^2)$, and the best bound is $M=(2\pi\sigma^2)^{-d/2}$, reached at $z=x$. So
#
# $$P(\text{accept})=\frac{p(x)}M=\prod_{i=1}^d\underbrace{\sqrt{\frac{\sigma^2}{\sigma^2+\tau^2}}\;
#   \exp\Big(-\frac{x_i^2}{2(\sigma^2+\tau^2)}\Big)}_{r<1}=r^d .$$
#
# Each dimension is easy; together they are hopeless, because *all* must be right at once.


# %%
def normals(d):
    """d means with a wide prior, each measured once."""
    with pyro.plate("dimension", d):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5))


tau2, sigma2, seen = 1.0, 0.25, 0.5
r = math.sqrt(sigma2 / (sigma2 + tau2)) * math.exp(-(seen**2) / (2.0 * (sigma2 + tau2)))
dimensions = [1, 3] if SMOKE else [1, 2, 4, 6, 8, 10]
rejection_rate, rejection_se = [], []
for d in dimensions:
    log_bound = -0.5 * d * math.log(2.0 * math.pi * sigma2)
    model = ph.Model(normals, d).observe(x=np.full(d, seen))
    found = ph.infer(model, ph.Rejection(num_samples=100, likelihood_bound=log_bound), seed=d)
    rejection_rate.append(found.figures["acceptance_rate"])
    rejection_se.append(binomial_se(r**d, found.figures["attempts"]))
    agree(rejection_rate[-1], r**d, rejection_se[-1])
    agree(found.expect("z").value, np.full(d, 0.8 * seen), found.expect("z").se)  # tau2 / (sigma2 + tau2) = 0.8

tries = rng.normal(0.0, 1.0, (attempts, 3))  # the same by hand, in three dimensions
log_ratio = -((seen - tries) ** 2).sum(1) / (2.0 * sigma2)  # log L/M
agree((np.log(rng.random(attempts)) < log_ratio).mean(), r**3, binomial_se(r**3, attempts))

# %% [markdown]
# ### When the data are continuous: a tolerance, and its price
#
# "Match" cannot work for continuous data: $P(x'=x)=0$. Approximate Bayesian computation (ABC) accepts when
# $|x'-x|\le\varepsilon$. How wrong is that? School A of Rubin's eight schools (below): a coaching course raised
# scores by $x=28$ points, with standard error $\sigma=15$; say $z\sim\mathcal N(0,\tau^2)$ with $\tau=10$. Let
# $S^2=\sigma^2+\tau^2$. Exactly,
#
# $$z\mid x\sim\mathcal N(\lambda x,v),\qquad \lambda=\tau^2/S^2,\quad v=\lambda\sigma^2.$$
#
# An accepted pair $(z,x')$ is a draw of the joint density, given $|x'-x|\le\varepsilon$. So $x'$ is normal, truncated
# to $[x-\varepsilon,x+\varepsilon]$, and $z\mid x'$ is as before. With $\alpha=(x-\varepsilon)/S$,
# $\beta=(x+\varepsilon)/S$, by the laws of total expectation and variance,
#
# $$P(\text{accept})=\Phi(\beta)-\Phi(\alpha),\qquad \mathbb E_\varepsilon[z]=\lambda\,\mathbb E[x'],\qquad
#   \mathrm{Var}_\varepsilon[z]=v+\lambda^2\,\mathrm{Var}[x'],$$
#
# $$\mathbb E[x']=S\,\frac{\varphi(\alpha)-\varphi(\beta)}{\Phi(\beta)-\Phi(\alpha)},\qquad
#   \mathbb E[x'^2]=S^2\Big(1+\frac{\alpha\varphi(\alpha)-\beta\varphi(\beta)}{\Phi(\beta)-\Phi(\alpha)}\Big).$$
#
# For small $\varepsilon$ write $x'=x+h$; the density is $\propto1-hx/S^2+O(h^2)$ on $|h|\le\varepsilon$, hence
# $\mathbb E[h]\approx-\frac{x}{S^2}\frac{\varepsilon^2}3$:
#
# $$\text{bias}\approx-\frac{\lambda x}{3S^2}\,\varepsilon^2,\qquad
#   P(\text{accept})\approx2\varepsilon\,\mathcal N(x;0,S^2).$$

# %%
x_a, sigma_a, tau_a = 28.0, 15.0, 10.0
S = math.hypot(sigma_a, tau_a)
shrink = tau_a**2 / S**2
exact_mean, exact_var = shrink * x_a, shrink * sigma_a**2


def normal_cdf(t):
    """The normal distribution function."""
    return 0.5 * (1.0 + math.erf(t / math.sqrt(2.0)))


def normal_pdf(t):
    """The normal density."""
    return math.exp(-0.5 * t * t) / math.sqrt(2.0 * math.pi)


def abc(eps):
    """Acceptance rate, mean and variance of z under the tolerance eps, in closed form."""
    low, high = (x_a - eps) / S, (x_a + eps) / S
    rate = normal_cdf(high) - normal_cdf(low)
    mean = S * (normal_pdf(low) - normal_pdf(high)) / rate
    square = S**2 * (1.0 + (low * normal_pdf(low) - high * normal_pdf(high)) / rate)
    return rate, shrink * mean, exact_var + shrink**2 * (square - mean**2)


rate, mean, _ = abc(0.5)
assert abs((mean - exact_mean) / (-shrink * x_a * 0.5**2 / (3.0 * S**2)) - 1.0) < 1e-3
assert abs(rate / (2.0 * 0.5 * normal_pdf(x_a / S) / S) - 1.0) < 1e-3

# %%
z = rng.normal(0.0, tau_a, attempts)  # by hand, at one tolerance
simulated = rng.normal(z, sigma_a)
near = np.abs(simulated - x_a) <= 20.0
agree(near.mean(), abc(20.0)[0], binomial_se(abc(20.0)[0], attempts))
agree(z[near].mean(), abc(20.0)[1], math.sqrt(abc(20.0)[2] / near.sum()))


def one_school():
    """One effect with a prior, measured once."""
    z = pyro.sample("z", dist.Normal(0.0, tau_a))
    pyro.sample("x", dist.Normal(z, sigma_a))


school_a = ph.Model(one_school).observe(x=x_a)
tolerances = [40.0, 10.0] if SMOKE else [40.0, 30.0, 20.0, 15.0, 10.0, 5.0, 2.0, 1.0]
num_samples = 2000 if SMOKE else 10_000
accepted = [ph.infer(school_a, ph.Rejection(num_samples=num_samples, tolerance=eps), seed=3) for eps in tolerances]
for eps, found in zip(tolerances, accepted, strict=True):
    rate, mean, variance = abc(eps)
    agree(found.figures["acceptance_rate"], rate, binomial_se(rate, found.figures["attempts"]))
    agree(found.expect("z").value, mean, found.expect("z").se)
    moments = found.moments("z")
    agree(moments.sd, math.sqrt(variance), moments.sd_se)
    assert found.log_evidence is None  # an approximate rate is no evidence, and the library does not call it one

# %% [markdown]
# A small tolerance costs draws, a large one costs truth. With $N$ simulations the mean squared error is
# $c^2\varepsilon^4+v/(2N\varepsilon\,p(x))$. Setting its derivative to zero gives $\varepsilon^5\propto1/N$, and the
# best attainable error falls as $N^{-2/5}$, slower than $N^{-1/2}$. (With $m$ numbers to match, as $N^{-2/(m+4)}$:
# the curse.)

# %%
rates, means, variances = np.array([abc(eps) for eps in np.geomspace(1e-3, 40.0, 4000)]).T
best = [np.sqrt(((means - exact_mean) ** 2 + variances / (N * rates)).min()) for N in (1e6, 1e9)]
assert abs(np.log(best[1] / best[0]) / np.log(1e3) - -0.4) < 0.01

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
line = np.arange(0, 13)
left.plot(line, r**line, color=GREY, label=f"$r^d$, r = {r:.3f}")
error = 4.0 * np.array(rejection_se)
left.errorbar(dimensions, rejection_rate, yerr=error, **DOTS, color=BLUE, label="measured, ± 4 s.e.")
left.set(yscale="log", xlabel="dimension d", ylabel="acceptance rate", title="Rejection in d dimensions")
left.legend()
smooth = np.linspace(0.5, 42.0, 200)
right.plot(smooth, [abc(eps)[1] for eps in smooth], color=GREY, label="truncated normal, closed form")
to_second_order = exact_mean - shrink * x_a * smooth**2 / (3.0 * S**2)
right.plot(smooth, to_second_order, ":", color=GREY, label=r"to order $\varepsilon^2$")
values, error = np.array([(e.value, 4.0 * e.se) for e in (found.expect("z") for found in accepted)]).T
right.errorbar(tolerances, values, yerr=error, **DOTS, color=ORANGE, label="ABC, ± 4 s.e.")
right.axhline(exact_mean, color=RED, lw=1.2, label="exact posterior mean")
right.set(xlabel=r"tolerance $\varepsilon$", ylabel="mean effect in school A", title="ABC: the tolerance is a bias")
right.set_ylim(0.0, 9.6)
right.legend(fontsize=8, loc="lower left")
keep(figure, "curse_and_tolerance")

# %% [markdown]
# ## 4. Importance sampling
#
# Do not throw draws away: *weigh* them. For any density $q$ that is positive wherever $p(x,z)$ is,
#
# $$p(x)=\int p(x,z)\,dz=\int q(z)\,\frac{p(x,z)}{q(z)}\,dz=\mathbb E_q[w],\qquad w(z)=\frac{p(x,z)}{q(z)},$$
#
# and in the same way $\mathbb E_q[w f]=\int p(x,z)f(z)\,dz=p(x)\,\mathbb E[f\mid x]$. So, with $z_i\sim q$,
#
# $$\hat p(x)=\frac1N\sum_i w_i\quad\text{(unbiased)},\qquad
#   \hat\mu=\frac{\sum_i w_i f(z_i)}{\sum_i w_i}=\sum_i W_if(z_i)\quad\text{(self-normalised, consistent)}.$$
#
# **Error of the ratio (delta method).** Exactly, $\hat\mu-\mu=\frac{\frac1N\sum_iw_i(f_i-\mu)}{\frac1N\sum_iw_i}$.
# The numerator has mean $\mathbb E_q[wf]-\mu\,\mathbb E_q[w]=0$; the denominator tends to $p(x)$. To leading order,
# with $\tilde w=w/p(x)$,
#
# $$\mathrm{Var}[\hat\mu]\approx\frac1N\,\mathbb E_q\big[\tilde w^2(f-\mu)^2\big]
#   \quad\text{estimated by}\quad\sum_iW_i^2\,(f_i-\hat\mu)^2 .$$
#
# **Effective sample size.** If $\tilde w^2$ and $(f-\mu)^2$ were unrelated, this would be
# $\mathrm{Var}[f\mid x]/\mathrm{ESS}$ with
#
# $$\mathrm{ESS}=\frac{N}{\mathbb E_q[\tilde w^2]}\approx\frac{(\sum_iw_i)^2}{\sum_iw_i^2}
#   =\frac N{1+\mathrm{cv}^2},\qquad \mathrm{cv}^2=\mathrm{Var}_q[\tilde w]=\chi^2\big(p(\cdot\mid x)\,\|\,q\big).$$
#
# For the coin with $q$ the prior, $\mathrm{ESS}/N\to p(k)^2/\mathbb E[L^2]=0.434964$.


# %%


def effective_share(log_w):
    """ESS / N with its delta-method error: the derivative of 2 log mean(w) - log mean(w^2) along each draw."""
    w = np.exp(log_w - log_w.max())
    estimate = w.mean() ** 2 / (w**2).mean()
    influence = 2.0 * w / w.mean() - w**2 / (w**2).mean()
    return estimate, estimate * influence.std() / math.sqrt(w.size)


N = 10_000
theta = rng.beta(a, b, N)  # by hand: q is the prior, so the weight is the likelihood
w = likelihood(theta)
W = w / w.sum()
mean = W @ theta
mean_se = math.sqrt((W**2) @ (theta - mean) ** 2)
agree(w.mean(), evidence, w.std(ddof=1) / math.sqrt(N))
agree(mean, 0.6, mean_se)
ess_share = evidence**2 / second_moment
assert abs(ess_share - 0.434964) < 1e-6
found, its_se = effective_share(np.log(w))
assert abs(found - 1.0 / (W @ W) / N) < 1e-12
agree(found, ess_share, its_se)

post = ph.infer(coin_model, ph.Importance(num_particles=N), seed=1)  # by the library
agree(post.expect("theta").value - mean, 0.0, math.hypot(post.expect("theta").se, mean_se))
agree(post.expect("theta").value, 0.6, post.expect("theta").se)
found, its_se = effective_share(post.log_weights.numpy().ravel())
assert abs(found - post.figures["ess"] / N) < 1e-12
agree(found, ess_share, its_se)
post.expect("theta")

# %% [markdown]
# Are the stated errors right? Repeat a small run many times. The mean squared error must equal the mean of the
# squared stated errors, and both must equal the integral $\frac1N\mathbb E_q[\tilde w^2(f-\mu)^2]$. The *log* of an
# unbiased estimate is biased down, by Jensen's inequality; to second order
#
# $$\mathbb E[\log\hat p]-\log p\approx-\frac{\mathrm{Var}[\hat p]}{2p^2}=-\frac{\mathrm{cv}^2}{2N} .$$

# %%
runs, N = 1000 if SMOKE else 10_000, 200
theta = rng.beta(a, b, (runs, N))
w = likelihood(theta)
W = w / w.sum(1, keepdims=True)
means = (W * theta).sum(1)
stated = (W**2 * (theta - means[:, None]) ** 2).sum(1)
squares = (means - 0.6) ** 2
by_integral = np.trapezoid(posterior_pdf**2 * (grid - 0.6) ** 2 / np.maximum(prior_pdf, 1e-300), grid) / N
mc_error = squares.std() / squares.mean() / math.sqrt(runs)
agree(squares.mean() / by_integral, 1.0, math.hypot(mc_error, 1.0 / N))  # the delta method is right to order 1/N
agree(stated.mean() / by_integral, 1.0, 3.0 / N)

logs = np.log(w.reshape(-1, 50).mean(1)) - math.log(evidence)  # the same draws as shorter runs, where the bias shows
logs_se = logs.std() / math.sqrt(logs.size)
agree(logs.mean(), -(1.0 / ess_share - 1.0) / (2 * 50), logs_se)
assert SMOKE or logs.mean() < -4.0 * logs_se

# %% [markdown]
# **The optimal proposal.** As $\mathbb E_q[w]=p(x)$ whatever $q$ is, $\mathrm{Var}_q[w]=\mathbb E_q[w^2]-p(x)^2\ge0$,
# and this is zero exactly if $w$ is constant: $q(z)=p(z\mid x)$. One draw would then give the evidence without error;
# the catch is that normalising this $q$ *is* the problem. For one expectation, Cauchy-Schwarz gives
#
# $$\mathbb E_q\big[\tilde w^2(f-\mu)^2\big]\ \ge\ \mathbb E_q\big[\tilde w\,|f-\mu|\big]^2
#   =\mathbb E\big[|f-\mu|\;\big|\;x\big]^2,\qquad\text{equal if } q\propto p(z\mid x)\,|f(z)-\mu| .$$
#
# So even the posterior itself is not the best proposal for a given $f$.


# %%
def perfect(n):
    """The posterior of the coin, as a proposal."""
    pyro.sample("theta", dist.Beta(9.0, 6.0))


post = ph.infer(coin_model, ph.Importance(num_particles=100, proposal=perfect), seed=0)
assert torch.allclose(post.log_weights, torch.tensor(math.log(evidence), dtype=torch.float64), atol=1e-10)
assert post.log_evidence.se < 1e-10

spread = np.trapezoid(posterior_pdf * np.abs(grid - 0.6), grid) ** 2  # the bound: E[|f - mu| | x]^2
inside = posterior_pdf > 1e-12
best = (posterior_pdf * np.abs(grid - 0.6))[inside] + 1e-15
best /= np.trapezoid(best, grid[inside])
ratio = (posterior_pdf**2 * (grid - 0.6) ** 2)[inside] / best
assert abs(np.trapezoid(ratio, grid[inside]) / spread - 1.0) < 1e-6
assert spread < 0.015 < N * by_integral  # best proposal < posterior < prior
f"variance of one draw: best {spread:.4f}, posterior 0.0150, prior {N * by_integral:.4f}"

# %% [markdown]
# ### The same wall, later
#
# From the prior in $d$ dimensions the effective share falls exponentially too. With
# $\mathcal N(x;z,\sigma^2)^2=(4\pi\sigma^2)^{-1/2}\,\mathcal N(x;z,\sigma^2/2)$,
#
# $$\frac{\mathrm{ESS}}N\to\frac{p(x)^2}{\mathbb E[L^2]}=\prod_{i=1}^d
#   \frac{\mathcal N(x_i;0,\sigma^2+\tau^2)^2\sqrt{4\pi\sigma^2}}{\mathcal N(x_i;0,\tau^2+\sigma^2/2)} .$$


# %%
def normal(x, variance):
    """The density of N(0, variance)."""
    return np.exp(-0.5 * x**2 / variance) / np.sqrt(2.0 * math.pi * variance)


share = normal(seen, sigma2 + tau2) ** 2 * math.sqrt(4.0 * math.pi * sigma2) / normal(seen, tau2 + sigma2 / 2.0)

by_hand, its_se = effective_share(np.log(normal(seen - tries, sigma2)).sum(1))  # the draws made above, d = 3
agree(by_hand, share**3, its_se)
importance_share, N = [], 10_000 if SMOKE else 100_000
warned = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for d in dimensions:
        post = ph.infer(ph.Model(normals, d).observe(x=np.full(d, seen)), ph.Importance(num_particles=N), seed=d)
        found, its_se = effective_share(post.log_weights.numpy().ravel())
        assert abs(found - post.figures["ess"] / N) < 1e-12
        agree(found, share**d, its_se)
        importance_share.append(found)
        warned += [d] if post.warnings else []
assert [warning.category for warning in caught] == [ph.WeightWarning] * len(warned)
f"the library warns in dimensions {warned}"

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
post = ph.infer(coin_model, ph.Importance(num_particles=2000), seed=2)
theta, W = post.draws["theta"].numpy().ravel(), post.weights.numpy().ravel()
left.hist(theta, bins=30, range=(0, 1), density=True, histtype="step", color=GREY, lw=1.4, label="draws of the prior")
left.hist(theta, bins=30, range=(0, 1), density=True, weights=W, color=BLUE, alpha=0.5, label="the same, weighted")
left.plot(grid, posterior_pdf, color=RED, label="posterior Beta(9, 6)")
left.plot(grid, likelihood(grid) / M, ":", color="black", lw=1.4, label="weight (largest = 1)")
left.set(xlabel=r"$\theta$", ylabel="density", title=f"2000 draws, worth {post.figures['ess']:.0f}")
left.set_ylim(0, 4.6)
left.legend(fontsize=8, loc="upper left")
line = np.arange(0, 13)
right.plot(line, share**line, color=ORANGE, lw=1.2)
right.plot(dimensions, importance_share, "s", color=ORANGE, label="importance: ESS / N from the prior")
right.plot(line, r**line, color=BLUE, lw=1.2)
right.plot(dimensions, rejection_rate, "o", color=BLUE, label="rejection: acceptance rate")
right.set(yscale="log", xlabel="dimension d", title="Draws left of each draw made (lines: closed form)")
right.legend(fontsize=8)
keep(figure, "weights")

# %% [markdown]
# ### A proposal that fails
#
# Let the posterior be $\mathcal N(m,c^2)$ and the proposal too narrow, $\mathcal N(m,s^2c^2)$ with $s<1$. Put
# $t=(z-m)/c$. The weight is
#
# $$\tilde w=\frac{\mathcal N(t;0,1)}{\mathcal N(t;0,s^2)}=s\exp\Big(\frac{t^2}2\Big(\frac1{s^2}-1\Big)\Big),$$
#
# largest where the proposal hardly ever goes. How often? $t/s$ is standard normal under $q$, so
#
# $$P_q(\tilde w>y)=P\Big(\frac{t^2}{s^2}>\frac{2\log(y/s)}{1-s^2}\Big)
#   =2\,\bar\Phi\Big(\sqrt{\tfrac{2\log(y/s)}{1-s^2}}\Big)
#   \ \sim\ \text{const}\cdot\frac{y^{-1/(1-s^2)}}{\sqrt{\log y}} .$$
#
# A power law: the generalised Pareto shape of the weights' tail is $k=1-s^2$, and $\mathbb E_q[\tilde w^r]$ is finite
# exactly for $r<1/k$. The mean is always finite; **the variance is finite only for $k<\frac12$**, and there
#
# $$\mathbb E_q[\tilde w^2]=s\int\frac{e^{-t^2+t^2/2s^2}}{\sqrt{2\pi}}\,dt
#   =\frac s{\sqrt{2-1/s^2}}=\frac{s^2}{\sqrt{2s^2-1}} .$$
#
# Above $k=0.7$ ($s^2<0.3$) no practical number of draws suffices
# ([Vehtari et al. 2024](https://arxiv.org/abs/1507.02646)).

# %%
t = np.linspace(-30.0, 30.0, 100_001)
for s2 in (0.6, 0.8):
    squares = math.sqrt(s2 / (2.0 * math.pi)) * np.exp(-(t**2) * (1.0 - 0.5 / s2))
    assert abs(np.trapezoid(squares, t) / (s2 / math.sqrt(2.0 * s2 - 1.0)) - 1.0) < 1e-9

# %% [markdown]
# **By hand: Hill's estimator** of $k$, the mean of $\log\tilde w-\log u$ over the weights above a high threshold $u$.
# Here even its expectation at a *finite* threshold is known. Let $g=t/s$, standard normal under $q$, so that
# $\log\tilde w=\text{const}+\frac{1-s^2}2g^2$, and let $u$ be the weight at $|g|=c$. Integration by parts gives
# $\mathbb E[g^2\mid|g|>c]=1+c\,\varphi(c)/\bar\Phi(c)$, hence
#
# $$\mathbb E[\log\tilde w-\log u]=\frac{1-s^2}2\big(\mathbb E[g^2\mid|g|>c]-c^2\big)
#   =\frac{1-s^2}2\Big(1+\frac{c\,\varphi(c)}{\bar\Phi(c)}-c^2\Big)\xrightarrow{\ c\to\infty\ }1-s^2 .$$
#
# It comes from below, slowly: that is the $\sqrt{\log y}$ in the tail. The error is that of a mean of nearly
# exponential numbers, $k/\sqrt{\text{tail size}}$. The library fits a generalised Pareto distribution to the same
# tail, as PSIS prescribes.


# %%
def hill(log_w, tail):
    """Hill's estimate of the Pareto shape from the largest weights."""
    top = np.sort(log_w)[-tail - 1 :]
    return (top[1:] - top[0]).mean()


def target():
    """A standard normal, observed by nobody: its evidence is 1."""
    pyro.sample("z", dist.Normal(0.0, 1.0))


def narrow(scale):
    """A proposal with the right centre and another width."""
    return ph.Model(lambda scale: pyro.sample("z", dist.Normal(0.0, scale)), scale)


unseen = ph.Model(target)
N = 2000 if SMOKE else 50_000
repeats = 5 if SMOKE else 20
tail = math.ceil(3.0 * math.sqrt(N))
cut = math.sqrt(2.0) * float(torch.special.erfinv(torch.tensor(1.0 - tail / N, dtype=torch.float64)))
gap = 0.5 * (1.0 + cut * normal_pdf(cut) / (1.0 - normal_cdf(cut)) - cut**2)  # Hill's expectation, over 1 - s2

squared_widths = [0.1, 0.5, 0.9] if SMOKE else [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
hills, khats = [], []
with warnings.catch_warnings(record=True) as caught:  # the warnings are the point here: they are counted
    warnings.simplefilter("always")
    for i, s2 in enumerate(squared_widths):
        proposal = narrow(math.sqrt(s2))
        method = ph.Importance(num_particles=N, proposal=proposal)
        found = [ph.infer(unseen, method, seed=100 * i + run) for run in range(repeats)]
        by_hill = np.array([hill(post.log_weights.numpy().ravel(), tail) for post in found])
        by_library = np.array([post.figures["pareto_k"] for post in found])
        hills.append((by_hill.mean(), (1.0 - s2) * gap / math.sqrt(tail * repeats)))
        khats.append((by_library.mean(), by_library.std(ddof=1) / math.sqrt(repeats)))
        agree(hills[-1][0], (1.0 - s2) * gap, hills[-1][1])
        # The fit's weak prior is worth ten weights at k = 1/2; beyond that it lies between Hill's value and the truth.
        pulled = [(tail * value + 10 * 0.5) / (tail + 10) for value in ((1.0 - s2) * gap, 1.0 - s2)]
        assert pulled[0] - 4.0 * khats[-1][1] < khats[-1][0] < pulled[1] + 4.0 * khats[-1][1]
assert caught
assert all(warning.category is ph.WeightWarning for warning in caught)

# %% [markdown]
# Now watch the running estimate of the evidence, $\frac1n\sum_{i\le n}\tilde w_i$ (truth: 1), for $s^2=0.8$ and for
# $s^2=0.1$. The second is unbiased too, yet lies below the truth nearly always and makes up for it by rare jumps. Its
# stated error is computed from the same draws, and does not know of the jumps that have not happened yet. k-hat does
# know.


# %%
def running_mean(post):
    """The evidence estimate after each draw."""
    w = post.log_weights.exp().numpy().ravel()
    return np.cumsum(w) / np.arange(1, w.size + 1)


N = 5000 if SMOKE else 100_000
close = ph.Importance(num_particles=N, proposal=narrow(math.sqrt(0.8)))
far = ph.Importance(num_particles=N, proposal=narrow(math.sqrt(0.1)))
good = [ph.infer(unseen, close, seed=seed) for seed in range(4)]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    failing = [ph.infer(unseen, far, seed=seed) for seed in range(4)]
assert [warning.category for warning in caught] == [ph.WeightWarning] * 4
print(caught[0].message)
for post in good:
    assert not post.diagnose()
    agree(post.log_evidence.value, 0.0, post.log_evidence.se)
for post in failing:
    assert post.diagnose()

# %% [markdown]
# **The repair** is in the message: propose from an earlier posterior, with Student-t tails. `proposal=posterior` fits a
# multivariate Student-t with 5 degrees of freedom to the earlier (weighted) draws, on the unconstrained scale. In one
# dimension, with scale $b$, $\tilde w\propto e^{-t^2/2}\,(1+t^2/5b^2)^3$, which is *bounded*: every moment is finite,
# and the variance law of section 2 holds again. The failed run was good enough to learn from.

# %%
repaired = []
for seed, post in enumerate(failing):
    repaired.append(ph.infer(unseen, ph.Importance(num_particles=N, proposal=post), seed=seed))
for post in repaired:
    assert not post.diagnose()
    agree(post.log_evidence.value, 0.0, post.log_evidence.se)
print(f"before: log evidence {failing[0].log_evidence}, k-hat {failing[0].figures['pareto_k']:.2f}")
print(f"after:  log evidence {repaired[0].log_evidence}, k-hat {repaired[0].figures['pareto_k']:.2f}; truth 0")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
left.plot([0, 1], [1, 0], color=RED, label="$k = 1 - s^2$")
left.plot([0, 1], [gap, 0], "--", color=GREY, label="expectation of Hill's estimate")
centre, error = np.array(hills).T
where = np.array(squared_widths)
left.errorbar(where - 0.006, centre, yerr=4.0 * error, **(DOTS | {"fmt": "s"}), color=GREY, label="Hill's, ± 4 s.e.")
centre, error = np.array(khats).T
left.errorbar(where + 0.006, centre, yerr=4.0 * error, **DOTS, color=BLUE, label="k-hat of the library, ± 4 s.e.")
left.axhspan(0.7, 1.0, color=RED, alpha=0.08, lw=0)
left.axhspan(0.5, 0.7, color=ORANGE, alpha=0.08, lw=0)
left.text(0.99, 0.85, "unusable", color=RED, ha="right", va="center")
left.text(0.99, 0.6, "infinite variance", color=ORANGE, ha="right", va="center")
left.set(xlabel="squared width $s^2$ of the proposal", ylabel="Pareto shape", xlim=(0, 1), ylim=(0, 1))
left.set_title("How heavy the weights' tail is")
left.legend(fontsize=8, loc="lower left")
shown = np.unique(np.geomspace(20, N, 2000).astype(int)) - 1
for posts, colour, label in (
    (failing, RED, "$s^2 = 0.1$, k = 0.9"),
    (good, BLUE, "$s^2 = 0.8$, k = 0.2"),
    (repaired, GREEN, "Student-t, refitted"),
):
    lines = right.plot(shown + 1, np.array([running_mean(post)[shown] for post in posts]).T, color=colour, lw=1.1)
    lines[0].set_label(label)
right.axhline(1.0, color="black", lw=0.8)
right.set(xscale="log", xlabel="draws", title="Running estimate of the evidence (truth: 1)", ylim=(0.0, 1.9))
right.legend(fontsize=8, loc="upper right")
keep(figure, "failing_proposal")

# %% [markdown]
# ## 5. The three questions, on eight schools
#
# Eight schools each tried a coaching course for the SAT-V. School $j$ reports an effect $y_j$ in points, with a known
# standard error $\sigma_j$ ([Rubin 1981](https://doi.org/10.3102/10769986006004377)). The model: schools differ, by
# an unknown amount $\tau$, around an unknown mean $\mu$:
#
# $$\mu\sim\mathcal N(0,5^2),\qquad\tau\sim\mathrm{HalfCauchy}(5),\qquad
#   \theta_j\sim\mathcal N(\mu,\tau^2),\qquad y_j\sim\mathcal N(\theta_j,\sigma_j^2).$$
#
# The program writes $\theta_j=\mu+\tau\,\tilde\theta_j$ with $\tilde\theta_j\sim\mathcal N(0,1)$: the same model, on
# a scale where the latents do not squeeze each other (the tutorial on Markov chains says why that matters).

# %%
SCHOOLS = list("ABCDEFGH")
y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
sigma = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools(sigma):
    """Effects in schools that resemble each other."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(sigma)):
        theta_raw = pyro.sample("theta_raw", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * theta_raw, event_dim=0)
        pyro.sample("y", dist.Normal(theta, sigma))


schools = ph.Model(eight_schools, sigma, coords={"school": SCHOOLS}).observe(y=y)

# %% [markdown]
# ### First the truth, without random numbers
#
# There are ten latents, but nine of the integrals can be done on paper.
#
# *The effects.* A normal plus an independent normal is normal, so with $s_j^2=\sigma_j^2+\tau^2$
#
# $$p(y_j\mid\mu,\tau)=\int\mathcal N(y_j;\theta_j,\sigma_j^2)\,\mathcal N(\theta_j;\mu,\tau^2)\,d\theta_j
#   =\mathcal N(y_j;\mu,s_j^2).$$
#
# *The mean.* $\mathcal N(y_j;\mu,s_j^2)=\mathcal N(y_j;0,s_j^2)\,e^{\mu y_j/s_j^2-\mu^2/2s_j^2}$. Multiply over $j$
# and with the prior; collect the powers of $\mu$ under $\frac1V=\frac1{25}+\sum_j\frac1{s_j^2}$ and
# $m=V\sum_jy_j/s_j^2$:
#
# $$p(y\mid\tau)=\prod_j\mathcal N(y_j;0,s_j^2)\cdot\frac1{\sqrt{2\pi\,25}}\int e^{\mu m/V-\mu^2/2V}\,d\mu
#   =\prod_j\mathcal N(y_j;0,s_j^2)\cdot\sqrt{\frac V{25}}\;e^{m^2/2V},$$
#
# and, as a by-product, $\mu\mid\tau,y\sim\mathcal N(m,V)$.
#
# *The spread.* One integral is left. With $\tau=e^u$ it is $p(y)=\int p(y\mid e^u)\,p(e^u)\,e^u\,du$, whose integrand
# falls off exponentially on both sides: the trapezoid rule is then accurate to rounding.


# %%
def integrand(y, sigma, u):
    """Log p(y | tau) p(tau) tau on a grid of u = log tau, and mean and variance of mu given tau."""
    tau = np.exp(u)
    s2 = sigma**2 + tau[:, None] ** 2
    V = 1.0 / (1.0 / 25.0 + (1.0 / s2).sum(1))
    m = V * (y / s2).sum(1)
    log_y = -0.5 * (np.log(2.0 * np.pi * s2) + y**2 / s2).sum(1) + 0.5 * np.log(V / 25.0) + 0.5 * m**2 / V
    log_prior = np.log(2.0 / (np.pi * 5.0)) - np.log1p((tau / 5.0) ** 2)
    return log_y + log_prior + u, m, V


def quadrature(y, sigma, points=4001):
    """Log evidence, the grid of tau with its posterior weights, and mean and variance of mu given tau."""
    u = np.linspace(-30.0, 15.0, points)
    log_f, m, V = integrand(y, sigma, u)
    log_f = log_f + math.log(u[1] - u[0])
    log_evidence = float(np.logaddexp.reduce(log_f))
    return log_evidence, np.exp(u), np.exp(log_f - log_evidence), m, V


log_z, tau, weight, m, V = quadrature(y, sigma)
assert abs(log_z - -31.311347) < 1e-6
assert abs(log_z - quadrature(y, sigma, 501)[0]) < 1e-9  # eight times coarser: the same

one = integrand(y, sigma, np.log([3.0]))[0] - math.log(2.0 / (np.pi * 5.0) / (1.0 + 0.36)) - math.log(3.0)
jointly = torch.distributions.MultivariateNormal(  # given tau, y is jointly normal: the algebra above, in one line
    torch.zeros(8, dtype=torch.float64), torch.tensor(np.diag(sigma**2 + 9.0) + 25.0)
)
assert abs(float(jointly.log_prob(torch.tensor(y))) - one[0]) < 1e-10

# %% [markdown]
# Posterior means follow by the law of total expectation. Given $\mu$ and $\tau$, precisions add:
# $\theta_j\mid\mu,\tau,y\sim\mathcal N\big(b_jy_j+(1-b_j)\mu,\;b_j\sigma_j^2\big)$ with $b_j=\tau^2/s_j^2$, the share
# that a school keeps of its own result. Averaging over $\mu\mid\tau,y$, then over $\tau$:
#
# $$\mathbb E[\theta_j\mid\tau,y]=b_jy_j+(1-b_j)m,\qquad \mathrm{Var}[\theta_j\mid\tau,y]=b_j\sigma_j^2+(1-b_j)^2V.$$

# %%
own = tau[:, None] ** 2 / (sigma**2 + tau[:, None] ** 2)
theta_given_tau = own * y + (1.0 - own) * m[:, None]
theta_var_given_tau = own * sigma**2 + (1.0 - own) ** 2 * V[:, None]
theta_mean = weight @ theta_given_tau
theta_sd = np.sqrt(weight @ (theta_var_given_tau + theta_given_tau**2) - theta_mean**2)
mu_mean, tau_mean = weight @ m, weight @ tau
mu_var = weight @ (V + m**2) - mu_mean**2
tau_square = weight @ tau**2
assert np.allclose([mu_mean, math.sqrt(mu_var)], [4.396821, 3.317704], atol=1e-6)
assert np.allclose([tau_mean, math.sqrt(tau_square - tau_mean**2)], [3.597705, 3.219958], atol=1e-6)
assert np.allclose(theta_mean, [6.2119, 4.9402, 3.9270, 4.7571, 3.6155, 4.0426, 6.2967, 4.8543], atol=1e-4)
assert np.allclose(theta_sd, [5.593, 4.674, 5.263, 4.780, 4.657, 4.827, 5.078, 5.291], atol=1e-3)

# %% [markdown]
# ### Question 1, marginalisation: how probable were these data?
#
# $p(y)$ compares models, and is the test of every method here. *Rejection*: the likelihood is largest at $\theta=y$,
# $\log M=-\sum_j\log\sqrt{2\pi\sigma_j^2}$, so the acceptance rate must be $p(y)/M=1.85\,\%$. *Importance sampling
# from the prior*: by hand in three lines, then by the library.

# %%
log_bound = -0.5 * np.log(2.0 * np.pi * sigma**2).sum()
method = ph.Rejection(num_samples=500 if SMOKE else 4000, likelihood_bound=float(log_bound))
rejection = ph.infer(schools, method, seed=0)
agree(rejection.log_evidence.value, log_z, rejection.log_evidence.se)
rate = math.exp(log_z - log_bound)
agree(rejection.figures["acceptance_rate"], rate, binomial_se(rate, rejection.figures["attempts"]))
assert abs(rate - 0.0185) < 1e-4

N = 20_000 if SMOKE else 100_000
mu_draws, tau_draws = rng.normal(0.0, 5.0, N), 5.0 * np.abs(rng.standard_cauchy(N))
effects = rng.normal(mu_draws[:, None], tau_draws[:, None], (N, 8))
w = np.exp(log_bound - 0.5 * (((y - effects) / sigma) ** 2).sum(1))
agree(w.mean() / math.exp(log_z), 1.0, w.std() / w.mean() / math.sqrt(N))

from_prior = ph.infer(schools, ph.Importance(num_particles=N), seed=0)
assert not from_prior.diagnose()
agree(from_prior.log_evidence.value, log_z, from_prior.log_evidence.se)
print(f"log evidence: exact {log_z:.4f}, rejection {rejection.log_evidence}, importance {from_prior.log_evidence}")

# %% [markdown]
# Somebody proposes from a guess that is too sure of itself. A proposal is another program over the same latents:


# %%
def overconfident(sigma):
    """Right about where the posterior is, wrong about how wide."""
    pyro.sample("mu", dist.Normal(4.4, 1.0))
    pyro.sample("tau", dist.LogNormal(1.0, 0.5))
    with pyro.plate("school", len(sigma)):
        pyro.sample("theta_raw", dist.Normal(0.0, 0.5))


seeds = range(2 if SMOKE else 10)
guess = ph.Model(overconfident, sigma)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    sure = [ph.infer(schools, ph.Importance(proposal=guess), seed=seed) for seed in seeds]
print(f"warned in {len(caught)} of {len(sure)} runs; the first: {caught[0].message}")
assert len(caught) == len(sure)
assert all(post.warnings for post in sure)

# %% [markdown]
# Each failed run is a start all the same. Fit a Student-t to it and sample again, until the library has nothing to
# say; then once more, as the last fit is the best one.


# %%
def refitted(post, seed):
    """Adaptive importance sampling: a new proposal from each answer, until the weights can be trusted."""
    for _ in range(10):
        trusted = not post.diagnose()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ph.WeightWarning)
            post = ph.infer(schools, ph.Importance(proposal=post), seed=seed)
        if trusted:
            return post
    raise AssertionError("not repaired in ten rounds")


mended = [refitted(post, 100 + seed) for seed, post in zip(seeds, sure, strict=True)]
for post in mended:
    assert not post.diagnose()
    agree(post.log_evidence.value, log_z, post.log_evidence.se)


def standardised(posts):
    """Errors of the log evidence in units of the errors that were stated."""
    return np.array([(post.log_evidence.value - log_z) / post.log_evidence.se for post in posts])


assert np.abs(standardised(sure)).max() > 4.0  # the error stated by a run with a bad k-hat is no error bar
print(f"a failed run: {sure[0].log_evidence}; the same mended: {mended[0].log_evidence}")

# %%
post = ph.infer(schools, ph.Importance(num_particles=N, proposal=mended[0]), seed=7)  # the one to answer questions with
assert not post.diagnose()
agree(post.log_evidence.value, log_z, post.log_evidence.se)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
tau_posterior = weight / (tau * math.log(tau[1] / tau[0]))  # per unit of tau, no longer of log tau
tau_draws, W = post.draws["tau"].numpy().ravel(), post.weights.numpy().ravel()
left.hist(tau_draws, bins=80, range=(0, 20), weights=W / 0.25, color=BLUE, alpha=0.45, label="importance sampling")
left.plot(tau, tau_posterior, color=RED, label="posterior, by quadrature")
tau_prior = 2.0 / (np.pi * 5.0 * (1.0 + (tau / 5.0) ** 2))
left.plot(tau, tau_prior, "--", color="black", lw=1.2, label="prior, HalfCauchy(5)")
left.set(xlabel=r"$\tau$ (points)", ylabel="density", title="How much schools differ: not very much", xlim=(0, 20))
left.legend()
for i, (posts, colour) in enumerate((([rejection], GREY), ([from_prior], BLUE), (sure, RED), (mended, GREEN))):
    where = i + np.linspace(-0.3, 0.3, len(posts)) if len(posts) > 1 else [i]
    values, errors = np.array([(p.log_evidence.value, p.log_evidence.se) for p in posts]).T
    right.errorbar(where, values, yerr=2.0 * errors, **(DOTS | {"ms": 4, "capsize": 2}), color=colour)
right.axhline(log_z, color="black", lw=0.8)
right.set(xticks=range(4), title="Log evidence ± 2 stated s.e. (line: exact)", ylabel="nats")
names = ["rejection", "from the\nprior", f"over-\nconfident ({len(sure)})", f"refitted\nStudent-t ({len(sure)})"]
right.set_xticklabels(names)
keep(figure, "evidence")

# %% [markdown]
# ### Question 2, expectation: what is a quantity on average, given the data?
#
# $\mathbb E[f(z)\mid y]=\int f(z)\,p(z\mid y)\,dz$ for any $f$: a mean, a probability ($f$ an indicator), a density.
# `post.expect` takes a site's name or a function of one draw, and returns the value with its Monte Carlo error.
# Against quadrature, and by hand from the same weights:

# %%
for site, truth in (("mu", mu_mean), ("tau", tau_mean), ("theta", theta_mean)):
    agree(post.expect(site).value, truth, post.expect(site).se)

W = np.exp(post.log_weights.numpy().ravel())
W /= W.sum()
theta = post.draws["theta"].numpy().reshape(-1, 8)
by_hand = W @ theta
agree(by_hand, post.expect("theta").value, 0.1 * post.expect("theta").se)  # Pareto smoothing moves it a little

# %% [markdown]
# Is the course better in school A than in school C? Given $\tau$ the difference is normal, with variance
# $b_A\sigma_A^2+b_C\sigma_C^2+(b_A-b_C)^2V$ (the last term as both lean on the same $\mu$), so
# $P(\theta_A>\theta_C\mid y)=\int\Phi\big(\text{mean}/\text{sd}\big)\,p(\tau\mid y)\,d\tau$.

# %%
A, C = SCHOOLS.index("A"), SCHOOLS.index("C")
difference = theta_given_tau[:, A] - theta_given_tau[:, C]
its_sd = np.sqrt(own[:, A] * sigma[A] ** 2 + own[:, C] * sigma[C] ** 2 + (own[:, A] - own[:, C]) ** 2 * V)
truth = weight @ torch.special.ndtr(torch.tensor(difference / its_sd)).numpy()
better = post.expect(lambda draw: draw["theta"][A] > draw["theta"][C])
agree(better.value, truth, better.se)
agree((W @ (theta[:, A] > theta[:, C])), truth, better.se)
print(f"P(A better than C): {better}, by quadrature {truth:.4f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
rows = np.arange(8)
left.errorbar(rows - 0.2, y, yerr=sigma, fmt="o", color=GREY, capsize=3, label=r"reported, $y_j\pm\sigma_j$")
left.errorbar(rows, theta_mean, yerr=theta_sd, fmt="_", ms=12, color=RED, capsize=3, label="posterior ± sd, quadrature")
found = post.moments("theta")
left.errorbar(rows + 0.2, found.mean, yerr=found.sd, fmt="o", color=BLUE, capsize=3, label="posterior ± sd, importance")
left.axhline(mu_mean, color="black", lw=0.8, ls=":")
left.set(xlabel="school", ylabel="effect (points)", title="Schools borrow strength from each other")
left.set_xticks(rows, SCHOOLS)
left.legend(fontsize=8)
seen_tau = (tau > 0.02) & (tau < 30)
for j in rows:
    right.plot(tau[seen_tau], theta_given_tau[seen_tau, j], lw=1.3, color=plt.cm.viridis(j / 8))
    right.text(30.5, theta_given_tau[seen_tau, j][-1], SCHOOLS[j], va="center", fontsize=8, color=plt.cm.viridis(j / 8))
right.fill_between(tau[seen_tau], -6.0, -6.0 + 60 * tau_posterior[seen_tau], color=GREY, alpha=0.25, lw=0)
right.text(7.5, -4.9, r"$p(\tau\mid y)$", color="#555555")
right.set(xlabel=r"$\tau$", ylabel=r"$E[\theta_j\mid\tau,y]$", xlim=(0, 32), ylim=(-6, 26))
right.set_title("Equal schools on the left, separate ones on the right")
keep(figure, "expectation")

# %% [markdown]
# ### Question 3, prediction: what comes next?
#
# New data $y'$ average the program over the posterior; the prior predictive is the same before any data:
#
# $$p(y'\mid y)=\int p(y'\mid z)\,p(z\mid y)\,dz,\qquad p(y')=\int p(y'\mid z)\,p(z)\,dz .$$
#
# `post.predict()` runs the program forward from posterior draws. For a repetition in the same schools, the laws of
# total expectation and variance give the mean $\mathbb E[\theta_j\mid y]$ and the variance
# $\mathrm{Var}[\theta_j\mid y]+\sigma_j^2$.


# %%
def check_moments(draws, mean, variance, size):
    """Compare mean and variance of draws that are worth ``size`` independent ones with the truth."""
    share = 1.0 / size + 1.0 / draws.shape[0]  # the error of the weights, and that of the new noise
    agree(draws.mean(0), mean, np.sqrt(variance * share))
    squares = (draws - mean) ** 2
    agree(squares.mean(0), variance, squares.std(0) * math.sqrt(share))


ess = post.figures["ess"]
repeat = post.predict(seed=1)["y"].numpy().reshape(-1, 8)
check_moments(repeat, theta_mean, theta_sd**2 + sigma**2, ess)

picked = rng.choice(N, N, p=W)  # by hand: resample by weight, then run the last line of the program
check_moments(rng.normal(theta[picked], sigma), theta_mean, theta_sd**2 + sigma**2, ess)

before = post.predict(prior=True, seed=1)["y"].numpy().reshape(-1, 8)
inside = (np.abs(before) < 50.0).mean(0)  # the half-Cauchy prior has no variance: compare a probability instead
by_hand = (np.abs(rng.normal(effects, sigma)) < 50.0).mean(0)
agree(inside - by_hand, 0.0, np.sqrt(2.0 * inside * (1.0 - inside) / N))

# %% [markdown]
# **Other inputs.** Inputs of the same size mean the same schools: with errors halved (four times the pupils) the
# effects stay, and the variance becomes $\mathrm{Var}[\theta_j\mid y]+\sigma_j^2/4$.
#
# **A ninth school.** Where an input has *another size*, rows that are what they were mean the schools that were fitted,
# and all others are new: their latents are drawn given the posterior of $\mu$ and $\tau$. For one school with
# $\sigma_9=10$: $\mathbb E[y_9\mid y]=\mathbb E[\mu\mid y]$ and
# $\mathrm{Var}[y_9\mid y]=\mathrm{Var}[\mu\mid y]+\mathbb E[\tau^2\mid y]+10^2$.

# %%
larger = post.predict(sigma=sigma / 2.0, seed=2)["y"].numpy().reshape(-1, 8)
check_moments(larger, theta_mean, theta_sd**2 + sigma**2 / 4.0, ess)

ninth = post.predict(sigma=np.array([10.0]), sites=("theta", "y"), seed=3)
check_moments(ninth["theta"].numpy().ravel(), mu_mean, mu_var + tau_square, ess)
check_moments(ninth["y"].numpy().ravel(), mu_mean, mu_var + tau_square + 100.0, ess)

# %% [markdown]
# Nine inputs, of which the first eight are those that were fitted, are the eight schools and a new one. The eight keep
# their effects, and the ninth comes from the population of schools:

# %%
nine = post.predict(sigma=np.append(sigma, 10.0), sites=("theta",), seed=4)["theta"].numpy().reshape(-1, 9)
check_moments(nine[:, :8], theta_mean, theta_sd**2, ess)
check_moments(nine[:, 8], mu_mean, mu_var + tau_square, ess)

# %% [markdown]
# Prediction and marginalisation are one question. By Bayes' rule for the nine, the predictive density of a ninth
# result is a ratio of evidences, $p(y_9\mid y)=p(y,y_9)/p(y)$: quadrature twice against one posterior expectation, of
# $\mathcal N(y_9;\mu,\tau^2+\sigma_9^2)$.

# %%
ratio = quadrature(np.append(y, 20.0), np.append(sigma, 10.0))[0] - log_z
predictive = post.expect(
    lambda draw: dist.Normal(draw["mu"], (draw["tau"] ** 2 + 100.0).sqrt()).log_prob(torch.tensor(20.0)).exp()
)
agree(predictive.value, math.exp(ratio), predictive.se)
f"density of y_9 = 20: {predictive}, by two evidences {math.exp(ratio):.4f}"

# %%
figure, axes = plt.subplots(figsize=(8, 4))


def intervals(at, draws, colour, label):
    """A thin 90 % and a thick 50 % interval at each place."""
    for low, high, width in ((5, 95, 2), (25, 75, 7)):
        ends = np.percentile(draws, (low, high), axis=0)
        axes.vlines(at, *ends, color=colour, lw=width, alpha=0.75, label=label if width == 7 else None)


intervals(rows - 0.15, before, GREY, "before the data: 50 % and 90 %")
intervals(rows + 0.15, repeat, BLUE, "after the data, same school again")
intervals([8 - 0.15], post.predict(sigma=np.array([10.0]), prior=True, seed=3)["y"].numpy().reshape(-1, 1), GREY, None)
intervals([8 + 0.15], ninth["y"].numpy().reshape(-1, 1), GREEN, r"a new school, $\sigma_9=10$")
axes.plot(rows, y, "o", color="black", ms=5, label="reported")
axes.set(xlabel="school", ylabel="reported effect (points)", title="What the next report may say", ylim=(-62, 75))
axes.set_xticks([*rows, 8], [*SCHOOLS, "new"])
axes.legend(fontsize=8, ncols=2, loc="upper center")
keep(figure, "prediction")

# %% [markdown]
# ## 6. What to take away
#
# 1. Exact sums cost what the *structure* demands: write `pyro.markov` and `pyro.plate`; `"exact"` refuses the rest.
# 2. Averages of random draws are right to $\sigma/\sqrt N$ in any dimension, but $\sigma$ can be exponential in the
#    dimension, or infinite: acceptance rate, ESS and k-hat say so, before you believe the number.
# 3. A failed proposal is a start: refit (`ph.Importance(proposal=posterior)`) until the library has nothing to say,
#    then read evidence, expectations and predictions off one posterior, each with its error.
