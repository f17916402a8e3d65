"""The panels of mta.svg and of maps.svg. The same figures give the same bytes. Used by reproduce.py."""

from plots import GREY, STYLES, legend, plt, save, ticks


def accuracy_panel(ax, curves, title, xlabel, values):
    """curves: name -> (style, {x: accuracy})."""
    for name, (i, points) in curves.items():
        colour, dashes, marker = STYLES[i % len(STYLES)]
        ax.plot(*zip(*points.items()), color=colour if i < len(STYLES) else GREY, linestyle=dashes, marker=marker,
                markersize=9 - i, fillstyle="none" if i % 2 else "full", label=name)
    ax.set(xscale="log", ylim=(-0.03, 1.05), xlabel=xlabel, ylabel="blocks read right", title=title)
    ticks(ax.xaxis, values)
    legend(ax, columns=2, below=0.14)


def draw(path, panels):
    figure, axes = plt.subplots(2, 2, figsize=(13, 12.5))
    for ax, one in zip(axes.flat, panels):
        accuracy_panel(ax, **one)
    figure.subplots_adjust(left=0.06, right=0.985, top=0.97, bottom=0.11, wspace=0.15, hspace=0.42)
    save(figure, path, "mta")


def draw_maps(path, rows, stages, text):
    """rows: name -> {stage: map [3, M]}, one row of panels each; stages: their titles; text: the M tokens."""
    figure, axes = plt.subplots(len(rows), len(stages), figsize=(5.2 * len(stages), 1.25 * len(rows)), squeeze=False)
    for line, (name, maps) in zip(axes, rows.items()):
        for ax, (stage, title) in zip(line, stages.items()):
            if stage not in maps:
                ax.axis("off")
                continue
            ax.imshow(maps[stage], cmap="viridis", vmin=0, vmax=maps[stage].max(), interpolation="nearest",
                      aspect="auto")
            ax.grid(False)
            ax.set_xticks(range(len(text)), text, fontsize=8)
            ax.set_yticks(range(3), text[-3:], fontsize=8)
            ax.tick_params(length=0)
            ax.set_title(f"{name}: {title}", fontsize=9, loc="left")
    figure.subplots_adjust(left=0.015, right=0.995, top=0.96, bottom=0.03, wspace=0.06, hspace=0.75)
    save(figure, path, "mta maps")
