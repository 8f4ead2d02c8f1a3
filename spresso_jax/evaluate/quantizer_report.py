"""Report on a quantizer: its figures as JSON, as Markdown tables that explain themselves, and as two pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.evaluate.code_statistics import entropy_bits, expected_unused, ideal_coder_bits
from spresso_jax.evaluate.decoded import write_json
from spresso_jax.evaluate.quantizer_measures import (
    BASELINE_ITERATIONS,
    BASELINE_SEED,
    Search,
    SplitMeasures,
)
from spresso_jax.evaluate.rate_distortion import gaussian_distortion
from spresso_jax.evaluate.tables import markdown_head
from spresso_jax.observe import pictures
from spresso_jax.quantizer.qinco import Qinco

RATE_PICTURE, BITS_PICTURE = "rate_distortion.png", "bits_per_step.png"
ERROR_NOTES = (
    "Squared error summed over coordinates, mean over vectors, in the vectors' own units. *best* is the best code of m "
    "codebooks, all of them from one search; *prefix* is the first m codes of the longest code, which a wide beam "
    "chose for what comes after. Train far below val means that the codebooks know the training vectors by heart.",
    "*RQ* is plain residual k-means with the same codebooks, codewords and beam, fitted to the training vectors. "
    "*Gaussian* is the distortion-rate function of Gaussian vectors with the split's own covariance. It bounds every "
    "quantizer of Gaussian vectors from below; vectors with more structure than their covariance can be coded better, and "
    "with few vectors the covariance itself is not known well.",
)
USE_NOTE = (
    "Of the codes of all codebooks. *unused* has in brackets what as many random vectors would leave unused if all "
    "codewords were equally likely; unused on all of train means dead, unused on a few vectors need not."
)
CODER_NOTE = (
    "Cross-entropy of val under tables that were counted on train and smoothed (strength chosen on train by leaving one "
    "out): what an ideal arithmetic coder with these tables would spend, without the tables. Entropies of the counts "
    "themselves would promise more than can be had."
)


def numbers(
    quantizer: Qinco, search: Search, splits: Mapping[str, SplitMeasures], baseline_rows: int = 0
) -> dict[str, Any]:
    """All figures, JSON-able.

    Args:
      quantizer: the sizes.
      search: A and B that were used.
      splits: "val" and, when training vectors are at hand, "train".
      baseline_rows: vectors that plain residual quantization was fitted to.

    Raises:
      ValueError: if a split holds no vector.
    """
    step_bits = math.log2(quantizer.codewords)
    bits = [step_bits * m for m in range(1, quantizer.codebooks + 1)]
    found: dict[str, Any] = {
        "sizes": {
            "dimension": quantizer.dimension,
            "codebooks": quantizer.codebooks,
            "codewords": quantizer.codewords,
            "blocks": quantizer.blocks,
            "embedding_width": quantizer.width,
            "hidden_width": quantizer.hidden_width,
        },
        "search": {"preselect": search.preselect, "beam": search.beam},
        "bits_per_vector": bits,
        "splits": {name: _split_numbers(quantizer, measures, bits, name) for name, measures in splits.items()},
    }
    if "train" in splits:
        found["baseline"] = {"rows": baseline_rows, "iterations": BASELINE_ITERATIONS, "seed": BASELINE_SEED}
        coder = ideal_coder_bits(splits["train"].codes, splits["val"].codes)
        totals = {f"{order}_total": sum(values) for order, values in coder.items()}
        found["entropy_coder"] = {**coder, **totals, "fixed_total": bits[-1]}
    return found


def _split_numbers(quantizer: Qinco, measures: SplitMeasures, bits: Sequence[float], name: str) -> dict[str, Any]:
    if not measures.rows:
        raise ValueError(f"the split {name} holds no vector")
    covariance = measures.moments.covariance()
    eigenvalues = np.linalg.eigvalsh(covariance)
    energy = float(np.trace(covariance))
    mse, baseline = measures.mse(), measures.baseline_mse()
    usage = []
    for counts in measures.codes.usage:
        entropy = entropy_bits(counts)
        usage.append(
            {
                "entropy_bits": entropy,
                "perplexity": 2.0**entropy,
                "unused": int((counts == 0).sum()),
                "unused_if_uniform": expected_unused(quantizer.codewords, measures.rows),
                "largest_share": float(counts.max() / measures.rows),
            }
        )
    distinct = measures.distinct()
    return {
        "rows": measures.rows,
        "distinct": distinct,
        "distinct_per_codeword": distinct / quantizer.codewords,
        "variance": energy,
        "mse": mse.tolist(),
        "prefix_mse": measures.prefix_mse().tolist(),
        "unexplained": (mse / energy).tolist() if energy > 0 else None,
        "gaussian_mse": [gaussian_distortion(eigenvalues, rate) for rate in bits],
        "baseline_mse": None if baseline is None else baseline.tolist(),
        "usage": usage,
    }


def write(folder: Path, found: Mapping[str, Any]) -> None:
    """Writes report.json, report.md and the pictures of `numbers` into `folder`.

    Raises:
      OSError: if it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = {
        RATE_PICTURE: _picture(rate_curves(found), "rate and distortion", "bits per vector", "variance / error (dB)"),
        BITS_PICTURE: _picture(step_curves(found), "bits of each step", "step", "bits per vector"),
    }
    for name, image in images.items():
        _write_bytes(folder / name, image)
    _write_bytes(folder / "report.md", markdown(found).encode())
    write_json(folder / "report.json", found)


def rate_curves(found: Mapping[str, Any]) -> dict[str, list[tuple[float, float, float, float]]]:
    """Signal-to-noise ratio in dB over bits per vector: each split's best codes, RQ, and the Gaussian bound of val."""
    curves = {}
    for name, split in found["splits"].items():
        lines = {f"{name}": split["mse"], f"{name}, plain RQ": split["baseline_mse"]}
        if name == "val":
            lines |= {
                "val, prefix of the full code": split["prefix_mse"],
                "Gaussian, covariance of val": split["gaussian_mse"],
            }
        for label, errors in lines.items():
            decibels = [
                10.0 * math.log10(split["variance"] / e) if e > 0 < split["variance"] else math.nan
                for e in errors or ()
            ]
            points = [(b, d, math.nan, math.nan) for b, d in zip(found["bits_per_vector"], decibels, strict=False)]
            if points and any(math.isfinite(d) for d in decibels):
                curves[label] = points
    return curves


def step_curves(found: Mapping[str, Any]) -> dict[str, list[tuple[float, float, float, float]]]:
    """Bits over steps: entropy of every split, and the held-out bits of ideal coders."""
    lines = {
        f"entropy on {name}": [use["entropy_bits"] for use in split["usage"]] for name, split in found["splits"].items()
    }
    coder = found.get("entropy_coder")
    if coder:
        lines |= {"ideal coder, a step alone": coder["order0"], "ideal coder, after the previous": coder["order1"]}
    lines["fixed length"] = [math.log2(found["sizes"]["codewords"])] * found["sizes"]["codebooks"]
    return {label: [(m, v, math.nan, math.nan) for m, v in enumerate(values, 1)] for label, values in lines.items()}


def summary(found: Mapping[str, Any]) -> str:
    """The last rate in one line a split, and what an entropy coder would save."""
    lines = []
    for name, split in found["splits"].items():
        told = [f"{name}: {split['rows']:,} vectors ({split['distinct_per_codeword']:.3g} distinct a codeword)"]
        told.append(f"error {split['mse'][-1]:.5g} of {split['variance']:.5g} at {found['bits_per_vector'][-1]:g} bits")
        if split["baseline_mse"]:
            told.append(f"plain RQ {split['baseline_mse'][-1]:.5g}")
        lines.append(", ".join([*told, f"Gaussian {split['gaussian_mse'][-1]:.5g}"]))
    return "\n".join([*lines, *filter(None, [_coder_sentence(found)])])


def _coder_sentence(found: Mapping[str, Any]) -> str:
    coder = found.get("entropy_coder")
    if not coder:
        return ""
    fixed = coder["fixed_total"]
    parts = [
        f"{coder[f'{order}_total']:.2f} bits {which} ({100 * (fixed - coder[f'{order}_total']) / fixed:.1f} % saved)"
        for order, which in (("order0", "with each step alone"), ("order1", "given the previous code"))
    ]
    return f"An ideal entropy coder would spend {' or '.join(parts)} of {fixed:g} on a vector of val."


def markdown(found: Mapping[str, Any]) -> str:
    """The report as text with tables."""
    sizes, splits = found["sizes"], found["splits"]
    text = [
        f"# Quantizer {found.get('model', '')}".rstrip(),
        f"{sizes['codebooks']} codebooks of {sizes['codewords']} codewords for vectors of {sizes['dimension']} numbers; "
        f"L = {sizes['blocks']}, width {sizes['embedding_width']}, hidden {sizes['hidden_width']}; searched with "
        f"A = {found['search']['preselect']}, B = {found['search']['beam']}.",
        "\n".join(
            f"- {name}: {split['rows']:,} vectors, {split['distinct']:,} distinct, {split['distinct_per_codeword']:.3g} a "
            f"codeword; variance {split['variance']:.6g}"
            for name, split in splits.items()
        ),
        f"## Error\n\n![]({RATE_PICTURE})",
        _error_table(found),
        *ERROR_NOTES,
        f"## Use of the codewords\n\n![]({BITS_PICTURE})",
        _use_table(found),
        USE_NOTE,
        "## An entropy coder",
    ]
    if "entropy_coder" in found:
        text += [_coder_table(found), _coder_sentence(found), CODER_NOTE]
    else:
        text.append("Not measured: it takes training vectors to count (`--train-vectors`).")
    return "\n\n".join(text) + "\n"


def _error_table(found: Mapping[str, Any]) -> str:
    columns = {
        "m": range(1, found["sizes"]["codebooks"] + 1),
        "bits": [f"{bits:g}" for bits in found["bits_per_vector"]],
    }
    for label, key in {"best": "mse", "prefix": "prefix_mse", "RQ": "baseline_mse", "Gaussian": "gaussian_mse"}.items():
        for name, split in found["splits"].items():
            if split[key]:
                columns[f"{name} {label}"] = [f"{value:.5g}" for value in split[key]]
    for name, split in found["splits"].items():
        if split["unexplained"]:
            columns[f"{name} unexplained"] = [f"{100 * value:.2f} %" for value in split["unexplained"]]
    return _table(columns)


def _use_table(found: Mapping[str, Any]) -> str:
    columns: dict[str, Sequence] = {"step": range(1, found["sizes"]["codebooks"] + 1)}
    shown = {
        "entropy (bits)": lambda use: f"{use['entropy_bits']:.3f}",
        "perplexity": lambda use: f"{use['perplexity']:.1f}",
        "unused": lambda use: f"{use['unused']} ({use['unused_if_uniform']:.1f})",
        "largest share": lambda use: f"{100 * use['largest_share']:.2f} %",
    }
    for label, show in shown.items():
        for name, split in found["splits"].items():
            columns[f"{name} {label}"] = [show(use) for use in split["usage"]]
    return _table(columns)


def _coder_table(found: Mapping[str, Any]) -> str:
    coder, fixed = found["entropy_coder"], math.log2(found["sizes"]["codewords"])
    count = found["sizes"]["codebooks"]
    return _table(
        {
            "step": [*range(1, count + 1), "all"],
            "fixed length (bits)": [f"{fixed:g}"] * count + [f"{coder['fixed_total']:g}"],
            "a step alone": [f"{value:.3f}" for value in [*coder["order0"], coder["order0_total"]]],
            "after the previous": [f"{value:.3f}" for value in [*coder["order1"], coder["order1_total"]]],
        }
    )


def _table(columns: Mapping[str, Sequence]) -> str:
    rows = zip(*columns.values(), strict=True)
    return "\n".join([*markdown_head(list(columns)), *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def _picture(curves: Mapping, title: str, x_label: str, y_label: str) -> bytes:
    # With bars every point has its tick, and none between them.
    return pictures.band_curves_png(
        curves, title=title, x_label=x_label, y_label=y_label, log_x=False, bars=True, width=560, height=340
    )


def _write_bytes(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
