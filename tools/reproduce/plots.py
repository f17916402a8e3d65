"""Style of the panels. The same data give the same bytes. Used by every figure.py."""

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams.update({
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.spines.top": False,
    "axes.spines.right": False,
})
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: E402

# Okabe and Ito's colours, which colour-blind readers can distinguish; each has its own line style.
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


def legend(ax, columns=1, below=0.16):
    """Puts the legend below the panel: inside it would cover lines."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -below), ncols=columns, frameon=False, fontsize=9,
                  handlelength=3.2)


def save(figure, path, salt):
    """path: one file or several. salt: seed of the names of an SVG's parts."""
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        for target in path if isinstance(path, list) else [path]:
            figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)
    plt.close(figure)
