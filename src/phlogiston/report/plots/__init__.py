"""Pictures of a posterior."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phlogiston.engine import files
from phlogiston.posterior.posterior import Posterior
from phlogiston.report.plots import bounds, chains, evidence, forest, khat, marginals, predictive, weights
from phlogiston.report.plots.chains import heading
from phlogiston.report.plots.components import DoesNotApply

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Sites = Sequence[str] | str | None

__all__ = ["DoesNotApply", "Plots"]


@dataclass(frozen=True)
class Plots:
    """The pictures of one posterior.

    Each returns a matplotlib ``Figure`` that belongs to no window and to no pyplot state; ``.savefig(path)`` writes
    it. At most twelve components are shown, of chains those with the worst R-hat and ESS, and the title says so; ask
    for others by ``var_names``, a site such as "theta", or a component as the pictures label it, such as
    "theta[Choate]". Tails so long that they would hide the rest are cut from view.

    Args:
        posterior: what the pictures show.

    Example:
        >>> model = ph.Model(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)))
        >>> figure = ph.infer(model, "importance", num_particles=500, seed=0).plot.marginals()
        >>> len(figure.axes)
        1
    """

    posterior: Posterior

    def trace(self, var_names: Sites = None) -> Figure:
        """The marginal density of each component, a line a chain, beside its draws in order; divergences as ticks.

        Args:
            var_names: the sites or components to show; all by default.

        Returns:
            a figure of two axes a component.

        Raises:
            DoesNotApply: the draws are not chains (a ``ValueError``).
            UnknownName: there is no such site.
        """
        return chains.trace(self.posterior, var_names)

    def marginals(self, var_names: Sites = None, reference: Mapping[str, Any] | None = None) -> Figure:
        """The marginal of each component, weighted where the draws are, with its mean and central 90 % interval.

        Whole numbers are shown as bars, of exact probabilities where the posterior has them.

        Args:
            var_names: the sites or components to show; all by default.
            reference: site -> true value, of the site's shape, shown as a dashed line.

        Returns:
            a figure of one axes a component.

        Raises:
            UnknownName: there is no such site.
            ValueError: a reference has another shape than its site.
        """
        return marginals.marginals(self.posterior, var_names, reference or {})

    def pair(self, var_names: Sites = None) -> Figure:
        """Every pair of at most five components as points, divergences in another colour; weighted draws resampled.

        Args:
            var_names: the sites or components to show; all by default.

        Returns:
            a figure of k (k + 1) / 2 axes for k components, the lower triangle with the marginals on its diagonal.

        Raises:
            DoesNotApply: there are fewer than two components (a ``ValueError``).
            UnknownName: there is no such site.
        """
        return marginals.pair(self.posterior, var_names)

    def forest(self, var_names: Sites = None) -> Figure:
        """Central 50 % and 90 % intervals of every component under each other, a line a chain, with R-hat and ESS.

        Args:
            var_names: the sites or components to show, up to forty; all by default.

        Returns:
            a figure of one axes.

        Raises:
            UnknownName: there is no such site.
        """
        return forest.forest(self.posterior, var_names)

    def rank(self, var_names: Sites = None) -> Figure:
        """How each chain's draws rank among those of all chains: level where the chains agree.

        Args:
            var_names: the sites or components to show; all by default.

        Returns:
            a figure of one axes a component.

        Raises:
            DoesNotApply: the draws are not chains, or one chain only (a ``ValueError``).
            UnknownName: there is no such site.
        """
        return chains.rank(self.posterior, var_names)

    def weights(self) -> Figure:
        """The importance weights from the largest, and what share of their sum the largest hold; k-hat and ESS.

        Returns:
            a figure of two axes.

        Raises:
            DoesNotApply: the draws have no weights (a ``ValueError``).
        """
        return weights.weights(self.posterior)

    def predictive(self, site: str | None = None, *, prior: bool = False) -> Figure:
        """What was observed against what the posterior, or the prior, predicts.

        Up to forty values are compared one by one with their central 50 % and 90 % intervals, longer data as a
        whole with the densities of predicted data sets. Runs ``posterior.predict`` unless it was kept
        (``with_predictions``).

        Args:
            site: an observed site; may be left out if there is one, or if all are single values.
            prior: whether to show the predictions of the prior.

        Returns:
            a figure of one axes, or one a column for data of several columns.

        Raises:
            DoesNotApply: there is no model, nothing is observed, or ``site`` must be named (a ``ValueError``).
            UnknownName: no observed site has that name.
        """
        return predictive.predictive(self.posterior, site, prior=prior)

    def energy(self) -> Figure:
        """The energy's marginal against its change from draw to draw: alike where a chain explores freely.

        Returns:
            a figure of one axes.

        Raises:
            DoesNotApply: the draws have no energies, as the method was not Hamiltonian (a ``ValueError``).
        """
        return chains.energy(self.posterior)

    def khat(self, site: str | None = None) -> Figure:
        """The Pareto k-hat of leaving each observation out, against its limit: which ones the posterior hangs on.

        Args:
            site: an observed site; may be left out if there is one.

        Returns:
            a figure of one axes.

        Raises:
            DoesNotApply: there is no model, nothing is observed, or ``site`` must be named (a ``ValueError``).
            UnknownName: no observed site has that name.
        """
        return khat.khat(self.posterior, site)

    def evidence(self) -> Figure:
        """The log evidence with its error; of weighted draws, how it settles as they accumulate.

        Returns:
            a figure of one axes.

        Raises:
            DoesNotApply: the method does not estimate the evidence (a ``ValueError``).
        """
        return evidence.evidence(self.posterior)

    def gap(self) -> Figure:
        """The log evidence as ELBO + KL, and the ELBO both ways: joint + entropy, reconstruction - KL.

        Returns:
            a figure of one axes.

        Raises:
            DoesNotApply: the draws come from no guide (a ``ValueError``).
        """
        return bounds.gap(self.posterior)

    def history(self) -> Figure:
        """The curves of an optimisation, such as the ELBO by step.

        Returns:
            a figure of one axes a curve.

        Raises:
            DoesNotApply: the method does not optimise (a ``ValueError``).
        """
        return bounds.curves(heading("History", self.posterior), self.posterior.history)

    def all(self, folder: str | Path) -> list[Path]:
        """Write every picture that applies as PNG: trace.png, marginals.png, and so on.

        Args:
            folder: where to; made if it does not exist. Files of these names in it are replaced.

        Returns:
            the paths of the files written.
        """
        folder = Path(folder)
        paths = []
        for name, draw in self._pictures():
            try:
                figure = draw()
            except DoesNotApply:
                continue
            drawn = io.BytesIO()
            figure.savefig(drawn, format="png")
            paths.append(files.write(folder / f"{name}.png", drawn.getvalue()))
        return paths

    def _pictures(self) -> Iterator[tuple[str, Callable[[], Figure]]]:
        yield "trace", self.trace
        yield "marginals", self.marginals
        yield "forest", self.forest
        yield "pair", self.pair
        yield "rank", self.rank
        yield "weights", self.weights
        sites = predictive.separate_sites(self.posterior)
        for site in sites:
            yield f"predictive_{site}", lambda site=site: self.predictive(site)  # type: ignore[misc]
        if not sites:
            yield "predictive", self.predictive
        yield "energy", self.energy
        for site in sites:
            yield f"khat_{site}", lambda site=site: self.khat(site)  # type: ignore[misc]
        if not sites:
            yield "khat", self.khat
        yield "evidence", self.evidence
        yield "gap", self.gap
        yield "history", self.history
