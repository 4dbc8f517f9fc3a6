"""A full disk, a folder that cannot be written, a damaged file: one line, nothing lost, and the run goes on after."""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from small_runs import assert_same_run, contents, small

from nets.files import RunError
from nets.run import Run, create_run
from opposing.cli import main

ROOT = Path(__file__).resolve().parents[2]


def quick():
    """A run whose steps cost next to nothing."""
    return small(max_products=2, n_examples=20)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Runs at step 7 of 23 and at their end; the chunk that holds step 7 is half full."""
    folder = tmp_path_factory.mktemp("base")
    for name, until in (("half", 7), ("whole", None)):
        create_run(folder / name, quick())
        Run.open(folder / name).advance(until=until)
    return folder


@pytest.fixture
def half(tmp_path, base):
    return Path(shutil.copytree(base / "half", tmp_path / "run"))


def train(*args, code=2):
    """Run the command in this process; its one line on stderr."""
    assert main(["train", *map(str, args)]) == code


def one_line(capsys):
    line = capsys.readouterr().err.strip()
    assert len(line.splitlines()) == 1, line
    return line


def same_history(directory, base, rows):
    run = Run.open(directory)
    assert run.rows == rows
    whole = Run.open(base / "whole").history().isel(step=slice(0, rows))
    assert run.history().equals(whole)


# --- no room ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def largest_file(size):
    """The kernel refuses to let a file grow beyond ``size``: writes end in the middle, with an error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_writes_cut_short_at_every_size_lose_nothing(half, base, capsys):
    """Each file of a commit in turn is the first one that is too large; what was there stays, and the run goes on."""
    sizes = sorted({len(content) for content in contents(base / "whole").values()}, reverse=True)
    failed = 0
    for size in sizes:
        rows = Run.open(half).rows
        with largest_file(size - 1):
            code = main(["train", "--resume", str(half), "--until", "10"])
        err = capsys.readouterr().err.strip()
        if code == 0:
            break
        failed += 1
        assert code == 2
        assert err == (
            f"opposing train: {half} must take what is written, got File too large; make room or allow writing and "
            "give the command again: what was recorded before is kept"
        )
        assert Run.open(half).rows == rows
        same_history(half, base, rows)
        assert not list(half.rglob("*.tmp")) + list(half.rglob("*.partial"))
    assert failed >= 3
    Run.open(half).advance()
    assert_same_run(half, base / "whole")


class FullDisk:
    """Raises ENOSPC at the k-th file or folder made, or put in place, under a folder, and at all later ones."""

    def __init__(self, folder):
        self.folder, self.left, self.on = str(folder), 0, False

    def __call__(self, event, args):
        if not self.on:
            return
        if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
            path = str(args[0])
        elif event in ("os.rename", "os.mkdir"):
            path = str(args[event == "os.rename"])
        else:
            return
        if path.startswith(self.folder) and not path.endswith("lock"):
            self.left -= 1
            if self.left < 0:
                raise OSError(28, os.strerror(28), path)


def test_a_disk_full_from_any_write_on_loses_nothing(half, base, capsys):
    """Every write of two blocks and their checkpoints, one after the other, is the first that finds no room."""
    disk = FullDisk(half)
    sys.addaudithook(disk)  # cannot be taken off again, only switched off
    for k in range(200):
        before = Run.open(half).rows
        disk.left, disk.on = k, True
        try:
            code = main(["train", "--resume", str(half), "--until", "12"])
        finally:
            disk.on = False
        err = capsys.readouterr().err.strip()
        if code == 0:
            break
        assert code == 2
        assert "got No space left on device; make room" in err
        assert len(err.splitlines()) == 1
        rows = Run.open(half).rows
        assert rows >= before
        same_history(half, base, rows)
        if rows > 10:  # a first block was committed: begin anew, so that the next cut is met too
            shutil.rmtree(half)
            shutil.copytree(base / "half", half)
    assert 20 < k < 199, k
    Run.open(half).advance()
    assert_same_run(half, base / "whole")


def test_no_room_for_a_new_run_leaves_nothing(tmp_path, capsys):
    with largest_file(200):
        train("--out", tmp_path / "run", "--n-examples", 40, "--widths", 8)
    assert "got File too large; make room" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_small_file_system_fills_up_and_the_run_goes_on_after(tmp_path, capsys):
    """A real one of 300 KiB (needs the right to mount)."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a file system here")
    try:
        args = ["--n-examples", 400, "--widths", 8, "--lr", 0.1, "--steps", 300, "--checkpoint-every", 20]
        train("--out", disk / "run", *args, "--threads", 1)
        assert "got No space left on device; make room" in one_line(capsys)
        run = Run.open(disk / "run")
        assert 0 < run.rows < 300
        assert np.isfinite(run.history().example_loss).all()
        subprocess.run(["mount", "-o", "remount,size=30m", disk], check=True)
        train("--resume", disk / "run", code=0)
        train("--out", tmp_path / "whole", *args, "--threads", 1, code=0)
        assert_same_run(disk / "run", tmp_path / "whole")
    finally:
        subprocess.run(["umount", disk], check=True)


# --- no permission ------------------------------------------------------------------------------------


def as_nobody(code, *args):
    """Run Python code in a process that, once it is loaded, loses root's right to write anywhere."""
    command = [sys.executable, "-B", "-c", NOBODY + code, *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


NOBODY = """
import os, sys, numpy, zarr, torch.fx.experimental.symbolic_shapes
import nets.run, nets.descent, opposing.cli, opposing.commands.train, opposing.progress
from nets.config import TrainConfig
from nets.data import load_data
load_data(TrainConfig(n_examples=20))
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""
OPPOSING = "import sys; from opposing.cli import main; sys.exit(main(sys.argv[1:]))"
READABLE = "import os, sys, numpy; sys.exit(not all(os.access(p, os.R_OK) for p in [numpy.__file__, *sys.argv[1:]]))"
ROWS = "import sys; from nets.run import Run; sys.exit(len(Run.open(sys.argv[1]).history().step))"


def lock_up(folder, mode):
    for path in [folder, *folder.rglob("*")]:
        path.chmod((0o755 if path.is_dir() else 0o644) if mode == "open" else (0o555 if path.is_dir() else 0o444))


def test_a_folder_that_cannot_be_written_is_read_and_refused_for_writing(half, base, tmp_path):
    for parent in (tmp_path, *tmp_path.parents):
        if parent.is_relative_to(tempfile.gettempdir()) and parent != Path(tempfile.gettempdir()):
            parent.chmod(0o755)  # pytest's are closed to others
    if as_nobody(READABLE, __file__, half).returncode:
        pytest.skip("the user nobody cannot read this installation: writing without permission is NOT tested")
    before = contents(half)
    lock_up(tmp_path, "closed")
    try:
        refused = as_nobody(OPPOSING, "train", "--resume", half)
        assert refused.returncode == 2
        err = refused.stderr.strip()
        assert err.startswith(f"opposing train: {half} must take what is written, got Permission denied; ")
        assert len(err.splitlines()) == 1
        refused = as_nobody(OPPOSING, "train", "--out", tmp_path / "new")
        assert refused.returncode == 2
        err = refused.stderr.strip()
        assert err.startswith(f"opposing train: {tmp_path / 'new'} must take what is written, got Permission denied; ")
        assert len(err.splitlines()) == 1
        assert as_nobody(ROWS, half).returncode == 7
    finally:
        lock_up(tmp_path, "open")
    assert contents(half) == before
    assert not (tmp_path / "new").exists()
    Run.open(half).advance()
    assert_same_run(half, base / "whole")


# --- damage -------------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize("damage", [cut, lambda p: p.write_bytes(b""), Path.unlink], ids=["cut", "empty", "gone"])
@pytest.mark.parametrize("name", ["loss/c/1", "example_loss/c/1/0", "loss/zarr.json", "zarr.json"])
def test_a_damaged_record_is_named_and_the_run_goes_on_once_it_is_restored(half, base, capsys, name, damage):
    path = half / "record.zarr" / name
    whole = path.read_bytes()
    damage(path)
    before = contents(half)
    for command in (["train", "--resume"], ["signals"]):
        assert main([*command, str(half)]) == 2
        line = one_line(capsys)
        assert f"{path} must be whole, but it " in line
        assert line.endswith("restore it from a copy, or train the run anew elsewhere")
    assert contents(half) == before
    path.write_bytes(whole)
    Run.open(half).advance()
    assert_same_run(half, base / "whole")


def test_damage_in_an_earlier_chunk_is_named_when_it_is_read(half, base):
    path = half / "record.zarr" / "example_loss" / "c" / "0" / "0"
    whole = path.read_bytes()
    path.write_bytes(b"x" * len(whole))
    with pytest.raises(RunError, match=r"example_loss/c/0/0 must be whole, but it cannot be read"):
        Run.open(half).history()
    Run.open(half).advance()  # needs the last chunk alone
    path.write_bytes(whole)
    assert_same_run(half, base / "whole")


@pytest.mark.parametrize("keep", [0, 50, -10])
def test_a_damaged_checkpoint_or_config_is_one_line_and_changes_nothing(half, base, capsys, keep):
    for name, message in (("checkpoint.safetensors", "must be a whole safetensors file"), ("config.json", "must be")):
        whole = (half / name).read_bytes()
        (half / name).write_bytes(whole[:keep] if keep else b"")
        before = contents(half)
        train("--resume", half)
        line = one_line(capsys)
        assert str(half / name) in line
        assert message in line
        assert contents(half) == before
        (half / name).write_bytes(whole)
    Run.open(half).advance()
    assert_same_run(half, base / "whole")


def test_a_changed_config_is_one_line_and_changes_nothing(half, base, capsys):
    path = half / "config.json"
    whole = path.read_text()
    path.write_text(whole.replace('"lr": 0.1', '"lr": 0.2'))
    before = contents(half)
    train("--resume", half)
    assert "config.json must be the one the run was created with" in one_line(capsys)
    assert contents(half) == before
    path.write_text(whole)
    Run.open(half).advance()
    assert_same_run(half, base / "whole")
