"""The eight panels of ramnet.svg. The same figures give the same bytes. Used by reproduce.py."""

import numpy as np

from plots import GREY, STYLES, legend, plt, save, ticks

READ, WRITE = np.array([0.0, 0.55, 0.15]), np.array([0.85, 0.05, 0.05])


def curves_panel(ax, curves, title, xlabel, values, text=str, law=None, ylabel="recall", columns=3):
    """curves: name -> (style, hollow, {x: y}). Hollow curves are dashed and drawn over or under their solid twin."""
    if law:
        ax.plot(*zip(*law[1].items()), color=GREY, linewidth=4, alpha=0.4, label=law[0])
    for name, (style, hollow, points) in curves.items():
        colour, _, marker = STYLES[style]
        ax.plot(*zip(*points.items()), color=colour, linestyle="--" if hollow else "-", marker=marker,
                markersize=8 if hollow else 4.5, fillstyle="none" if hollow else "full", label=name)
    ax.set(xscale="log", ylim=(-0.02, 1.04), xlabel=xlabel, ylabel=ylabel, title=title)
    ticks(ax.xaxis, values, text)
    legend(ax, columns=columns, below=0.14)


def picture_panel(ax, events, slots, acts, title):
    """events: "write" and "read" -> (slots, weights) of each token. Opacity is the square root of the weight."""
    tokens = len(events["read"][0])
    image = np.ones((slots, tokens, 3))
    for name, colour in (("write", WRITE), ("read", READ)):
        for t, (some, weights) in enumerate(zip(*events[name])):
            opacity = np.sqrt(np.minimum(weights, 1))[:, None]
            image[some, t] = (1 - opacity) * image[some, t] + opacity * colour
    ax.imshow(image, origin="lower", interpolation="nearest", aspect="auto", extent=(0, tokens, 0, slots))
    ends = np.cumsum(list(acts.values()))
    for name, end, length in zip(acts, ends, acts.values()):
        ax.axvline(end, color=GREY, linewidth=0.8)
        ax.text(end - length / 2, slots + 1.2, name, ha="center", va="bottom", fontsize=9)
    ax.plot([], [], color=WRITE, linewidth=6, label="write")
    ax.plot([], [], color=READ, linewidth=6, label="read")
    ax.grid(False)
    ax.set(xlabel="token", ylabel="slot", xlim=(0, tokens), ylim=(0, slots))
    ax.set_title(title, pad=22)
    ax.set_yticks(range(0, slots + 1, 16))
    legend(ax, columns=2, below=0.14)


def time_panel(ax, curves, title, xlabel):
    """curves: name -> {x: nanoseconds}."""
    for (name, points), (colour, dashes, marker) in zip(curves.items(), STYLES):
        ax.plot(*zip(*points.items()), color=colour, linestyle=dashes, marker=marker, markersize=5, label=name)
    ax.set(xscale="log", xlabel=xlabel, ylabel="ns a token and head", title=title)
    ax.set_ylim(bottom=0)
    shown = sorted({x for points in curves.values() for x in points})
    ticks(ax.xaxis, shown, lambda x: f"{x // 1024}k" if x >= 1024 else str(x))
    legend(ax, columns=3, below=0.14)


def draw(path, load, topk, pictures, slots, length, coded):
    figure, axes = plt.subplots(4, 2, figsize=(14.5, 24))
    curves_panel(axes[0][0], **load)
    curves_panel(axes[0][1], **topk)
    for ax, one in zip(axes[1], pictures):
        picture_panel(ax, **one)
    time_panel(axes[2][0], **slots)
    time_panel(axes[2][1], **length)
    for ax, one in zip(axes[3], coded):
        curves_panel(ax, **one)
    figure.subplots_adjust(left=0.055, right=0.985, top=0.98, bottom=0.072, wspace=0.15, hspace=0.47)
    save(figure, path, "ramnet")
