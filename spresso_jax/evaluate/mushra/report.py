"""Writes the scores of a listening test: JSON, Markdown, CSV, and the figures as PNG and SVG."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spresso_jax.evaluate.decoded import write_json
from spresso_jax.evaluate.mushra.figures import box_plot, item_plot
from spresso_jax.evaluate.mushra.results import Ratings
from spresso_jax.evaluate.mushra.statistics import score

SCORES = "mushra.json"
_FIGURES = ("n", "mean", "ci95_t_listener_means", "ci95_t_ratings", "sd", "median", "q1", "q3")


def write_scores(ratings: Ratings, out: Path) -> dict[str, Any]:
    """Fills OUT with mushra.json, mushra.md, conditions.csv, boxes.png/.svg and items.png/.svg; returns the record.

    Figures show the listeners that passed the screening, or all of them if nobody did.
    """
    record = score(ratings)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / SCORES, record)
    (out / "mushra.md").write_text(markdown(record), encoding="utf-8")
    (out / "conditions.csv").write_text(table_csv(record), encoding="utf-8")
    shown = ratings.of(record["screening"]["kept"]) if record["kept"] else ratings
    figures = record["kept"] or record["all"]
    title = f"{ratings.test_id}: {figures['listeners']} listeners, {len(ratings.items)} items"
    for name, pictures in (
        ("boxes", box_plot(figures, shown.scores, ratings.conditions, title)),
        ("items", item_plot(figures, ratings.items, ratings.conditions, title)),
    ):
        for kind, content in pictures.items():
            (out / f"{name}.{kind}").write_bytes(content)
    return record


def table_csv(record: Mapping[str, Any]) -> str:
    """Long table: listeners (all or kept), item (empty for all items together), condition, figures."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("listeners", "item", "condition", *_FIGURES))
    for chosen in ("all", "kept"):
        if record[chosen] is None:
            continue
        tables = {"": record[chosen]["conditions"], **record[chosen]["items"]}
        for item, conditions in tables.items():
            for condition, facts in conditions.items():
                writer.writerow((chosen, item, condition, *(_cell(facts[name]) for name in _FIGURES)))
    return buffer.getvalue()


def markdown(record: Mapping[str, Any]) -> str:
    """The record as a page: exclusions, conditions with and without them, tests, mixed model, items."""
    screening, read, pages = record["screening"], record["read"], record["pages"]
    kept = record["kept"]
    parts = [
        f"# Listening test {_text(record['test_id'])}",
        f"{len(record['listeners'])} listeners, {len(record['items'])} items, {len(record['conditions'])} conditions.",
        "## What was not used",
        "\n".join(
            [
                f"- {read['training_rows']} training rows of {read['rows']}; {read['repeated_headers']} repeated headers",
                f"- incomplete listeners left out: {_names(read['incomplete_listeners_left_out'])}",
                f"- hidden reference below 90 too often: {_names(screening['by_reference'])}",
                f"- {screening['anchor'] or 'no anchor in the test, so no anchor rule'}"
                + (f" above 90 too often: {_names(screening['by_anchor'])}" if screening["anchor"] else ""),
                f"- items that do not count in the anchor rule: {_names(screening['exempt_items'])}",
                f"- {len(screening['kept'])} of {len(record['listeners'])} listeners pass",
            ]
        ),
        f"Rule: {screening['rule']}.",
        f"Pages: {pages['rated']}, median {pages['median_seconds']:.0f} s each; every slider left at 100 on "
        f"{pages['all_sliders_at_100']} of them.",
    ]
    for title, figures in (("after screening", kept), ("all listeners", record["all"])):
        if figures is None:
            parts.append(f"## Conditions, {title}\n\nNobody passed the screening.")
            continue
        parts += [f"## Conditions, {title} ({figures['listeners']} listeners)", _conditions(figures["conditions"])]
        if figures is (kept or record["all"]):
            parts += _tests(figures)
            parts += ["## Items", _items(figures["items"], record["conditions"])]
    return "\n\n".join(parts) + "\n"


def _conditions(conditions: Mapping[str, Mapping]) -> str:
    rows = [
        f"| {_text(name)} | {f['mean']:.1f} ± {_number(f['ci95_t_listener_means'])} | "
        f"± {_number(f['ci95_t_ratings'])} | {f['median']:.1f} | {f['q1']:.1f} to {f['q3']:.1f} | {f['n']} |"
        for name, f in conditions.items()
    ]
    head = "| condition | mean, 95 % t interval over listener means | over raw ratings (too narrow) | median | quartiles | n |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def _tests(figures: Mapping[str, Any]) -> list[str]:
    parts = []
    if figures["friedman"]:
        found = figures["friedman"]
        parts.append(f"Friedman over the systems' listener means: chi2 = {found['chi2']:.2f}, p = {found['p']:.2g}.")
    if figures["pairs"]:
        rows = [
            f"| {_text(p['first'])} - {_text(p['second'])} | {p['mean_difference']:+.1f} ± {_number(p['ci95_t'])} | "
            f"{p['wilcoxon_W']:.1f} | {p['wilcoxon_p']:.2g} | {_p_value(p['wilcoxon_p_exact'])} | {p['holm']:.2g} |"
            for p in figures["pairs"]
        ]
        head = "| pair | difference, 95 % paired t | Wilcoxon W | p (normal) | p (exact) | p (normal) after Holm |"
        parts += ["## Pairs, on listener means", "\n".join([head, "|---|---|---|---|---|---|", *rows])]
    model = figures["mixed_model"]
    if model:
        v = model["variances"]
        rows = [
            f"| {_text(d['first'])} - {_text(d['second'])} | {d['difference']:+.1f} ± {d['ci95']:.1f} |"
            for d in model["differences"]
        ]
        parts += [
            "## Mixed model of the systems",
            f"{model['formula']}, {model['estimation']}. Variances: listener {v['listener']:.1f}, item {v['item']:.1f}, "
            f"residual {v['residual']:.1f}; {model['degrees_of_freedom']} degrees of freedom.",
            "\n".join(["| pair | difference, 95 % |", "|---|---|", *rows]),
        ]
    return parts


def _items(items: Mapping[str, Mapping], conditions: list[str]) -> str:
    head = "| item | " + " | ".join(_text(c) for c in conditions) + " |"
    rows = [
        f"| {_text(item)} | "
        + " | ".join(f"{facts[c]['mean']:.0f} ± {_number(facts[c]['ci95_t_listener_means'])}" for c in conditions)
        + " |"
        for item, facts in items.items()
    ]
    return "\n".join([head, "|---" * (len(conditions) + 1) + "|", *rows])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _p_value(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _cell(value: float | int | None) -> str:
    return "" if value is None else repr(value)


def _names(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(map(_text, names))})" if names else "none"


def _text(name: str) -> str:
    """A name inside a Markdown table: it may come from a file that somebody sent."""
    return "".join("\\" + c if c in "\\`*_[]<>|#" else c for c in name)
