"""The report: complete, self-contained, safe, and seen by a browser without complaint."""

from __future__ import annotations

import html.parser
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.datasets import load_digits

import phlogiston as ph
from phlogiston.cli import main
from phlogiston.engine.program.dependencies import parents_of
from phlogiston.report.pages.graph import draw
from phlogiston.training.fitted import Fitted

BROWSER = next(
    (found for name in ("chromium", "google-chrome", "chromium-browser") if (found := shutil.which(name))), None
)
VOID = {"meta", "link", "br", "img"}
pytestmark = pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")


@pytest.fixture(scope="module")
def page(load_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = load_model("eight_schools").centred_model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        post = ph.infer(model, "nuts", seed=0, progress=False)
    return post.report(tmp_path_factory.mktemp("report") / "new" / "report.html", command="phlogiston run x.py")


class Tags(html.parser.HTMLParser):
    """Every tag is closed, and in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag


def parsed(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    return tags


def titles(text: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", text)


def test_the_page_has_everything_in_order_and_fetches_nothing(page: Path) -> None:
    text = page.read_text()
    assert page.stat().st_size < 2_000_000
    assert titles(text)[1:] == [
        "Model",
        "Summary",
        "Draws",
        "Pairs",
        "Predictive checks",
        "Leaving out each observation",
        "Reproducibility",
    ]
    assert titles(text)[0] in ("caution", "do not use")
    tags = parsed(text)
    assert tags.seen["img"] == 9
    assert "script" not in tags.seen
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert "url(" not in text.replace("url(#arrow)", "")
    for part in ("draws diverged", "phlogiston run x.py", "sha256", "def centred", "theta[A]"):
        assert part in text


def test_pictures_are_svg_where_small_and_png_where_large(page: Path) -> None:
    kinds = re.findall(r'src="data:image/(svg\+xml|png);base64,', page.read_text())
    assert kinds.count("png") == 2  # traces and pairs
    assert kinds.count("svg+xml") == 7


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here; apt-get install chromium")
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_renders_it_without_complaint(page: Path, tmp_path: Path, width: int) -> None:
    probe = """<script>window.onload = () => { document.title = JSON.stringify({
        wide: document.body.scrollWidth, broken: [...document.images].filter(i => !i.naturalWidth).length,
        high: document.body.scrollHeight, images: document.images.length}) }</script></body>"""
    copy = tmp_path / "probe.html"
    narrow = f"<style>body {{ width: {width}px }}</style></head>"  # headless windows are at least 500 wide
    copy.write_text(page.read_text().replace("</body>", probe).replace("</head>", narrow))
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
    ]
    command = [str(BROWSER), *flags, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    done = subprocess.run(
        [*command, "--virtual-time-budget=5000", "--dump-dom", copy.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r"<title>\{&quot;.*?</title>|<title>(\{.*?\})</title>", done.stdout)
    assert found, done.stdout[-500:] + done.stderr[-2000:]
    values = dict(re.findall(r'"(\w+)":(\d+)', found[0].replace("&quot;", '"')))
    assert int(values["broken"]) == 0
    assert int(values["images"]) == 9
    assert int(values["wide"]) <= width  # no sideways scrolling of the page itself
    assert int(values["high"]) > 2000


def several() -> None:
    z = pyro.sample("z<b>", dist.Normal(0.0, 1.0))
    with pyro.plate("i", 3):
        pyro.sample("table", dist.Normal(z, 1.0).expand([3, 2]).to_event(1))
    pyro.sample("number", dist.Poisson(z.exp()))


def flat() -> None:
    z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
    pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(0.3))


def nothing_observed() -> None:
    pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))


@pytest.mark.parametrize(
    ("program", "observed", "method", "settings", "expected"),
    [
        (several, {"table": np.zeros((3, 2)), "number": 1.0}, "importance", {}, ["Weights", "Evidence"]),
        (flat, {}, "nuts", {"num_samples": 100, "num_warmup": 100}, ["Draws", "Predictive checks"]),
        (nothing_observed, {}, "rejection", {"num_samples": 200}, ["Draws", "Pairs", "Evidence"]),
    ],
)
def test_every_kind_of_posterior_has_its_page(
    program: Callable[[], None], observed: Any, method: str, settings: Any, expected: list[str], tmp_path: Path
) -> None:
    model = ph.Model(program).observe(**observed) if observed else ph.Model(program)
    post = ph.infer(model, method, seed=0, progress=False, **settings)
    text = post.report(tmp_path / "report.html").read_text()
    parsed(text)
    assert set(expected) <= set(titles(text))
    assert "z<b>" not in text
    assert f"ph.infer(model, &#34;{method}&#34;" in text


def test_a_page_is_not_written_as_another_kind_of_file(load_model: Any, tmp_path: Path) -> None:
    post = ph.infer(load_model("hmm").model, "exact", seed=0)
    with pytest.raises(ph.DataFileError, match=r"'\.pdf'.*write: .*page\.html"):
        post.report(tmp_path / "page.pdf")


def test_exact_posteriors_and_those_without_a_model_have_pages(load_model: Any, tmp_path: Path) -> None:
    post = ph.infer(load_model("hmm").model, "exact", num_samples=200, seed=0)
    text = post.report(tmp_path / "exact.html").read_text()
    assert "Evidence" in titles(text)
    assert "(exact)" in text
    saved = ph.load(post.save(tmp_path / "p.nc"))
    assert isinstance(saved, ph.Posterior)
    assert "Model" not in titles(saved.report(tmp_path / "bare.html").read_text())


def test_the_command_line_writes_one_and_says_how_it_was_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(__file__).parents[2] / "models" / "normal_normal.py"
    arguments = ["run", str(model), "--method", "importance", "--seed", "3", "--out", str(tmp_path), "--report"]
    assert main(arguments) == 0
    assert f"wrote {tmp_path / 'report.html'}" in capsys.readouterr().out
    assert f"phlogiston run {model} --method importance --seed 3" in (tmp_path / "report.html").read_text().replace(
        "\n    ", " "
    )


def faces(rate: torch.Tensor, count: int) -> None:
    with pyro.plate("face", count):
        pyro.sample("x", dist.Bernoulli(pyro.param("rate", rate)).to_event(1))


def test_a_trained_program_has_its_page(tmp_path: Path) -> None:
    rate = torch.linspace(0.1, 0.9, 64)
    data = ph.Model(faces, rate, 60).simulate(1, seed=0)["x"][0]
    fitted = Fitted(
        model=ph.Model(faces, rate, 60).observe(x=data).with_parameters({"rate": rate}),
        method="svi",
        history={"step": np.arange(40), "elbo": np.linspace(-50.0, -40.0, 40), "nothing": np.full(40, np.nan)},
        figures={"steps": 40.0},
        converged=True,
        stop_reason="all 40 steps were done",
        seed=1,
    )
    page = fitted.report(tmp_path / "fitted.html")
    text = page.read_text()
    parsed(text)
    assert titles(text) == ["caution", "Samples", "Training", "Model", "Reproducibility"]  # a curve is not finite
    assert text.count("<img") == 2  # a sheet of images and the curve
    assert "zeros of x" in text
    assert "ph.train(model, &#34;svi&#34;" in text


def digits(decoder: torch.nn.Module, count: int) -> None:
    pyro.module("decoder", decoder)
    with pyro.plate("digit", count):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1))


def test_the_page_of_a_vae_shows_samples_latents_and_reconstructions(tmp_path: Path) -> None:
    pixels = torch.tensor(load_digits().images[:120]).float().reshape(-1, 64) > 8.0
    model = ph.Model(digits, torch.nn.Linear(3, 64), 120).observe(x=pixels.float())
    svi = ph.SVI(guide=ph.Amortized(hidden=()), num_steps=150, optim=ph.Adam(learning_rate=0.1), engine="graph")
    fitted = ph.train(model, svi, seed=0, progress=False)
    text = fitted.report(tmp_path / "vae.html").read_text()
    parsed(text)
    assert titles(text)[1:] == ["Samples", "Latents", "Training", "Model", "Reproducibility"]
    assert text.count("<img") == 5  # two sheets, the latents' bars and plane, the curves
    assert "3 of 3 coordinates move with the data" in text
    assert "decoder.weight" in text
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)


def test_the_parents_of_every_site_are_found(load_model: Any) -> None:
    assert parents_of(load_model("eight_schools").model) == {
        "mu": (),
        "tau": (),
        "theta_raw": (),
        "theta": ("mu", "tau", "theta_raw"),
        "y": ("theta",),
    }
    assert parents_of(load_model("hmm").model)["z_3"] == ("z_2",)

    def leaves_torch() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(float(np.sin(float(z))), 1.0))

    found = parents_of(ph.Model(leaves_torch))
    assert found is None or found["y"] == ()


def test_graphs_show_sites_plates_and_arrows(load_model: Any) -> None:
    model = load_model("eight_schools").model
    text = draw(list(model.sites.values()), parents_of(model))
    parsed(text)
    assert text.count("<ellipse") == 5
    assert text.count("marker-end") == 4
    assert text.count("<rect") == 1
    assert "school [8]" in text
    assert text.count("stroke-dasharray") == 1
    assert text.count("#d9dee4") == 1
    places = {
        name: float(y) for name, y in re.findall(r"<title>(\w+)</title><ellipse cx=\"[\d.]+\" cy=\"([\d.]+)\"", text)
    }
    assert places["mu"] == places["theta_raw"] < places["theta"] < places["y"]
    assert "marker-end" not in draw(list(model.sites.values()), None)
