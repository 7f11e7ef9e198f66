"""Files are whole or refused: damage, full disks, folders in the way, two writers, writers that were killed."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import phlogiston as ph
from phlogiston.engine import files
from phlogiston.posterior import checkpoint, seal, storage
from phlogiston.stats import arviz

pytestmark = pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")
Read = Callable[[Path], object]


def program() -> None:
    pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Read]]:
    folder = tmp_path_factory.mktemp("kept")
    post = ph.infer(ph.Model(program).observe(y=1.0), "importance", num_particles=200, seed=0, progress=False)
    tensors = {"params": {"w": torch.arange(50.0)}, "history": {"step": np.arange(5)}}
    return {
        "posterior": (post.save(folder / "a.nc"), ph.load),
        "training": (checkpoint.write(tensors, folder / "a.pt"), checkpoint.read),
    }


@pytest.mark.parametrize("kind", ["posterior", "training"])
def test_damage_is_never_believed(kept: dict[str, tuple[Path, Read]], kind: str, tmp_path: Path) -> None:
    path, read = kept[kind]
    read(path)
    content, rng, copy = path.read_bytes(), random.Random(0), tmp_path / "copy"
    places = [0, len(content) - 1, len(content) - 70, *(rng.randrange(len(content)) for _ in range(10))]
    for at in places:
        flipped = bytearray(content)
        flipped[at] ^= 1 << rng.randrange(8)
        copy.write_bytes(flipped)
        with pytest.raises(ph.DataFileError, match="damaged file"):
            read(copy)
    for length in [0, 1, len(content) - 1, *(rng.randrange(len(content)) for _ in range(10))]:
        copy.write_bytes(content[:length])
        with pytest.raises(ph.DataFileError, match=re.escape(f"{copy}: found")):
            checkpoint.read(copy) if kind == "training" else storage.read(copy)


@pytest.mark.parametrize("kind", ["posterior", "training"])
def test_a_file_of_a_later_version_is_refused(
    kept: dict[str, tuple[Path, Read]], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = kept[kind]
    content = seal.read(path, "")
    monkeypatch.setattr(seal, "VERSION", 3)
    later = seal.write(tmp_path / "later", content)
    monkeypatch.undo()
    with pytest.raises(ph.DataFileError, match=r"found a file of version 3; expected version 2 or earlier; write: pip"):
        read(later)


def test_a_partial_sampler_state_is_refused(tmp_path: Path) -> None:
    post = ph.infer(
        ph.Model(program).observe(y=1.0), "nuts", num_chains=2, num_samples=5, num_warmup=5, seed=0, progress=False
    )
    groups = arviz.from_netcdf(seal.read(post.save(tmp_path / "a.nc"), ""))
    state = groups["sampler_state"]
    first = next(iter(state.data_vars))
    other = xr.Dataset({f"1.{str(first).partition('.')[2]}": state[first]})
    groups["sampler_state"] = state.merge(other)
    (tmp_path / "partial.nc").write_bytes(arviz.to_netcdf(groups, {}))  # without a seal, as version 1 wrote
    with pytest.raises(ph.DataFileError, match="a part of the samplers' state is missing"):
        ph.load(tmp_path / "partial.nc")
    del groups["sampler_state"]
    (tmp_path / "without.nc").write_bytes(arviz.to_netcdf(groups, {}))
    model = ph.Model(program).observe(y=1.0)
    without = ph.load(tmp_path / "without.nc", model=model)
    with pytest.raises(ph.SettingError, match="without the state of its samplers"):
        ph.infer(model, "nuts", num_chains=2, num_samples=5, resume_from=without, progress=False)


def test_a_file_of_code_is_not_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "run"),)

    torch.save({"format": "phlogiston training", "content": Harm()}, tmp_path / "a.pt")
    with pytest.raises(ph.DataFileError, match="no phlogiston training"):
        checkpoint.read(tmp_path / "a.pt")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = files.write(tmp_path / "a", b"before")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(ph.DataFileError, match=r"No space left on device\); expected enough room"):
        files.write(path, b"after")
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["a"]


def test_permissions_and_links_are_kept(tmp_path: Path) -> None:
    path = files.write(tmp_path / "a", b"1")
    path.chmod(0o640)
    (tmp_path / "link").symlink_to(path)
    files.write(tmp_path / "link", b"2")
    assert (tmp_path / "link").is_symlink()
    assert path.read_bytes() == b"2"
    assert path.stat().st_mode & 0o777 == 0o640


def test_what_killed_writers_left_is_removed_after_an_hour(tmp_path: Path) -> None:
    old, new = tmp_path / ".a.0.part", tmp_path / ".a.1.part"
    for left in (old, new):
        left.write_bytes(b"")
    os.utime(old, (time.time() - 7200,) * 2)
    files.write(tmp_path / "a", b"1")
    assert sorted(os.listdir(tmp_path)) == [".a.1.part", "a"]


def test_a_folder_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ph.DataFileError, match=r"found a folder; expected one written by posterior.save"):
        ph.load(tmp_path)
    with pytest.raises(ph.DataFileError, match="found a folder"):
        files.write(tmp_path, b"")


WRITER = """
import sys
from pathlib import Path
from phlogiston.posterior import seal
print("ready", flush=True)
while True:
    seal.write(Path(sys.argv[1]), seal.MARK.encode() + sys.argv[2].encode() * 300_000)
"""


def test_two_writers_that_are_killed_leave_a_whole_file(tmp_path: Path) -> None:
    path, rng = tmp_path / "a", random.Random(0)
    seal.write(path, seal.MARK.encode() + b"a" * 300_000)
    whole = {seal.MARK.encode() + letter * 300_000 for letter in (b"a", b"b")}
    for _ in range(2):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter], stdout=subprocess.PIPE)
            for letter in "ab"
        ]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        for _ in range(20):
            assert seal.read(path, "") in whole
        time.sleep(rng.uniform(0.0, 0.1))
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        assert seal.read(path, "") in whole
