"""Mistakes of users: each has its own message on one line and exit code 2, before anything is computed."""

import os

import numpy as np
import pytest


@pytest.fixture
def refused(run):
    """Runs a command that must be refused, and gives the message."""

    def refused_(*arguments):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1
        return err.removeprefix("error: ").rstrip("\n")

    return refused_


def data_study(extra="", task="path = 'mine.npz'"):
    return (
        f"[task]\nkind = 'arrays'\n{task}\n[model]\nkind = 'random-features'\nwidth = 4\n"
        f"[training]\nprotocol = 'gradient-flow'\ntimes = [1.0]\nseeds = 2\n{extra}"
    )


class TestTheFile:
    def test_missing(self, refused):
        assert refused("solve", "nix.toml").startswith("nix.toml: no such file; `foretrain init`")

    def test_folder(self, refused, tmp_path):
        assert "expected a study file, got a folder" in refused("solve", tmp_path)

    def test_binary(self, refused, tmp_path):
        (tmp_path / "b.toml").write_bytes(bytes(range(256)))
        assert refused("train", "b.toml").startswith("b.toml: expected a TOML text file in UTF-8")

    def test_a_device_without_end(self, refused):
        assert "/dev/zero: larger than 64 MiB" in refused("solve", "/dev/zero")

    def test_nothing_in_it(self, refused):
        assert refused("solve", "/dev/null").startswith("/dev/null: [task]: missing section")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_without_permission(self, refused, study, tmp_path):
        (tmp_path / study()).chmod(0)
        assert "cannot be read: Permission denied" in refused("solve", "study.toml")

    def test_toml_says_the_line(self, refused, study):
        assert "study.toml: not valid TOML: Invalid value (at line 2, column 5)" in refused("solve", study("\na = x"))

    def test_names_of_keys_stay_on_the_line(self, refused, study):
        message = refused("solve", study('"a\\n\\u001b[31m\\u0000" = 1'))
        assert "\x1b" not in message
        assert "unknown key or section" in message

    def test_endless_keys_are_cut(self, refused, study):
        assert len(refused("solve", study("k" * 100_000 + " = 1"))) < 2100


class TestTheArguments:
    def test_unknown_verb(self, refused):
        assert "No such command 'solv'" in refused("solv", "x.toml")

    def test_unknown_option(self, refused, study):
        assert "No such option: --jsno" in refused("solve", study(), "--jsno")

    def test_no_study(self, refused):
        assert "Missing argument 'STUDY.toml'" in refused("compare")

    def test_two_studies(self, refused, study):
        assert "unexpected extra argument" in refused("solve", study(), "other.toml")

    def test_seeds_that_are_no_number(self, refused, study):
        assert "--seeds" in refused("train", study(), "--seeds", "many")

    @pytest.mark.parametrize("option", ["-o", "--plot", "--report"])
    def test_files_that_cannot_be_written(self, refused, study, tmp_path, monkeypatch, option):
        import foretrain.limits

        def computed(*_, **__):
            raise AssertionError("computed")

        monkeypatch.setattr(foretrain.limits, "solve", computed)
        long = {"-o": "--output"}.get(option, option)
        name = "a.png" if option == "--plot" else "a.html"
        assert refused("compare", study(), option, f"nix/{name}") == f"{long}: no folder nix; create it first."
        (tmp_path / f"d{name}").mkdir()
        assert (
            refused("compare", study(), option, f"d{name}") == f"{long}: expected a file name, got the folder d{name}."
        )
        (tmp_path / "file").write_text("")
        assert refused("compare", study(), option, f"file/{name}").startswith(f"{long}: no folder file")
        os.mkfifo(tmp_path / f"p{name}")
        assert "expected a regular file" in refused("compare", study(), option, f"p{name}")
        assert "File name too long" in refused("compare", study(), option, "x" * 300 + ".png")

    def test_pictures_of_another_kind(self, refused, study):
        assert (
            refused("solve", study(), "--plot", "a.bmp")
            == "--plot: expected a name that ends in .png, .svg, .pdf, got a.bmp"
        )

    def test_store_that_cannot_be(self, refused, study, tmp_path):
        (tmp_path / "file").write_text("")
        assert "cannot keep results in file/store" in refused("train", study(), "--store", "file/store")


class TestTheProblem:
    def test_learning_rate_belongs_to_another_protocol(self, refused, study):
        text = data_study("learning_rate = 0.1")
        assert "[training]: learning_rate: unknown key for 'gradient-flow'; it is a [training] key of" in refused(
            "solve", study(text)
        )

    @pytest.mark.parametrize("verb", ["solve", "train", "compare"])
    def test_times_are_missing(self, refused, study, verb, pretended):
        message = refused(
            verb,
            study(
                data_study(task="inputs=[[1.0],[2.0],[3.0]]\ntargets=[1,2,3]").replace(
                    "times = [1.0]\n", "samples = 2\n"
                )
            ),
        )
        assert message.startswith("study.toml: [training]: times: missing; 'gradient-flow' needs a list")

    def test_training_what_cannot_be_trained(self, refused, study):
        text = "[task]\nkind='power-law'\ncapacity=1.5\nsource=0.6\n[model]\nkind='random-features'\nwidth=4\n[training]\nprotocol='ridge'\nridge=0.1\nsamples=8"
        message = refused("train", study(text))
        assert "modes = inf cannot be drawn; give a finite number of modes" in message
        assert message.startswith("study.toml: train:")
        assert "no size of this problem can be trained" in refused("compare", study(text))

    def test_measuring_what_is_declared(self, refused, study):
        assert "a 'power-law' task declares its spectrum, so there is nothing to measure" in refused("measure", study())

    def test_measuring_several_networks(self, refused, study):
        text = data_study().replace("width = 4", "width = 4\ndepth = [1, 2]")
        assert "study.toml: [model]: depth: expected one value, as one network is measured, got 2" in refused(
            "measure", study(text)
        )


class TestTheData:
    def save(self, tmp_path, **arrays):
        np.savez(tmp_path / "mine.npz", **arrays)

    def inputs(self, rows=6):
        return np.random.default_rng(0).normal(size=(rows, 3))

    def test_no_file(self, refused, study):
        assert "arrays: no file mine.npz; give `path` relative to the study file" in refused(
            "train", study(data_study())
        )

    def test_path_without_home(self, refused, study):
        message = refused("train", study(data_study(task="path = '~nobody-of-that-name/x.npz'")))
        assert message.startswith("study.toml: [task]: path: expected a path")

    def test_not_an_archive(self, refused, study, tmp_path):
        (tmp_path / "mine.npz").write_bytes(b"hello")
        assert "expected an .npz file of plain numeric arrays" in refused("train", study(data_study()))

    def test_single_array(self, refused, study, tmp_path):
        np.save(tmp_path / "one.npy", np.ones(3))
        (tmp_path / "one.npy").rename(tmp_path / "mine.npz")
        assert "expected an .npz archive, got a single array" in refused("train", study(data_study()))

    def test_pickled_objects(self, refused, study, tmp_path):
        self.save(tmp_path, inputs=np.array([{"a": 1}], dtype=object), targets=np.ones(1))
        assert "expected an .npz file of plain numeric arrays" in refused("train", study(data_study()))

    def test_array_under_another_name(self, refused, study, tmp_path):
        self.save(tmp_path, inputs=self.inputs(), target=np.ones(6))
        assert "expected an array named 'targets', got inputs, target; did you mean 'target'?" in refused(
            "train", study(data_study())
        )

    def test_nan(self, refused, study, tmp_path):
        inputs = self.inputs()
        inputs[4, 1] = np.nan
        self.save(tmp_path, inputs=inputs, targets=np.ones(6))
        assert "DataSet(inputs): expected finite numbers, got nan in row 4" in refused(
            "train", study(data_study("samples = 3"))
        )

    def test_text_for_numbers(self, refused, study, tmp_path):
        self.save(tmp_path, inputs=np.array([["a"]]), targets=np.ones(1))
        assert "DataSet(inputs): expected an array of numbers" in refused("train", study(data_study()))

    def test_rows_that_do_not_match(self, refused, study, tmp_path):
        self.save(tmp_path, inputs=self.inputs(), targets=np.ones(5))
        assert "DataSet(targets): expected 6 rows like inputs, got 5" in refused("train", study(data_study()))

    def test_more_samples_than_rows(self, refused, study, tmp_path):
        self.save(tmp_path, inputs=self.inputs(), targets=np.ones(6))
        message = refused("train", study(data_study("samples = [3, 6]")))
        assert (
            message
            == "study.toml: [training]: samples: expected at most 5 of the 6 rows of mine, as the rest is tested on, got 6"
        )

    def test_all_rows_without_test_rows(self, refused, study, tmp_path):
        self.save(tmp_path, inputs=self.inputs(), targets=np.ones(6))
        assert "samples: missing; all 6 rows of mine would train" in refused("train", study(data_study()))

    def test_more_test_rows_than_there_are(self, refused, study):
        text = data_study("samples = 3").replace(
            "kind = 'arrays'\npath = 'mine.npz'", "kind = 'digits'\ntest_samples = 2000"
        )
        assert "test_samples: expected fewer than the 1797 rows of the set, got 2000" in refused("train", study(text))

    def test_fashion_mnist_elsewhere(self, refused, study, tmp_path):
        text = data_study("samples = 3").replace(
            "kind = 'arrays'\npath = 'mine.npz'", "kind = 'fashion-mnist'\npath = 'nowhere'"
        )
        message = refused("train", study(text))
        assert "fashion-mnist: no train-images-idx3-ubyte.gz in nowhere. Install Debian's package" in message
