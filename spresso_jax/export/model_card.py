"""The README.md of an exported model, from the facts that travel with it."""

from __future__ import annotations

from typing import Any

from spresso_jax.bitrate import bitrate_kbps


def model_card(model: Any, body: str = "") -> str:
    """Markdown: what the model is, its sizes, operating point, training and licence, then `body`.

    Args:
      model: `checkpoints.weights.Model`.
      body: figures, credits and warnings written by whoever trained it.
    """
    facts = model.facts
    lines = [f"# {facts.get('name', 'S-PRESSO model')}", ""]
    point = facts.get("operating_point")
    if point and point.get("frame_rate"):  # a quantizer of vectors that are no sounds has none
        kbps = bitrate_kbps(point["codebooks"], 2 ** point["codebook_bits"], point["frame_rate"])
        lines += [
            f"S-PRESSO codec for 48 kHz sound effects at {point['frame_rate']} frames/s: {point['codebooks']} codebooks of"
            f" {point['codebook_bits']} bits, nominally {kbps:.3g} kbps. Other numbers of codebooks can be sent with"
            " `spresso encode --codebooks N`.",
            "",
        ]
    lines += ["| network | class | parameters |", "|---|---|---|"]
    for name, network in sorted(model.networks.items()):
        lines.append(f"| {name} | {network.class_name} | {_count(network.params):,} |")
    lines += ["", f"Weights are stored as {facts.get('storage', 'float32')}.", ""]
    # Imported models may tell their origin in other words; only trainings of this project make a table.
    trained = [entry for entry in facts.get("provenance") or [] if isinstance(entry, dict) and "stage" in entry]
    if trained:
        lines += ["## Training", "", "| stage | steps | seed | data |", "|---|---|---|---|"]
        for entry in trained:
            lines.append(
                f"| {entry['stage']} | {entry.get('steps', '')} | {entry.get('seed', '')} | {', '.join(entry.get('data', []))} |"
            )
        lines.append("")
    lines += [f"Licence of the weights: {facts.get('licence', 'not stated')}.", ""]
    if body:
        lines += [body.strip(), ""]
    return "\n".join(lines)


def _count(tree: Any) -> int:
    if isinstance(tree, dict):
        return sum(_count(child) for child in tree.values())
    if isinstance(tree, (list, tuple)):
        return sum(_count(child) for child in tree)
    return int(getattr(tree, "size", 0))
