"""Pictures for previews and reports: spectrograms on a given colour range, and loss curves, as PNG bytes.

matplotlib is imported inside the functions and drawn by its Agg canvas through `Figure` objects: no window, no global
state, nothing at import.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LOWEST_HZ = 20.0
HIGHEST_HZ = 24_000.0
# Labels of an axis beyond which they run into each other.
MOST_TICKS = 13
TICKS_HZ = ((100.0, "100"), (1000.0, "1k"), (10_000.0, "10k"))
RANGE_DB = 80.0
COLOURS = ("#2a78d6", "#d1580a", "#1a8f6b", "#b03a78", "#7a5bd0", "#8a6d00")


@dataclass(frozen=True)
class Palette:
    """Colours of a curve picture on one background."""

    text: str
    grid: str
    background: str


LIGHT = Palette(text="#3a3936", grid="#dddbd4", background="#ffffff")
DARK = Palette(text="#c9c7c0", grid="#3a3a38", background="#1f1f1e")


def spectrogram_db(audio: np.ndarray, sample_rate: int = 48_000, n_fft: int = 2048, hop: int = 480) -> np.ndarray:
    """Magnitude spectrogram of [S] in dB of full scale: [T, n_fft // 2 + 1], a sine of amplitude 1 has 0 dB.

    Frames are centred on multiples of `hop`, with silence outside the signal, so that column t lies at t * hop.

    Raises:
      ValueError: if the signal is empty or not one-dimensional.
    """
    audio = np.asarray(audio, np.float64)
    if audio.ndim != 1 or audio.size == 0:
        raise ValueError(f"a spectrogram needs one channel [S] with at least one sample, got shape {audio.shape}")
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(audio, n_fft // 2), n_fft)[::hop]
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n_fft) / n_fft)
    magnitude = np.abs(np.fft.rfft(frames * window, axis=-1)) * (2.0 / window.sum())
    return 20.0 * np.log10(np.maximum(magnitude, 1e-7))


def colour_range(audio: np.ndarray, sample_rate: int = 48_000, span_db: float = RANGE_DB) -> tuple[float, float]:
    """(low, high) in dB: from the loudest bin of `audio` down by `span_db`. Take it from the source for a whole row."""
    high = max(float(spectrogram_db(audio, sample_rate).max()), -100.0 + span_db)
    return high - span_db, high


def log_frequency_rows(spectrum_db: np.ndarray, sample_rate: int, rows: int) -> np.ndarray:
    """[T, F] on a linear frequency axis -> [rows, T] on a logarithmic one, 20 Hz at the first row, 24 kHz at the last.

    Where several bins fall into a row the loudest is shown, so that no narrow line is lost; below that the bins are
    interpolated.
    """
    bins = spectrum_db.shape[1]
    edges = np.geomspace(LOWEST_HZ, min(HIGHEST_HZ, sample_rate / 2.0), rows + 1)
    positions = edges / (sample_rate / 2.0) * (bins - 1)
    out = np.empty((rows, spectrum_db.shape[0]))
    for row in range(rows):
        low, high = positions[row], positions[row + 1]
        first, last = int(np.ceil(low)), int(np.floor(high))
        if last > first:
            out[row] = spectrum_db[:, first : last + 1].max(axis=1)
        else:
            centre = min((low + high) / 2.0, bins - 1.0)
            below = min(int(centre), bins - 2)
            share = centre - below
            out[row] = (1.0 - share) * spectrum_db[:, below] + share * spectrum_db[:, below + 1]
    return out


def spectrogram_png(
    audio: np.ndarray,
    *,
    levels: tuple[float, float] | None = None,
    sample_rate: int = 48_000,
    width: int = 480,
    height: int = 240,
    labels: bool = True,
) -> bytes:
    """Spectrogram of one channel as a PNG that spans exactly the signal's duration, on a log frequency axis.

    The picture has no margin: its left and right edges are the signal's begin and end, so that a cursor over it needs
    no calibration. Ticks are drawn inside.

    Args:
      audio: [S] float.
      levels: (low, high) in dB for the ends of the colour map; `colour_range(audio)` when None.
      sample_rate: Hz.
      width, height: pixels.
      labels: draw ticks at 100 Hz, 1 kHz, 10 kHz and at whole seconds.

    Raises:
      ValueError: if the signal is empty or the levels do not rise.
    """
    import matplotlib

    low, high = colour_range(audio, sample_rate) if levels is None else levels
    if not low < high:
        raise ValueError(f"levels must rise, got {low} and {high}")
    audio = np.asarray(audio)
    hop = int(np.clip(audio.size // width, 64, 480))
    rows = log_frequency_rows(spectrogram_db(audio, sample_rate, hop=hop), sample_rate, height)
    share = np.clip((rows - low) / (high - low), 0.0, 1.0)
    columns = np.linspace(0, share.shape[1] - 1, width).round().astype(int)
    colours = matplotlib.colormaps["magma"](share[::-1, columns])[..., :3]
    if not labels:
        return _encode(colours)
    return _with_ticks(colours, audio.size / sample_rate, min(HIGHEST_HZ, sample_rate / 2.0))


def _with_ticks(pixels: np.ndarray, seconds: float, top_hz: float) -> bytes:
    from matplotlib import patheffects

    height, width = pixels.shape[:2]
    figure, axes = _bare_figure(width, height)
    axes.imshow(pixels, aspect="auto", extent=(0.0, seconds, 0.0, 1.0), interpolation="nearest")
    edge = [patheffects.withStroke(linewidth=2.5, foreground=(0, 0, 0, 0.75))]
    style = {"color": "white", "fontsize": max(7.0, height / 17.0), "path_effects": edge}
    for hertz, label in TICKS_HZ:
        at = np.log(hertz / LOWEST_HZ) / np.log(top_hz / LOWEST_HZ)
        axes.plot([0.0, 0.012 * seconds], [at, at], color="white", linewidth=1.2)
        axes.text(0.018 * seconds, at, label, va="center", ha="left", **style)
    step = next((s for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0) if seconds / s <= 5.5), 300.0)
    for index in range(1, int(np.ceil(seconds / step))):
        at = index * step
        if at > 0.92 * seconds:
            break
        axes.plot([at, at], [0.0, 0.03], color="white", linewidth=1.2)
        axes.text(at, 0.04, f"{at:g} s", va="bottom", ha="center", **style)
    axes.set_xlim(0.0, seconds)
    axes.set_ylim(0.0, 1.0)
    return _png(figure)


def loss_curves_png(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str = "",
    y_label: str = "",
    width: int = 420,
    height: int = 270,
    palette: Palette = LIGHT,
) -> bytes:
    """Curves over training steps as a PNG.

    Dense curves are drawn thin and pale with a running mean on top. The vertical axis is logarithmic when all values
    are positive and span more than a factor of 30.

    Args:
      curves: name -> (steps, values); values that are not finite are left out, empty curves are skipped.
      title, y_label: texts.
      width, height: pixels.
      palette: `LIGHT` or `DARK`.

    Raises:
      ValueError: if no curve has a finite value.
    """
    figure, axes = _axes(width, height, palette, title)
    drawn, lowest, highest = 0, np.inf, -np.inf
    for name, (steps, values) in curves.items():
        steps, values = np.asarray(steps, np.float64), np.asarray(values, np.float64)
        kept = np.isfinite(values)
        steps, values = steps[kept], values[kept]
        if not steps.size:
            continue
        colour = COLOURS[drawn % len(COLOURS)]
        shown = values
        if steps.size > 60:
            axes.plot(steps, values, color=colour, alpha=0.22, linewidth=0.8)
            shown = _running_mean(values, max(5, steps.size // 40))
        marker = "o" if steps.size <= 12 else None
        axes.plot(steps, shown, color=colour, linewidth=1.8, label=name, marker=marker, markersize=3.5)
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
        drawn += 1
    if not drawn:
        raise ValueError(f"no curve to draw in {title or 'the picture'}: every curve is empty or not finite")
    if lowest > 0 and highest / lowest > 30:
        axes.set_yscale("log")
    axes.set_xlabel("step", color=palette.text, fontsize=9)
    if y_label:
        axes.set_ylabel(y_label, color=palette.text, fontsize=9)
    if drawn > 1 or next(iter(curves)):
        axes.legend(frameon=False, fontsize=8, labelcolor=palette.text)
    return _png(figure)


def band_curves_png(
    curves: Mapping[str, Sequence[tuple[float, float, float, float]]],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    log_x: bool = True,
    bars: bool = False,
    width: int = 420,
    height: int = 270,
    palette: Palette = LIGHT,
) -> bytes:
    """Points with intervals, joined by lines: gain over sigma, or a figure over kbps.

    Args:
      curves: name -> list of (x, value, low, high), rising in x; low and high may be nan.
      bars: an interval is a bar at its point, not a band: for few points, with nothing known between them.
    """
    figure, axes = _axes(width, height, palette, title)
    for index, (name, points) in enumerate(curves.items()):
        x, value, low, high = (np.array(column, np.float64) for column in zip(*points, strict=True))
        colour = COLOURS[index % len(COLOURS)]
        if bars:
            axes.vlines(x, low, high, color=colour, linewidth=1.4, alpha=0.7)
        else:
            axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(x, value, color=colour, linewidth=1.8, marker="o", markersize=4, label=name)
    if log_x:
        _log_axis(axes, curves)
    elif bars:
        places = sorted({point[0] for points in curves.values() for point in points})
        axes.set_xticks(places[:: -(-len(places) // MOST_TICKS)] if places else [])
    axes.set_xlabel(x_label, color=palette.text, fontsize=9)
    axes.set_ylabel(y_label, color=palette.text, fontsize=9)
    if any(curves):
        axes.legend(frameon=False, fontsize=8, labelcolor=palette.text)
    return _png(figure)


def interval_rows_png(
    rows: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    title: str = "",
    x_label: str = "",
    width: int = 520,
    palette: Palette = LIGHT,
) -> bytes:
    """Values with intervals, a row each, to be compared along one axis: the systems of an evaluation.

    Args:
      rows: row -> colour's name (a test set) -> (value, low, high); low and high may be nan. The first row is on top.
      width: pixels; the height follows from the rows.
    """
    names = list(dict.fromkeys(name for points in rows.values() for name in points))
    figure, axes = _axes(width, 70 + round(len(rows) * (14 + 8 * len(names))), palette, title)
    for index, name in enumerate(names):
        colour = COLOURS[index % len(COLOURS)]
        shift = (index - (len(names) - 1) / 2.0) * 0.7 / max(len(names), 1)
        points = [(place + shift, *found[name]) for place, found in enumerate(rows.values()) if name in found]
        y, value, low, high = (np.array(column, np.float64) for column in zip(*points, strict=True))
        axes.hlines(y, low, high, color=colour, linewidth=1.6, alpha=0.7)
        axes.plot(value, y, color=colour, linestyle="none", marker="o", markersize=4, label=name)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(x_label, color=palette.text, fontsize=9)
    if len(names) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=palette.text)
    return _png(figure)


def _log_axis(axes: Any, curves: Mapping[str, Sequence[tuple[float, ...]]]) -> None:
    """Logarithmic horizontal axis with plain numbers: 1, 2, 5 within few decades, else 1 only."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    x = [point[0] for points in curves.values() for point in points]
    axes.set_xscale("log")
    narrow = bool(x) and max(x) / min(x) < 60
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    sums = np.cumsum(np.concatenate([[0.0], values]))
    index = np.arange(values.size)
    low, high = np.maximum(0, index - window), np.minimum(values.size, index + window + 1)
    return (sums[high] - sums[low]) / (high - low)


def _bare_figure(width: int, height: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100.0, height / 100.0), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    return figure, axes


def _axes(width: int, height: int, palette: Palette, title: str) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(width / 100.0, height / 100.0), dpi=200, facecolor=palette.background, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_facecolor(palette.background)
    axes.grid(True, color=palette.grid, linewidth=0.6)
    axes.tick_params(colors=palette.text, labelsize=8, length=0)
    axes.tick_params(which="minor", length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(palette.grid)
    if title:
        axes.set_title(title, color=palette.text, fontsize=10, loc="left")
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


def _encode(colours: np.ndarray) -> bytes:
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, colours, format="png", metadata={"Software": None})
    return buffer.getvalue()
