# %% [markdown]
# # 5. The variational autoencoder
#
# **Aim:** let one network do the inference for every datum, let the bound that it climbs teach a second network to
# generate,
# and judge both: by bounds on the test likelihood, by the gap, by the latents that are really used.
#
# First as loops in a few lines of PyTorch, then by `phlogiston`. Every equation is checked by an `assert`; where it
# concerns random numbers, the tolerance is four standard errors.
#
# Data: Fisher's irises and the UCI digits (8 x 8 pixels), both bundled with scikit-learn. `SMOKE=1` makes everything
# small.

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
import torch.nn.functional as F
from torch import nn

import phlogiston as ph

SMOKE = os.environ.get("SMOKE", "0") not in ("", "0")  # tiny sizes, for continuous integration
HERE = Path(__file__).parent if "__file__" in globals() else Path.cwd()
FOLDER = Path(os.environ.get("TUTORIAL_OUT", HERE / "output"))
FOLDER.mkdir(parents=True, exist_ok=True)
sys.path.insert(0, str(HERE.parent / "models"))  # programs with data and exact answers
import ppca
import vae_digits as digits

torch.set_num_threads(1)  # on networks this small, threads wait for each other
torch.manual_seed(0)
if SMOKE:  # so few steps that the library rightly complains
    warnings.simplefilter("ignore", ph.PhlogistonWarning)

BLUE, ORANGE, GREEN, RED, GREY = "#2b6cb0", "#dd7a1e", "#2f855a", "#c53030", "#8a8f98"
plt.rcParams.update({"figure.dpi": 110, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"legend.frameon": False, "lines.linewidth": 1.8, "figure.constrained_layout.use": True})


def keep(figure, name):  # write a picture to the output folder
    figure.savefig(FOLDER / f"05_{name}.png")


def agree(value, truth, se, sigmas=4.0):  # assert that a random value is within some standard errors of the truth
    off = np.abs(np.asarray(value) - np.asarray(truth)) / np.asarray(se)
    assert np.all(off <= sigmas), f"{value} is {np.max(off):.1f} standard errors from {truth}"


# %% [markdown]
# ## 1. One guide for all data: amortisation
#
# The model draws a code and then an image, $p(x,z)=\mathcal N(z;0,I)\,p_\theta(x\mid z)$, with a network $\theta$
# between
# them. Its likelihood $p_\theta(x)=\int p_\theta(x\mid z)\,\mathcal N(z;0,I)\,dz$ has no closed form, but tutorial 4
# bounds
# it by any guide. A guide of its own for each image would be a climb for each image. Instead one network, the
# **encoder**,
# maps an image to its guide, $q_\phi(z\mid x)=\mathcal N\big(\mu_\phi(x),\mathrm{diag}\,\sigma_\phi(x)^2\big)$:
#
# $$\sum_n\log p_\theta(x_n)\ \ge\ \sum_n\mathcal L(x_n),\qquad
#   \mathcal L(x)=E_{q_\phi}\big[\log p_\theta(x\mid z)\big]-\mathrm{KL}\big[q_\phi(z\mid x),\mathcal N(0,I)\big].$$
#
# The first term asks that the code suffices to **reconstruct** the image; the second is the **price** of the code, in
# nats,
# beyond what the prior already knew. Between two normals the price is known (per coordinate, $\sigma$ and $\mu$ those
# of $q$):
#
# $$\mathrm{KL}=\tfrac12\big(\mu^2+\sigma^2-1-\log\sigma^2\big).$$

# %%
mu, sigma = 0.8, 0.5
z = mu + sigma * torch.randn(200_000, dtype=torch.float64)
log_ratio = dist.Normal(mu, sigma).log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z)
closed = 0.5 * (mu**2 + sigma**2 - 1.0 - math.log(sigma**2))
agree(log_ratio.mean(), closed, log_ratio.std() / math.sqrt(len(z)))

# %% [markdown]
# ## 2. A gradient through a random draw: reparameterisation
#
# $\phi$ sits in the distribution of $z$, so the gradient cannot simply move inside $E_{q_\phi}$. Two ways around:
#
# $$\text{score: }\ \nabla_\mu E[f(z)]=E\big[f(z)\,\nabla_\mu\log q(z)\big],\qquad
#   \text{pathwise: }\ z=\mu+\sigma\varepsilon\ \Rightarrow\ \nabla_\mu E[f(z)]=E\big[f'(\mu+\sigma\varepsilon)\big].$$
#
# Both are unbiased; the second knows the slope of $f$. For $f(z)=z^2$ and $\sigma=1$ the gradient is $2\mu$, and with
# the
# moments of a normal, $E[\varepsilon^2]=1,E[\varepsilon^4]=3,E[\varepsilon^6]=15$,
#
# $$\mathrm{Var}_{\text{score}}=E\big[(\mu+\varepsilon)^4\varepsilon^2\big]-4\mu^2=\mu^4+14\mu^2+15,\qquad
#   \mathrm{Var}_{\text{pathwise}}=4 .$$

# %%
epsilon = torch.randn(400_000, dtype=torch.float64)
for mu in (0.0, 1.0, 2.0):
    score, pathwise = (mu + epsilon) ** 2 * epsilon, 2.0 * (mu + epsilon)
    for gradient, variance in ((score, mu**4 + 14.0 * mu**2 + 15.0), (pathwise, 4.0)):
        agree(gradient.mean(), 2.0 * mu, gradient.std() / math.sqrt(len(epsilon)))
        squares = (gradient - 2.0 * mu) ** 2
        agree(squares.mean(), variance, squares.std() / math.sqrt(len(epsilon)))

# %% [markdown]
# ## 3. Where the answer is known: the linear VAE
#
# If the decoder is linear, $x\mid z\sim\mathcal N(Wz+b,\sigma^2I)$, the model is probabilistic principal component
# analysis:
# $x\sim\mathcal N(b,WW^\top+\sigma^2I)$, the best likelihood is a formula in the eigenvalues
# $\lambda_1\ge\lambda_2\dots$ of the
# data's covariance ([Tipping and Bishop 1999](https://doi.org/10.1111/1467-9868.00196)):
#
# $$\max\tfrac1N\log p(X)=-\tfrac12\Big[d\log2\pi+\sum_{i\le k}\log\lambda_i+(d-k)\log\bar\sigma^2+d\Big],\qquad
#   \bar\sigma^2=\tfrac1{d-k}\sum_{i>k}\lambda_i,$$
#
# and the posterior, $z\mid x\sim\mathcal N\big(M^{-1}W^\top(x-b),\ \sigma^2M^{-1}\big)$ with $M=W^\top W+\sigma^2I$,
# is linear in
# $x$ with one covariance for all. A linear encoder can be it exactly, once $W$ has turned so that $M$ is diagonal:
# the gap
# closes ([Lucas et al. 2019](https://arxiv.org/abs/1911.02469)). The loop:

# %%
irises = ppca.linear_vae_model().observed["x"].float()
best = ppca.maximum(irises.double().numpy(), 2)


def climb(loss, parameters, steps, rate):  # Adam, with a learning rate that falls to nothing; the losses
    optimiser = torch.optim.Adam(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    losses = []
    for step in range(steps):
        optimiser.zero_grad()
        value = loss(step)
        value.backward()
        optimiser.step()
        schedule.step()
        losses.append(value.item())
    return np.array(losses)


def price(loc, log_scale):  # KL of the guides of some data to the prior, [B]
    return 0.5 * (loc**2 + torch.exp(2.0 * log_scale) - 1.0 - 2.0 * log_scale).sum(-1)


encoder, decoder = nn.Linear(4, 2 * 2), nn.Linear(2, 4)
log_noise = nn.Parameter(torch.tensor(0.0))


def linear_loss(step):
    loc, log_scale = encoder(irises).chunk(2, -1)
    z = loc + torch.exp(log_scale) * torch.randn_like(loc)  # reparameterised
    reconstruction = dist.Normal(decoder(z), log_noise.exp()).log_prob(irises).sum(-1)
    return -(reconstruction - price(loc, log_scale)).mean()


steps = 300 if SMOKE else 3000
losses = climb(linear_loss, [*encoder.parameters(), *decoder.parameters(), log_noise], steps, 0.02)
by_hand = np.mean([-float(linear_loss(0).detach()) for _ in range(200)])

# By the library: the same program without an encoder, which is built from it.
svi = ph.SVI(
    guide=ph.Amortized(hidden=()), num_steps=steps, optim=ph.Adam(learning_rate=0.02), cosine=True, engine="graph"
)
linear = ph.train(ppca.linear_vae_model(), svi, seed=0, progress=False)
bound = linear.estimate_elbo(num_samples=200, seed=0)
print(f"best possible {best:.4f}, loop {by_hand:.4f}, phlogiston {bound.mean.value:.4f} nats a flower")
if not SMOKE:
    assert abs(by_hand - best) < 0.05
    assert abs(bound.mean.value - best) < 0.05

W, b = linear.params["decoder$$$weight"].double(), linear.params["decoder$$$bias"].double()
noise = linear.params["sigma"].double() ** 2
M = W.T @ W + noise * torch.eye(2)
exact = (irises - b) @ W @ torch.linalg.inv(M)
with torch.no_grad():
    loc, scale = (part.double() for part in linear.guide.encoder(irises))
if not SMOKE:  # KL of the amortised posterior to the exact one, averaged over the flowers
    precision, off = M / noise, loc - exact
    kl = 0.5 * ((precision.diagonal() * scale**2).sum(-1) + torch.einsum("ni,ij,nj->n", off, precision, off) - 2.0)
    kl = kl - 0.5 * torch.logdet(precision) - scale.log().sum(-1)
    print(f"KL of the encoder's posterior to the exact one: {kl.mean():.4f} nats")
    assert kl.mean() < 0.01

# %% [markdown]
# ## 4. Digits
#
# Now a decoder with a hidden layer, black-and-white pixels, and two latents, so that everything can be drawn. The loop:

# %%
x_train, x_test = digits.x_train, digits.x_test
encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * 2))
decoder = digits.perceptron(2)
epochs = 4 if SMOKE else 400
per_epoch = len(x_train) // 100
order = torch.arange(len(x_train))


def elbo(x):  # reconstruction and price of some images, [B] each
    loc, log_scale = encoder(x).chunk(2, -1)
    z = loc + torch.exp(log_scale) * torch.randn_like(loc)
    reconstruction = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum((1, 2))
    return reconstruction, price(loc, log_scale)


def digit_loss(step):
    if step % per_epoch == 0:  # every image once an epoch
        order[:] = torch.randperm(len(x_train))
    batch = order[step % per_epoch * 100 :][:100]
    reconstruction, kl = elbo(x_train[batch])
    return -(reconstruction - kl).mean()


losses = climb(digit_loss, [*encoder.parameters(), *decoder.parameters()], epochs * per_epoch, 1e-3)
with torch.no_grad():
    by_hand = np.mean([float((r - k).mean()) for r, k in (elbo(x_test) for _ in range(50))])

# The library takes the program, and nothing else; `inspect.getsource(digits.vae)`:
#
#     def vae(decoder, latents, num_images):
#         pyro.module("decoder", decoder)
#         with pyro.plate("image", num_images):
#             z = pyro.sample("z", dist.Normal(torch.zeros(latents), 1.0).to_event(1))
#             pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(2))
#
# From it `Amortized` finds the latent of each image and builds an encoder for images of this shape.
engine = "graph" if SMOKE else "auto"
svi = ph.SVI(
    guide=ph.Amortized(encoder="mlp", hidden=(128,)),
    batch_size=100,
    num_steps=epochs * per_epoch,
    cosine=True,
    engine=engine,
)
fitted = ph.train(digits.model, svi, seed=0, progress=False)
bound = fitted.estimate_elbo(x=x_test, num_samples=50, seed=0)
print(f"test ELBO: loop {by_hand:.2f}, phlogiston {bound.mean.value:.2f} nats an image")
print(f"  = reconstruction {bound.reconstruction.mean():.2f} - KL {bound.kl.mean():.2f}")
np.testing.assert_allclose(bound.elbo, bound.reconstruction - bound.kl)
if not SMOKE:
    assert abs(by_hand - bound.mean.value) < 0.6  # two runs of the same training

curve = fitted.history["elbo"] / len(x_train)  # of all images, hence per image
smooth = np.ones(5 * per_epoch) / (5 * per_epoch) if not SMOKE else np.ones(3) / 3
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
left.plot(np.convolve(-losses, smooth, "valid"), color=GREY, label="loop")
left.plot(np.convolve(curve, smooth, "valid"), color=BLUE, lw=1.2, label="phlogiston")
left.set(xlabel="step", ylabel="ELBO, nats an image", title="The same climb")
left.legend()
for name, colour in (("reconstruction", GREEN), ("kl", ORANGE)):
    part = np.convolve(fitted.history[name] / len(x_train), smooth, "valid")
    right.plot(part, color=colour, label={"kl": "KL: the price of the code"}.get(name, name))
right.set(xlabel="step", ylabel="nats an image", title="Reconstruction against KL")
right.legend()
keep(figure, "training")
for name, picture in digits.pictures(fitted).items():  # samples, reconstructions, the plane of the latents
    picture.savefig(FOLDER / f"05_{name}.png", dpi=110)

# %% [markdown]
# The encoder was not told which digit is which, yet digits of a class lie together: two numbers have to serve 64
# pixels, and
# the class is the best thing to say first. One pass of the encoder is the posterior of an image that was never seen:

# %%
post = fitted.posterior(x=x_test[:1], num_samples=2000, seed=0)
print(post.summary())
print(post.decomposition)

# %% [markdown]
# ## 5. How likely are the test images?
#
# The ELBO is a bound. Several draws give a tighter one ([Burda et al. 2016](https://arxiv.org/abs/1509.00519)):
#
# $$\mathcal L_K=E\Big[\log\tfrac1K\sum_{k\le K}\tfrac{p_\theta(x,z_k)}{q_\phi(z_k\mid x)}\Big]\le\log
# p_\theta(x),\qquad
#   \mathcal L_1=\text{ELBO},\quad\mathcal L_K\le\mathcal L_{K+1}.$$
#
# With two latents the likelihood itself is an integral over a plane, which a grid can do: how tight are the bounds?

# %%
side = torch.linspace(-6.0, 6.0, 61 if SMOKE else 401)
grid = torch.cartesian_prod(side, side)
log_prior = dist.Normal(0.0, 1.0).log_prob(grid).sum(-1) + 2.0 * math.log(float(side[1] - side[0]))
weights = fitted.state_dict("decoder")
few = x_test[: 10 if SMOKE else 60]
with torch.no_grad():
    logits = torch.func.functional_call(fitted.model.inputs["decoder"], weights, (grid,)).reshape(-1, 64)
    flat = few.reshape(-1, 64)
    log_joint = flat @ logits.T - F.softplus(logits).sum(-1) + log_prior  # [images, grid]
    exact = torch.logsumexp(log_joint.double(), -1).numpy()
counts = (1, 10, 100) if SMOKE else (1, 3, 10, 30, 100, 300, 1000)
bounds = [fitted.bound_log_likelihood(x=few, num_samples=k, repeats=4, seed=1) for k in counts]
means = np.array([found.per_datum.mean() for found in bounds])
errors = np.array([np.sqrt((found.spread**2 / 4).sum()) / len(few) for found in bounds])
for k, mean, se in zip(counts, means, errors, strict=True):
    print(f"K = {k:5}: {mean:8.3f} ± {se:.3f}   exact {exact.mean():.3f}")
if not SMOKE:  # the grid is coarse in the smoke run
    assert np.all(means <= exact.mean() + 4.0 * errors)
    assert np.all(np.diff(means) > -4.0 * np.hypot(errors[1:], errors[:-1]))
    assert abs(means[-1] - exact.mean()) < 0.05

# %% [markdown]
# What is lost between bound and likelihood has two causes ([Cremer et al. 2018](https://arxiv.org/abs/1801.03558)):
# no diagonal
# normal fits this posterior (**approximation**), or this encoder does not find the best one (**amortisation**). Going
# on from
# the encoder's guide for each image alone tells them apart:

# %%
split = fitted.split_gap(x=few, num_samples=200 if SMOKE else 1000, num_steps=30 if SMOKE else 300, seed=0)
print(split)
assert abs(float(split.total.value) - float(split.approximation.value) - float(split.amortisation.value)) < 1e-6

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
left.errorbar(counts, means, 2.0 * errors, fmt="o-", color=BLUE, label=r"$\mathcal{L}_K$")
left.axhline(exact.mean(), color=RED, label="likelihood, on a grid")
left.set(xscale="log", xlabel="K", ylabel="nats an image", title="More draws, a tighter bound")
left.legend(loc="lower right")
parts = {"approximation": split.approximation, "amortisation": split.amortisation}
for i, part in enumerate(parts.values()):
    right.bar(i, float(part.value), yerr=2.0 * float(part.se), color=(GREEN, ORANGE)[i], width=0.55)
right.set_xticks([0, 1], list(parts))
right.set(ylabel="nats an image", title="What the ELBO loses, and why")
keep(figure, "bounds")

# %% [markdown]
# ## 6. Collapse: latents that are not worth their price
#
# A coordinate is used only if it saves more in reconstruction than it costs. In the linear VAE that is exact: with
# the noise
# *held* at $\sigma^2$, the best $W$ uses the directions whose eigenvalue exceeds the noise, and no others. The rest
# **collapse**, $q(z_d\mid x)=p(z_d)$: not a failure of training but the optimum.

# %%
spectrum = np.sort(np.linalg.eigvalsh(np.cov(irises.double().numpy().T, bias=True)))[::-1]
print("eigenvalues:", np.round(spectrum, 3))


def held(decoder, noise, num_rows):  # the linear VAE with four latents and the noise held
    pyro.module("decoder", decoder)
    with pyro.plate("row", num_rows):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(decoder(z), noise).to_event(1))


noises = (0.5, 2.0) if SMOKE else (0.05, 0.5, 2.0, 4.0)
used = []
for noise in noises:
    model = ph.Model(held, nn.Linear(4, 4), math.sqrt(noise), len(irises)).observe(x=irises)
    svi = ph.SVI(
        guide=ph.Amortized(hidden=()),
        num_steps=300 if SMOKE else 3000,
        optim=ph.Adam(learning_rate=0.02),
        cosine=True,
        engine="graph",
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        used.append(ph.train(model, svi, seed=0, progress=False).usage())
    collapsed = any("posterior collapse" in str(w.message) for w in said)
    predicted = (spectrum > noise).sum()
    print(f"noise {noise:4}: {used[-1].active_units} active, {predicted} predicted; KL {used[-1].kl.round(2)}")
    if not SMOKE:
        assert used[-1].active_units == predicted
        assert collapsed == (used[-1].active_units == 0)  # and the library says so

figure, axes = plt.subplots(figsize=(6.4, 3.6))
for i, (noise, found) in enumerate(zip(noises, used, strict=True)):
    kl = np.sort(found.kl)[::-1]
    axes.bar(np.arange(4) + 0.2 * i - 0.3, kl, width=0.18, color=(BLUE, GREEN, ORANGE, RED)[i], label=f"noise {noise}")
axes.set(xlabel="latent coordinate, by KL", ylabel="KL, nats a flower", title="The price that each coordinate is worth")
axes.set_xticks(range(4))
axes.legend()
keep(figure, "collapse")

# %% [markdown]
# With a deep decoder, training may also *fall* into collapse early on, when the code is still noise and the prior is
# the cheapest
# answer. Two remedies leave the bound as it is reported: let the weight of the KL rise over the first steps
# (`kl_warmup=`,
# which has to end before training does), or charge nothing for the first nats of each coordinate (`free_bits=`).

# %%
steps = 60 if SMOKE else 600
trained = {}
for name, settings in (("plain", {}), ("warm-up", {"kl_warmup": steps // 2}), ("free bits", {"free_bits": 0.5})):
    svi = ph.SVI(guide=ph.Amortized(encoder="mlp", hidden=(128,)), batch_size=100, num_steps=steps, stop=False,
                 engine="graph", **settings)  # fmt: skip
    trained[name] = ph.train(digits.model_of(digits.perceptron, 8), svi, seed=0, progress=False)
    report = trained[name].usage(x=x_test)
    print(f"{name:>9}: {report}, test ELBO {trained[name].estimate_elbo(x=x_test, seed=0).mean.value:.2f}")
early = {name: made.history["kl"][: steps // 6].mean() for name, made in trained.items()}
assert early["warm-up"] > early["plain"]  # the code is used from the start
if not SMOKE:
    assert trained["free bits"].usage(x=x_test).kl.min() > trained["plain"].usage(x=x_test).kl.min()

# %% [markdown]
# ## What to keep
#
# * A VAE is a latent-variable program, an encoder as its guide, and the ELBO for both: nothing else.
# * The encoder is the posterior of data that were never seen, at the price of one pass. How good it is can be measured:
#   bounds of $K$ draws, the gap and its two parts.
# * KL by coordinate says which latents are used. An unused one may be right: it was not worth its price.
