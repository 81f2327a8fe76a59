"""CIFAR-10 in both of its forms, from generated files; pickles that are more than data are refused unopened."""

import pickle

import numpy as np
import pytest

from foretrain import CIFAR10
from foretrain.errors import InvalidInput, MissingData

ROWS = 12
BATCHES = (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")


def content():
    """For every batch: images as (rows, side, side, channels) and labels 0..9."""
    rng = np.random.default_rng(3)
    return {
        name: (rng.integers(0, 256, (ROWS, 32, 32, 3)), (np.arange(ROWS) + k) % 10) for k, name in enumerate(BATCHES)
    }


def by_channel(images):
    """How the files hold them: all reds row by row, all greens, all blues."""
    return np.stack([images[..., c].reshape(len(images), -1) for c in range(3)], axis=1).reshape(len(images), -1)


def write_binary(folder):
    folder.mkdir(exist_ok=True)
    for name, (images, labels) in content().items():
        records = np.concatenate([labels[:, None], by_channel(images)], axis=1).astype(np.uint8)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def write_pickle(folder, protocol=2, text_keys=False):
    folder.mkdir(exist_ok=True)
    for name, (images, labels) in content().items():
        batch = {"data": by_channel(images).astype(np.uint8), "labels": labels.tolist(), "batch_label": name}
        if not text_keys:
            batch = {key.encode(): value for key, value in batch.items()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))


def pixels(data):
    return data.standardization.invert(data.inputs) * 255


class TestForms:
    @pytest.fixture(params=["binary", "pickle 2", "pickle 4", "text keys"])
    def folder(self, request, tmp_path):
        if request.param == "binary":
            write_binary(tmp_path)
        else:
            write_pickle(
                tmp_path, int(request.param[-1]) if request.param[-1].isdigit() else 2, request.param == "text keys"
            )
        return tmp_path

    def test_rows_are_row_major_images_of_three_colours(self, folder):
        data = CIFAR10(path=folder, scale="none", center=False).load()
        order = np.random.default_rng(0).permutation(5 * ROWS)
        written = np.concatenate([content()[name][0] for name in BATCHES[:5]])[order]
        assert data.inputs.shape == (5 * ROWS, 3072)
        # rounding of one division by 255
        np.testing.assert_allclose(data.inputs.reshape(-1, 32, 32, 3) * 255, written, atol=1e-12)
        labels = np.concatenate([content()[name][1] for name in BATCHES[:5]])[order]
        np.testing.assert_array_equal(data.targets.argmax(axis=1), labels)

    def test_test_batch_on_request(self, folder):
        data = CIFAR10(path=folder, population="test", test_samples=7).load()
        assert (len(data), len(data.test_inputs)) == (5 * ROWS, 7)
        apart = CIFAR10(path=folder, population="test", scale="none", center=False).load()
        np.testing.assert_allclose(
            apart.test_inputs.reshape(-1, 32, 32, 3) * 255, content()["test_batch"][0], atol=1e-12
        )


def test_fields_are_those_of_the_other_images(tmp_path):
    write_binary(tmp_path)
    data = CIFAR10(path=tmp_path, classes=[[0, 1], 9], scale="variance", test_samples=3).load()
    kept = sum(int(np.isin(content()[name][1], [0, 1, 9]).sum()) for name in BATCHES[:5])
    assert data.targets.shape == (kept - 3, 1)
    np.testing.assert_allclose(pixels(data), np.round(pixels(data)), atol=1e-10)


@pytest.mark.parametrize(("write", "inside"), [(write_binary, "bin"), (write_pickle, "py")])
def test_folder_of_the_unpacked_archive_and_the_environment(tmp_path, monkeypatch, write, inside):
    write(tmp_path / f"cifar-10-batches-{inside}")
    monkeypatch.setenv("FORETRAIN_CIFAR10", str(tmp_path))
    assert len(CIFAR10().load()) == 5 * ROWS


def test_nowhere_to_be_found(tmp_path, monkeypatch):
    monkeypatch.delenv("FORETRAIN_CIFAR10", raising=False)
    with pytest.raises(
        MissingData, match=r"nowhere to look. Get cifar-10-binary.tar.gz or .* unpack it, and give `path`"
    ):
        CIFAR10().load()
    with pytest.raises(MissingData, match=r"no data_batch_1.bin or data_batch_1 in "):
        CIFAR10(path=tmp_path).load()


def test_a_missing_batch(tmp_path):
    write_binary(tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(MissingData, match=r"no file .*data_batch_4.bin; the folder must hold all five"):
        CIFAR10(path=tmp_path).load()


class TestDamage:
    @pytest.mark.parametrize("content", [b"", b"x" * 3072, b"x" * 3074])
    def test_binary_of_another_size(self, tmp_path, content):
        write_binary(tmp_path)
        (tmp_path / "data_batch_2.bin").write_bytes(content)
        with pytest.raises(InvalidInput, match=f"expected records of 3073 bytes, got a file of {len(content)} bytes"):
            CIFAR10(path=tmp_path).load()

    def test_labels_of_another_set(self, tmp_path):
        write_binary(tmp_path)
        (tmp_path / "data_batch_2.bin").write_bytes(b"\x0a" * 3073)
        with pytest.raises(
            InvalidInput, match=r"expected as many labels 0\.\.9 as its 1 images, got 1 labels up to 10"
        ):
            CIFAR10(path=tmp_path).load()

    @pytest.mark.parametrize(
        ("batch", "words"),
        [
            (b"", "Ran out of input"),
            (b"hello", "got: "),
            (pickle.dumps([1, 2]), "has no attribute 'items'"),
            (pickle.dumps({b"labels": [1]}), "'data'"),
            (pickle.dumps({b"data": 3, b"labels": [1]}), "has no attribute 'array'"),
            (pickle.dumps({b"data": np.zeros((2, 3072)), b"labels": [1, 2]}, 2), "does not hold unsigned bytes"),
            (pickle.dumps({b"data": np.zeros((2, 5), np.uint8), b"labels": [1, 2]}, 2), r"arrays of shape \(2, 5\)"),
            (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": ["a"]}, 2), "invalid literal"),
            (pickle.dumps({b"data": np.array([[None] * 3072]), b"labels": [1]}, 2), "does not hold unsigned bytes"),
        ],
        ids=["empty", "no pickle", "list", "no data", "number", "floats", "small", "words", "objects"],
    )
    def test_pickles(self, tmp_path, batch, words):
        write_pickle(tmp_path)
        (tmp_path / "data_batch_3").write_bytes(batch)
        with pytest.raises(InvalidInput, match=f"expected a pickled dictionary with 'data'.*{words}"):
            CIFAR10(path=tmp_path).load()

    def test_fewer_labels_than_images(self, tmp_path):
        write_pickle(tmp_path)
        batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}
        (tmp_path / "data_batch_3").write_bytes(pickle.dumps(batch, 2))
        with pytest.raises(InvalidInput, match=r"expected as many labels 0..9 as its 2 images, got 1 labels"):
            CIFAR10(path=tmp_path).load()


class _Runs:
    """A pickle that calls a function when it is opened with `pickle.load`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class TestPickledCode:
    @pytest.mark.parametrize("protocol", range(6))
    def test_is_not_run(self, tmp_path, protocol):
        import os

        write_pickle(tmp_path)
        harm = pickle.dumps({b"data": _Runs(os.mkdir, str(tmp_path / "harm")), b"labels": [1]}, protocol)
        (tmp_path / "data_batch_1").write_bytes(harm)
        with pytest.raises(InvalidInput, match=r"the name \w+.mkdir, which plain data do not need"):
            CIFAR10(path=tmp_path).load()
        assert not (tmp_path / "harm").exists()
        pickle.loads(harm)  # the ordinary way runs it
        assert (tmp_path / "harm").exists()

    @pytest.mark.parametrize("name", ["eval", "exec", "getattr", "__import__", "open"])
    def test_builtins_are_no_data(self, tmp_path, name):
        import builtins

        write_pickle(tmp_path)
        harm = pickle.dumps({b"data": _Runs(getattr(builtins, name), "1"), b"labels": [1]}, 2)
        (tmp_path / "data_batch_1").write_bytes(harm)
        with pytest.raises(InvalidInput, match=f"the name \\w+.{name}"):
            CIFAR10(path=tmp_path).load()

    def test_inside_an_array_of_objects(self, tmp_path):
        import os

        write_pickle(tmp_path)
        harm = np.array([[_Runs(os.mkdir, str(tmp_path / "harm"))] * 3072])
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": harm, b"labels": [1]}, 2))
        with pytest.raises(InvalidInput, match="mkdir, which plain data do not need"):
            CIFAR10(path=tmp_path).load()
        assert not (tmp_path / "harm").exists()
