"""Image data: 8×8 digits from scikit-learn and CIFAR-10 in the Hugging Face parquet layout.

The subset is always the first ``n_examples`` rows (of the chosen classes), whatever the seed, so that runs with
different seeds see the same examples and an example keeps its index. Standardisation uses constants of the whole data
set, never of the subset.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nets.config import TrainConfig

from .dataset import DataError, Dataset
from .labels import with_label_noise

__all__ = ["DATA_VARIABLE", "cifar10", "cifar10_file", "cifar10_pixels", "digits", "digits_pixels"]

DATA_VARIABLE = "OPPOSING_DATA"
CIFAR_FILE = "train-00000-of-00001.parquet"
CIFAR_REPOSITORY = "uoft-cs/cifar10"
CIFAR_MEAN = np.array([0.4914, 0.4822, 0.4465])
CIFAR_STD = np.array([0.2470, 0.2435, 0.2616])
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def digits(n_examples: int, *, classes: Sequence[int] = (), label_noise: float = 0.0, seed: int = 0) -> Dataset:
    r"""8×8 digits, standardised as $(x - \mu)/\sigma$: the mean image of all 1797 is taken off, then one σ over all.

    Args:
        n_examples: The first so many rows.
        classes: Keep these classes only, numbered anew in the order given; empty: all ten.
        label_noise: Probability that a label is replaced, see `with_label_noise`.
        seed: Seed of the label noise.
    Raises:
        DataError: If there are fewer rows or a class is none.
    """
    bunch = _bunch()
    pixels, labels = bunch["data"] / 16.0, bunch["target"].astype(np.int64)
    # the mean image is taken off, pixel by pixel: left in, it makes a curvature of its own from step 0
    scaled = (pixels - pixels.mean(axis=0)) / pixels.std()
    rows = _rows(labels, n_examples, classes, f"at most {len(pixels)} for digits")
    names = tuple(str(k) for k in range(10))
    return _finish(scaled[rows].astype(np.float32), labels[rows], (8, 8), "digits", names, classes, label_noise, seed)


def cifar10(config: TrainConfig, *, classes: Sequence[int] = (), label_noise: float = 0.0, seed: int = 0) -> Dataset:
    r"""CIFAR-10, pixels in [0, 1] standardised as $(x - \mu)/\sigma$ per channel; arguments as for `digits`.

    Raises:
        DataError: If the data are missing, broken or fewer than asked for.
    """
    raw, labels = _cifar10(config, config.n_examples, classes)
    inputs = ((raw / 255.0 - CIFAR_MEAN) / CIFAR_STD).reshape(len(raw), -1).astype(np.float32)
    return _finish(inputs, labels, (32, 32, 3), "cifar10", CIFAR_CLASSES, classes, label_noise, seed)


def digits_pixels(n_examples: int, rows: np.ndarray, classes: Sequence[int] = ()) -> np.ndarray:
    """Raw digits of some examples, uint8 (m, 8, 8)."""
    bunch = _bunch()
    kept = _rows(bunch["target"], n_examples, classes, "fewer")
    return np.round(bunch["images"][kept[rows]] * (255 / 16)).astype(np.uint8)


def cifar10_pixels(config: TrainConfig, rows: np.ndarray, classes: Sequence[int] = ()) -> np.ndarray:
    """Raw images of some examples, uint8 (m, 32, 32, 3)."""
    return _cifar10(config, int(rows.max(initial=0)) + 1, classes, rows)[0]


def cifar10_file(config: TrainConfig) -> Path:
    """The parquet file of CIFAR-10: ``data_path``, else under OPPOSING_DATA, else a cached download.

    Raises:
        DataError: If there is no such file or the download fails.
    """
    base = os.environ.get(DATA_VARIABLE)
    if config.data_path is not None:
        given, source = Path(config.data_path), "data_path"
    elif base:
        given, source = Path(base) / "cifar10", DATA_VARIABLE
    else:
        return _download()
    for path in (given, given / CIFAR_FILE, given / "cifar10" / CIFAR_FILE):
        if path.is_file():
            return path
    raise DataError(
        f"{source} must lead to {CIFAR_FILE}, found none at {given}; "
        f"pass data_path=FILE or FOLDER, or set {DATA_VARIABLE} to the folder that holds cifar10/"
    )


def _download() -> Path:
    from huggingface_hub import hf_hub_download

    try:
        name = f"plain_text/{CIFAR_FILE}"
        return Path(hf_hub_download(repo_id=CIFAR_REPOSITORY, filename=name, repo_type="dataset"))
    except Exception as error:  # any failure of the network or the hub has the same remedy
        raise DataError(
            f"cifar10 must be downloaded from {CIFAR_REPOSITORY}, which failed ({type(error).__name__}); "
            f"pass data_path=FOLDER or set {DATA_VARIABLE} to the folder that holds cifar10/{CIFAR_FILE}"
        ) from error


def _bunch() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits

    return dict(load_digits())  # type: ignore[arg-type]


def _rows(labels: np.ndarray, n: int, classes: Sequence[int], limit: str) -> np.ndarray:
    """Indices of the first n rows of the chosen classes."""
    for k in classes:
        if not 0 <= k <= 9:
            raise DataError(f"classes must lie in 0..9, got {k}; pass classes of the data set")
    if len(set(classes)) != len(classes) or len(classes) == 1:
        raise DataError(f"classes must be two or more different ones, got {tuple(classes)}; pass e.g. 0,1")
    rows = np.flatnonzero(np.isin(labels, classes)) if classes else np.arange(len(labels))
    if n > len(rows):
        limit = f"at most {len(rows)} for these classes" if classes else limit
        raise DataError(f"n_examples must be {limit}, got {n}; pass fewer")
    return rows[:n]


def _finish(
    inputs: np.ndarray,
    labels: np.ndarray,
    shape: tuple[int, ...],
    name: str,
    names: tuple[str, ...],
    classes: Sequence[int],
    noise: float,
    seed: int,
) -> Dataset:
    if classes:
        number = {k: i for i, k in enumerate(classes)}
        labels = np.array([number[int(k)] for k in labels], dtype=np.int64)
        names = tuple(names[k] for k in classes)
    dataset = Dataset(inputs, labels, len(names), shape, name, names)
    return with_label_noise(dataset, noise, seed) if noise else dataset


def _cifar10(
    config: TrainConfig, n: int, classes: Sequence[int] = (), rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Raw images uint8 (m, 32, 32, 3) and labels (m,) of the first n rows, or of ``rows`` among them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = cifar10_file(config)
    remedy = "pass the Hugging Face parquet file of CIFAR-10"
    try:
        with pq.ParquetFile(path) as file:
            missing = {"img", "label"} - set(file.schema_arrow.names)
            if missing:
                raise DataError(f"{path} must have columns img and label, lacks {sorted(missing)}; {remedy}")
            limit = f"at most the {file.metadata.num_rows} rows of {path}"
            if classes:
                every = np.asarray(file.read(columns=["label"])["label"].to_pylist(), dtype=np.int64)
                kept = _rows(every, n, classes, limit)
            elif file.metadata.num_rows < n:
                raise DataError(f"n_examples must be {limit}, got {n}; pass fewer")
            else:
                kept = np.arange(n)
            need = int(kept.max(initial=-1)) + 1
            batches, have = [], 0
            for batch in file.iter_batches(batch_size=1000, columns=["img", "label"]):
                batches.append(batch)
                have += batch.num_rows
                if have >= need:
                    break
        table = pa.Table.from_batches(batches).take(pa.array(kept if rows is None else kept[rows], pa.int64()))
        labels = np.asarray(table["label"].to_pylist(), dtype=np.int64).reshape(-1)
        pixels = [_decode(cell["bytes"]) for cell in table["img"].to_pylist()]
    except DataError:
        raise
    except (pa.ArrowException, OSError, SyntaxError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} must be a whole parquet file of images: {reason}; fetch it again") from error
    if any(image.shape != (32, 32, 3) for image in pixels):
        raise DataError(f"{path} must hold images of 32×32 with 3 channels, found another shape; {remedy}")
    if labels.size and (labels.min() < 0 or labels.max() > 9):
        raise DataError(f"{path} must have labels 0..9, found {labels.min()}..{labels.max()}; {remedy}")
    return np.stack(pixels) if pixels else np.empty((0, 32, 32, 3), np.uint8), labels


def _decode(data: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
