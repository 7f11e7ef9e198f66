"""From facts to an ordered plan: every rule is a function that gives steps, each with the numbers that speak for it.

One currency for what draws: the densities that an effective draw costs. An independent draw that is weighted costs
1 / (effective size per draw). A draw of NUTS costs about a hundred, whatever the model: steps, gradients, what
successive draws share, and warm-up together.
"""

from __future__ import annotations

from collections.abc import Iterator

from phlogiston.inference.auto.facts import Facts, Pilot, rounded_up
from phlogiston.inference.mcmc.adaptation import DENSE
from phlogiston.inference.methods.exact import Exact
from phlogiston.inference.methods.gibbs import Gibbs
from phlogiston.inference.methods.importance import Importance
from phlogiston.inference.methods.mh import MH
from phlogiston.inference.methods.modes import Laplace
from phlogiston.inference.methods.nuts import NUTS
from phlogiston.inference.methods.smc import SMC
from phlogiston.inference.methods.svi import SVI
from phlogiston.posterior.plan import Step, step
from phlogiston.training.amortised.guide import Amortized

OF_NUTS = 100.0  # densities for an effective draw
WEIGHTED = 10_000.0  # effective size that weighted draws should have
KHAT = 0.5  # of a pilot: above it the variance of weights is infinite
PREFERRED = 3.0  # as much better has the normal to be: weights from the prior are the safer ones
KHAT_OF_PRIOR = 0.7  # weights from the prior are bounded wherever the likelihood is
DEAR = 3e11  # numbers that a run may make: minutes
_LEAPFROGS = 32 * 500 * 10  # of 32 chains with 500 draws, warm-up included, ten steps per draw
_ISLANDS = 16 * 3072  # particles: in islands of a few hundred, the fractions of the modes are noise that R-hat sees
_FEWEST = 20.0  # effective draws that a pilot has to have
_ROWS = 10_000  # data from which on minibatches pay


def steps_of(facts: Facts) -> list[Step]:
    """The plan, the first choice first; steps that the model's sites forbid are still among them."""
    if not facts.dim and not facts.uncountable and not facts.unsummable:
        return [*_exact(facts)]
    if not facts.has_density:
        return [*_covered(facts), *_one_at_a_time(facts)]
    if facts.gradient:
        return [*_covered(facts), *_without_gradients(facts)]
    return [*_first(facts), *_with_gradients(facts)]


def _exact(facts: Facts) -> Iterator[Step]:
    reason = (
        f"all {facts.discrete:,} latents are discrete with {facts.lines()['discrete']}: the posterior is counted out, "
        "with the evidence, and nothing is left to doubt"
    )
    yield step(Exact(num_samples=2000), "exact", reason)
    yield step(Gibbs(num_chains=16), "gibbs", "draws each latent from its exact conditional, where counting is no use")


def _covered(facts: Facts) -> Iterator[Step]:
    """Importance sampling, where the prior covers the posterior."""
    if (pilot := facts.prior) is not None and _covers(pilot, KHAT_OF_PRIOR):
        if not facts.data:
            why = "nothing is observed: draws from the prior are draws from the posterior, each counts fully"
        else:
            why = f"the prior covers the posterior: of it {pilot}"
        yield step(_importance(facts, pilot), "importance", f"{why}; {_cheap(pilot)}{_loop(facts)}{_no_sum(facts)}")


def _covers(pilot: Pilot, khat: float) -> bool:
    return pilot.efficiency * OF_NUTS >= 1.0 and pilot.effective_size >= _FEWEST and pilot.khat < khat


def _cheap(pilot: Pilot) -> str:
    return f"an effective draw costs {1 / pilot.efficiency:.1f} densities, one of a chain about {OF_NUTS:.0f}"


def _loop(facts: Facts) -> str:
    return " (a loop over runs of the program, so draws are few)" if facts.untraced else ""


def _no_sum(facts: Facts) -> str:
    return f"; {', '.join(facts.uncountable)} cannot be summed out, and need not be" if facts.uncountable else ""


def _importance(facts: Facts, pilot: Pilot) -> Importance:
    if facts.untraced:
        return Importance(num_particles=min(max(rounded_up(1000 / pilot.efficiency), 2000), 20_000))
    return Importance(num_particles=min(max(rounded_up(WEIGHTED / pilot.efficiency), 20_000), 1_000_000))


def _one_at_a_time(facts: Facts) -> Iterator[Step]:
    """Methods for discrete latents that can be neither summed out nor differentiated."""
    if facts.uncountable:
        what = (
            f"{', '.join(facts.uncountable)}: a count without a last value can be neither summed out nor differentiated"
        )
    else:
        what = f"the discrete latents cannot be summed out: {facts.unsummable}"
    yield step(
        Gibbs(num_chains=32, num_samples=800, num_warmup=100),
        "gibbs",
        f"{what}; each of the {facts.dim + facts.discrete:,} latent numbers is drawn from its conditional given the "
        "rest, exactly where that has a known form",
    )
    yield step(
        Gibbs(num_chains=16, num_samples=1000, num_warmup=1000, num_steps=10),
        "gibbs",
        "ten sweeps per draw, where chains mix too slowly",
        against=("effective sample size", "R-hat", "acceptance"),
    )
    yield step(
        MH(num_chains=16, num_steps=20, num_warmup=2000),
        "mh",
        "moves all latents together, where one at a time is stuck between them",
    )


def _without_gradients(facts: Facts) -> Iterator[Step]:
    why = f"the gradient {facts.gradient}; random walks that learn the posterior's shape need none"
    if facts.untraced:
        yield step(MH(num_chains=4, num_samples=1000, num_warmup=1000), "mh", f"{why}{_loop(facts)}")
    else:
        yield step(MH(num_chains=32, num_samples=500, num_warmup=500, num_steps=10), "mh", why)
    yield step(SMC(moves="mh"), "smc", "follows the prior to the posterior by random walks, several modes included")


def _first(facts: Facts) -> Iterator[Step]:
    """The best proposal that covers the posterior, or SMC for several modes, or SVI where chains are too dear."""
    prior = [*_covered(facts)]
    normal = facts.normal if facts.modes == 1 and facts.normal is not None and _covers(facts.normal, KHAT) else None
    if prior and (normal is None or facts.prior is None or normal.efficiency < PREFERRED * facts.prior.efficiency):
        yield from prior
    elif normal is not None:
        yield step(
            _laplace(facts, normal),
            "laplace",
            f"the posterior is nearly normal: of the normal at its mode {normal}; {_cheap(normal)}; weights repair the "
            f"rest{_loop(facts)}",
        )
        yield from prior
    elif facts.modes > 1:
        yield from _several_modes(facts)
    elif _numbers_of(facts) > DEAR:
        yield from _variational(facts)


def _laplace(facts: Facts, pilot: Pilot) -> Laplace:
    most = 2000 if facts.untraced or facts.elements * WEIGHTED > DEAR / 10 else 50_000
    return Laplace(num_samples=min(max(rounded_up(WEIGHTED / pilot.efficiency), 2000), most))


def _several_modes(facts: Facts) -> Iterator[Step]:
    yield step(
        SMC(num_particles=_ISLANDS),
        "smc",
        f"{facts.climbs} climbs found {facts.modes} modes with valleys of at least 3 nats between them, which chains "
        "do not cross: particles settle in all of them while the likelihood is still weak",
    )


def _numbers_of(facts: Facts) -> float:
    """How many numbers a run of NUTS would compute."""
    return float(_LEAPFROGS * facts.elements)


def _variational(facts: Facts) -> Iterator[Step]:
    dear = f"chains would make {_numbers_of(facts):.2g} numbers, more than {DEAR:.2g}"
    if facts.rows is not None:
        rows = facts.rows
        reason = (
            f"{facts.dim:,} latents, {rows.numbers} in each of the {rows.size:,} elements of plate {rows.plate!r}, "
            f"which do not depend on each other: one network reads them off the data; {dear}"
        )
        yield step(SVI(guide=Amortized(), batch_size=min(100, rows.size), num_steps=5000), "svi", reason)
    guide = "multivariate_normal" if facts.dim <= DENSE else "normal"
    batch = 1000 if facts.data >= _ROWS and facts.plates else None
    yield step(SVI(guide=guide, batch_size=batch), "svi", f"{dear}; a normal is fitted by climbing the ELBO")


def _nuts(facts: Facts) -> NUTS:
    if facts.untraced:
        return NUTS(num_chains=4, num_samples=300, num_warmup=200)
    if facts.elements > DEAR / _LEAPFROGS:
        return NUTS(num_chains=4, num_samples=500, num_warmup=500)
    if facts.funnels:  # the tail of the scale takes long chains, and small steps
        return NUTS(num_chains=8, num_samples=1500, num_warmup=500, target_accept_prob=0.95)
    return NUTS(num_chains=32, num_samples=300, num_warmup=200)


def _with_gradients(facts: Facts) -> Iterator[Step]:
    """NUTS, in other coordinates where a scale is a latent; then more careful; then SMC."""
    funnel = bool(facts.funnels)
    yield step(_nuts(facts), "nuts", _why_nuts(facts), rewrite=funnel)
    if _numbers_of(facts) > DEAR:  # one run is all that there is time for
        return
    careful = NUTS(
        num_chains=4 if facts.untraced else 16,
        num_warmup=1000,
        num_samples=1000,
        target_accept_prob=0.95,
    )
    against = (
        "divergences",
        "energy",
        "acceptance",
        "tree depth",
        "effective sample size",
        "draws against the density",
    )
    yield step(
        careful,
        "nuts",
        "smaller steps and a longer warm-up, where the first run diverged, was refused or was too short",
        against=against,
        rewrite=bool(facts.centred),
    )
    if not facts.modes > 1:
        yield step(SMC(), "smc", "particles from the prior find modes that chains do not leave", against=("R-hat",))


def _why_nuts(facts: Facts) -> str:
    parts = []
    weighted = facts.prior is not None and _covers(facts.prior, KHAT_OF_PRIOR)
    if weighted or (facts.normal is not None and facts.normal.khat < KHAT):
        parts.append("chains need no proposal that covers the posterior, where weights prove too uneven")
    elif facts.normal is not None:
        parts.append(f"the posterior is not normal: k-hat {facts.normal.khat:.2f} at its mode, limit {KHAT}")
    elif facts.dim > 200:
        parts.append(f"{facts.dim:,} continuous latents")
    elif facts.climbs:
        parts.append("no normal covers the posterior (no k-hat: the climbs found no mode with curvature)")
    if facts.prior is not None and not weighted:
        parts.append(f"of the prior {facts.prior}")
    if facts.improper:
        parts.append(f"the prior of {', '.join(facts.improper)} is flat")
    if facts.funnels:
        listing = "; ".join(str(site) for site in facts.funnels)
        parts.append(f"{listing}: a funnel, which ph.reparam takes away")
    if facts.discrete:
        parts.append(f"discrete latents are summed out in a table of {facts.table:,} numbers and drawn back")
    return "gradients lead: " + "; ".join(parts)
