"""Data sets as arrays: 8×8 digits from scikit-learn and CIFAR-10 in the Hugging Face parquet layout.

The subset is always the first ``n_examples`` rows, whatever the seed, so that runs with different seeds
see the same examples and an example keeps its index. Standardisation uses constants of the whole data
set, never of the subset.
"""

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nets.config import TrainConfig

__all__ = ["DATA_VARIABLE", "DataError", "Dataset", "cifar10_file", "images", "load_data"]

DATA_VARIABLE = "OPPOSING_DATA"
CIFAR_FILE = "train-00000-of-00001.parquet"
CIFAR_REPOSITORY = "uoft-cs/cifar10"
CIFAR_MEAN = np.array([0.4914, 0.4822, 0.4465])
CIFAR_STD = np.array([0.2470, 0.2435, 0.2616])
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class DataError(ValueError):
    """Data that cannot be found or read; the message says what was required and what to do."""


@dataclass(frozen=True)
class Dataset:
    """Examples ready for a network.

    Args:
        inputs: Standardised inputs, shape (n, d), float32.
        targets: Class indices, shape (n,), int64.
        n_classes: Number of classes k.
        image_shape: Layout of one input row, e.g. (32, 32, 3); None where inputs are not images.
        name: Name of the data set.
        class_names: Names of the k classes.
    """

    inputs: np.ndarray
    targets: np.ndarray
    n_classes: int
    image_shape: tuple[int, ...] | None
    name: str
    class_names: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of inputs and targets: equal where the data are equal."""
        digest = hashlib.sha256(np.ascontiguousarray(self.inputs).tobytes())
        digest.update(np.ascontiguousarray(self.targets).tobytes())
        return digest.hexdigest()


def load_data(config: TrainConfig) -> Dataset:
    r"""The first ``config.n_examples`` examples, standardised as $(x - \mu)/\sigma$.

    digits: the mean image of all 1797 taken off pixel by pixel, then one σ over all pixels. cifar10: μ and σ per
    channel, pixels in [0, 1].

    Raises:
        DataError: If the data are missing, broken or fewer than asked for.
    """
    if config.data == "digits":
        pixels, labels = _digits(config.n_examples)
        return Dataset(pixels, labels, 10, (8, 8), "digits", tuple(str(k) for k in range(10)))
    raw, labels = _cifar10(config, config.n_examples)
    inputs = ((raw / 255.0 - CIFAR_MEAN) / CIFAR_STD).reshape(len(raw), -1).astype(np.float32)
    return Dataset(inputs, labels, 10, (32, 32, 3), "cifar10", CIFAR_CLASSES)


def images(config: TrainConfig, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """The raw images of some examples, for looking at them.

    Args:
        config: Configuration of the run.
        indices: Example indices in [0, n_examples).
    Returns:
        uint8 in 0..255: shape (m, 32, 32, 3) for cifar10, (m, 8, 8) for digits.
    Raises:
        DataError: If the data cannot be read or an index is out of range.
    """
    rows = np.asarray(indices, dtype=np.int64).reshape(-1)
    if rows.size and (rows.min() < 0 or rows.max() >= config.n_examples):
        wrong = rows.min() if rows.min() < 0 else rows.max()
        raise DataError(f"indices must lie in [0, {config.n_examples}), got {wrong}; pass indices of the run")
    if config.data == "digits":
        pixels = _bunch()["images"][rows]
        return np.round(pixels * (255 / 16)).astype(np.uint8)
    return _cifar10(config, int(rows.max(initial=0)) + 1, rows)[0]


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


def _digits(n: int) -> tuple[np.ndarray, np.ndarray]:
    bunch = _bunch()
    pixels = bunch["data"] / 16.0
    if n > len(pixels):
        raise DataError(f"n_examples must be at most {len(pixels)} for digits, got {n}; pass fewer")
    # the mean image is taken off, pixel by pixel: left in, it makes a curvature of its own from step 0
    scaled = (pixels - pixels.mean(axis=0)) / pixels.std()
    return scaled[:n].astype(np.float32), bunch["target"][:n].astype(np.int64)


def _cifar10(config: TrainConfig, n: int, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
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
            if file.metadata.num_rows < n:
                raise DataError(
                    f"n_examples must be at most the {file.metadata.num_rows} rows of {path}, got {n}; pass fewer"
                )
            batches, have = [], 0
            for batch in file.iter_batches(batch_size=1000, columns=["img", "label"]):
                batches.append(batch)
                have += batch.num_rows
                if have >= n:
                    break
        table = pa.Table.from_batches(batches).slice(0, n)
        if rows is not None:
            table = table.take(pa.array(rows))
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
