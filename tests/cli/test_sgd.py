"""Minibatches on the command line: what is solved, what is told, and what is refused."""

import json

import numpy as np
import pytest

STUDY = """
[task]
kind = "power-law"
capacity = 1.2
source = 0.5
modes = 40
noise = 0.16
{task}
[model]
kind = "random-features"
width = {width}
[training]
protocol = "{protocol}"
learning_rate = {rate}
batch_size = {batch}
times = [0, 1, 12, 40]
{training}
"""


@pytest.fixture
def solved(run, study):
    """Solves a study and gives the exit code, the table of `--json`, and the messages."""

    def solved_(protocol="sgd", width="14", rate="0.3", batch="2", training="samples = 22", task=""):
        text = STUDY.format(protocol=protocol, width=width, rate=rate, batch=batch, training=training, task=task)
        code, out, err = run("solve", study(text), "--json")
        return code, json.loads(out) if out else None, err

    return solved_


@pytest.fixture
def refused(solved):
    """Solves a study that must be refused, and gives the message."""

    def refused_(**keys):
        code, table, err = solved(**keys)
        assert (code, table) == (2, None)
        assert err.startswith("error: study.toml: ")
        assert err.count("\n") == 1
        return err.removeprefix("error: study.toml: ").rstrip("\n")

    return refused_


def test_multi_pass(solved):
    code, table, err = solved(
        width="[14, 22]", rate="[0.1, 0.3]", batch="[2, 4]", training='samples = [22, 44]\noutputs = ["test_sgd_noise"]'
    )
    assert (code, err, table["status"]) == (0, "", "ok")
    sweep = ["width", "learning_rate", "batch_size", "samples"]
    assert table["dims"]["test_loss"] == [*sweep, "time"]
    assert table["dims"]["test_sgd_noise"] == [*sweep, "time"]
    assert table["dims"]["status"] == sweep
    assert table["dims"]["sgd_gain"] == sweep
    assert table["dims"]["critical_batch"] == ["width", "learning_rate", "samples"]
    assert table["dims"]["max_stable_lr"] == ["width", "batch_size", "samples"]
    assert table["coords"]["batch_size"] == [2, 4]
    # 80-bit numbers of width 14, 22 samples, rate 0.3.
    assert table["data"]["sgd_gain"][0][1][0][0] == pytest.approx(0.2765921316799449, rel=1e-11)
    assert table["data"]["max_stable_lr"][0][1][0] == pytest.approx(0.9100969226250109, rel=1e-11)
    assert table["data"]["critical_batch"][0][1][0] == pytest.approx(0.5531842633598898, rel=1e-11)


def test_one_pass(solved):
    code, table, err = solved("one-pass-sgd", "[14, inf]", batch="[2, 8]", training="")
    assert (code, err) == (0, "")
    assert table["dims"]["test_loss"] == ["width", "batch_size", "time"]
    assert table["dims"]["critical_batch"] == ["width"]
    # 80-bit number after 40 steps, and train = test + noise where every sample is fresh.
    assert table["data"]["test_loss"][0][0][3] == pytest.approx(0.75055166979037, rel=1e-10)
    np.testing.assert_allclose(
        np.array(table["data"]["train_loss"]) - np.array(table["data"]["test_loss"]), 0.16, rtol=1e-9
    )


def test_shifted_test_inputs(solved):
    ones = ", ".join(["1.0"] * 40)
    code, table, _ = solved(task=f"test_eigenvalues = [{ones}]")
    plain = solved()[1]
    assert code == 0
    assert table["data"]["test_loss"][0] == pytest.approx(np.sum(np.arange(1.0, 41.0) ** -0.4), rel=1e-13)
    np.testing.assert_allclose(table["data"]["train_loss"], plain["data"]["train_loss"], rtol=1e-10)


def test_the_table_for_people(run, study):
    code, out, err = run(
        "solve",
        study(STUDY.format(protocol="sgd", width="14", rate="[0.35, 0.6]", batch="1", training="samples=22", task="")),
    )
    assert code == 0
    assert "batch_size 1" in out
    rows = [line.split() for line in out.splitlines() if line.strip().endswith((" ok", " diverged"))]
    assert [row[-1] for row in rows] == ["ok", "diverged"]
    assert rows[1][2:5] == ["inf", "inf", "inf"]
    assert "choose a rate below max_stable_lr = 0.483802, or a batch above critical_batch = 1.3606." in err


def test_large_gains_are_told_and_beyond_one_nothing_is_returned(solved):
    code, table, err = solved(rate="[0.35, 0.6]", batch="1")
    assert (code, table["status"]) == (0, "partial")
    assert table["data"]["status"] == ["ok", "diverged"]
    assert table["data"]["test_loss"][1][1:] == ["inf", "inf", "inf"]
    assert table["data"]["sgd_gain"] == pytest.approx([0.6638295128116841, 1.3605993088815678], rel=1e-9)
    first, second = err.splitlines()
    assert first.startswith("warning: solve: sgd_gain is up to 0.664")
    assert second.startswith("warning: solve: SGD diverges at learning_rate = 0.6, batch_size = 1 at 1 of 1 points")
    assert "max_stable_lr = 0.483802" in second
    assert "critical_batch = 1.3606" in second
    assert solved(rate="0.2", batch="1")[2] == ""


@pytest.mark.parametrize("batch", ["0", "-3", "1.5", "inf", "'many'", "[2, 0]"])
def test_batches_that_are_none(refused, batch):
    assert refused(batch=batch).startswith("[training]: batch_size: expected a whole number >= 1, got")


def test_batches_larger_than_the_data(refused, run, study):
    assert refused(batch="[2, 23]") == "[training]: batch_size: expected at most samples = 22, got 23"
    text = STUDY.format(protocol="sgd", width="8", rate="0.3", batch="5000", training="", task="")
    _, _, tail = text.partition("[model]")
    code, out, err = run("solve", study("[task]\nkind = 'digits'\nclasses = [0, 1]\n[model]" + tail), "--json")
    assert (code, out) == (2, "")
    assert "[training]: batch_size: expected at most samples = 360, all rows of digits, got 5000" in err


@pytest.mark.parametrize("rate", ["0", "-0.3", "inf", "nan"])
def test_rates_that_are_none(refused, rate):
    assert refused(rate=rate).startswith("[training]: learning_rate: expected a number > 0, got")


def test_keys_of_the_other_protocol(refused):
    assert "[training]: exact_gaussian: unknown key for 'sgd'; it is a [training] key of one-pass-sgd" in refused(
        training="exact_gaussian = true"
    )
    assert "[training]: samples: unknown key for 'one-pass-sgd'" in refused(protocol="one-pass-sgd")
    assert "[training]: batch_size: unknown key for 'gradient-descent'; it is a [training] key of sgd" in refused(
        protocol="gradient-descent"
    )
    assert refused(training="replacement = 'no'") == "[training]: replacement: expected true or false, got 'no'"


def test_exact_gaussian_at_finite_width(refused, solved):
    shift = f"test_eigenvalues = {[1.0] * 40}"
    message = refused(protocol="one-pass-sgd", width="[14, inf]", training="exact_gaussian = true", task=shift)
    assert "exact_gaussian with test_eigenvalues is known at infinite width only; choose width = inf" in message
    code, table, _ = solved("one-pass-sgd", "inf", training="exact_gaussian = true")
    assert code == 0
    assert table["data"]["test_loss"][3] == pytest.approx(0.24760393964601, rel=1e-10)


def test_outputs(refused, run, study):
    assert refused(training='samples = 22\noutputs = ["test_sgd_nois"]').startswith(
        "[training]: outputs: unknown output 'test_sgd_nois'; did you mean 'test_sgd_noise'?; valid: bias,"
    )
    text = STUDY.format(protocol="gradient-flow", width="14", rate="0", batch="0", training="samples = 22", task="")
    text = text.replace("learning_rate = 0\nbatch_size = 0\n", 'outputs = ["test_sgd_noise"]\n')
    code, out, err = run("solve", study(text), "--json")
    assert (code, out) == (2, "")
    assert "[training]: outputs: expected a protocol with minibatches for 'test_sgd_noise'" in err


def test_test_eigenvalues_of_another_length(refused):
    message = refused(task="test_eigenvalues = [1.0, 2.0]")
    assert message == "[task]: test_eigenvalues: expected 40 entries, one a mode, got 2"


def test_steps_are_whole(run, study):
    text = STUDY.format(protocol="sgd", width="14", rate="0.3", batch="2", training="samples = 22", task="")
    code, out, err = run("solve", study(text.replace("12, 40", "12.5, 40")))
    assert (code, out) == (2, "")
    assert "[training]: times: expected whole numbers of steps, got 12.5" in err


def test_digits_from_end_to_end(run, study):
    text = STUDY.format(protocol="sgd", width="40", rate="1.0", batch="[4, 16]", training="samples = 100", task="")
    _, _, tail = text.partition("[model]")
    code, out, err = run("solve", study("[task]\nkind = 'digits'\nclasses = [0, 1]\n[model]" + tail), "--json")
    assert (code, err) == (0, "")
    table = json.loads(out)
    assert table["dims"]["test_loss"] == ["batch_size", "time"]
    loss = np.array(table["data"]["train_loss"])
    assert np.all(np.diff(loss, axis=1) < 0)
    assert np.all(loss[0, 1:] > loss[1, 1:])
    assert 0 < table["data"]["sgd_gain"][1] < table["data"]["sgd_gain"][0] < 0.5
