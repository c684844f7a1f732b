"""Drawing of the figures: from the numbers in a figure's JSON to matplotlib, nothing else.

Colours are Okabe and Ito's, or cividis where they stand for an order; what a colour says is said
once more by a marker, a line style or a label.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from experiments import report

plt = report.pyplot()

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
MARKERS = "osD^v*P"
KINDS = {
    "pooling": ("o", "pretrained, all layers"),
    "layers": ("s", "pretrained, first layers"),
    "whitening": ("^", "whitening"),
    "flow": ("v", "flow"),
    "trained": ("*", "trained"),
}
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
}
Value = Mapping[str, Any]


def place_labels(axes: Axes, labels: Sequence[tuple[float, float, str]], obstacles=()) -> None:
    """Write a label beside each point, where it meets no point, no other label and no border.

    Tries eight directions, then the same farther out with a thin line to the point. Limits must be
    set before.

    Args:
        axes: where to write.
        labels: x, y and text.
        obstacles: more points to keep clear of.
    """
    figure = axes.figure
    figure.canvas.draw()  # the layout must be settled before anything has a place
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    points = [axes.transData.transform((x, y)) for x, y, _ in labels]
    points += [axes.transData.transform(p) for p in obstacles]
    taken = [Bbox.from_bounds(x - 7, y - 7, 14, 14) for x, y in points]
    inside = axes.get_window_extent(renderer)
    thread = {"arrowstyle": "-", "lw": 0.5, "color": "grey"}
    directions = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    for x, y, text in labels:
        for distance, (dx, dy) in itertools.product((7, 18, 32, 48), directions):
            note = axes.annotate(
                text,
                (x, y),
                (dx * distance, dy * distance),
                textcoords="offset points",
                ha={1: "left", 0: "center", -1: "right"}[dx],
                va={1: "bottom", 0: "center", -1: "top"}[dy],
                fontsize=8,
                arrowprops=thread if distance > 7 else None,
            )
            note.update_positions(renderer)
            # Of the text alone: with its arrow it would always reach the point.
            box = matplotlib.text.Text.get_window_extent(note, renderer).padded(2)
            free = not any(box.overlaps(other) for other in taken)
            if free and inside.contains(*box.min) and inside.contains(*box.max):
                break
            note.remove()
        else:
            raise ValueError(f"no room for the label {text!r}: draw the figure larger")
        note.set_in_layout(False)
        taken.append(box)


def styled(rows: Iterable[Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Return each row with the colour, line and marker that it is drawn with."""
    for row, colour, line, marker in zip(rows, OKABE_ITO, LINES, MARKERS, strict=False):
        yield row, {"color": colour, "ls": line, "marker": marker}


def legend_below(figure: Figure, handles: Sequence, labels: Sequence[str], columns: int) -> None:
    """Draw one legend for all panels, below them."""
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)


def legend_under(axes: Axes) -> None:
    """Draw a panel's legend below it."""
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def padded(values: Iterable[float], share: float = 0.12) -> tuple[float, float]:
    """Return limits with room at both sides."""
    known = list(values)
    low, high = min(known), max(known)
    room = share * ((high - low) or 1)
    return low - room, high + room


def plane_axes(axes: Axes) -> None:
    """Name the axes of the plane of alignment and uniformity."""
    axes.set_xlabel("uniformity (lower is better)")
    axes.set_ylabel("alignment (lower is better)")
    axes.grid(alpha=0.25)


@plt.rc_context(STYLE)
def draw_plane(value: Value) -> Figure:
    """Draw every method in the plane of alignment and uniformity (SimCSE, figure 3)."""
    rows = value["methods"]
    figure, axes = plt.subplots(figsize=(8.2, 5.4))
    scores = [row["stsb_test"] for row in rows]
    handles = []
    for kind, (marker, name) in KINDS.items():
        own = [row for row in rows if row["kind"] == kind]
        if not own:
            continue
        points = axes.scatter(
            [row["uniformity"] for row in own],
            [row["alignment"] for row in own],
            c=[row["stsb_test"] for row in own],
            marker=marker,
            s=150 if marker == "*" else 60,
            cmap="cividis",
            vmin=min(scores),
            vmax=max(scores),
            edgecolors="black",
            linewidths=0.7,
            zorder=3,
        )
        handles.append(plt.Line2D([], [], marker=marker, ls="", mfc="white", mec="black"))
        handles[-1].set_label(name)
    bar = figure.colorbar(points, ax=axes, pad=0.02)
    bar.set_label("STS-B test, Spearman × 100")
    axes.set_xlim(padded(row["uniformity"] for row in rows))
    axes.set_ylim(padded(row["alignment"] for row in rows))
    plane_axes(axes)
    axes.set_title(
        "places: the whole of STS-B, on whose sentences whitening and flow are fitted\n"
        "numbers and colours: Spearman × 100 on STS-B test, trained models of one seed",
        fontsize=9,
    )
    legend_below(figure, handles, [h.get_label() for h in handles], len(handles))
    place_labels(
        axes,
        [
            (row["uniformity"], row["alignment"], f"{row['method']}  {row['stsb_test']:.1f}")
            for row in rows
        ],
    )
    return figure


@plt.rc_context(STYLE)
def draw_path(value: Value) -> Figure:
    """Draw training runs in the plane (SimCSE, figure 2): models on STS-B dev, batches of runs."""
    runs, batches = value["runs"], value["batches"]
    number = 2 + bool(batches)
    figure, panels = plt.subplots(1, number, figsize=(4.2 * number, 4.4), squeeze=False)
    axes = panels[0, 0]
    everything = [r for records in runs.values() for r in records]
    axes.set_xlim(padded(r["uniformity"] for r in everything))
    axes.set_ylim(padded(r["alignment"] for r in everything))
    # The runs begin alike: their last two thirds are drawn again, larger.
    late = [r for records in runs.values() for r in records[len(records) // 3 :]]
    zoom = panels[0, 1]
    zoom.set_xlim(padded((r["uniformity"] for r in late), 0.25))
    zoom.set_ylim(padded(r["alignment"] for r in late))
    ends = []
    for (name, records), style in styled(runs.items()):
        x = [r["uniformity"] for r in records]
        y = [r["alignment"] for r in records]
        axes.plot(x, y, **style, ms=3, lw=1, label=name)
        zoom.plot(x, y, **style, ms=5, lw=1.2, mfc="white")
        zoom.plot(x[-1], y[-1], style["marker"], color=style["color"], mec="black", ms=9, zorder=4)
        ends.append((x[-1], y[-1], f"{name}  {records[-1]['stsb_dev']:.1f}"))
    axes.indicate_inset(zoom.viewLim.bounds, edgecolor="black")
    first = everything[0]
    start = (first["uniformity"], first["alignment"], f"start  {first['stsb_dev']:.1f}")
    axes.plot(*start[:2], "o", ms=9, mfc="white", mec="black", zorder=4)
    axes.set_title(f"models on STS-B dev, every {value['every']} steps", fontsize=9)
    zoom.set_title("the box, larger\n(numbers: Spearman × 100 on STS-B dev)", fontsize=9)
    axes.legend(fontsize=8, loc="lower left")
    if batches:
        right = panels[0, 2]
        for (name, record), style in styled(batches.items()):
            x, y = record["uniformity"], record["alignment"]
            right.plot(x, y, **style, ms=3, lw=1, alpha=0.9, label=name)
            right.plot(x[0], y[0], "o", ms=9, mfc="white", mec=style["color"], zorder=4)
        right.set_title(
            f"batches of the runs, means of {value['window']} steps\n"
            "(circle: the first; positives are the run's own)",
            fontsize=9,
        )
        right.legend(fontsize=8)
    for panel in panels[0]:
        plane_axes(panel)
        panel.locator_params(axis="x", nbins=4)
    points = [(r["uniformity"], r["alignment"]) for r in everything]
    place_labels(axes, [start], points)
    halfway = [
        ((a["uniformity"] + b["uniformity"]) / 2, (a["alignment"] + b["alignment"]) / 2)
        for records in runs.values()
        for a, b in itertools.pairwise(records)
    ]
    place_labels(zoom, ends, points + halfway)
    return figure


def draw_spectra(axes: Axes, rows: Iterable[tuple[str, Sequence[float]]]) -> None:
    """Draw singular values by their numbers, both logarithmic, from each row's label and values."""
    for (label, values), style in styled(rows):
        places = np.arange(1, len(values) + 1)
        # The marks stand a little apart on the logarithmic axis.
        marks = np.unique(np.geomspace(1, len(places), 9).astype(int) - 1).tolist()
        axes.plot(places, np.array(values), **style, ms=4, markevery=marks, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")


@plt.rc_context(STYLE)
def draw_spectrum(value: Value) -> Figure:
    """Draw singular values over the largest, before and after; a panel for each start."""
    panels = value["panels"]
    figure, all_axes = plt.subplots(
        1, len(panels), figsize=(4.6 * len(panels), 3.9), sharey=True, squeeze=False
    )
    for axes, panel in zip(all_axes[0], panels, strict=True):
        draw_spectra(
            axes,
            [
                (f"{row['method']} (IsoScore {row['isoscore']:.2f})", row["spectrum"])
                for row in panel["methods"]
            ],
        )
        axes.set_ylim(0.01, 1.2)
        axes.set_title(panel["title"], fontsize=9)
        axes.set_xlabel("number of the singular value")
        axes.grid(alpha=0.25, which="both")
        legend_under(axes)  # a collapsed cone's line falls through the whole panel
    all_axes[0, 0].set_ylabel("singular value over the largest")
    return figure


@plt.rc_context(STYLE)
def draw_cosines(value: Value) -> Figure:
    """Draw densities of the cosines of STS-B pairs by band of gold score (SimCSE, figure G.1)."""
    rows, bands = value["methods"], value["bands"]
    grid = np.array(value["grid"])
    colours = matplotlib.colormaps["cividis"](np.linspace(0.05, 0.9, len(bands)))
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure, all_axes = plt.subplots(
        lines,
        columns,
        figsize=(2.45 * columns, 0.4 + 2.3 * lines),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axes in all_axes.flat[len(rows) :]:
        axes.set_axis_off()
    for number, (axes, row) in enumerate(zip(all_axes.flat, rows, strict=False)):
        height = 0.92 / max(max(band["density"]) for band in row["bands"])
        for base, (band, colour) in enumerate(zip(row["bands"], colours, strict=True)):
            curve = base + height * np.array(band["density"])
            axes.fill_between(grid, base, curve, color=colour, alpha=0.85, lw=0)
            axes.plot(grid, curve, color="black", lw=0.6)
            axes.plot([band["median"]] * 2, [base, base + 0.25], color="black", lw=1.2)
        axes.set_title(f"{row['method']}  {row['stsb_all']:.1f}", fontsize=8.5)
        axes.set_yticks(range(len(bands)), [f"{low}–{high}" for low, high in bands])
        axes.set_xlim(grid[0], grid[-1])
        axes.set_ylim(-0.05, len(bands))
        axes.grid(axis="x", alpha=0.25)
        if number + columns >= len(rows):
            axes.xaxis.set_tick_params(labelbottom=True)
            axes.set_xlabel("cosine")
    figure.supylabel("gold score", fontsize=9)
    figure.suptitle(
        "pairs of the whole of STS-B; the numbers are their Spearman × 100 (not those of the test "
        "split)",
        fontsize=9,
    )
    return figure


@plt.rc_context(STYLE)
def draw_frequency(value: Value) -> Figure:
    """Draw norm and neighbours of word embeddings by frequency rank (BERT-flow, table 1)."""
    ribbon, bins = value["ribbon"], value["bins"]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.5, 3.7))
    ranks = np.array(ribbon["rank"]) + 1
    left.fill_between(
        ranks, ribbon["low"], ribbon["high"], color="#56B4E9", alpha=0.35, lw=0,
        label="10th to 90th percentile",
    )  # fmt: skip
    left.plot(ranks, ribbon["median"], color="#0072B2", lw=1.2, label="median")
    for number, row in enumerate(bins):
        edges = [row["first"] + 1, row["stop"]]
        left.plot(
            edges, [row["norm"]] * 2, color="#D55E00", lw=3, solid_capstyle="butt",
            label="mean of a bin" if number == 0 else None,
        )  # fmt: skip
    left.set_xscale("log")
    left.set_xlabel("frequency rank")
    left.set_ylabel("l2 norm")
    left.set_title("norm of a word's embedding", fontsize=9)
    left.legend(fontsize=8, loc="best")
    names = [f"{row['first']:,}–\n{row['stop']:,}" for row in bins]
    places = np.arange(len(bins))
    for axes, field, title in (
        (middle, "distance", "mean l2 distance to the k nearest"),
        (right, "dot", "mean inner product with the k largest"),
    ):
        for k, style in styled(bins[0][field]):
            axes.plot(places, [row[field][k] for row in bins], **style, label=f"k = {k}")
        axes.set_xticks(places, names)
        axes.set_xlabel("frequency rank")
        axes.set_title(title, fontsize=9)
        axes.legend(fontsize=8)
    for axes in (left, middle, right):
        axes.grid(alpha=0.25)
    return figure


@plt.rc_context(STYLE)
def draw_bound(value: Value) -> Figure:
    """Draw sum(WWᵀ) beside the eigenvalue it bounds, and the spectrum (SimCSE, section 5)."""
    records = value["records"]
    steps = [r["step"] for r in records]
    m = records[0]["sentences"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 4.0))
    total = np.array([r["gram_total"] for r in records])
    largest = np.array([r["gram_largest"] for r in records])
    # Over m, so that both lie on one linear scale; the bound itself is m times the lower curve.
    series = (
        ("largest eigenvalue of WWᵀ, over m; at most sum(WWᵀ) / m", largest / m),
        ("sum(WWᵀ) / m², pushed down by the loss; never above it", total / m**2),
    )
    for (name, values), style in styled(series):
        left.plot(steps, values, **style, ms=5, label=name)
    left.set_ylim(bottom=0)
    left.set_xlabel("training step")
    left.set_ylabel("eigenvalue over m, mean of the entries")
    left.set_title(f"W: unit embeddings of m = {m:,} sentences of STS-B dev", fontsize=9)
    legend_under(left)
    draw_spectra(
        right,
        [
            (f"step {r['step']}, {100 * r['gram_positive']:.1f} % of WWᵀ ≥ 0", r["spectrum"])
            for r in (records[0], records[len(records) // 2], records[-1])
        ],
    )
    right.set_ylim(bottom=max(0.01, right.get_ylim()[0]), top=1.3)
    right.yaxis.set_minor_formatter("")
    right.set_xlabel("number of the singular value of W")
    right.set_ylabel("singular value over the largest")
    right.set_title("spectrum of W", fontsize=9)
    legend_under(right)
    for axes in (left, right):
        axes.grid(alpha=0.25)
    return figure


DRAW = {
    "plane": draw_plane,
    "path": draw_path,
    "spectrum": draw_spectrum,
    "cosines": draw_cosines,
    "frequency": draw_frequency,
    "bound": draw_bound,
}
