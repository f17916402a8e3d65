"""The three panels of linformer.svg. The same figures give the same bytes. Used by reproduce.py."""

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams.update({
    "svg.hashsalt": "linformer",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.spines.top": False,
    "axes.spines.right": False,
})
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: E402

# Okabe and Ito's colours, told apart by colour-blind readers; each with a line style of its own.
STYLES = [
    ("#D55E00", "-", "o"),
    ("#0072B2", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#CC79A7", ":", "D"),
    ("#000000", (0, (5, 1, 1, 1, 1, 1)), "v"),
]
GREY = "#777777"


def ticks(axis, values, text=str):
    axis.set_major_locator(FixedLocator(values))
    axis.set_major_formatter(FuncFormatter(lambda x, _: text(int(x)) if x >= 1 else f"{x:g}"))
    axis.set_minor_locator(NullLocator())


def legend(ax, columns=1):
    """Below the panel: a legend inside would lie on lines."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, frameon=False, fontsize=9,
              handlelength=3.2)


def error_panel(ax, ranks, curves, floor, title):
    """curves: name -> (low, middle, high) over ranks, low and high None without a band."""
    for (name, (low, middle, high)), (colour, dashes, marker) in zip(curves.items(), STYLES):
        shown = [(k, y) for k, y in zip(ranks, middle) if y is not None and y > 1e-4]
        ax.plot(*zip(*shown), color=colour, linestyle=dashes, marker=marker, markersize=4.5, label=name)
        if low is not None:
            ax.fill_between(ranks, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.axhline(floor, color=GREY, linewidth=1.2, label="mean of v for every query")
    ax.set(xscale="log", yscale="log", xlabel="k (what is exact at k = n is not drawn there)",
           ylabel="relative RMS error of the output", title=title)
    ticks(ax.xaxis, ranks)
    ticks(ax.yaxis, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20])
    legend(ax)


def spectrum_panel(ax, spectra, controls, title):
    def line(curve, **style):
        ax.plot([(i + 1) / len(curve) for i in range(len(curve))], curve, **style)

    for i, curve in enumerate(spectra):
        line(curve, color=STYLES[1][0], linewidth=0.9, alpha=0.8, label="real, each head" if i == 0 else None)
    for (name, curve), (colour, dashes) in zip(controls.items(), ((STYLES[0][0], "--"), ("#000000", (0, (1, 1.2))))):
        line(curve, color=colour, linestyle=dashes, linewidth=2, label=name)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="identity matrix")
    ax.axvline(0.25, color="black", linewidth=0.9, linestyle="-.", label="n/4: the paper's index 128 of 512")
    ax.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="index / n", ylabel="cumulative share of singular values", title=title)
    legend(ax)


def time_panel(ax, measured, paper, title):
    """measured, paper: k -> list of (n, ratio)."""
    for (k, points), (colour, dashes, marker) in zip(measured.items(), STYLES):
        ax.plot(*zip(*points), color=colour, linestyle=dashes, marker=marker, markersize=5, label=f"k = {k}, here")
        if paper.get(k):
            ax.plot(*zip(*paper[k]), color=colour, linestyle="none", marker=marker, markersize=6, fillstyle="none",
                    label=f"k = {k}, paper")
    ax.axhline(1, color=GREY, linewidth=1.2)
    lengths = sorted({n for points in measured.values() for n, _ in points})
    ax.set(xscale="log", yscale="log", xlabel="n", ylabel="time of softmax / time of linformer", title=title)
    ticks(ax.xaxis, lengths)
    ticks(ax.yaxis, [0.25, 0.5, 1, 2, 4, 8, 16, 32, 64])
    legend(ax, columns=2)


def draw(path, error, spectrum, time):
    figure, axes = plt.subplots(1, 3, figsize=(15.5, 6.2))
    error_panel(axes[0], **error)
    spectrum_panel(axes[1], **spectrum)
    time_panel(axes[2], **time)
    figure.subplots_adjust(left=0.05, right=0.99, top=0.92, bottom=0.33, wspace=0.24)
    for target in path if isinstance(path, list) else [path]:
        figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)
    plt.close(figure)
