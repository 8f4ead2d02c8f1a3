"""The denoiser's figures as Markdown: loss and conditioning gain by noise level, and paired differences of the loss.

Source: own measure, see conditioning_gain.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from spresso_jax.evaluate.bootstrap import Interval
from spresso_jax.evaluate.tables import format_interval, markdown_head

LOSS_DIGITS, GAIN_DIGITS, PAIRED_DIGITS = 3, 3, 5


def gain_markdown(scores: Mapping) -> str:
    """Three tables of the models in scores.json that have a conditioning gain; empty text if none has.

    Args:
      scores: what `protocol.evaluate` wrote.

    Returns:
      1. lambda * MSE with the own condition, a row a model and condition, under the Wiener denoisers of the same latents
      (once for all models that share them); 2. the gain with its interval, by sigma and in all; 3. paired
      differences of the loss between conditions and models.
    """
    models = {name: facts for name, facts in scores.get("models", {}).items() if facts.get("conditioning_gain")}
    if not models:
        return ""
    losses, gains = [], []
    # Models of one AudioAE share their latents, and with them the Wiener denoisers.
    wieners: dict[tuple[str, ...], list[str]] = {}
    for name, facts in models.items():
        for label, row in facts["wiener"].items():
            wieners.setdefault((label, *(f"{value:.{LOSS_DIGITS}f}" for value in row)), []).append(name)
        for label, entry in facts["conditioning_gain"].items():
            bins = entry["bins"]
            losses.append([f"{name}: own {label}", *(f"{b['own']['mean']:.{LOSS_DIGITS}f}" for b in bins)])
            shown = [format_interval(Interval.from_json(b["gain"]), GAIN_DIGITS) for b in bins]
            overall = format_interval(Interval.from_json(entry["overall"]), GAIN_DIGITS + 1)
            gains.append([f"{name}: {label}", *shown, overall])
    first = next(iter(next(iter(models.values()))["conditioning_gain"].values()))
    columns = [f"sigma {b['sigma_low']:g} to {b['sigma_high']:g}" for b in first["bins"]]
    count = len(first["per_clip"]["own"])
    parts = [
        f"Denoising loss (lambda MSE on the clips' own frames), {count} clips:",
        _table(["", *columns], [*_named(wieners, len(models)), *losses]),
        "Conditioning gain (loss with another clip's condition minus loss with the own, same noise):",
        _table(["", *columns, "all levels"], gains),
    ]
    paired = [
        [r["first"], r["second"], format_interval(Interval.from_json(r["improvement"]), PAIRED_DIGITS)]
        for r in scores.get("paired_losses", [])
    ]
    if paired:
        parts.append("Paired differences of the loss over all levels, second minus first (positive: first is better):")
        parts.append(_table(["first", "second", "difference"], paired))
    return "\n\n".join(parts) + "\n"


def _named(wieners: Mapping[tuple[str, ...], list[str]], models: int) -> list[list[str]]:
    """Rows of the Wiener denoisers; where models differ in them, with the models' names."""
    return [
        [label if len(names) == models else f"{label} ({', '.join(names)})", *figures]
        for (label, *figures), names in wieners.items()
    ]


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join([*markdown_head(head), *("| " + " | ".join(row) + " |" for row in rows)])
