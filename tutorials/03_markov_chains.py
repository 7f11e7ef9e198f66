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
import inspect
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


def keep(figure, name):  # write a picture to the output folder
    figure.savefig(FOLDER / f"03_{name}.png")


def agree(value, truth, se, sigmas=4.0):  # assert that a random value is within some standard errors of the truth
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


def log_pi(z):  # log density of the target, up to a constant, of each row
    return -0.5 * np.einsum("...i,ij,...j", z, PRECISION, z)


def grad_u(z):  # gradient of U = -log pi
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


# The loop. A normal step is symmetric, so q cancels.
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
def gibbs(z, sweeps, rng):  # gibbs sampling of the target: positions after every half sweep, [2 * sweeps, chain, 2]
    path, z = np.empty((2 * sweeps, *z.shape)), z.copy()
    for t in range(2 * sweeps):
        i = t % 2
        z[:, i] = RHO * z[:, 1 - i] + math.sqrt(1.0 - RHO**2) * rng.standard_normal(len(z))
        path[t] = z
    return path


def equilibrium(chains):  # independent draws from the target, to begin with
    return rng.standard_normal((chains, 2)) @ np.linalg.cholesky(SIGMA).T


def lag(path, k):  # autocorrelation at lag k of each chain, for a mean of 0 and a variance of 1
    return (path[k:] * path[: len(path) - k]).mean(0)


sweeps = gibbs(equilibrium(chains), steps, rng)[1::2]
gibbs_lag = np.array([lag(sweeps[..., 1], k).mean() for k in range(30)])
for k in (1, 2, 5):
    per_chain = lag(sweeps[..., 1], k)
    agree(per_chain.mean(), RHO ** (2 * k), per_chain.std(ddof=1) / math.sqrt(chains))
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
def leapfrog(grad_u, z, p, eps, steps):  # positions and momenta along a trajectory, [steps + 1, ...] each
    zs, ps = [z], [p]
    for _ in range(steps):
        p = p - 0.5 * eps * grad_u(z)
        z = z + eps * p
        p = p - 0.5 * eps * grad_u(z)
        zs.append(z)
        ps.append(p)
    return np.array(zs), np.array(ps)


def energy(z, p):  # H of each row
    return -log_pi(z) + 0.5 * (p**2).sum(-1)


z0, p0 = np.array([-1.5, -1.0]), np.array([1.2, -0.3])
zs, ps = leapfrog(grad_u, z0, p0, 0.2, 50)
back_z, back_p = leapfrog(grad_u, zs[-1], -ps[-1], 0.2, 50)
assert np.abs(np.append(back_z[-1] - z0, back_p[-1] + p0)).max() < 1e-10


# Volume, on something crooked: the funnel v ~ N(0, 9), x ~ N(0, exp(v)), by central differences.
def grad_funnel(z):  # gradient of U = v^2 / 18 + v / 2 + x^2 exp(-v) / 2 at z = (v, x)
    v, x = z
    return np.array([v / 9.0 + 0.5 - 0.5 * x**2 * np.exp(-v), x * np.exp(-v)])


def flow(state):  # ten leapfrogs on the funnel, as a map of the four numbers (v, x, p_v, p_x)
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
runs = [leapfrog(grad_u, z0, p0, eps, round(4.0 / eps)) for eps in eps_grid]
errors = [np.abs(energy(*run) - energy(z0, p0)).max() for run in runs]
assert np.all(np.abs(np.array(errors[-4:-1]) / np.array(errors[-3:]) / 4.0 - 1.0) < 0.05)

eps, s2 = 0.5, 0.3**2
zs, ps = leapfrog(lambda z: z / s2, np.array(0.2), np.array(1.0), eps, 100)
shadow = 0.5 * ps**2 + 0.5 * (1.0 - eps**2 / (4.0 * s2)) * zs**2 / s2
assert np.abs(shadow / shadow[0] - 1.0).max() < 1e-10

for factor, stable in ((0.98, True), (1.02, False)):
    zs, ps = leapfrog(grad_u, z0, p0, factor * 2.0 * math.sqrt(1.0 - RHO), 100)
    assert (np.abs(energy(zs, ps)).max() < 1e3) == stable


# The loop. Too short a trajectory is a random walk; too long a one comes back (the target is an oscillator).
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
def turns(zs, ps):  # whether a stretch of trajectory, or any half, quarter, ... of it, turns back
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
agree(second_moments(nuts_path)[0], [1.0, 1.0, RHO], second_moments(nuts_path)[1])

# The four side by side, from one start, for the same price: evaluations of the density, a conditional or a gradient.
BUDGET = 120
start = np.array([-1.9, -1.6])


def contours(axes):  # the 50 % and 95 % regions of the target
    grid = np.linspace(-3.2, 3.2, 121)
    density = log_pi(np.stack(np.meshgrid(grid, grid), -1))
    axes.contourf(grid, grid, density, levels=[math.log(0.05), math.log(0.5), 0.1], colors=["#e8edf3", "#cfd9e6"])
    axes.set(aspect="equal", xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), xticks=[-2, 0, 2], yticks=[-2, 0, 2])


rng = np.random.default_rng(5)
figure, panels = plt.subplots(1, 4, figsize=(13, 3.7), sharey=True)
walk, accepted = metropolis(log_pi, start[None], 0.75, BUDGET, rng)
corner = gibbs(start[None], BUDGET // 2, rng)
rolled, _, rolls = hmc(start[None], 0.45, 6, BUDGET // 6, rng)
z, tree_points, trees = start, [], []
while sum(len(tree) - 1 for tree in trees) < BUDGET:
    z, trajectory = nuts_step(z, 0.35, rng)
    tree_points.append(z)
    trees.append(trajectory)
paths = (
    (walk[:, 0], ORANGE, f"Metropolis: {accepted.sum()} of {BUDGET} moved"),
    (corner[:, 0], GREEN, f"Gibbs: {BUDGET // 2} sweeps"),
    (rolled[:, 0], BLUE, f"HMC: {BUDGET // 6} trajectories of 6"),
    (np.array(tree_points), RED, f"NUTS: {len(trees)} trajectories"),
)
for axes, (path, colour, title) in zip(panels, paths, strict=True):
    contours(axes)
    axes.set(title=title, xlabel="$z_1$")
    curves = {BLUE: [roll[:, 0] for roll in rolls], RED: trees}.get(colour, [np.vstack([start, path])])
    for curve in curves:
        axes.plot(*curve.T, color=colour, lw=0.9, alpha=0.55)
    axes.plot(*path.T, "o", color=colour, ms=4)
    axes.plot(*start, "D", color="black", ms=6)
panels[0].set_ylabel("$z_2$")
panels[0].text(-1.75, -2.3, "start", fontsize=9)
keep(figure, "four_samplers")
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.8))
for eps, colour in ((0.1, GREEN), (0.2, BLUE), (0.4, ORANGE)):
    trajectory = leapfrog(grad_u, z0, p0, eps, round(16.0 / eps))
    error = energy(*trajectory) - energy(z0, p0)
    left.plot(eps * np.arange(len(error)), error, color=colour, lw=1.3, label=rf"$\epsilon={eps}$")
left.set(xlabel="time", ylabel=r"$H_t-H_0$", title="The energy error does not build up", ylim=(-0.45, None))
left.legend(fontsize=8, ncols=3, loc="lower center")
middle.plot(eps_grid, errors, "o", color=BLUE, label="largest error on a trajectory")
middle.plot(eps_grid, errors[-1] * (eps_grid / eps_grid[-1]) ** 2, color=GREY, label=r"$\propto\epsilon^2$")
middle.set(xscale="log", yscale="log", xlabel=r"$\epsilon$", ylabel=r"$\max|H_t-H_0|$")
middle.set_title("Half the step, a quarter of the error")
middle.set_xticks(eps_grid[::2], [f"{eps:g}" for eps in eps_grid[::2]])
middle.minorticks_off()
middle.legend(fontsize=8)
zs, ps = leapfrog(grad_u, z0, np.array([0.9, 1.3]), 0.05, 160)
away = ((zs - zs[0]) * ps).sum(1)
turn = int(np.argmax(away[1:] < 0.0)) + 1
contours(right)
right.plot(*zs[: turn + 1].T, color=BLUE, label="moves away")
right.plot(*zs[turn:].T, ":", color=RED, label="comes back")
right.plot(*zs[[0, turn]].T, "D--", color=GREY, lw=1.2, ms=4)
right.annotate("", zs[turn] + 2.5 * ps[turn], zs[turn], arrowprops={"arrowstyle": "->", "color": RED, "lw": 1.8})
right.text(*(zs[turn] + [-3.2, 0.6]), "momentum at right angles\nto the dashed line", fontsize=8, color=RED)
right.set(xlabel="$z_1$", ylabel="$z_2$", title="A U-turn")
right.legend(fontsize=8, loc="lower right")
keep(figure, "leapfrog")

# %% [markdown]
# ## 2. The same by the library, and what draws are worth
#
# **ESS.** Draws $x_1,\dots,x_N$ of a chain in equilibrium have covariances $\sigma^2\rho_{|s-t|}$, so
#
# $$\mathrm{Var}[\bar x]=\frac1{N^2}\sum_{s,t}\sigma^2\rho_{|s-t|}
#   =\frac{\sigma^2}N\Big[1+2\sum_{k=1}^{N-1}\Big(1-\frac kN\Big)\rho_k\Big]\approx\frac{\sigma^2}{\mathrm{ESS}},\qquad
#   \mathrm{ESS}=\frac N{1+2\sum_{k\ge1}\rho_k}.$$
#
# The **MCSE** of a mean is $\hat\sigma/\sqrt{\mathrm{ESS}}$. For an autoregression
# $x_t=\phi x_{t-1}+\sqrt{1-\phi^2}\,e_t$ we have $\rho_k=\phi^k$, a geometric sum: $\mathrm{ESS}/N=(1-\phi)/(1+\phi)$.
# With $\phi<0$ a chain is worth more than independent draws.
#
# To estimate: autocorrelations from all chains, each split in two, summed in pairs while pairs stay positive
# ([Geyer 1992](https://doi.org/10.1214/ss/1177011137); [Vehtari et al. 2021](https://arxiv.org/abs/1903.08008)).
#
# **R-hat.** Of half chains of length $n$, let $W$ be the mean variance within, $B/n$ the variance of their means. Where
# chains are still apart, the pooled variance is the larger:
#
# $$\hat R=\sqrt{\frac{\frac{n-1}nW+\frac Bn}{W}}\longrightarrow1 .$$
#
# In equilibrium $B/n=\sigma^2/m$ for half chains worth $m$ draws each, so $\hat R\approx\sqrt{1+1/m}$: 1.01 asks for
# $m\ge50$, however many chains there are. The library takes it of the *normal scores of ranks*, and of distances from
# the median (chains that differ in scale), and reports the larger; it warns above 1.01.


# %%
def halves(x):  # [chain, draw] -> [2 * chain, draw / 2]
    n = x.shape[1] // 2
    return np.concatenate([x[:, :n], x[:, -n:]])


def ess(x):  # effective sample size of the mean of [chain, draw]
    x = halves(x)
    n = x.shape[1]
    spectrum = np.abs(np.fft.rfft(x - x.mean(1, keepdims=True), 2 * n)) ** 2
    covariance = np.fft.irfft(spectrum)[:, :n].mean(0) / n
    within = covariance[0] * n / (n - 1)
    rho = 1.0 - (within - covariance) / (covariance[0] + x.mean(1).var(ddof=1))
    rho[0] = 1.0
    pairs = rho[: n // 2 * 2].reshape(-1, 2).sum(1)
    pairs = np.minimum.accumulate(pairs[: np.argmax(np.append(pairs, -1.0) < 0.0)])
    return x.size / (2.0 * pairs.sum() - 1.0)


def rhat(x):  # Rank-normalised split R-hat of [chain, draw]
    found = []
    for values in (halves(x), np.abs(halves(x) - np.median(halves(x)))):
        scores = norm.ppf((rankdata(values).reshape(values.shape) - 0.375) / (values.size + 0.25))
        n, within = scores.shape[1], scores.var(1, ddof=1).mean()
        found.append(math.sqrt((n - 1) / n + scores.mean(1).var(ddof=1) / within))
    return max(found)


for phi in (0.9, 0.5, -0.5):
    M, N = (200, 400) if SMOKE else (400, 2000)
    x = np.empty((M, N))
    x[:, 0] = rng.standard_normal(M)
    for t in range(1, N):
        x[:, t] = phi * x[:, t - 1] + math.sqrt(1.0 - phi**2) * rng.standard_normal(M)
    k = np.arange(1, N)
    exact = 1.0 + 2.0 * ((1.0 - k / N) * phi**k).sum()  # N Var[mean] / sigma^2
    assert abs(exact / ((1.0 + phi) / (1.0 - phi)) - 1.0) < 0.05  # the limit of large N
    agree(N * x.mean(1).var(ddof=1), exact, exact * math.sqrt(2.0 / (M - 1)))  # the spread of actual means
    assert abs(ess(x) / x.size * (1.0 + phi) / (1.0 - phi) - 1.0) < (0.3 if SMOKE else 0.1)  # from autocorrelations
    assert abs(rhat(x) - math.sqrt(1.0 + 2.0 * M / ess(x))) < (0.015 if SMOKE else 0.003)
assert rhat(x[:4] + np.array([[0.0], [0.0], [0.0], [0.5]])) > 1.01  # one chain elsewhere
assert rhat(x[:4] * np.array([[1.0], [1.0], [1.0], [2.0]])) > 1.01  # one chain wider


def ridge():  # the same target as a program
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("b", dist.Normal(RHO * a, math.sqrt(1.0 - RHO**2)))


size = {"num_chains": 4, "num_warmup": 100, "num_samples": 150}
size = size if SMOKE else {"num_chains": 16, "num_warmup": 200, "num_samples": 1500}
posts = {name: ph.infer(ph.Model(ridge), name, **size, seed=1) for name in ("mh", "gibbs", "hmc", "nuts")}
worth = {}
for name, post in posts.items():
    b = post.draws["b"].numpy()
    moments = post.moments("b")
    agree(moments.mean, 0.0, moments.mean_se)
    agree(moments.sd, 1.0, moments.sd_se)
    both = post.expect(lambda draw: draw["a"] * draw["b"])
    agree(both.value, RHO, both.se)
    assert abs(b.std() / math.sqrt(ess(b)) / moments.mean_se - 1.0) < 0.05  # the library's MCSE is ours
    assert abs(rhat(b) - post.summary().loc["b", "r_hat"]) < 1e-6  # and so is its R-hat
    calls = post.figures.get("gradients", b.size * (2 if name == "gibbs" else 1))
    worth[name] = ess(b) / b.size, ess(b) / calls
    print(f"{name:6s} R-hat {rhat(b):.4f}, ESS/draw {worth[name][0]:.2f}, ESS/evaluation {worth[name][1]:.2f}")
per_chain = lag(posts["gibbs"].draws["b"].numpy().T, 1)
agree(per_chain.mean(), RHO**2, per_chain.std(ddof=1) / math.sqrt(len(per_chain)))
assert SMOKE or min(worth["nuts"][0], worth["hmc"][0]) > worth["mh"][0]

# %% [markdown]
# In two dimensions all four will do: random walks are still cheap, and `"mh"` has learnt the shape of the ridge. The
# price is counted in densities for MH, conditionals for Gibbs, gradients for HMC and NUTS. In $d$ dimensions random
# walks need $O(d)$ evaluations for an independent draw, HMC $O(d^{1/4})$ gradients
# ([Beskos et al. 2013](https://arxiv.org/abs/1001.4460)): gradients win from a handful of latents on.

# %% [markdown]
# ## 3. Eight schools: a sampler that fails, and says so
#
# Eight coaching courses, an effect $y_j$ each, with a known error $\sigma_j$
# ([Rubin 1981](https://doi.org/10.3102/10769986006004377)):
# $\mu\sim\mathcal N(0,5^2)$, $\tau\sim\mathrm{HalfCauchy}(5)$, $\theta_j\sim\mathcal N(\mu,\tau^2)$,
# $y_j\sim\mathcal N(\theta_j,\sigma_j^2)$. Written down as said, it is the *centred* program. Where $\tau$ is small the
# $\theta_j$ are squeezed together: given $\tau$ they have a width of about $\tau$, and a leapfrog step is stable only
# if $\epsilon<2\tau$ (section 1). No one step size suits both ends. A trajectory that becomes unstable shows: $H$
# explodes, and the draw is marked as **divergent**.
#
# The *non-centred* program draws $\tilde\theta_j\sim\mathcal N(0,1)$ and sets $\theta_j=\mu+\tau\tilde\theta_j$: the
# same model, as $\mu+\tau\mathcal N(0,1)=\mathcal N(\mu,\tau^2)$, in coordinates of equal width at any $\tau$
# ([Papaspiliopoulos, Roberts and Sköld 2007](https://doi.org/10.1214/088342307000000014)).


# %%
print(inspect.getsource(rubin.centred))
print(inspect.getsource(rubin.eight_schools))


def meant_to_fail(model, method, seed):  # infer without the warnings, which we read off the posterior instead
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.ConvergenceWarning)
        return ph.infer(model, method, seed=seed)


size = {"num_chains": 8, "num_warmup": 60, "num_samples": 50, "max_tree_depth": 6}
size = size if SMOKE else {"num_chains": 16, "num_warmup": 300, "num_samples": 800}
bad = meant_to_fail(rubin.centred_model, ph.NUTS(**size), seed=0)
good = ph.infer(rubin.model, ph.NUTS(**size, target_accept_prob=0.98), seed=0)
print("centred:", *bad.warnings, sep="\n  ")
assert any("diverged" in line for line in bad.warnings)
diverged = bad.stats["diverging"].numpy().astype(bool)
assert np.median(np.log(bad.draws["tau"].numpy()[diverged])) < np.median(np.log(bad.draws["tau"].numpy()))  # the neck
for site, truth in (("mu", 4.396821), ("tau", 3.597705)):  # by quadrature: models/eight_schools.py
    assert abs(truth - rubin.reference.mean[site]) < 1e-6
    agree(good.moments(site).mean, truth, good.moments(site).mean_se)
    if not SMOKE:  # so few draws say little of how far tau's long tail reaches, nor of the error of its spread
        agree(good.moments(site).sd, rubin.reference.sd[site], good.moments(site).sd_se)
    print(f"{site}: exact {truth:.3f}, non-centred {good.expect(site)}, centred {bad.expect(site)}")
agree(good.moments("theta").mean, rubin.reference.mean["theta"], good.moments("theta").mean_se)
assert SMOKE or not good.diagnose()
assert SMOKE or ess(good.draws["tau"].numpy()) > 5.0 * ess(bad.draws["tau"].numpy())

# %% [markdown]
# The error stated for a run that has failed is no error bar: it is computed from where the chains were. Most never
# enter the neck; one that does is stuck, as its steps diverge (a spike in the picture), and R-hat sees it. The exact
# density of $\log\tau$: $\mu$ and $\theta$ integrate out in closed form (tutorial 2).

# %%
log_tau = np.linspace(-5.0, 4.0, 400)
spread = rubin.sigma.numpy() ** 2 + np.exp(2.0 * log_tau)[:, None]
precision = 1.0 / 25.0 + (1.0 / spread).sum(1)
curve = -0.5 * (np.log(spread) + rubin.y.numpy() ** 2 / spread).sum(1) - 0.5 * np.log(precision)
curve += 0.5 * (rubin.y.numpy() / spread).sum(1) ** 2 / precision + log_tau - np.log1p(np.exp(2.0 * log_tau) / 25.0)
curve = np.exp(curve - np.logaddexp.reduce(curve)) / (log_tau[1] - log_tau[0])


def draw_pair(bad, good, site, up, names, limits, curve):
    """Where the draws went, centred and not, and the density of ``up`` that they make: [low, high] by axis."""
    figure, panels = plt.subplots(1, 3, figsize=(13, 4))
    (left, right), (low, high) = limits
    for axes, post, colour, title in zip(panels, (bad, good), (RED, BLUE), ("centred", "non-centred"), strict=False):
        flag = post.stats["diverging"].numpy().astype(bool)
        x, height = post.draws[site][..., 0].numpy(), up(post)
        axes.plot(x[~flag], height[~flag], ".", color=BLUE, ms=3, alpha=0.3, rasterized=True)
        axes.plot(x[flag], height[flag], ".", color=RED, ms=5)
        axes.set(xlabel=names[0], ylabel=names[1], xlim=(left, right), ylim=(low, high))
        axes.set_title(f"NUTS, {title}: {flag.sum()} of {flag.size} diverged")
        steps = {"range": (low, high), "density": True, "histtype": "step", "color": colour, "label": title}
        panels[2].hist(height.clip(low, high).ravel(), 60, **steps, lw=1.4)
    panels[2].plot(*curve, color="black", lw=1.2, label="exact")
    panels[2].set(xlabel=names[1], ylabel="density", title="What they make of it")
    panels[2].legend(fontsize=9, loc="upper left")
    return figure


names, limits = (r"$\theta_A$", r"$\log\tau$"), ((-25, 45), (-5, 4))
figure = draw_pair(bad, good, "theta", lambda post: np.log(post.draws["tau"].numpy()), names, limits, (log_tau, curve))
keep(figure, "eight_schools")

# %% [markdown]
# ## 4. Neal's funnel
#
# The same disease without data ([Neal 2003](https://doi.org/10.1214/aos/1056562461)): $v\sim\mathcal N(0,3^2)$ and
# $x_i\sim\mathcal N(0,e^v)$ for $i=1,\dots,9$. At $v=-6$ the $x_i$ have a width of 0.05, at $v=6$ of 20: a step that
# crosses the mouth is unstable in the neck, $\epsilon>2e^{v/2}$. A sampler that stays out of the neck reports
# $\mathrm{sd}(v)<3$. The repair is the same, $x_i=e^{v/2}\tilde x_i$: then $v$ and $\tilde x$ are independent normals.

# %%
bad = meant_to_fail(neal.centred_model, ph.NUTS(**size), seed=2)
good = ph.infer(neal.model, ph.NUTS(**size), seed=2)
for name, post in (("centred", bad), ("non-centred", good)):
    v = post.moments("v")
    print(f"{name}: sd(v) {v.sd:.2f} ± {v.sd_se:.2f}, lowest {post.draws['v'].min():.1f};", *post.warnings, sep="\n  ")
assert bad.warnings  # flagged: never silently wrong
assert bad.moments("v").sd < 3.0 or rhat(bad.draws["v"].numpy()) > 1.01 or bad.stats["diverging"].any()
agree(good.moments("v").mean, 0.0, good.moments("v").mean_se)
agree(good.moments("v").sd, 3.0, good.moments("v").sd_se)
assert SMOKE or not good.diagnose()
assert SMOKE or ess(good.draws["v"].numpy()) > 5.0 * ess(bad.draws["v"].numpy())
fine = np.linspace(-11, 11, 200)
names, limits, truth = ("$x_1$", "$v$"), ((-20, 20), (-11, 11)), (fine, norm.pdf(fine, 0.0, 3.0))
figure = draw_pair(bad, good, "x", lambda post: post.draws["v"].numpy(), names, limits, truth)
keep(figure, "funnel")

# %% [markdown]
# ## 5. Many chains at once
#
# **Pooled warm-up.** All chains advance in one call of the density, so sixty-four cost little more than four; and they
# learn one step size and one mass matrix *together*: the variance of a latent over 64 chains is known to
# $\sqrt{2/63}=18\,\%$ after a single independent draw each. A short warm-up will do. After it nothing is shared.

# %%
many = (16, 40, 50) if SMOKE else (64, 150, 200)
runs = {}
for num_chains in (4, many[0]):
    method = ph.NUTS(num_chains=num_chains, num_warmup=many[1], num_samples=many[2], engine="graph")
    runs[num_chains] = post = meant_to_fail(rubin.model, method, seed=3)  # four chains of so few draws may complain
    steps = post.stats["step_size"][:, 0]
    assert (steps == steps.max()).double().mean() > 0.9  # one for all, but for a chain that has got into a narrow place
    agree(post.moments("mu").mean, 4.396821, post.moments("mu").mean_se)
    print(f"{num_chains} chains: ESS {ess(post.draws['mu'].numpy()):.0f}, {post.figures['seconds_sampling']:.2f} s")
assert ess(runs[many[0]].draws["mu"].numpy()) > many[0] / 8 * ess(runs[4].draws["mu"].numpy())

# %% [markdown]
# **Going on.** A posterior keeps the state of its samplers: positions, step size, mass matrix, random numbers. A run
# saved and resumed is the long run *bit for bit*. (Machine code rounds otherwise than the graph, and `"auto"` picks by
# the length of the run; to compare bits, name the engine.)

# %%
brief = {"num_chains": 4, "num_warmup": 40, "engine": "graph", "seed": 4}
with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
    warnings.simplefilter("ignore", ph.ConvergenceWarning)  # sixty draws are too few for anything but this
    whole = ph.infer(rubin.model, "nuts", num_samples=60, **brief)
    part = ph.infer(rubin.model, "nuts", num_samples=25, **brief)
    part = ph.load(part.save(Path(folder) / "part.nc"), model=rubin.model)
    resumed = ph.infer(rubin.model, "nuts", num_samples=35, resume_from=part, **brief)
assert all(torch.equal(values, resumed.draws[site]) for site, values in whole.draws.items())

# %% [markdown]
# **Discrete latents** have no gradient. Those that can be enumerated are summed out of the density that NUTS sees, and
# drawn back afterwards, given everything else. In a mixture of $\mathcal N(-1,1)$ and $\mathcal N(1,1)$ with weight
# $\pi\sim\mathrm{Uniform}(0,1)$ (`models/mixture.py`),
#
# $$p(\pi,x)=\prod_i\sum_{z_i}p(z_i\mid\pi)\,p(x_i\mid z_i),\qquad
#   P(z_i=1\mid\pi,x)=\frac{\pi\,\mathcal N(x_i;1,1)}{(1-\pi)\,\mathcal N(x_i;-1,1)+\pi\,\mathcal N(x_i;1,1)}.$$
#
# $P(z_i=1\mid x)$ is the mean of the $z_i$ drawn; or, with less noise, of the formula on the right over the draws of
# $\pi$, as $\mathrm{Var}[z]=\mathrm{Var}\,\mathbb E[z\mid\pi]+\mathbb E\,\mathrm{Var}[z\mid\pi]$ and the last term goes
# (Rao and Blackwell). The truth sums over all $2^4$ assignments.

# %%
post = ph.infer(mixture.model, ph.NUTS(**{**size, "num_samples": 100 if SMOKE else 1500}), seed=5)
exact = mixture.reference
agree(post.moments("pi").mean, exact.mean["pi"], post.moments("pi").mean_se)
agree(post.moments("z").mean, exact.probabilities["z"][:, 1], post.moments("z").mean_se)


def right_hand(draw):  # P(z_i = 1 | pi, x) of one draw, from the formula
    left, right = (dist.Normal(loc, 1.0).log_prob(mixture.x).exp() for loc in mixture.loc)
    return draw["pi"] * right / ((1.0 - draw["pi"]) * left + draw["pi"] * right)


smooth = post.expect(right_hand)
agree(smooth.value, exact.probabilities["z"][:, 1], smooth.se)
assert np.all(smooth.se < post.moments("z").mean_se)
print("exact:", exact.mean["z"].round(4), "drawn:", post.expect("z"), "formula:", smooth, sep="\n  ")

# %% [markdown]
# ## 6. What to take away
#
# 1. All four are one idea, a move that keeps $\pi$, by detailed balance. They differ in how far it gets for its price.
# 2. Believe $\hat\sigma/\sqrt{\mathrm{ESS}}$ only where R-hat is near 1 and nothing diverged. `post.warnings` says so.
# 3. A divergence has a place. It is mostly the neck of a funnel, and the repair is to write the model non-centred.
# 4. Run many short chains: they warm up together, disagree visibly when something is wrong, and go on where they
#    stopped.
