import numpy as np
import pytest
from synthetic import INF, broken, comparison, with_values

from foretrain.curves import LearningCurves
from foretrain.report._findings import findings, score, worst_curves
from foretrain.report._grid import comparison_grid, percent, plus_minus, show
from foretrain.report._palette import distinct, ordered
from foretrain.studies import pair, summarize

TIMES = np.geomspace(1, 1e4, 12)
SIZES = {"width": [64, 128, 1024], "samples": [64, 512]}


def said(given) -> list[str]:
    return [f.what for f in findings(comparison_grid(given), given)]


def shifted(given, factor):
    """The comparison with theory multiplied by `factor`, an array over the training's grid."""
    dims, values = given.training.variables["test_loss"]
    theory = LearningCurves({**given.theory.variables, "test_loss": (dims, values * factor)}, given.theory.coords, {})
    return pair(theory, given.training)


@pytest.mark.parametrize("given", [comparison(), broken(), comparison({}, [1.0, 2.0])])
def test_scores_agree_with_those_that_the_command_line_prints(given):
    grid = comparison_grid(given)
    for row in summarize(given):
        mine = score(grid, row.name)
        # Two separate computations of the same definitions: they differ by rounding only.
        np.testing.assert_allclose(
            [mine.median, mine.worst, mine.beyond, mine.noise],
            [row.median, row.worst, row.beyond_noise, row.noise],
            rtol=1e-12,
        )
        assert mine.points == row.points


def test_an_early_and_a_late_bias_are_told_apart():
    given = comparison(SIZES, TIMES, noise=0.002)
    early, late = np.where(TIMES < 15, 1.05, 1.0), np.where(TIMES > 1000, 0.95, 1.0)
    assert "A bias early: theory is above the measurement" in said(shifted(given, early))
    assert not [w for w in said(shifted(given, early)) if "late" in w]
    assert "A bias late: theory is below the measurement" in said(shifted(given, late))
    assert not [w for w in said(shifted(given, late)) if "early" in w]


def test_exact_theory_is_called_compatible_with_noise_and_unbiased():
    found = said(comparison(SIZES, TIMES, miss=0.0))
    assert found == ["Seed noise explains most of the errors", "Theory lies on both sides of the measurement"]


def test_errors_that_fall_with_size_and_errors_at_the_peak_are_seen():
    given = comparison(SIZES, TIMES, noise=1e-4)
    width, samples = np.array([64, 128, 1024])[:, None, None], np.array([64, 512])[None, :, None]
    assert "Errors shrink as sizes grow" in said(shifted(given, 1 + 6.4 / width + 0 * samples))
    peak = np.where((width / samples >= 0.5) & (width / samples <= 2), 1.06, 0.99)
    assert "Errors are largest where width and samples meet" in said(shifted(given, peak))
    assert "Errors are largest where width and samples meet" not in said(shifted(given, np.full((3, 2, 1), 1.03)))


def test_cautions_of_the_parts_are_repeated():
    given = comparison({"width": [8]}, TIMES)
    theory = LearningCurves(given.theory.variables, given.theory.coords, {"messages": ["Past the edge."]})
    (caution,) = [f for f in findings(comparison_grid(given), pair(theory, given.training)) if "caution" in f.what]
    assert caution.evidence == "Past the edge."


def test_worst_curves_come_first_and_hold_the_numbers():
    given = comparison(SIZES, TIMES, noise=1e-3)
    factor = np.ones((3, 2, 12))
    factor[2, 1, 5] = 1.2
    rows = worst_curves(comparison_grid(shifted(given, factor)), count=2)
    assert len(rows) == 2
    assert (rows[0]["width"], rows[0]["samples"], rows[0]["error"]) == ("1024", "512", "+20 %")
    nothing = pair(given.theory, with_values(given.training, test_loss=(..., np.nan)))
    assert worst_curves(comparison_grid(nothing)) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (64.0, "64"), (65536.0, "65536"), (INF, "∞"), (-INF, "−∞"), (float("nan"), "–"), (0.0, "0"), (1e6, "10⁶"),
        (1.5e-4, "1.5·10⁻⁴"), (-2e7, "−2·10⁷"), (0.12345, "0.1235"), ("relu", "relu"), (-0.5, "−0.5"), (1.234e100, "1.23·10¹⁰⁰"),
    ],
)  # fmt: skip
def test_coordinates_are_shown_short(value, text):
    assert show(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0142, "1.4 %"),
        (0.15, "15 %"),
        (0.0, "0 %"),
        (0.00031, "0.031 %"),
        (1e-9, "< 0.001 %"),
        (INF, "∞"),
        (-0.5, "−50 %"),
    ],
)
def test_percent_has_two_digits(value, text):
    assert percent(value) == text
    if np.isfinite(value) and value > 1e-6:
        assert percent(value, signed=True) == f"+{text}"


def test_means_are_shown_to_the_second_digit_of_their_error():
    assert plus_minus(0.31134, 0.003213) == "0.3113 ± 0.0032"
    assert plus_minus(2.0, 0.5) == "2.00 ± 0.50"
    assert plus_minus(3.0e7, 2.0e5) == "3·10⁷ ± 2·10⁵"
    assert plus_minus(0.5, float("nan")) == "0.5"
    assert plus_minus(0.5, 0.0) == "0.5"


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_ordered_colours_grow_lighter_in_even_steps_and_differ(mode):
    def luminance(colour: str) -> float:
        channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for count in (2, 5, 12):
        steps = [luminance(c) ** (1 / 3) for c in ordered(count, mode)]
        assert np.all(np.diff(steps) > 0)
    assert len(set(distinct(7, mode))) == 7
    assert ordered(1, mode)[0].startswith("#")


def test_the_gain_of_minibatches_is_told():
    given = comparison({"batch_size": [4, 16], "samples": [64, 512]}, TIMES)
    assert not any("feeds back" in what for what in said(given))
    for largest, explained in ((0.3, True), (0.1, False)):
        gain = np.array([[largest, 0.5 * largest], [0.05, 0.04]])
        variables = {**given.theory.variables, "sgd_gain": (("batch_size", "samples"), gain)}
        told = pair(LearningCurves(variables, given.theory.coords, {}), given.training)
        (finding,) = (f for f in findings(comparison_grid(told), told) if "feeds back" in f.what)
        assert f"0.04 to {largest} (largest at batch size 4, samples 64)" in finding.evidence
        assert bool(finding.meaning) == explained
