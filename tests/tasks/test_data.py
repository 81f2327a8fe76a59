"""Data sets: standardization and back, labels and targets, files and what is wrong with them."""

import gzip
import os
import struct

import numpy as np
import pytest

from foretrain import Arrays, DataSet, Digits, FashionMNIST, Problem, RandomFeatures, Ridge
from foretrain.errors import InvalidInput, MissingData
from foretrain.tasks import Standardization

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 5)) * 3 + 1


class TestStandardization:
    @pytest.mark.parametrize("center", [True, False])
    @pytest.mark.parametrize("scale", ["sphere", "variance", "none"])
    def test_is_reversible(self, center, scale):
        fitted = Standardization.fit(X, center=center, scale=scale)
        norms = fitted.norms(X) if scale == "sphere" else None
        # rounding of one division and one multiplication of numbers of size 10
        np.testing.assert_allclose(fitted.invert(fitted.apply(X), norms), X, atol=1e-14)

    def test_sphere_has_unit_mean_square(self):
        inputs = Standardization.fit(X, center=True, scale="sphere").apply(X)
        np.testing.assert_allclose(np.mean(inputs**2, axis=1), 1.0, rtol=1e-14)

    def test_variance_has_unit_mean_square_over_the_set(self):
        inputs = Standardization.fit(X, center=True, scale="variance").apply(X)
        assert np.mean(inputs**2) == pytest.approx(1.0, rel=1e-14)
        np.testing.assert_allclose(inputs.mean(axis=0), 0.0, atol=1e-14)

    def test_sphere_needs_norms_to_go_back(self):
        fitted = Standardization.fit(X, center=True, scale="sphere")
        with pytest.raises(InvalidInput, match="needs the norms of the original rows"):
            fitted.invert(fitted.apply(X))

    def test_rows_without_direction(self):
        with pytest.raises(InvalidInput, match="row 1 equals the mean and cannot be put on the sphere"):
            Standardization.fit(X, center=False, scale="sphere").apply(np.array([[1.0] * 5, [0.0] * 5]))

    def test_inputs_that_do_not_vary(self):
        with pytest.raises(InvalidInput, match="expected inputs that vary"):
            Standardization.fit(np.ones((3, 2)), center=True, scale="variance")


class TestDataSet:
    def test_vectors_of_targets_become_a_column(self):
        assert DataSet("d", X, X[:, 0]).targets.shape == (20, 1)

    @pytest.mark.parametrize(
        ("arrays", "words"),
        [
            ({"inputs": X, "targets": X[:3]}, r"DataSet\(targets\): expected 20 rows like inputs, got 3"),
            ({"inputs": X[:, 0], "targets": X}, r"DataSet\(inputs\): expected a non-empty array of \(rows, columns\)"),
            ({"inputs": X[:0], "targets": X[:0]}, "expected a non-empty array"),
            ({"inputs": X, "targets": X, "test_inputs": X}, "expected test_inputs and test_targets together"),
            ({"inputs": X, "targets": X, "test_inputs": X, "test_targets": X[:3]}, "expected 20 rows like test_inputs"),
            ({"inputs": X, "targets": X, "test_inputs": X[:, :2], "test_targets": X}, "expected 5 columns like inputs"),
            (
                {"inputs": X, "targets": X, "test_inputs": X, "test_targets": X[:, :2]},
                "expected 5 columns like targets",
            ),
            ({"inputs": np.full((2, 2), np.inf), "targets": X[:2]}, "expected finite numbers, got inf in row 0"),
            ({"inputs": [["a"]], "targets": [1]}, "expected an array of numbers"),
        ],
    )
    def test_mistakes(self, arrays, words):
        with pytest.raises(InvalidInput, match=words):
            DataSet("d", **arrays)

    def test_is_read_only(self):
        with pytest.raises(ValueError, match="read-only"):
            DataSet("d", X, X).inputs[0, 0] = 1


class TestDigits:
    def test_two_groups_become_signs_of_every_image(self):
        data = Digits(classes=[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]).load()
        assert data.inputs.shape == (1797, 64)
        assert sorted(np.unique(data.targets)) == [-1.0, 1.0]
        assert int(np.sum(data.targets == 1)) == 901  # 178 + 182 + 177 + 183 + 181 images of 0..4
        np.testing.assert_allclose(np.mean(data.inputs**2, axis=1), 1.0, rtol=1e-13)

    def test_ten_classes_are_one_hot(self):
        targets = Digits().load().targets
        assert targets.shape == (1797, 10)
        np.testing.assert_array_equal(targets.sum(axis=1), 1.0)
        assert int(targets[:, 0].sum()) == 178

    def test_first_class_is_plus_one(self):
        ones, zeros = (Digits(classes=c).load().targets for c in ([0, 1], [1, 0]))
        np.testing.assert_array_equal(ones, -zeros)

    def test_two_classes_as_columns_on_request(self):
        assert Digits(classes=[0, 1], targets="one-hot").load().targets.shape == (360, 2)

    def test_classes_that_are_not_named_are_left_out(self):
        assert len(Digits(classes=[0, 1]).load()) == 178 + 182

    def test_seed_orders_the_same_rows(self):
        first, second = (Digits(seed=s).load().inputs for s in (0, 1))
        assert not np.array_equal(first, second)
        np.testing.assert_array_equal(np.sort(first, axis=0), np.sort(second, axis=0))
        np.testing.assert_array_equal(first, Digits(seed=0).load().inputs)

    def test_test_rows_are_set_aside(self):
        data = Digits(test_samples=100).load()
        assert (len(data), len(data.test_inputs)) == (1697, 100)
        whole = Digits(scale="none", center=False).load()
        apart = Digits(scale="none", center=False, test_samples=100).load()
        rows = {tuple(r) for r in whole.inputs}
        assert {tuple(r) for r in apart.inputs} | {tuple(r) for r in apart.test_inputs} == rows

    def test_standardization_is_of_the_training_rows_only(self):
        data = Digits(test_samples=900, scale="variance").load()
        np.testing.assert_allclose(data.inputs.mean(axis=0), 0.0, atol=1e-13)
        assert np.abs(data.test_inputs.mean(axis=0)).max() > 1e-3

    def test_inputs_go_back_to_pixels(self):
        data = Digits(scale="variance").load()
        pixels = data.standardization.invert(data.inputs)
        np.testing.assert_allclose(pixels, np.round(pixels), atol=1e-12)  # grey levels are whole numbers 0..16
        assert (pixels.min().round(), pixels.max().round()) == (0, 16)


def write_idx(path, array):
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


@pytest.fixture
def fashion(tmp_path):
    """A folder with files of Fashion-MNIST's form."""
    rng = np.random.default_rng(1)
    for name, rows in (("train", 30), ("t10k", 10)):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte.gz", rng.integers(0, 256, (rows, 28, 28)))
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", np.arange(rows) % 10)
    return tmp_path


class TestFashionMNIST:
    def test_reads_the_training_file(self, fashion):
        data = FashionMNIST(path=str(fashion)).load()
        assert data.inputs.shape == (30, 784)
        assert data.test_inputs is None

    def test_tests_on_the_test_file_on_request(self, fashion):
        data = FashionMNIST(path=str(fashion), population="test", test_samples=7).load()
        assert (len(data), len(data.test_inputs)) == (30, 7)
        with pytest.raises(InvalidInput, match="expected at most 10 rows of the test file, got 11"):
            FashionMNIST(path=str(fashion), population="test", test_samples=11).load()

    def test_folder_from_the_environment(self, fashion, monkeypatch):
        monkeypatch.setenv("FORETRAIN_FASHION_MNIST", str(fashion))
        assert len(FashionMNIST().load()) == 30

    def test_nowhere_to_be_found_says_where_it_looked(self, tmp_path):
        with pytest.raises(MissingData, match="Install Debian's package dataset-fashion-mnist"):
            FashionMNIST(path=str(tmp_path)).load()

    # mtime=0: a time stamp in the content would make the names of the tests differ between workers.
    @pytest.mark.parametrize(
        "content",
        [b"", b"hello", gzip.compress(b"hello", mtime=0), gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12, mtime=0)],
    )
    def test_damaged_files(self, fashion, content):
        (fashion / "train-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(InvalidInput, match="expected a gzipped IDX file of unsigned bytes"):
            FashionMNIST(path=str(fashion)).load()

    def test_labels_of_another_set(self, fashion):
        write_idx(fashion / "train-labels-idx1-ubyte.gz", np.arange(29))
        with pytest.raises(InvalidInput, match=r"expected images \(rows, 28, 28\) and as many labels 0\.\.9"):
            FashionMNIST(path=str(fashion)).load()

    def test_a_missing_file_of_the_four(self, fashion):
        os.remove(fashion / "train-labels-idx1-ubyte.gz")
        with pytest.raises(MissingData, match="the folder must hold all four"):
            FashionMNIST(path=str(fashion)).load()

    @pytest.mark.long
    def test_the_real_files(self):
        try:
            data = FashionMNIST().load()
        except MissingData as error:
            pytest.skip(str(error))
        assert data.inputs.shape == (60000, 784)
        np.testing.assert_array_equal(data.targets.sum(axis=0), 6000)


class TestArrays:
    def test_files_and_memory_are_the_same_data(self, tmp_path):
        np.savez(tmp_path / "a.npz", inputs=X, targets=X[:, 0], test_inputs=X[:3], test_targets=X[:3, 0], teacher="no")
        file = Arrays(path=str(tmp_path / "a.npz"), center=True, scale="variance").load()
        memory = Arrays(
            inputs=X, targets=X[:, 0], test_inputs=X[:3], test_targets=X[:3, 0], center=True, scale="variance"
        ).load()
        for name in ("inputs", "targets", "test_inputs", "test_targets"):
            np.testing.assert_array_equal(getattr(file, name), getattr(memory, name))

    def test_a_file_counts_by_its_content(self, tmp_path):
        np.savez(tmp_path / "a.npz", inputs=X, targets=X)
        (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes())
        first, second = (Arrays(path=str(tmp_path / n)) for n in ("a.npz", "b.npz"))
        assert first == second
        problem = Problem(first, RandomFeatures(width=3), Ridge(0.1))
        before = first.digest(), problem.digest()
        np.savez(tmp_path / "a.npz", inputs=X + 1, targets=X)
        assert first.digest() != before[0]
        assert problem.digest() != before[1]  # so that no stored result outlives its data

    def test_default_leaves_the_inputs_alone(self):
        np.testing.assert_array_equal(Arrays(inputs=X, targets=X).load().inputs, X)

    def test_half_of_a_test_set(self):
        with pytest.raises(InvalidInput, match="together"):
            Arrays(inputs=X, targets=X, test_inputs=X).load()
