# %% [markdown]
# # 3. Markov chains: MH, Gibbs, HMC, NUTS
#
# **Aim:** watch four samplers walk over one target, know why each is right and what each costs, and see a sampler fail,
# say so, and be repaired: eight schools and the funnel.
#
# Every method appears twice: first as a loop in a few lines of NumPy, then by `phlogiston`. Every equation is checked
# by an `assert`; where it concerns random numbers, the tolerance is four standard errors.
#
# Data: Rubin's eight schools; targets with known moments elsewhere. `SMOKE=1` makes everything small.

# %%
import math
import os
import sys
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.stats import norm, rankdata

import phlogiston as ph

SMOKE = os.environ.get("SMOKE", "0") not in ("", "0")  # tiny sizes, for continuous integration
HERE = Path(__file__).parent if "__file__" in globals() else Path.cwd()
FOLDER = Path(os.environ.get("TUTORIAL_OUT", HERE / "output"))
FOLDER.mkdir(parents=True, exist_ok=True)
sys.path.insert(0, str(HERE.parent / "models"))  # programs with data and exact answers
import eight_schools as rubin
import funnel as neal
import mixture

torch.set_num_threads(1)  # on tensors this small, threads wait for each other
if SMOKE:  # so few draws that the library rightly complains; at full size only runs that are meant to fail may warn
    warnings.simplefilter("ignore", ph.ConvergenceWarning)

BLUE, ORANGE, GREEN, RED, GREY = "#2b6cb0", "#dd7a1e", "#2f855a", "#c53030", "#8a8f98"
plt.rcParams.update({"figure.dpi": 110, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"legend.frameon": False, "lines.linewidth": 1.8, "figure.constrained_layout.use": True})


def keep(figure, name):
    """Write a picture to the output folder."""
    figure.savefig(FOLDER / f"03_{name}.png")


def agree(value, truth, se, sigmas=4.0):
    """Assert that a random value is within some standard errors of the truth."""
    off = np.abs(np.asarray(value) - np.asarray(truth)) / np.asarray(se)
    assert np.all(off <= sigmas), f"{value} is {np.max(off):.1f} standard errors from {truth}"


# %% [markdown]
# ## 1. One target, four loops
#
# The target is a correlated normal in two dimensions, a ridge four times as long as it is wide:
#
# $$\pi(z)\propto e^{-U(z)},\qquad U(z)=\tfrac12z^\top\Sigma^{-1}z,\qquad
#   \Sigma=\begin{pmatrix}1&\rho\\\rho&1\end{pmatrix},\quad\rho=0.9 .$$
#
# Its standard deviations along the diagonals are $\sqrt{1+\rho}=1.38$ and $\sqrt{1-\rho}=0.32$. All loops below move
# many chains at once, `z[chain, dimension]`, so that spreads over chains give honest errors.

# %%
RHO = 0.9
SIGMA = np.array([[1.0, RHO], [RHO, 1.0]])
PRECISION = np.linalg.inv(SIGMA)


def log_pi(z):
    """Log density of the target, up to a constant, of each row."""
    return -0.5 * np.einsum("...i,ij,...j", z, PRECISION, z)


def grad_u(z):
    """Gradient of U = -log pi."""
    return z @ PRECISION


# %% [markdown]
# ### Metropolis-Hastings: propose, and go there or stay
#
# A chain with transition density $K(z'\mid z)$ keeps $\pi$ if $\int\pi(z)K(z'\mid z)\,dz=\pi(z')$. It suffices that
# each pair of points trades equal amounts, **detailed balance**: $\pi(z)K(z'\mid z)=\pi(z')K(z\mid z')$; integrate
# both sides over $z$. Propose from any $q(z'\mid z)$, and accept with probability
#
# $$a(z\to z')=\min\Big\{1,\frac{\pi(z')\,q(z\mid z')}{\pi(z)\,q(z'\mid z)}\Big\}.$$
#
# Then, for $z\ne z'$,
# $\ \pi(z)K(z'\mid z)=\pi(z)q(z'\mid z)\,a(z\to z')=\min\{\pi(z)q(z'\mid z),\ \pi(z')q(z\mid z')\}$,
# which does not change when $z$ and $z'$ swap places. Only ratios of $\pi$ enter: the evidence cancels.
#
# On a target of five states everything is a matrix:

# %%
rng = np.random.default_rng(0)
pi, q = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5), size=5)  # any target, any proposal
K = q * np.minimum(1.0, (pi * q.T) / (pi[:, None] * q))
K += np.diag(1.0 - K.sum(1))  # a refusal is a stay
assert np.allclose(pi[:, None] * K, (pi[:, None] * K).T, atol=1e-15)  # detailed balance
assert np.allclose(pi @ K, pi, atol=1e-15)  # hence pi stays
assert np.allclose(np.linalg.matrix_power(K, 1000), pi, atol=1e-10)  # and is reached from every state

# %% [markdown]
# The loop. A normal step is symmetric, $q(z\mid z')=q(z'\mid z)$, and $q$ cancels.


# %%
def metropolis(log_density, z, scale, steps, rng):
    """Random-walk Metropolis: positions [step, chain, dimension] and what was accepted [step, chain]."""
    path, accepted, here = np.empty((steps, *z.shape)), np.empty((steps, len(z)), bool), log_density(z)
    for t in range(steps):
        proposal = z + scale * rng.standard_normal(z.shape)
        there = log_density(proposal)
        accepted[t] = np.log(rng.random(len(z))) < there - here
        z = np.where(accepted[t][:, None], proposal, z)
        here = np.where(accepted[t], there, here)
        path[t] = z
    return path, accepted


# %% [markdown]
# **How often is a step accepted?** On $\mathcal N(0,1)$ with steps $s\varepsilon$, $\varepsilon\sim\mathcal N(0,1)$:
# detailed balance says that accepted moves uphill and downhill are equally many, and uphill ones are always accepted:
#
# $$\bar a=2\,P(|x+s\varepsilon|<|x|)=2\,P\big(\varepsilon\,(2x+s\varepsilon)<0\big).$$
#
# $\varepsilon$ and $2x+s\varepsilon$ are normal with correlation $r=s/\sqrt{4+s^2}$, and two normals have opposite
# signs with probability $\arccos(r)/\pi$. The angle with cosine $r$ has tangent $2/s$, hence
#
# $$\bar a(s)=\frac2\pi\arctan\frac2s .$$
#
# What matters is not acceptance but how fast the chain forgets: at the best $s$, 44 % are accepted in one dimension
# ([Roberts, Gelman and Gilks 1997](https://doi.org/10.1214/aoap/1034625254)).

# %%
chains, steps = (100, 200) if SMOKE else (400, 1000)
step_sizes = [0.3, 1.0, 2.4, 5.0, 20.0]
acceptance, acceptance_se, mh_lag_one = [], [], []
for s in step_sizes:
    path, accepted = metropolis(lambda z: -0.5 * z[:, 0] ** 2, rng.standard_normal((chains, 1)), s, steps, rng)
    rate = accepted.mean(0)  # of each chain; chains are independent, and begin in equilibrium
    acceptance.append(rate.mean())
    acceptance_se.append(rate.std(ddof=1) / math.sqrt(chains))
    mh_lag_one.append((path[1:] * path[:-1]).mean())
agree(acceptance, 2.0 / np.pi * np.arctan(2.0 / np.array(step_sizes)), acceptance_se)
assert abs(2.0 / np.pi * math.atan(2.0 / 2.4) - 0.44) < 0.01

# %% [markdown]
# ### Gibbs: draw each coordinate given the others
#
# Proposing $z_i'\sim\pi(z_i\mid z_{-i})$ makes the Metropolis-Hastings ratio
# $\frac{\pi(z_i'\mid z_{-i})\pi(z_{-i})\,\pi(z_i\mid z_{-i})}{\pi(z_i\mid z_{-i})\pi(z_{-i})\,\pi(z_i'\mid z_{-i})}=1$:
# always accepted. Here $z_1\mid z_2\sim\mathcal N(\rho z_2,1-\rho^2)$, and the same with 1 and 2 swapped. A sweep is
# two such draws, so
#
# $$z_2'=\rho z_1'+e'=\rho(\rho z_2+e)+e'=\rho^2z_2+\text{noise}:$$
#
# an autoregression, whose autocorrelation at lag $k$ is $\rho^{2k}$. Gibbs needs no tuning, and crawls along ridges.


# %%
def gibbs(z, sweeps, rng):
    """Gibbs sampling of the target: positions after every half sweep, [2 * sweeps, chain, 2]."""
    path, z = np.empty((2 * sweeps, *z.shape)), z.copy()
    for t in range(2 * sweeps):
        i = t % 2
        z[:, i] = RHO * z[:, 1 - i] + math.sqrt(1.0 - RHO**2) * rng.standard_normal(len(z))
        path[t] = z
    return path


def equilibrium(chains):
    """Independent draws from the target, to begin with."""
    return rng.standard_normal((chains, 2)) @ np.linalg.cholesky(SIGMA).T


def lag(path, k):
    """Autocorrelation at lag k of each chain, for a mean of 0 and a variance of 1."""
    return (path[k:] * path[: len(path) - k]).mean(0)


sweeps = gibbs(equilibrium(chains), steps, rng)[1::2]
gibbs_lag = np.array([lag(sweeps[..., 1], k).mean() for k in range(30)])
for k in (1, 2, 5):
    per_chain = lag(sweeps[..., 1], k)
    agree(per_chain.mean(), RHO ** (2 * k), per_chain.std(ddof=1) / math.sqrt(chains))

# %%
walk, _ = metropolis(log_pi, equilibrium(chains), 0.75, steps, rng)
walk_lag = [lag(walk[..., 1], k).mean() for k in range(30)]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
fine = np.geomspace(0.1, 40, 200)
left.plot(fine, 2.0 / np.pi * np.arctan(2.0 / fine), color=BLUE, label=r"acceptance, $\frac{2}{\pi}\arctan\frac{2}{s}$")
left.plot(step_sizes, acceptance, "o", color=BLUE, label="acceptance, measured")
left.plot(step_sizes, mh_lag_one, "s--", color=ORANGE, lw=1.2, label="lag-1 autocorrelation, measured")
left.set(xscale="log", xlabel="step size s", ylim=(0, 1.05), title="Metropolis on a normal: neither timid nor bold")
left.legend(fontsize=8, loc="lower left")
right.plot(range(30), RHO ** (2 * np.arange(30)), color=GREEN, label=r"$\rho^{2k}$")
right.plot(range(30), gibbs_lag, "o", ms=4, color=GREEN, label="Gibbs, a sweep (2 conditional draws)")
right.plot(range(30), walk_lag, "s", ms=4, color=ORANGE, label="Metropolis, a step (1 density)")
right.axhline(0.0, color="black", lw=0.8)
right.set(xlabel="lag k", ylabel=r"autocorrelation of $z_2$", title="On the ridge, both forget slowly")
right.legend(fontsize=8)
keep(figure, "mh_and_gibbs")

# %% [markdown]
# ### Hamiltonian Monte Carlo: let it roll
#
# Add a momentum $p\sim\mathcal N(0,I)$ to the position $z$: the joint density is $e^{-H}$ with
# $H(z,p)=U(z)+\tfrac12p^\top p$, and $z$ alone still has density $\pi$. Hamilton's equations
#
# $$\dot z=p,\qquad\dot p=-\nabla U(z)\qquad\Longrightarrow\qquad
#   \dot H=\nabla U^\top\dot z+p^\top\dot p=\nabla U^\top p-p^\top\nabla U=0$$
#
# move along a contour of $H$, far away and without refusals. The **leapfrog** follows them in steps $\epsilon$:
#
# $$p\leftarrow p-\tfrac\epsilon2\nabla U(z),\qquad z\leftarrow z+\epsilon p,\qquad
#   p\leftarrow p-\tfrac\epsilon2\nabla U(z).$$
#
# * *Volume:* each line adds to one half a function of the other half, a shear; its Jacobian determinant is 1.
# * *Reversible:* $n$ steps, flip $p$, $n$ steps, flip $p$: back at the start. So "$n$ steps and a flip" is its own
#   inverse, and as a Metropolis-Hastings proposal its $q$'s cancel: $a=\min\{1,e^{H(z,p)-H(z',p')}\}$, exactly valid.
# * *Energy:* symmetric in time, so odd powers cancel and $H$ is off by $O(\epsilon^2)$, however long the trajectory.


# %%
def leapfrog(grad_u, z, p, eps, steps):
    """Positions and momenta along a trajectory, [steps + 1, ...] each."""
    zs, ps = [z], [p]
    for _ in range(steps):
        p = p - 0.5 * eps * grad_u(z)
        z = z + eps * p
        p = p - 0.5 * eps * grad_u(z)
        zs.append(z)
        ps.append(p)
    return np.array(zs), np.array(ps)


def energy(z, p):
    """H of each row."""
    return -log_pi(z) + 0.5 * (p**2).sum(-1)


z0, p0 = np.array([-1.5, -1.0]), np.array([1.2, -0.3])
zs, ps = leapfrog(grad_u, z0, p0, 0.2, 50)
back_z, back_p = leapfrog(grad_u, zs[-1], -ps[-1], 0.2, 50)
assert np.abs(back_z[-1] - z0).max() < 1e-10
assert np.abs(-back_p[-1] - p0).max() < 1e-10

# %% [markdown]
# Volume, on something crooked: the funnel $v\sim\mathcal N(0,3^2)$, $x\sim\mathcal N(0,e^v)$, by central differences.


# %%
def grad_funnel(z):
    """Gradient of U = v^2 / 18 + v / 2 + x^2 exp(-v) / 2 at z = (v, x)."""
    v, x = z
    return np.array([v / 9.0 + 0.5 - 0.5 * x**2 * np.exp(-v), x * np.exp(-v)])


def flow(state):
    """Ten leapfrogs on the funnel, as a map of the four numbers (v, x, p_v, p_x)."""
    zs, ps = leapfrog(grad_funnel, state[:2], state[2:], 0.3, 10)
    return np.concatenate([zs[-1], ps[-1]])


at, h = np.array([0.5, 1.0, -0.4, 0.8]), 1e-5
jacobian = np.array([(flow(at + h * e) - flow(at - h * e)) / (2.0 * h) for e in np.eye(4)]).T
assert abs(np.linalg.det(jacobian) - 1.0) < 1e-7
assert np.abs(jacobian - np.eye(4)).max() > 1.0  # though it moves and shears a lot

# %% [markdown]
# Energy: halve the step over the same time, and the error falls fourfold. How large may a step be? On
# $U=z^2/2\sigma^2$ the leapfrog conserves $\tfrac12p^2+\tfrac12\big(1-\tfrac{\epsilon^2}{4\sigma^2}\big)z^2/\sigma^2$
# exactly: an ellipse if $\epsilon<2\sigma$, a hyperbola that runs off to infinity if not. The *narrowest* direction
# sets the limit, here $2\sqrt{1-\rho}=0.632$.

# %%
eps_grid = 0.4 / 2.0 ** np.arange(6)
errors = []
for eps in eps_grid:
    trajectory = leapfrog(grad_u, z0, p0, eps, round(4.0 / eps))
    errors.append(np.abs(energy(*trajectory) - energy(z0, p0)).max())
ratios = np.array(errors[:-1]) / np.array(errors[1:])
assert np.all(np.abs(ratios[-3:] / 4.0 - 1.0) < 0.05), ratios

eps, s2 = 0.5, 0.3**2
zs, ps = leapfrog(lambda z: z / s2, np.array(0.2), np.array(1.0), eps, 100)
shadow = 0.5 * ps**2 + 0.5 * (1.0 - eps**2 / (4.0 * s2)) * zs**2 / s2
assert np.abs(shadow / shadow[0] - 1.0).max() < 1e-10

limit = 2.0 * math.sqrt(1.0 - RHO)
for factor, stable in ((0.98, True), (1.02, False)):
    zs, ps = leapfrog(grad_u, z0, p0, factor * limit, 100)
    assert (np.abs(energy(zs, ps)).max() < 1e3) == stable

# %% [markdown]
# The loop. Too short a trajectory is a random walk again; too long a one comes back (the target is an oscillator).


# %%
def hmc(z, eps, leaps, draws, rng):
    """HMC: draws [draw, chain, 2], acceptance probabilities, trajectories [draw, leap, chain, 2]."""
    path, rates, trajectories = [], [], []
    for _ in range(draws):
        zs, ps = leapfrog(grad_u, z, rng.standard_normal(z.shape), eps, leaps)
        rates.append(np.exp(np.minimum(0.0, energy(zs[0], ps[0]) - energy(zs[-1], ps[-1]))))
        z = np.where((rng.random(len(z)) < rates[-1])[:, None], zs[-1], z)
        path.append(z)
        trajectories.append(zs)
    return np.array(path), np.array(rates), trajectories


def second_moments(path):
    """E z1^2, E z2^2, E z1 z2, with errors from the spread over chains: [draw, chain, 2] -> [3], [3]."""
    each = np.stack([path[..., 0] ** 2, path[..., 1] ** 2, path[..., 0] * path[..., 1]], -1).mean(0)
    return each.mean(0), each.std(0, ddof=1) / math.sqrt(len(each))


rolled, rates, _ = hmc(equilibrium(chains), 0.45, 6, steps // 4, rng)
for path in (walk, sweeps, rolled):
    moments, se = second_moments(path)
    agree(moments, [1.0, 1.0, RHO], se)
print(f"HMC accepts {rates.mean():.0%}; lag-1 autocorrelation {lag(rolled[..., 1], 1).mean():.2f}")

# %% [markdown]
# ### NUTS: stop when it turns back
#
# How long should a trajectory be? Until it no longer gets away from where it began:
#
# $$\frac{d}{dt}\,\tfrac12|z_t-z_0|^2=(z_t-z_0)^\top p_t<0\qquad\text{(a U-turn).}$$
#
# Stopping there outright would break detailed balance: from the end, another trajectory would have been drawn.
# [Hoffman and Gelman (2014)](https://arxiv.org/abs/1111.4246) *double* instead. Extend by $1,2,4,\dots$ steps, each
# time forward or backward by a coin; stop when the whole trajectory, or any half, quarter, ... of it, makes a U-turn
# from end to end. A trajectory of $2^J$ states is then built with probability $2^{-J}$ from *each* of its states, so
# to draw one in proportion to $e^{-H}$ keeps $e^{-H}$ (this form: [Betancourt 2017](https://arxiv.org/abs/1701.02434)).
# A doubling that would make a U-turn *inside the new half* is thrown away: its states could not have come here.


# %%
def turns(zs, ps):
    """Whether a stretch of trajectory, or any half, quarter, ... of it, turns back."""
    span, n = zs[-1] - zs[0], len(zs)
    ends = n > 1 and (span @ ps[0] < 0.0 or span @ ps[-1] < 0.0)
    return ends or (n > 2 and (turns(zs[: n // 2], ps[: n // 2]) or turns(zs[n // 2 :], ps[n // 2 :])))


def nuts_step(z, eps, rng, max_depth=8):
    """One transition: the new point and the trajectory that it was drawn from, in order of time."""
    zs, ps = z[None], rng.standard_normal((1, 2))
    for depth in range(max_depth):
        forward = rng.random() < 0.5
        end, sign = (-1, 1.0) if forward else (0, -1.0)
        new_z, new_p = leapfrog(grad_u, zs[end], ps[end], sign * eps, 2**depth)
        new_z, new_p = new_z[1:][:: int(sign)], new_p[1:][:: int(sign)]
        if turns(new_z, new_p):
            break
        zs = np.concatenate([zs, new_z] if forward else [new_z, zs])
        ps = np.concatenate([ps, new_p] if forward else [new_p, ps])
        if turns(zs, ps):
            break
    weight = np.exp(energy(zs, ps).min() - energy(zs, ps))
    return zs[rng.choice(len(zs), p=weight / weight.sum())], zs


few, long = (20, 25) if SMOKE else (40, 100)
nuts_path, sizes = np.empty((long, few, 2)), []
for c, z in enumerate(equilibrium(few)):
    for t in range(long):
        z, trajectory = nuts_step(z, 0.35, rng)
        nuts_path[t, c] = z
        sizes.append(len(trajectory))
assert all(size & (size - 1) == 0 for size in sizes)  # powers of two
moments, se = second_moments(nuts_path)
agree(moments, [1.0, 1.0, RHO], se)
print({size: sizes.count(size) for size in sorted(set(sizes))})
