"""Small runs and the comparison of run directories, byte by byte."""

from pathlib import Path

from nets.config import TrainConfig

EXEMPT = {"status.json", "provenance.json", "lock"}  # dates, process display; not results


def small(**changes) -> TrainConfig:
    """A run of milliseconds a step."""
    options = {
        "n_examples": 40,
        "widths": (8,),
        "lr": 0.1,
        "steps": 23,
        "checkpoint_every": 5,
        "threads": 1,
    }
    return TrainConfig(**{**options, **changes})


def contents(directory: Path) -> dict[str, bytes]:
    """Every result file of a run directory with its bytes."""
    files = (p for p in sorted(Path(directory).rglob("*")) if p.is_file())
    return {str(p.relative_to(directory)): p.read_bytes() for p in files if p.name not in EXEMPT}


def assert_same_run(a: Path, b: Path, losses: bool = True) -> None:
    """All result files are identical; ``losses``: among them those of the examples."""
    first, second = contents(a), contents(b)
    assert sorted(first) == sorted(second)
    different = [name for name in first if first[name] != second[name]]
    assert not different, f"files differ: {different}"
    assert any(name.startswith(f"record.zarr/{'example_loss' if losses else 'loss'}/c/") for name in first)
    assert "checkpoint.safetensors" in first
