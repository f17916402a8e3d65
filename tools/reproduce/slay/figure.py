"""The four panels of slay.svg. The same figures give the same bytes. Used by reproduce.py."""

from plots import STYLES, legend, plt, save, ticks

FULL = {"linestyle": "none", "markersize": 5}
HOLLOW = {"linestyle": "none", "fillstyle": "none", "markersize": 7}


def styles(names):
    """name -> (colour, dashes, marker). After five names the colours repeat with other dashes."""
    found = {}
    for i, name in enumerate(names):
        colour, dashes, marker = STYLES[i % len(STYLES)]
        found[name] = (colour, dashes if i < len(STYLES) else (0, (1, 1.2)), marker)
    return found


EDGE = 1.15  # larger values are written, not drawn


def ablation_panel(ax, settings, rows, paper, short, title):
    """rows, paper: name -> one number per setting."""
    for i, (setting, (colour, _, marker)) in enumerate(zip(settings, STYLES)):
        # Settings are side by side, so that equal numbers do not hide each other.
        heights = {name: y + 0.24 * (i - (len(settings) - 1) / 2) for y, name in enumerate(rows)}
        for points, label, look in ((rows, "here", FULL), (paper, "paper", HOLLOW)):
            shown = [(values[i], heights[name]) for name, values in points.items() if max(values) < EDGE]
            ax.plot(*zip(*shown), color=colour, marker=marker, label=f"{setting}, {label}", **look)
    for y, name in enumerate(rows):
        texts = [" / ".join(short(x) for x in points[name]) + f" {label}" for points, label in
                 ((rows, "here"), (paper, "paper")) if name in points and max(points[name]) >= EDGE]
        if texts:
            ax.text(EDGE, y, "\n".join(f"{text} →" for text in texts), ha="right", va="center", fontsize=8,
                    linespacing=1.25)
    ax.set(xlabel="relative L2 of the output (1: an output of zeros)", title=title)
    ax.set_yticks(range(len(rows)), labels=list(rows))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0, EDGE + 0.02)
    legend(ax, columns=3, below=0.13)


def quadrature_panel(ax, nodes, curves, paper, title):
    for (name, points), (colour, dashes, marker) in zip(curves.items(), STYLES):
        shown = [(r, y) for r, y in points.items() if y > 1e-9]
        ax.plot(*zip(*shown), color=colour, linestyle=dashes, marker=marker, markersize=5, label=name)
    ax.plot(*zip(*paper.items()), color=STYLES[0][0], marker="o", label="the same mean, paper", **HOLLOW)
    ax.set(xscale="log", yscale="log", xlabel="nodes R", ylabel="relative error", title=title)
    ticks(ax.xaxis, nodes)
    legend(ax, columns=2, below=0.13)


def lengths_panel(ax, measured, paper, title, label):
    """measured, paper: name -> n -> value."""
    looks = styles(measured)
    for name, points in measured.items():
        colour, dashes, marker = looks[name]
        if points:
            ax.plot(*zip(*points.items()), color=colour, linestyle=dashes, marker=marker, markersize=5, label=name)
    for name, points in paper.items():
        if name in looks and points:
            colour, _, marker = looks[name]
            ax.plot(*zip(*points.items()), color=colour, marker=marker, label=f"{name}, paper", **HOLLOW)
    ax.set(xscale="log", yscale="log", xlabel="n", ylabel=label, title=title)
    shown = {n for points in [*measured.values(), *paper.values()] for n in points}
    ticks(ax.xaxis, sorted(shown), lambda n: f"{n // 1024}k")
    legend(ax, columns=3, below=0.13)


def draw(path, ablation, quadrature, time, memory):
    figure, axes = plt.subplots(2, 2, figsize=(14.5, 12.5))
    ablation_panel(axes[0][0], **ablation)
    quadrature_panel(axes[0][1], **quadrature)
    lengths_panel(axes[1][0], label="ms", **time)
    lengths_panel(axes[1][1], label="peak MB, q, k, v and o included", **memory)
    figure.subplots_adjust(left=0.155, right=0.985, top=0.965, bottom=0.115, wspace=0.16, hspace=0.36)
    save(figure, path, "slay")
