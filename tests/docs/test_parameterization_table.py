"""The page with the table of parameterizations says what the rules in the code say."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def hook() -> Any:
    spec = importlib.util.spec_from_file_location("table", ROOT / "docs" / "_hooks" / "parameterization_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_made_from_the_rules(hook: Any) -> None:
    assert hook.PAGE.read_text(encoding="utf-8") == hook.render(), (
        "run .venv/bin/python docs/_hooks/parameterization_table.py"
    )


def test_another_rule_makes_another_page(hook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from foretrain.parameterization._monomial import monomial

    original = hook.relative_rule

    def changed(role: str, recipe: Any, **options: Any) -> Any:
        rule = original(role, recipe, **options)
        return dataclasses.replace(rule, multiplier=rule.multiplier * monomial(width=1.0)) if role == "output" else rule

    before = hook.render()
    monkeypatch.setattr(hook, "relative_rule", changed)
    assert hook.render() != before


def test_a_column_holds_for_all_of_its_optimizers(hook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """SGD and Adam have different rates, so that a column of both is refused."""
    monkeypatch.setitem(hook._COLUMNS, "rate, SGD", (("sgd", "adam"), "lr-multiplied", "lr"))
    with pytest.raises(ValueError, match="differ"):
        hook.render()


@pytest.mark.parametrize(
    ("scheme", "row"),
    [
        # Lines of the tables of arXiv 2505.01618 and arXiv 2203.03466, in the relative form.
        ("completep", r"| `hidden` • | $\beta_0\,m_L^{-1}$ | $m_n^{-1/2}$ |"),
        ("mup", r"| `output` | $\gamma_0^{-1}\,m_n^{-1}$ | 1 | $\gamma_0^{2}\,m_n$ | 1 |"),
    ],
)
def test_known_lines(hook: Any, scheme: str, row: str) -> None:
    section = hook.render().split(f"### {scheme}, relative")[1].split("###")[0]
    assert row in section
