"""Data: values against an independent reading, and one clear line for each way they can be broken."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.datasets
from PIL import Image

from nets.config import TrainConfig
from nets.data import DataError, images, load_data


def parquet(path, n=6, size=32, label=3, columns=("img", "label")):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    cells = []
    for image in pixels:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, format="PNG")
        cells.append({"bytes": stream.getvalue(), "path": "x.png"})
    table = {"img": cells, "label": [label] * n}
    pq.write_table(pa.table({k: table[k] for k in columns}), path)
    return pixels


def cifar(path, n=4):
    return TrainConfig(data="cifar10", data_path=str(path), n_examples=n)


def test_digits_are_the_first_rows_standardised_by_constants_of_the_whole_set():
    few, all_of_them = load_data(TrainConfig(n_examples=7)), load_data(TrainConfig(n_examples=1797, seed=5))
    assert few.inputs.shape == (7, 64)
    assert few.inputs.dtype == np.float32
    assert few.targets.dtype == np.int64
    np.testing.assert_array_equal(few.inputs, all_of_them.inputs[:7])
    np.testing.assert_allclose(all_of_them.inputs.astype(np.float64).mean(axis=0), 0, atol=1e-6)
    pixels = sklearn.datasets.load_digits().data
    np.testing.assert_allclose(few.inputs, ((pixels - pixels.mean(0)) / pixels.std())[:7], atol=1e-6)
    assert few.fingerprint != load_data(TrainConfig(n_examples=8)).fingerprint


def test_too_many_digits():
    with pytest.raises(DataError, match="at most 1797"):
        load_data(TrainConfig(n_examples=1798))


def test_digit_images():
    shown = images(TrainConfig(n_examples=9), [0, 8])
    assert shown.shape == (2, 8, 8)
    assert shown.dtype == np.uint8
    assert shown.max() == 255


def test_cifar_layout(tmp_path, monkeypatch):
    (tmp_path / "cifar10").mkdir()
    path = tmp_path / "cifar10" / "train-00000-of-00001.parquet"
    pixels = parquet(path)
    data = load_data(cifar(path))
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
    expected = ((pixels[:4] / 255 - mean) / std).reshape(4, -1)
    np.testing.assert_allclose(data.inputs, expected, rtol=1e-6)
    assert data.image_shape == (32, 32, 3)
    assert data.targets.tolist() == [3] * 4
    np.testing.assert_array_equal(images(cifar(path), [3, 1]), pixels[[3, 1]])
    assert images(cifar(path), []).shape == (0, 32, 32, 3)
    monkeypatch.setenv("OPPOSING_DATA", str(tmp_path))
    for config in (cifar(path.parent), cifar(tmp_path), TrainConfig(data="cifar10", n_examples=4)):
        assert load_data(config).fingerprint == data.fingerprint


def test_index_out_of_range(tmp_path):
    path = tmp_path / "c.parquet"
    parquet(path)
    for wrong in (-1, 4):
        with pytest.raises(DataError, match=rf"\[0, 4\), got {wrong}"):
            images(cifar(path), [wrong])


def one_line(path, n=4):
    with pytest.raises(DataError) as caught:
        load_data(cifar(path, n))
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert "; " in message
    return message


def test_unknown_path(tmp_path):
    assert "pass data_path" in one_line(tmp_path / "nowhere")


def test_unknown_path_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("OPPOSING_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="OPPOSING_DATA must lead to"):
        load_data(TrainConfig(data="cifar10"))


def test_failed_download_is_one_line(monkeypatch):
    import huggingface_hub

    def fail(**_):
        raise OSError("no route\nto host")

    monkeypatch.delenv("OPPOSING_DATA", raising=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(DataError, match=r"uoft-cs/cifar10.*OSError.*OPPOSING_DATA"):
        load_data(TrainConfig(data="cifar10"))


@pytest.mark.parametrize("keep", [0, 3, 0.3, 0.7, -1])
def test_truncated_file(tmp_path, keep):
    path = tmp_path / "c.parquet"
    parquet(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    assert "fetch it again" in one_line(path)


def test_corrupt_pages(tmp_path):
    path = tmp_path / "c.parquet"
    parquet(path)
    whole = bytearray(path.read_bytes())
    whole[100:4000] = bytes(3900)
    path.write_bytes(bytes(whole))
    one_line(path)


def test_missing_column(tmp_path):
    path = tmp_path / "c.parquet"
    parquet(path, columns=("img",))
    assert "label" in one_line(path)


def test_too_few_rows(tmp_path):
    path = tmp_path / "c.parquet"
    parquet(path, n=3)
    assert "at most the 3 rows" in one_line(path)


def test_wrong_image_shape_and_label(tmp_path):
    path = tmp_path / "c.parquet"
    parquet(path, size=16)
    assert "32×32" in one_line(path)
    parquet(path, label=10)
    assert "labels 0..9" in one_line(path)


def test_unreadable_image(tmp_path):
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"img": [{"bytes": b"junk", "path": ""}] * 4, "label": [0] * 4}), path)
    one_line(path)


def test_real_cifar(cifar_folder):
    data = load_data(cifar(cifar_folder, 200))
    assert data.inputs.shape == (200, 3072)
    assert set(data.targets.tolist()) == set(range(10))
    assert abs(float(data.inputs.mean())) < 0.15
