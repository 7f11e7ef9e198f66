# %% [markdown]
# # 1. Generative models
#
# **Aim:** write down how data come about, first the digit and then its pixels, and let Bayes' rule do the rest:
# classify, draw, doubt, complete and sort.
#
# Data: scikit-learn's `load_digits`, 1,797 handwritten digits of 8 by 8 pixels. `SMOKE=1` takes fewer of them.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, roc_auc_score
from sklearn.model_selection import train_test_split
from torch.testing import assert_close

import phlogiston as ph

SMOKE = os.environ.get("SMOKE") == "1"
HERE = Path(__file__).parent if "__file__" in globals() else Path.cwd()
FOLDER = Path(os.environ.get("TUTORIAL_OUT", HERE / "output"))
FOLDER.mkdir(parents=True, exist_ok=True)
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
GENERATIVE, DISCRIMINATIVE, STYLED = "tab:blue", "tab:orange", "tab:green"
generator = torch.Generator().manual_seed(0)
torch.set_num_threads(1)  # on tensors this small, threads wait for each other

# We want sums over latents here, not draws of them, and each program runs only once or twice.
EXACT = ph.Exact(num_samples=1, engine="loop")


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def assert_within(estimate, truth, standard_error, sigmas=4.5):
    """A Monte Carlo estimate may miss the truth by a few of its standard errors, in every component."""
    z = ((torch.as_tensor(estimate) - truth) / standard_error).abs().max()
    assert z < sigmas, f"off by {z:.1f} standard errors"


def sheet(axis, images, title=None, names=()):
    """Images [rows, columns, 64] side by side, with white lines between and names above the columns."""
    padded = torch.nn.functional.pad(images.reshape(*images.shape[:2], 8, 8), (1, 1, 1, 1), value=float("nan"))
    axis.imshow(padded.transpose(1, 2).flatten(2, 3).flatten(0, 1).numpy(), cmap="gray_r", vmin=0, vmax=1)
    axis.set_axis_off()
    axis.set_title(title, fontsize=9)
    for column, name in enumerate(names):
        axis.text(10 * column + 4.5, -1, name, ha="center", va="bottom", fontsize=9)


def save(figure, name):
    figure.savefig(FOLDER / f"01_{name}.png", bbox_inches="tight", pad_inches=0.12)


# %% [markdown]
# ## 1. Two ways to model
#
# A **discriminative** model describes the answer $y$ given the data $x$: $p(y \mid x)$. A **generative** model
# describes both, in the order in which they come about: $p(x, y) = p(x \mid y)\, p(y)$.
#
# The second contains the first. A joint probability can be factorised in two orders,
#
# $$p(x, y) = p(x \mid y)\, p(y) = p(y \mid x)\, p(x),$$
#
# and dividing the right-hand equation by $p(x) = \sum_y p(x, y)$ gives **Bayes' rule**:
#
# $$p(y \mid x) = \frac{p(x \mid y)\, p(y)}{p(x)}, \qquad p(x) = \sum_{y'} p(x \mid y')\, p(y').$$
#
# The smallest example has a label and two pixels, each 0 or 1, so that the whole joint is a table of eight numbers.

# %%
prior = tensor([0.6, 0.4])  # p(y)
likelihood = tensor([[[0.5, 0.2], [0.2, 0.1]], [[0.1, 0.1], [0.2, 0.6]]])  # p(x1, x2 | y), axes y, x1, x2
joint = prior[:, None, None] * likelihood
evidence = joint.sum(0)  # p(x1, x2)
posterior = likelihood * prior[:, None, None] / evidence  # Bayes' rule

assert_close(joint.sum(), tensor(1.0))
assert_close(joint, posterior * evidence)  # the same joint in the other order
assert_close(posterior.sum(0), torch.ones_like(evidence))

# %% [markdown]
# What can each of them answer?
#
# | question | takes | discriminative | generative |
# |---|---|---|---|
# | which label has this $x$? | $p(y \mid x)$ | yes | yes, by Bayes' rule |
# | what might another $x$ look like? | a draw from $p(x \mid y)\, p(y)$ | no | yes: draw $y$, then $x$ |
# | is this $x$ unlike all that was seen? | $p(x)$ | no | yes: $\sum_y p(x \mid y)\, p(y)$ |
# | which label, if $x_2$ is missing? | $p(y \mid x_1)$ | no | yes: sum over $x_2$ |
#
# The last line deserves its derivation. By the product rule and a sum over what was not seen,
#
# $$p(y \mid x_1) = \sum_{x_2} p(y, x_2 \mid x_1) = \sum_{x_2} p(y \mid x_1, x_2)\, p(x_2 \mid x_1).$$
#
# The first factor is the discriminative model. The second is a statement about pixels alone, which it does not make.

# %%
by_marginalising = joint.sum(2) / joint.sum((0, 2))  # p(y, x1) / p(x1)
second_given_first = evidence / evidence.sum(1, keepdim=True)  # p(x2 | x1)
assert_close(by_marginalising, (posterior * second_given_first).sum(2))

# %% [markdown]
# That it cannot know is easily shown: here is another joint with the same $p(y \mid x)$ for every $x$ but another
# $p(x)$. A discriminative model is the same for both worlds, yet in the second one the rarest image of the first is
# the most common, and the answer for a missing pixel is another.

# %%
other_evidence = 1 / evidence / (1 / evidence).sum()
other_joint = posterior * other_evidence
assert_close(other_joint / other_joint.sum(0), posterior)
assert evidence.argmin() == other_evidence.argmax()
assert not torch.allclose(other_joint.sum(2) / other_joint.sum((0, 2)), by_marginalising)

# %% [markdown]
# And a draw from the joint: the label first, then the pixels given the label. The frequencies of the eight outcomes
# agree with the table, up to the standard error $\sqrt{p (1 - p) / n}$ of a frequency.

# %%
num_draws = 20_000
label = torch.multinomial(prior, num_draws, replacement=True, generator=generator)
cell = torch.multinomial(likelihood.reshape(2, 4)[label], 1, generator=generator)[:, 0]
frequency = torch.bincount(4 * label + cell, minlength=8).reshape(2, 2, 2) / num_draws
assert_within(frequency, joint, (joint * (1 - joint) / num_draws).sqrt())

# %% [markdown]
# ## 2. Bayes' rule on a line
#
# Two classes with equal prior probabilities, $x \mid c{=}0 \sim \mathcal N(-1, 1)$ and
# $x \mid c{=}1 \sim \mathcal N(+1, 1)$. Bayes' rule for $c = 1$, with numerator and denominator divided by the
# numerator:
#
# $$P(c{=}1 \mid x) = \frac{p(x \mid 1)\,\tfrac12}{p(x \mid 1)\,\tfrac12 + p(x \mid 0)\,\tfrac12}
#   = \frac{1}{1 + p(x \mid 0) / p(x \mid 1)} = \frac{1}{1 + e^{-\ell(x)}} = \sigma(\ell(x)),$$
#
# where $\ell$ is the log of the likelihood ratio. The normalising constants cancel, and what is left is linear in
# $x$:
#
# $$\ell(x) = \log \frac{p(x \mid 1)}{p(x \mid 0)} = -\tfrac12 (x - 1)^2 + \tfrac12 (x + 1)^2
#   = \tfrac12 (2x + 2x) = 2x.$$
#
# So $P(c{=}1 \mid x) = \sigma(2x)$. First by hand, on a grid:

# %%
x = torch.linspace(-10.0, 10.0, 4_001, dtype=torch.float64)
density = torch.stack([dist.Normal(centre, 1.0).log_prob(x) for centre in (-1.0, 1.0)], dim=-1).exp()  # p(x | c)
by_hand = density[:, 1] * 0.5 / (density * 0.5).sum(-1)
assert_close(by_hand, torch.sigmoid(2 * x))

# %% [markdown]
# Now by the library. A model is a Pyro program that tells the story forwards: class, then number. The plate says that
# the points are independent. `observe` conditions on a site by its name, and `ph.infer(model, "exact")` sums the
# latent class out; `EXACT` is that method with its settings. One call answers for the whole grid.


# %%
def two_bells(class_probabilities, num_points):
    with pyro.plate("point", num_points):
        c = pyro.sample("c", dist.Categorical(class_probabilities))
        pyro.sample("x", dist.Normal(2.0 * c - 1.0, 1.0))


equal = tensor([0.5, 0.5])
bells = ph.Model(two_bells, equal, len(x)).observe(x=x)
post = ph.infer(bells, EXACT, seed=0)
assert_close(post.marginals["c"][:, 1], torch.sigmoid(2 * x))
assert_close(tensor(post.log_evidence.value), (density * 0.5).sum(-1).log().sum())  # sum over points of log p(x)

# %% [markdown]
# ### How often must one err?
#
# A rule $h$ names a class for each $x$. Given $x$, it is wrong with probability $1 - P(h(x) \mid x)$, so over all $x$
#
# $$\mathrm{error}(h) = \int p(x)\,\bigl(1 - P(h(x) \mid x)\bigr)\,dx
#   \;\ge\; \int p(x)\,\bigl(1 - \max_c P(c \mid x)\bigr)\,dx = \int \min_c p(x, c)\,dx,$$
#
# with equality for the rule that names the more probable class (with two classes, one minus the larger probability is
# the smaller). Here that rule is "1 if $\sigma(2x) > \frac12$", which is $x > 0$, and its error is
#
# $$\tfrac12 P(x \le 0 \mid 1) + \tfrac12 P(x > 0 \mid 0) = \tfrac12 \Phi(-1) + \tfrac12 \Phi(-1)
#   = \Phi(-1) = 0.158655.$$
#
# Nobody can do better, with whatever amount of data. Three checks: the integral, all other thresholds $t$ with their
# error $\frac12 \Phi(t - 1) + \frac12 \Phi(-t - 1)$, and 100,000 simulated points.

# %%
cdf = dist.Normal(tensor(0.0), tensor(1.0)).cdf
bayes_error = cdf(tensor(-1.0))
assert_close(bayes_error, tensor(0.158655), atol=5e-7, rtol=0.0)
assert_close(torch.trapezoid((0.5 * density).min(-1).values, x), bayes_error, atol=1e-5, rtol=0.0)

error_of_threshold = 0.5 * cdf(x - 1) + 0.5 * cdf(-x - 1)
assert error_of_threshold.argmin() == (x.abs()).argmin()

num_draws = 100_000
draws = ph.Model(two_bells, equal, 1).simulate(num_draws, seed=1)
drawn_x, drawn_c = draws["x"][:, 0], draws["c"][:, 0]
missed = ((drawn_x > 0) != (drawn_c == 1)).double().mean()
assert_within(missed, bayes_error, (bayes_error * (1 - bayes_error) / num_draws).sqrt())

# %% [markdown]
# ### What the discriminative model learns
#
# Logistic regression fits $P(c{=}1 \mid x) = \sigma(a + b x)$ to labelled points and never mentions $p(x)$. By the
# derivation above it should find $a = 0$, $b = 2$. Its standard errors are the square roots of the diagonal of the
# inverse Fisher information $\bigl[\sum_i \sigma_i (1 - \sigma_i) (1, x_i)^\top (1, x_i)\bigr]^{-1}$.

# %%
regression = LogisticRegression(C=np.inf).fit(drawn_x[:, None].numpy(), drawn_c.numpy())
fitted = tensor([regression.intercept_[0], regression.coef_[0, 0]])
design = torch.stack([torch.ones_like(drawn_x), drawn_x], dim=-1)
spread = torch.sigmoid(2 * drawn_x) * torch.sigmoid(-2 * drawn_x)  # sigma (1 - sigma)
standard_errors = torch.linalg.inv(design.T @ (spread[:, None] * design)).diagonal().sqrt()
assert_within(fitted, tensor([0.0, 2.0]), standard_errors)

# %% [markdown]
# The two agree about $P(c \mid x)$. They part company elsewhere.
#
# *Another prior.* Suppose that class 1 becomes rare, $\pi_1 = 0.1$. In the derivation the factors $\frac12$ no longer
# cancel and add $\log(\pi_1 / \pi_0)$ to the log ratio: $P(c{=}1 \mid x) = \sigma(2x + \log(\pi_1 / \pi_0))$. The
# program takes the new prior as an input; nothing is fitted again.
#
# *A strange point.* None of the 100,000 points lies near $x = 9$. $\sigma(18)$ says "class 1, with certainty", and by
# the rules of the discriminative game that is right. Only $p(x)$ tells that neither class makes such points.

# %%
rare = tensor([0.9, 0.1])
post_rare = ph.infer(bells.with_inputs(class_probabilities=rare), EXACT, seed=0)
assert_close(post_rare.marginals["c"][:, 1], torch.sigmoid(2 * x + (rare[1] / rare[0]).log()))

strange = (x - 9.0).abs().argmin()
log_px = (density * 0.5).sum(-1).log()
assert post.marginals["c"][strange, 1] > 1 - 1e-7
assert drawn_x.max() < 9
assert log_px[strange] < log_px[x.abs() < 3].min() - 25

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 2.8))
axes[0].plot(x, 0.5 * density[:, 0], color="tab:purple", label=r"$p(x \mid c{=}0)\,p(c{=}0)$")
axes[0].plot(x, 0.5 * density[:, 1], color="tab:red", label=r"$p(x \mid c{=}1)\,p(c{=}1)$")
axes[0].fill_between(x, (0.5 * density).min(-1).values, color="0.8", label=f"Bayes error, area {bayes_error:.4f}")
axes[0].plot(x, (0.5 * density).sum(-1), "k", label="$p(x)$")
axes[0].set(xlim=(-4.5, 4.5), ylim=(0, 0.36), xlabel="$x$", title="generative: how points come about")
axes[0].legend(frameon=False, fontsize=7.5, loc="upper left", ncols=2)
axes[1].plot(x, post.marginals["c"][:, 1], color=GENERATIVE, label="Bayes' rule, equal priors")
axes[1].plot(x, torch.sigmoid(fitted[0] + fitted[1] * x), "--", color=DISCRIMINATIVE, label="logistic regression")
axes[1].plot(x, post_rare.marginals["c"][:, 1], color=GENERATIVE, alpha=0.4, label="Bayes' rule, class 1 rare")
axes[1].set(xlim=(-4.5, 4.5), xlabel="$x$", ylabel=r"$P(c{=}1 \mid x)$", title="both: which class")
axes[1].legend(frameon=False, fontsize=7.5, loc="upper left")
save(figure, "two_bells")

# %% [markdown]
# ## 3. Decide the digit before the pixels
#
# Now real images. Someone who writes a digit decides *which* digit before any ink flows; the decision is a latent
# variable, and the pixels follow from it. We make the pixels black or white at half of the full ink, and hold out a
# part of the images for testing. (The split is random, so the same hands wrote both parts.)

# %%
ink, digit_labels = load_digits(return_X_y=True)
bits = tensor(ink >= 8)
train_size, test_size = (400, 150) if SMOKE else (1_197, 600)
train, test, train_label, test_label = (
    torch.as_tensor(part)
    for part in train_test_split(
        bits,
        torch.as_tensor(digit_labels),
        train_size=train_size,
        test_size=test_size,
        stratify=digit_labels,
        random_state=0,
    )
)


# %% [markdown]
# The simplest story that deserves the name: given the digit, each pixel is an independent coin.
#
# $$c_i \sim \mathrm{Categorical}(\pi), \qquad x_{ij} \mid c_i \sim \mathrm{Bernoulli}(\theta_{c_i j}),
#   \qquad p(x, c) = \pi_c \prod_{j=1}^{64} \theta_{cj}^{x_j} (1 - \theta_{cj})^{1 - x_j}.$$


# %%
def digits(weights, theta, num_images):
    """``weights`` [digits] and ``theta`` [digits, 64]: how often each digit, and how often each of its pixels."""
    with pyro.plate("image", num_images):
        digit = pyro.sample("digit", dist.Categorical(weights))
        pyro.sample("pixels", dist.Bernoulli(theta[digit]).to_event(1))


# %% [markdown]
# ### Learning by counting
#
# With $N_c$ training images of digit $c$, of which $N_{cj}$ have pixel $j$ set, the log likelihood of images and
# labels collects into
#
# $$L(\pi, \theta) = \sum_i \log p(x_i, c_i)
#   = \sum_c N_c \log \pi_c
#   + \sum_{c,j} \bigl[ N_{cj} \log \theta_{cj} + (N_c - N_{cj}) \log (1 - \theta_{cj}) \bigr].$$
#
# *Pixels.* Each $\theta_{cj}$ stands in one bracket only. Its derivative vanishes where
#
# $$\frac{N_{cj}}{\theta_{cj}} - \frac{N_c - N_{cj}}{1 - \theta_{cj}} = 0
#   \iff N_{cj} (1 - \theta_{cj}) = (N_c - N_{cj})\, \theta_{cj} \iff \hat\theta_{cj} = \frac{N_{cj}}{N_c}.$$
#
# *Digits.* The $\pi_c$ must sum to one. With a multiplier $\lambda$, $\partial / \partial \pi_c$ of
# $\sum_c N_c \log \pi_c - \lambda (\sum_c \pi_c - 1)$ is $N_c / \pi_c - \lambda$, so $\pi_c = N_c / \lambda$; summing
# over $c$ gives $1 = N / \lambda$, hence $\hat\pi_c = N_c / N$.
#
# *It is the maximum.* Put $N_c = N \hat\pi_c$ and $N_{cj} = N_c \hat\theta_{cj}$ into $L$ and subtract: every term
# turns into a Kullback-Leibler divergence, which is never negative,
#
# $$L(\hat\pi, \hat\theta) - L(\pi, \theta) = N\, \mathrm{KL}[\hat\pi, \pi]
#   + \sum_{c, j} N_c\, \mathrm{KL}[\mathrm{Bernoulli}(\hat\theta_{cj}), \mathrm{Bernoulli}(\theta_{cj})] \ge 0.$$
#
# The functions below take the labels as rows of *shares*, $r_{ic}$, here 1 for the digit that it is and 0 for the
# others. Then $N_c = \sum_i r_{ic}$ and $N_{cj} = \sum_i r_{ic} x_{ij}$. (Section 5 will need shares in between.) The
# argument `pseudo` comes below; `seen`, which pixels there are, in section 4.


# %%
def log(value):
    return value.clamp(min=1e-300).log()  # so that 0 log 0 = 0


def fit(x, shares, pseudo=0.0):
    """Weights [components] and pixel probabilities [components, 64] from images and shares [images, components]."""
    counts = shares.sum(0)
    weights = (counts + pseudo) / (counts.sum() + pseudo * len(counts))
    return weights, (shares.T @ x + pseudo) / (counts[:, None] + 2 * pseudo)


def log_joint(x, weights, theta, seen=1.0):
    """log p(component, seen pixels), of shape [images, components]."""
    return log(weights) + (seen * x) @ log(theta).T + (seen * (1 - x)) @ log(1 - theta).T


shares = torch.nn.functional.one_hot(train_label, 10).double()
counts = shares.sum(0)
weights, theta = fit(train, shares)


def log_likelihood(weights, theta):
    return (shares * log_joint(train, weights, theta)).sum()


# %% [markdown]
# Checks: $L$ is what the program says when both of its sites are observed, and the gap to any other parameters is the
# divergence above.

# %%
both_observed = ph.Model(digits, weights, theta, len(train)).observe(pixels=train, digit=train_label)
assert_close(both_observed.target().log_joint({}), log_likelihood(weights, theta))

other_weights = torch.rand(10, generator=generator, dtype=torch.float64)
other_weights = other_weights / other_weights.sum()
other_theta = 0.05 + 0.9 * torch.rand(10, 64, generator=generator, dtype=torch.float64)


def kl_bernoulli(p, q):
    return p * (log(p) - log(q)) + (1 - p) * (log(1 - p) - log(1 - q))


kl_digits = (weights * (log(weights) - log(other_weights))).sum()
gap = len(train) * kl_digits + (counts[:, None] * kl_bernoulli(theta, other_theta)).sum()
assert_close(log_likelihood(weights, theta) - log_likelihood(other_weights, other_theta), gap)
assert gap > 0

# %% [markdown]
# ### One count more
#
# Maximum likelihood is rash: a pixel that was never set in the training images of a digit gets $\hat\theta = 0$, and
# then a single stray dot gives that digit probability zero, whatever the other 63 pixels say. A prior repairs it.
# With $\theta_{cj} \sim \mathrm{Beta}(1 + a, 1 + a)$ and $\pi \sim \mathrm{Dirichlet}(1 + a, \dots, 1 + a)$ the log
# prior is
#
# $$a \sum_{c,j} \bigl[\log \theta_{cj} + \log (1 - \theta_{cj})\bigr] + a \sum_c \log \pi_c + \mathrm{const},$$
#
# which has the same form as $L$ and only adds $a$ to its counts: to $N_{cj}$ and to $N_c - N_{cj}$ for the pixels, to
# $N_c$ for the digits. The maximum of $L$ + log prior is therefore
#
# $$\hat\theta_{cj} = \frac{N_{cj} + a}{N_c + 2a}, \qquad \hat\pi_c = \frac{N_c + a}{N + 10 a}.$$
#
# We take $a = 1$, Laplace's rule, from here on. The check lets automatic differentiation look for a slope at the
# maximum; $\pi$ may only move along the simplex, so its gradient must be the same in all components.


# %%
def log_prior(weights, theta, pseudo):
    return pseudo * (log(theta).sum() + log(1 - theta).sum() + log(weights).sum())


impossible = int((theta == 0).sum())
weights, theta = (value.requires_grad_() for value in fit(train, shares, pseudo=1.0))
objective = log_likelihood(weights, theta) + log_prior(weights, theta, 1.0)
slope_weights, slope_theta = torch.autograd.grad(objective, [weights, theta])
weights, theta = weights.detach(), theta.detach()
assert impossible > 0
assert theta.min() > 0
assert slope_theta.abs().max() < 1e-8
assert_close(slope_weights, slope_weights.mean().expand(10))

# %%
figure, axis = plt.subplots(figsize=(7, 1.2))
sheet(axis, theta[None], r"$\theta_{cj}$: how often each pixel of each digit is set")
save(figure, "parameters")

# %% [markdown]
# ### Reading: from pixels back to the digit
#
# Bayes' rule once more. The product of 64 factors is a small number, so work with logarithms, $\log p(x, c)$, and
# normalise over $c$:
#
# $$P(c \mid x) = \frac{e^{\log p(x, c)}}{\sum_{c'} e^{\log p(x, c')}}.$$

# %%
scores = log_joint(test, weights, theta)
read_by_hand = scores.softmax(-1)
log_px_test = scores.logsumexp(-1)  # log p(x), image by image

read = ph.infer(ph.Model(digits, weights, theta, len(test)).observe(pixels=test), EXACT, seed=0)
assert_close(read.marginals["digit"], read_by_hand)
assert_close(tensor(read.log_evidence.value), log_px_test.sum())

# %% [markdown]
# ### The same family as logistic regression
#
# Sort $\log p(x, c)$ by powers of $x_j$:
#
# $$\log p(x, c) = \underbrace{\log \pi_c + \textstyle\sum_j \log (1 - \theta_{cj})}_{a_c}
#   + \sum_j \underbrace{\log \frac{\theta_{cj}}{1 - \theta_{cj}}}_{b_{cj}} x_j .$$
#
# $P(c \mid x)$ is a softmax of functions that are linear in $x$. That is exactly the family of multinomial logistic
# regression. The two differ only in how $a$ and $b$ are chosen: to make images *and* labels probable, or to make
# the labels probable given the images. On the training images the second, left almost without a penalty, must
# therefore have the smaller log loss.

# %%
intercept = log(weights) + log(1 - theta).sum(-1)
assert_close(read_by_hand, (intercept + test @ theta.logit().T).softmax(-1))


def log_loss_terms(log_probabilities, label):
    """Minus the log probability of the right digit, image by image."""
    return -log_probabilities.gather(-1, label[:, None])[:, 0]


def regression_log_probabilities(model, x):
    return tensor(model.predict_log_proba(x.numpy()))


unpenalised = LogisticRegression(C=100.0, solver="newton-cg", max_iter=1_000).fit(train.numpy(), train_label.numpy())
loss_generative = log_loss_terms(log_joint(train, weights, theta).log_softmax(-1), train_label).mean()
loss_discriminative = log_loss_terms(regression_log_probabilities(unpenalised, train), train_label).mean()
assert loss_discriminative < loss_generative

# %% [markdown]
# For a fair comparison on *new* images the discriminative model gets a penalty too. We fit on three quarters of the
# training images, take the penalty with the smallest log loss on the last quarter, and fit again on all of them.

# %%
cut = 3 * len(train) // 4


def regress(C, count):
    """The first ``count`` training images; a larger C is a weaker penalty."""
    return LogisticRegression(C=C, solver="newton-cg").fit(train[:count].numpy(), train_label[:count].numpy())


def held_out_loss(C):
    return float(log_loss_terms(regression_log_probabilities(regress(C, cut), train[cut:]), train_label[cut:]).mean())


logistic = regress(min([0.3, 1.0, 3.0, 10.0], key=held_out_loss), len(train))

log_probabilities = {
    "naive Bayes": scores.log_softmax(-1),
    "logistic regression": regression_log_probabilities(logistic, test),
}


def right(name):
    return (log_probabilities[name].argmax(-1) == test_label).double()


def report(name):
    loss, hit = log_loss_terms(log_probabilities[name], test_label), right(name)
    confidence = log_probabilities[name].exp().max(-1).values.mean()
    cells = [f"{v.mean():.3f} ± {v.std() / len(v) ** 0.5:.3f}" for v in (hit, loss)]
    print(f"{name:>20}: accuracy {cells[0]}, log loss {cells[1]}, mean confidence {confidence:.3f}")


for name in log_probabilities:
    report(name)

# %%
excess = log_loss_terms(log_probabilities["naive Bayes"], test_label) - log_loss_terms(
    log_probabilities["logistic regression"], test_label
)
confidence = log_probabilities["naive Bayes"].exp().max(-1).values.mean()
if not SMOKE:
    assert excess.mean() > 4 * excess.std() / len(excess) ** 0.5  # the difference is no accident of these images
    assert confidence - right("naive Bayes").mean() > 0.04
    assert right("logistic regression").mean() - right("naive Bayes").mean() > 0.02

# %% [markdown]
# Honestly: if classification is all that you want, the discriminative model wins here, by about three points of
# accuracy and half of the log loss. Naive Bayes is right 89 times in 100 but believes 95. The reason is in the story.
# Strokes run on from one pixel to the next, so neighbours say the same thing twice, and the model counts it twice.
# By the model, pixels of the same digit are uncorrelated; here is the correlation with the pixel below.

# %%
beyond_digit = (train - theta[train_label]).reshape(-1, 8, 8)  # what the digit does not explain
above, below = beyond_digit[:, :-1].flatten(), beyond_digit[:, 1:].flatten()
correlation = torch.corrcoef(torch.stack([above, below]))[0, 1]
assert correlation > 0.2

# %% [markdown]
# Both confuse much the same digits: an 8 is read as a 1 more often than anything else but an 8.

# %%
figure, axes = plt.subplots(1, 2, figsize=(8.2, 3.7))
for axis, name in zip(axes, log_probabilities, strict=True):
    said = log_probabilities[name].argmax(-1)
    confusion = torch.bincount(10 * test_label + said, minlength=100).reshape(10, 10)
    axis.imshow(confusion.clamp(max=12).numpy(), cmap="Blues")
    for true, guess in confusion.nonzero().tolist():
        count = int(confusion[true, guess])
        axis.text(guess, true, count, ha="center", va="center", fontsize=7.5, color="w" if count > 8 else "k")
    axis.set(
        xticks=range(10), yticks=range(10), xlabel="read as", ylabel="is", title=f"{name}: {right(name).mean():.1%}"
    )
    axis.spines[:].set_visible(True)
    assert SMOKE or confusion[8].topk(2).indices.tolist() == [8, 1]
figure.tight_layout()
save(figure, "confusion")

# %% [markdown]
# ## 4. What only the generative model can do
#
# ### Draw
#
# `simulate` runs the program forwards: digits are decided, pixels follow. The first two moments of the pixels are
# known, and they teach something. Given the digit, pixels are independent; on the whole they are not, as
#
# $$E[x_j] = \sum_c \pi_c\, \theta_{cj}, \qquad E[x_j x_k] = \sum_c \pi_c\, E[x_j \mid c]\, E[x_k \mid c]
#   = \sum_c \pi_c\, \theta_{cj}\, \theta_{ck} \quad (j \ne k),$$
#
# and the second is not the product of two of the first. The common cause correlates them.

# %%
num_draws = 20_000
drawn = ph.Model(digits, weights, theta, 1).simulate(num_draws, seed=0)
drawn_digit, drawn_pixels = drawn["digit"][:, 0], drawn["pixels"][:, 0]

frequency = torch.bincount(drawn_digit, minlength=10) / num_draws
assert_within(frequency, weights, (weights * (1 - weights) / num_draws).sqrt())

off_diagonal = ~torch.eye(64, dtype=torch.bool)
mean = weights @ theta
second = (theta.T @ (weights[:, None] * theta))[off_diagonal]
assert_within(drawn_pixels.mean(0), mean, (mean * (1 - mean) / num_draws).sqrt())
assert_within(
    (drawn_pixels.T @ drawn_pixels / num_draws)[off_diagonal], second, (second * (1 - second) / num_draws).sqrt(), 5.0
)
assert (second - torch.outer(mean, mean)[off_diagonal]).abs().max() > 0.05  # not independent


# %%
def one_of_each(pixels, label, rows):
    return torch.stack([torch.stack([pixels[label == c][row] for c in range(10)]) for row in range(rows)])


figure, axes = plt.subplots(1, 2, figsize=(8.4, 2.4))
sheet(axes[0], one_of_each(test, test_label, 4), "written by people")
sheet(axes[1], one_of_each(drawn_pixels, drawn_digit, 4), "drawn from the model")
save(figure, "drawn")

# %% [markdown]
# One can read them, but they are grainy: each pixel near the edge of a stroke is tossed by itself. What the model
# knows it shows, and what it does not know as well. No accuracy table would have told us.
#
# ### Doubt
#
# $\log p(x) = \log \sum_c p(x, c)$ says how probable an image is under *any* digit. As strangers we take, from the
# test images themselves, the same pixels in shuffled places, ink and paper exchanged, digits turned by a quarter, and
# their mirror images. How well a score tells the known from the strange is measured by the area under the ROC curve,
# which is a probability:
#
# $$\mathrm{AUC} = P(\mathrm{score}(\text{digit}) > \mathrm{score}(\text{stranger}))
#   + \tfrac12 P(\mathrm{score}(\text{digit}) = \mathrm{score}(\text{stranger})).$$
#
# (Why: at threshold $t$ the curve has height $P(\mathrm{score}(\text{digit}) > t)$. Moving along the horizontal axis
# means moving $t$ through the scores of the strangers, so the area is the average of that height over them.) The
# discriminative model has no $p(x)$. People use its confidence, $\max_c P(c \mid x)$, instead.

# %%
places = torch.rand(test.shape, generator=generator).argsort(-1)
squares = test.reshape(-1, 8, 8)
strangers = {
    "shuffled": test.gather(-1, places),
    "inverted": 1 - test,
    "turned": squares.rot90(1, (1, 2)).reshape(-1, 64),
    "mirrored": squares.flip(2).reshape(-1, 64),
}


def auc(known, strange):
    above, equal = known[:, None] > strange, known[:, None] == strange
    area = (above.double() + 0.5 * equal.double()).mean()
    labels = np.repeat([1, 0], [len(known), len(strange)])
    assert_close(area, tensor(roc_auc_score(labels, torch.cat([known, strange]))))
    return float(area)


def log_evidence(x):
    return log_joint(x, weights, theta).logsumexp(-1)


def confidence_of(x):
    return regression_log_probabilities(logistic, x).max(-1).values


auc_generative = {name: auc(log_px_test, log_evidence(x)) for name, x in strangers.items()}
auc_discriminative = {name: auc(confidence_of(test), confidence_of(x)) for name, x in strangers.items()}
assert min(auc_generative[name] for name in ("shuffled", "inverted", "turned")) > 0.99
if not SMOKE:
    assert max(auc_discriminative.values()) < 0.95
    assert auc_discriminative["turned"] < 0.6
    assert auc_generative["mirrored"] < 0.9

# %% [markdown]
# The expected log probability of the model's *own* draws is $E_{x \sim p}[\log p(x)]$, minus its entropy. Were the
# model true, the digits would score the same on average. They score higher: people write tidier digits than the model
# draws. So $\log p(x)$ is a good alarm, but no proof that the model is right: a test of the model by its score, with
# a standard error, rejects it.

# %%
log_px_drawn = log_evidence(drawn_pixels)
excess = log_px_test.mean() - log_px_drawn.mean()
excess_error = (log_px_test.var() / len(test) + log_px_drawn.var() / num_draws).sqrt()
assert excess > 4 * excess_error

figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), width_ratios=(1.7, 1))
edges = np.linspace(-240, 0, 121)
axes[0].hist(log_px_test, edges, density=True, color=GENERATIVE, alpha=0.8, label="digits (test)")
axes[0].hist(log_px_drawn, edges, density=True, histtype="step", color="k", label="the model's own draws")
for (name, x), colour in zip(strangers.items(), ("tab:red", "tab:purple", "tab:olive", "tab:gray"), strict=True):
    axes[0].hist(log_evidence(x), edges, density=True, histtype="step", lw=1.5, color=colour, label=name)
axes[0].set(xlabel=r"$\log p(x)$ in nats", yticks=[], ylabel="density", xlim=(-240, 0))
axes[0].legend(frameon=False, fontsize=7.5, loc="upper left")
rows = np.arange(len(strangers))
axes[1].barh(
    rows - 0.18, [auc - 0.5 for auc in auc_generative.values()], 0.34, left=0.5, color=GENERATIVE, label=r"$\log p(x)$"
)
axes[1].barh(
    rows + 0.18,
    [auc - 0.5 for auc in auc_discriminative.values()],
    0.34,
    left=0.5,
    color=DISCRIMINATIVE,
    label="logistic confidence",
)
axes[1].set(yticks=rows, yticklabels=list(strangers), xlim=(0.5, 1.0), xlabel="AUC, digits against strangers")
axes[1].invert_yaxis()
axes[1].legend(frameon=False, fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2)
figure.tight_layout()
save(figure, "strangers")

# %% [markdown]
# Mirror images are the hard case for $p(x)$, and rightly so: a mirrored 0 or 8 is a 0 or an 8. Confidence is a poor
# alarm throughout. A digit turned by a quarter is named almost as surely as an upright one.
#
# ### Complete
#
# Suppose that only the pixels $S$ are seen and $H$ are hidden. Sum over everything that the hidden ones could be.
# Given the digit the pixels are independent, so the sum of products is a product of sums, each of which is one:
#
# $$p(x_S \mid c) = \sum_{x_H} \prod_{j \in S} p(x_j \mid c) \prod_{j \in H} p(x_j \mid c)
#   = \prod_{j \in S} p(x_j \mid c)
#     \prod_{j \in H} \underbrace{\sum_{x_j \in \{0, 1\}} p(x_j \mid c)}_{(1 - \theta_{cj}) + \theta_{cj} = 1}
#   = \prod_{j \in S} p(x_j \mid c).$$
#
# Dropping the factors of the hidden pixels *is* the exact marginalisation. No imputation, no retraining, whatever the
# pattern of holes. To check it, take the long way for an image with ten holes: all $2^{10}$ ways to fill them.

# %%
holes = torch.randperm(64, generator=generator)[:10]
fillings = torch.cartesian_prod(*[tensor([0.0, 1.0])] * 10)  # [1024, 10]
filled = test[0].repeat(len(fillings), 1)
filled[:, holes] = fillings
the_long_way = log_joint(filled, weights, theta).logsumexp(0)

seen = torch.ones(64, dtype=torch.float64)
seen[holes] = 0.0
assert_close(log_joint(test[:1], weights, theta, seen)[0], the_long_way)

# %% [markdown]
# Classification with half of the image missing is Bayes' rule with the remaining factors, and in-painting is one more
# sum. Given the digit the hidden pixel does not depend on the seen ones, $p(x_j \mid c, x_S) = p(x_j \mid c)$, so
#
# $$P(x_j{=}1 \mid x_S) = \sum_c P(x_j{=}1 \mid c, x_S)\, P(c \mid x_S) = \sum_c \theta_{cj}\, P(c \mid x_S).$$
#
# The library needs none of this. The program names the two halves, one half is observed, and `exact` finds the
# probabilities of the digit *and* of each of the 32 hidden pixels. The second plate says that pixels are independent
# given the digit, so that the sum over $10 \cdot 2^{32}$ assignments per image is done factor by factor.


# %%
def two_halves(weights, theta, upper, lower, num_images):
    images = pyro.plate("image", num_images, dim=-1)
    with images:
        digit = pyro.sample("digit", dist.Categorical(weights))
    with images, pyro.plate("upper_pixel", len(upper), dim=-2):
        pyro.sample("upper_half", dist.Bernoulli(theta[digit, upper[:, None]]))
    with images, pyro.plate("lower_pixel", len(lower), dim=-2):
        pyro.sample("lower_half", dist.Bernoulli(theta[digit, lower[:, None]]))


upper, lower = torch.arange(32), torch.arange(32, 64)
upper_only = (torch.arange(64) < 32).double()
guess = log_joint(test, weights, theta, upper_only).softmax(-1)  # P(c | upper half)
in_painted = guess @ theta  # P(x_j = 1 | upper half), for every pixel

halves = ph.Model(two_halves, weights, theta, upper, lower, len(test)).observe(upper_half=test[:, upper].T)
completed = ph.infer(halves, EXACT, seed=0)
assert_close(completed.marginals["digit"], guess)
assert_close(completed.marginals["lower_half"][..., 1].T, in_painted[:, lower])

# %% [markdown]
# Now holes in random places, more and more of them. The discriminative model was trained on whole images; it gets the
# customary repair, the hole filled with the training mean of that pixel. (It could be trained anew for a known
# pattern of holes, but there are $2^{64}$ patterns.)

# %%
fractions = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
hidden_share = torch.rand(test.shape, generator=generator, dtype=torch.float64)
pixel_means = train.mean(0)


def accuracy_with_holes(guesses):
    """``guesses(x, seen)`` returns scores [images, digits]."""
    seens = [(hidden_share >= fraction).double() for fraction in fractions]
    return tensor([(guesses(test * seen, seen).argmax(-1) == test_label).double().mean() for seen in seens])


by_dropping = accuracy_with_holes(lambda x, seen: log_joint(x, weights, theta, seen))
by_filling = accuracy_with_holes(lambda x, seen: regression_log_probabilities(logistic, x + (1 - seen) * pixel_means))
assert_close(by_dropping[0], right("naive Bayes").mean())
if not SMOKE:
    assert (by_dropping[5:] > by_filling[5:]).all()

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 2.9), width_ratios=(1, 1.5))
for accuracy, style, colour, name in (
    (by_dropping, "o-", GENERATIVE, "naive Bayes, factors dropped"),
    (by_filling, "s--", DISCRIMINATIVE, "logistic regression, means filled in"),
):
    binomial_error = (accuracy * (1 - accuracy) / len(test)).sqrt()
    axes[0].errorbar(fractions, accuracy, binomial_error, fmt=style, ms=3, color=colour, label=name)
axes[0].axhline(0.1, color="0.5", lw=0.8, ls=":")
axes[0].text(0.0, 0.09, "guessing", color="0.4", fontsize=7.5, ha="left", va="top")
axes[0].set(xlabel="fraction of pixels missing", ylabel="accuracy on test images", ylim=(0, 1))
axes[0].legend(frameon=False, fontsize=7.5, loc="lower left", bbox_to_anchor=(0.0, 0.12))
first_of_each = torch.stack([(test_label == c).nonzero()[0, 0] for c in range(10)])
shown = [test, test * upper_only + (1 - upper_only) * 0.25, test * upper_only + (1 - upper_only) * in_painted]
sheet(axes[1], torch.stack([images[first_of_each] for images in shown]), "written; seen; completed by the model")
figure.tight_layout()
save(figure, "missing")

# %% [markdown]
# With whole images the discriminative model is ahead; with half of the pixels missing it has fallen behind. Where the
# upper half leaves several digits open, the completed lower half is a blend of them: it is an *expectation*, not a
# draw.
#
# ## 5. A latent variable that is never observed
#
# Take the labels away. The program stays as it is, `digit` is simply never observed: a **mixture model**. What was a
# digit is now a cluster without a name, and what was counting needs the labels that we no longer have.
#
# ### A lower bound and its gap
#
# Let $q_i$ be any distribution over the clusters of image $i$. As $p(x_i) = p(x_i, k) / p(k \mid x_i)$ for every $k$,
# we may average its logarithm over $q_i$ and put $q_i(k)$ in and out:
#
# $$\log p(x_i) = \sum_k q_i(k) \log \frac{p(x_i, k)}{p(k \mid x_i)}
#   = \underbrace{\sum_k q_i(k) \log \frac{p(x_i, k)}{q_i(k)}}_{F_i(q_i)}
#   + \underbrace{\sum_k q_i(k) \log \frac{q_i(k)}{p(k \mid x_i)}}_{\mathrm{KL}[q_i,\; p(\cdot \mid x_i)] \;\ge\; 0} .$$
#
# Hence $F = \sum_i F_i \le \log p(x)$, whatever $q$. ($F$ is the ELBO of the later tutorials.) With $q$ drawn at
# random:

# %%
q = torch.randn(len(train), 10, generator=generator, dtype=torch.float64).softmax(-1)
joint_train = log_joint(train, weights, theta)
bound = (q * (joint_train - log(q))).sum(-1)
divergence = (q * (log(q) - joint_train.log_softmax(-1))).sum(-1)
assert_close(joint_train.logsumexp(-1), bound + divergence)
assert divergence.min() > 0

# %% [markdown]
# ### Climb in two steps
#
# Maximise $F$ by turns, over $q$ and over the parameters $\phi = (\pi, \theta)$.
#
# *E step.* With $\phi$ held, $\log p(x)$ is fixed, so $F$ is largest where the divergence is zero, at
# $q_i(k) = p(k \mid x_i, \phi)$: Bayes' rule. Call these shares the **responsibilities** $r_{ik}$. Now
# $F = \log p(x \mid \phi)$.
#
# *M step.* With $q = r$ held, what depends on $\phi$ is
#
# $$Q(\phi) = \sum_{i,k} r_{ik} \log p(x_i, k \mid \phi)
#   = \sum_k N_k \log \pi_k
#   + \sum_{k,j} \bigl[ N_{kj} \log \theta_{kj} + (N_k - N_{kj}) \log (1 - \theta_{kj}) \bigr],$$
#
# with $N_k = \sum_i r_{ik}$ and $N_{kj} = \sum_i r_{ik} x_{ij}$. That is $L$ of section 3 with fractional counts, and
# `fit` solves it already.
#
# *Neither step loses.* For new parameters $\phi'$ after old ones $\phi$,
#
# $$\log p(x \mid \phi') \;\ge\; F(r, \phi') \;\ge\; F(r, \phi) \;=\; \log p(x \mid \phi) :$$
#
# a lower bound; the M step; the E step. The same with the log prior of section 3 added to every term. Subtracting the
# decomposition above for $\phi$ from that for $\phi'$, both with $q = r$, even gives the amount (the entropy of $r$
# cancels, and the divergence at $\phi$ is zero):
#
# $$\log p(x \mid \phi') - \log p(x \mid \phi) = Q(\phi') - Q(\phi)
#   + \sum_i \mathrm{KL}\bigl[p(\cdot \mid x_i, \phi),\; p(\cdot \mid x_i, \phi')\bigr].$$


# %%
def em(x, num_components, pseudo, seed, max_steps=200, tolerance=1e-4):
    """Weights, pixel probabilities and the objective after every step, from random responsibilities."""
    start = torch.Generator().manual_seed(seed)
    r = torch.rand(len(x), num_components, generator=start, dtype=torch.float64).log().neg()
    r = r / r.sum(-1, keepdim=True)  # uniform on the simplex
    history = []
    for _ in range(max_steps):
        weights, theta = fit(x, r, pseudo)  # M step
        scores = log_joint(x, weights, theta)
        r = scores.softmax(-1)  # E step
        history.append(float(scores.logsumexp(-1).sum() + log_prior(weights, theta, pseudo)))
        if len(history) > 1 and history[-1] - history[-2] < tolerance:
            break
    return weights, theta, tensor(history)


# %% [markdown]
# Every step is checked, once with the prior ($a = 1$) and once by plain maximum likelihood ($a = 0$). EM climbs to
# the nearest top only, so we start several times and keep the highest.

# %%
starts = range(2 if SMOKE else 6)
runs = {pseudo: [em(train, 10, pseudo, seed) for seed in starts] for pseudo in (1.0, 0.0)}
for history in (run[2] for tops in runs.values() for run in tops):
    assert (history.diff() > -1e-9 * history.abs().max()).all()

clusters, cluster_theta, history = max(runs[1.0], key=lambda run: run[2][-1])

# %% [markdown]
# ### The E step is inference
#
# Responsibilities are a posterior, so `exact` computes them: the program of section 3, unchanged, with the parameters
# as they stand. Here is one whole EM step, with the E step by the library, and the amount by which it climbs.

# %%
old_weights, old_theta, _ = em(train, 10, 1.0, seed=0, max_steps=5)
before = log_joint(train, old_weights, old_theta)

e_step = ph.infer(ph.Model(digits, old_weights, old_theta, len(train)).observe(pixels=train), EXACT, seed=0)
responsibilities = e_step.marginals["digit"]
assert_close(responsibilities, before.softmax(-1))
assert_close(tensor(e_step.log_evidence.value), before.logsumexp(-1).sum())

new_weights, new_theta = fit(train, responsibilities, pseudo=1.0)
after = log_joint(train, new_weights, new_theta)
gain_of_q = (responsibilities * (after - before)).sum()
divergence = (responsibilities * (before.log_softmax(-1) - after.log_softmax(-1))).sum()
assert_close(after.logsumexp(-1).sum() - before.logsumexp(-1).sum(), gain_of_q + divergence)
assert divergence > 0

gain_of_m_step = gain_of_q + log_prior(new_weights, new_theta, 1.0) - log_prior(old_weights, old_theta, 1.0)
assert gain_of_m_step > 0  # what the M step maximises, Q + log prior

sixth_weights, sixth_theta, _ = em(train, 10, 1.0, seed=0, max_steps=6)
assert_close(new_theta, sixth_theta)  # the same step as the loop takes
assert_close(new_weights, sixth_weights)

# %% [markdown]
# ### What has it found?
#
# Nothing tells the model which cluster to call what: any renumbering of the clusters has the same likelihood, as
# $p(x)$ is a sum over all of them. Names have to come from outside. We name each cluster after the commonest digit
# among its training images and only then look at the test labels.

# %%
renumbered = torch.randperm(10, generator=generator)
unnamed = log_joint(test, clusters, cluster_theta)
assert_close(log_joint(test, clusters[renumbered], cluster_theta[renumbered]).logsumexp(-1), unnamed.logsumexp(-1))

membership = log_joint(train, clusters, cluster_theta).argmax(-1)
names = torch.stack([train_label[membership == k].mode().values for k in range(10)])
found = unnamed.argmax(-1)
named_right = (names[found] == test_label).double().mean()
agreement = adjusted_rand_score(test_label, found)  # 0 by chance, 1 for the same partition; needs no names
print(f"{'without labels':>20}: accuracy {named_right:.3f} after naming, adjusted Rand index {agreement:.2f}")
if not SMOKE:
    assert named_right > 0.6
    assert agreement > 0.4
    assert len(names.unique()) >= 8

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 2.7), width_ratios=(1, 1.6))
highest = max(float(run[2][-1]) for run in runs[1.0])
for run in runs[1.0]:
    climbed = highest + 1 - run[2]
    axes[0].plot(
        range(1, len(climbed) + 1), climbed, lw=1, color=GENERATIVE, alpha=1.0 if run[2][-1] == highest else 0.35
    )
axes[0].set(xscale="log", yscale="log", xlabel="step", ylabel="nats below the best, plus 1")
axes[0].invert_yaxis()
by_name = names.argsort(stable=True)
members = torch.stack(
    [train[unnamed_row.topk(4).indices] for unnamed_row in log_joint(train, clusters, cluster_theta).T]
)
sheet(axes[1], torch.cat([cluster_theta[None], members.transpose(0, 1)])[:, by_name], names=names[by_name].tolist())
axes[1].set_title("clusters by name: pixel probabilities, and four members", fontsize=9, pad=18)
axes[0].set_title("EM never steps down", fontsize=9)
figure.tight_layout()
save(figure, "clusters")

# %% [markdown]
# Without a single label it has found most of the ten digits, though not all. Two ways of writing a 7 differ more than
# a 3 and a 9 do, so it keeps the first two apart and the other two together. That is no failure of EM: the best
# explanation by ten sorts of image that has been found need not be the one that pleases us most.
#
# ### Styles: a latent variable where it helps
#
# The same observation repairs section 3. A 7 may have a bar or not, a 1 a foot or not. Let the digit be decided
# first, then its **style** $s$, then the pixels:
#
# $$p(x, c, s) = \pi_c\, \omega_{cs} \prod_j \theta_{csj}^{x_j} (1 - \theta_{csj})^{1 - x_j},
#   \qquad p(x, c) = \sum_s p(x, c, s).$$
#
# In training, the digit is observed and the style is not. The log likelihood
# $\sum_c \sum_{i : c_i = c} \bigl[ \log \pi_c + \log \sum_s p(x_i, s \mid c) \bigr]$ has separate parameters for
# each digit, so EM runs on the images of one digit at a time. Given digit *and* style the pixels are independent:
# hidden ones may still be dropped. Given the digit alone they no longer are, which is what was wrong before.


# %%
def fit_styles(x, label, num_styles):
    """Style weights [10, styles] and pixel probabilities [10, styles, 64]."""
    fits = [em(x[label == c], num_styles, 1.0, seed=c)[:2] for c in range(10)]
    return tuple(torch.stack(parts) for parts in zip(*fits, strict=True))


def log_joint_styled(x, style_weights, style_theta, seen=1.0):
    """log p(digit, style, seen pixels), of shape [images, 10, styles]: a mixture of all digits and styles."""
    component_weights = (weights[:, None] * style_weights).flatten()
    return log_joint(x, component_weights, style_theta.flatten(0, 1), seen).unflatten(-1, style_weights.shape)


# %% [markdown]
# How many styles? As many as read the last quarter of the training images best. (Not every digit uses all of them: a
# style that is not needed is left with an image or none.)

# %%
numbers = [1, 2, 4] if SMOKE else [1, 2, 3, 4, 6, 8]
losses = []
for number in numbers:
    styles_of_part = fit_styles(train[:cut], train_label[:cut], number)
    held_out = log_joint_styled(train[cut:], *styles_of_part).logsumexp(-1).log_softmax(-1)
    losses.append(float(log_loss_terms(held_out, train_label[cut:]).mean()))
num_styles = numbers[int(np.argmin(losses))]
style_weights, style_theta = fit_styles(train, train_label, num_styles)
styled_scores = log_joint_styled(test, style_weights, style_theta)  # log p(c, s, x)

# %% [markdown]
# The program gains one line. `exact` sums both latents out, and gives the probabilities of each.


# %%
def styled_digits(weights, style_weights, theta, num_images):
    with pyro.plate("image", num_images):
        digit = pyro.sample("digit", dist.Categorical(weights))
        style = pyro.sample("style", dist.Categorical(style_weights[digit]))
        pyro.sample("pixels", dist.Bernoulli(theta[digit, style]).to_event(1))


styled = ph.Model(styled_digits, weights, style_weights, style_theta, len(test)).observe(pixels=test)
styled_post = ph.infer(styled, EXACT, seed=0)
both_latents = styled_scores.flatten(1).softmax(-1).unflatten(-1, style_weights.shape)  # P(c, s | x)
assert_close(styled_post.marginals["digit"], both_latents.sum(2))
assert_close(styled_post.marginals["style"], both_latents.sum(1))
assert_close(tensor(styled_post.log_evidence.value), styled_scores.flatten(1).logsumexp(-1).sum())

log_probabilities["with styles"] = styled_scores.logsumexp(-1).log_softmax(-1)
report("with styles")

# %%
gain = log_loss_terms(log_probabilities["naive Bayes"], test_label) - log_loss_terms(
    log_probabilities["with styles"], test_label
)
gain_in_evidence = styled_scores.flatten(1).logsumexp(-1) - log_px_test
by_dropping_styled = accuracy_with_holes(
    lambda x, seen: log_joint_styled(x, style_weights, style_theta, seen).logsumexp(-1)
)
if not SMOKE:
    assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5
    assert gain_in_evidence.mean() > 4 * gain_in_evidence.std() / len(gain_in_evidence) ** 0.5
    assert abs(right("with styles").mean() - right("logistic regression").mean()) < 0.03
    assert (by_dropping_styled[1:7] > by_dropping[1:7].maximum(by_filling[1:7])).all()

# %%
styled_draws = ph.Model(styled_digits, weights, style_weights, style_theta, 1).simulate(1_000, seed=0)
guess_styled = log_joint_styled(test, style_weights, style_theta, upper_only).flatten(1).softmax(-1)
in_painted_styled = guess_styled @ style_theta.flatten(0, 1)
completed_styled = test * upper_only + (1 - upper_only) * in_painted_styled

figure, axes = plt.subplots(2, 2, figsize=(8.6, 4.4), height_ratios=(1.3, 1))
sheet(axes[0, 0], one_of_each(drawn_pixels, drawn_digit, 4), "drawn: naive Bayes")
sheet(axes[0, 1], one_of_each(styled_draws["pixels"][:, 0], styled_draws["digit"][:, 0], 4), "drawn: with styles")
commonest = style_weights.argsort(descending=True)[:, :2]
shown_styles = style_theta.gather(1, commonest[..., None].expand(-1, -1, 64)).transpose(0, 1)
sheet(axes[1, 0], shown_styles, "the two commonest styles of each digit")
sheet(axes[1, 1], torch.stack([images[first_of_each] for images in (*shown[1:], completed_styled)]))
axes[1, 1].set_title("seen; completed: naive Bayes; completed: with styles", fontsize=9)
figure.tight_layout()
save(figure, "styles")

# %% [markdown]
# One more latent variable, learnt without anyone naming a style, halves the log loss of naive Bayes. On these bits the
# generative model now reads as well as the discriminative one, within the errors of the table; it still draws, doubts
# and completes, and reads images with holes better than either.
#
# ## What to take away
#
# 1. Tell how the data come about, latent variable first. Bayes' rule reads the story backwards, by `exact` if it can.
# 2. A generative model answers more questions and pays for what its story gets wrong; its draws show you where.
# 3. Labels may be known, partly known or unknown: same program, and EM alternates Bayes' rule with counting.
