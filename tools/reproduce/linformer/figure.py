"""The three panels of linformer.svg. The same figures give the same bytes. Used by reproduce.py."""

from plots import GREY, STYLES, legend, plt, save, ticks


def error_panel(ax, ranks, curves, floor, title):
    """curves: name -> (low, middle, high) over ranks; low and high are None without a band."""
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
    save(figure, path, "linformer")
