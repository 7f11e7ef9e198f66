"""The sides of the benchmark: their modules, packages, and whether they keep compiled code on disk."""

from __future__ import annotations

from dataclasses import dataclass

OURS = "phlogiston"


@dataclass(frozen=True)
class PeerInfo:
    """A side: its title in the tables, its module, the setting that the module takes.

    Args:
        title: in the tables.
        module: in this folder.
        setting: of the module's ``prepare``.
        caches: whether later processes find compiled code on disk; then an extra process measures the cold run
            without it.
    """

    title: str
    module: str
    setting: str
    caches: bool = False


PEERS: dict[str, PeerInfo] = {
    "phlogiston": PeerInfo("phlogiston, best setting", "phlogiston_", "best", caches=True),
    "phlogiston-defaults": PeerInfo("phlogiston, defaults", "phlogiston_", "defaults", caches=True),
    "nutpie": PeerInfo("PyMC + nutpie, 4 chains", "nutpie_", "4", caches=True),
    "numpyro": PeerInfo("NumPyro NUTS, 4 chains", "numpyro_", "4"),
    "numpyro64": PeerInfo("NumPyro NUTS, 64 chains", "numpyro_", "64"),
    "blackjax": PeerInfo("BlackJAX NUTS, 4 chains", "blackjax_", "nuts"),
    "chees": PeerInfo("BlackJAX ChEES, 64 chains", "blackjax_", "chees"),
    "chees-diagonal": PeerInfo("BlackJAX ChEES, 64 chains, diagonal metric", "blackjax_", "chees-diagonal"),
    "pyro": PeerInfo("Pyro NUTS, 1 chain, 300 + 300", "pyro_", "1"),
}
