"""The page of a transfer sweep: one HTML file that carries everything it shows and loads nothing."""

import csv
import datetime
import io
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.curves import LearningCurves
from foretrain.errors import InvalidInput
from foretrain.report._extras import require
from foretrain.report._grid import percent, show, words
from foretrain.report._html import Tables, _columns, _picture, _resource, environment_versions, write_page
from foretrain.report._payload import data_uri
from foretrain.report._transfer_figure import exponent_words, plain, plot_transfer, transfer_analysis


def write_transfer_report(
    curves: LearningCurves,
    path: str | os.PathLike,
    *,
    title: str,
    tables: Tables = (),
    study_text: str | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write a transfer sweep as one self-contained page.

    It opens with the verdicts, then shows the sweep, the optima with their intervals, what to set at the target, conventions, the
    study file and the data to take away. It needs no network and no scripts, and follows the reader's light or dark setting. The
    file appears complete or not at all.

    Args:
        curves: `curves` of what `foretrain.transfer` returned.
        path: The HTML file.
        title: Heading of the page. All texts are shown as they are, markup in them is not interpreted.
        tables: Tables of what to set: name to rows, each row a table of column to value.
        study_text: The study file; without it the one that the attributes hold.
        notes: Sentences above those tables.

    Raises:
        InvalidInput: No such folder, or not a transfer sweep.
        MissingExtra: matplotlib or jinja2 is not installed.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise InvalidInput(f"write_transfer_report(path={str(target)!r}): no folder {target.parent}; create it first.")
    write_page(target, render_transfer(curves, title=title, tables=tables, study_text=study_text, notes=notes))


def render_transfer(
    curves: LearningCurves,
    *,
    title: str,
    tables: Tables = (),
    study_text: str | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The page as text; arguments as for `write_transfer_report`."""
    jinja2 = require("jinja2", "write_transfer_report")
    require("matplotlib", "write_transfer_report")
    analysis = transfer_analysis(curves, "write_transfer_report")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    named = tables.items() if isinstance(tables, Mapping) else tables
    optima = optima_rows(analysis)
    light, dark = (plot_transfer(curves, mode=mode) for mode in ("light", "dark"))
    return environment.from_string(_resource("_transfer.html.j2")).render(
        title=str(title),
        style=_resource("_page.css"),
        headline=headline(analysis),
        scope=_scope(curves, analysis),
        verdicts=[
            {
                "name": _name(v) or "One variant",
                "verdict": v["verdict"],
                "sentence": v["sentence"],
                "advice": v["advice"],
                "found": found_sentences(analysis, v),
            }
            for v in analysis["variants"]
        ],
        numeric=curves.coords[analysis["swept"]].dtype.kind != "U",
        steps=show(analysis["steps"]),
        swept=words(analysis["swept"]),
        axis=words(analysis["axis"]),
        tolerance=show(analysis["tolerance"]),
        width=round(6 * light.get_size_inches()[0] + 8),
        light=_picture(light),
        dark=_picture(dark),
        optima=_columns(optima),
        tables=[(str(name), *_columns(_readable(rows))) for name, rows in named],
        notes=[str(n) for n in notes],
        study_text=curves.attrs.get("study") if study_text is None else study_text,
        versions=environment_versions(curves),
        csv=data_uri(runs_csv(curves, analysis), "text/csv"),
        optima_csv=data_uri(_table_csv(optima), "text/csv"),
        json=data_uri(json.dumps(curves.to_json(), allow_nan=False), "application/json"),
        written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def headline(analysis: Mapping[str, Any]) -> str:
    """One sentence on all variants.

    Args:
        analysis: All that was found.
    """
    said = {"transfers": "holds", "drifts": "moves", "undecided": "is not decided"}
    swept, axis = words(analysis["swept"]), words(analysis["axis"])
    variants = analysis["variants"]
    if len(variants) == 1:
        return f"The best {swept} {said[variants[0]['verdict']]} over {axis}."
    parts = [f"{said[v['verdict']]} for {_name(v)}" for v in variants]
    return f"Over {axis}, the best {swept} {', '.join(parts)}."


def found_sentences(analysis: Mapping[str, Any], variant: Mapping[str, Any]) -> list[str]:
    """What else was found about a variant, one sentence for each.

    Args:
        analysis: All that was found.
        variant: One variant of it.
    """
    said = []
    for key, text in (("drift_without_smallest", "without the smallest size"), ("edge_drift", "edge of stability")):
        drift = variant[key]
        if drift is not None:
            said.append(f"{text}: exponent {exponent_words(drift)} over {drift['sizes']} sizes")
    cost = variant["cost"]
    if cost is not None:
        value, low, high = (plain(cost[name]) for name in ("value", "low", "high"))
        lost = "diverges" if np.isinf(value) else f"costs {_share(value)} of the loss"
        said.append(
            f"the best value at {words(analysis['axis'])} {show(cost['from'])}, used at {show(cost['at'])}, {lost} "
            f"(95 %: {_share(low)} to {_share(high)})"
        )
    if variant["wider"] is not None:
        said.append(variant["wider"]["sentence"])
    return said


def _share(value: float) -> str:
    if np.isinf(value):
        return "divergence"
    return "unknown" if np.isnan(value) else percent(value)


def _name(variant: Mapping[str, Any]) -> str:
    return ", ".join(show(v) for v in variant["where"].values())


def _scope(curves: LearningCurves, analysis: Mapping[str, Any]) -> str:
    sizes = curves.coords[analysis["axis"]]
    values = curves.coords[analysis["swept"]]
    variants = len(analysis["variants"])
    counted = f"{variants} variants × " if variants > 1 else ""
    return (
        f"{counted}{len(sizes)} sizes ({words(analysis['axis'])} {show(sizes[0])} to {show(sizes[-1])}) × {len(values)} values of "
        f"{words(analysis['swept'])} × {analysis['seeds']} seeds; {words(analysis['objective'])} after {show(analysis['steps'])} steps"
    )


def optima_rows(analysis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row of plain numbers for every variant and size.

    Args:
        analysis: All that was found.
    """
    rows = []
    for variant in analysis["variants"]:
        edges = variant["edge"] or [{}] * len(variant["optima"])
        for row, edge in zip(variant["optima"], edges, strict=True):
            one = {**variant["where"], words(analysis["axis"]): plain(row["size"])}
            if isinstance(row["value"], str) and "low" not in row:
                rows.append({**one, "best": row["value"], "chance": plain(row["chance"]), "loss": plain(row["loss"])})
                continue
            one |= {"best": plain(row["value"]), "95 % from": plain(row["low"]), "to": plain(row["high"])}
            one |= {"loss": plain(row["loss"]), "stable to": plain(edge["stable"])}
            rows.append({**one, "diverges at": plain(edge["diverged"]), "status": row["status"]})
    return rows


def _readable(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{k: " × ".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in row.items()} for row in rows]


def runs_csv(curves: LearningCurves, analysis: Mapping[str, Any]) -> str:
    """Every run at every time as a row.

    Args:
        curves: The sweep.
        analysis: All that was found.
    """
    names = ("train_loss_by_seed", "test_loss_by_seed")
    dims, _ = curves.variables[names[0]]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*dims, "train_loss", "test_loss"])
    coords = [curves.coords[d].tolist() for d in dims]
    columns = [curves.values(name).ravel().tolist() for name in names]
    for where, *values in zip(itertools.product(*coords), *columns, strict=True):
        writer.writerow([*where, *(f"{v:.8g}" for v in values)])
    return out.getvalue()


def _table_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(k for row in rows for k in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
