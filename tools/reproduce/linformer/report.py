"""Reports the results of reproduce.py: sentences, the page linformer.md, and the data of the panels."""

import statistics
from dataclasses import dataclass

import numpy as np

import oracle
from page import MIB, table

# The paper's table of inference on a V100, [mem]: n -> k -> (speed-up, memory saved).
PAPER = {
    512: {128: (1.5, 1.7), 256: (1.3, 1.5)},
    1024: {128: (1.7, 3.0), 256: (1.6, 2.9), 512: (1.3, 1.8)},
    2048: {128: (2.6, 6.1), 256: (2.4, 5.6), 512: (2.1, 3.6), 1024: (1.3, 2.0)},
    4096: {128: (3.4, 14), 256: (3.2, 13), 512: (2.8, 8.3), 1024: (2.2, 4.3)},
    8192: {128: (5.5, 28), 256: (5.0, 26), 512: (4.4, 17), 1024: (3.5, 8.5)},
    16384: {128: (8.6, 56), 256: (7.8, 48), 512: (7.0, 32), 1024: (5.6, 16)},
    32768: {128: (13, 56), 256: (12, 48), 512: (11, 36), 1024: (8.8, 18)},
    65536: {128: (20, 60), 256: (18, 52), 512: (16, 40), 1024: (14, 20)},
}

# Keys of Part.curves with one number per head, and their labels.
TITLES = {"pool mean": "pool mean", "pool max": "pool max", "P R^T R v": "P RᵀR v", "svd": "P cut to rank k by SVD"}


@dataclass
class Part:
    """One input of part a; curves come from reproduce.errors."""

    kind: str
    heads: list
    tokens: int
    ranks: list
    curves: dict
    seeds: int

    def drawn(self, at=slice(None)):
        """Per rank: (mean, standard deviation) over seeds of the median over heads (all, or those at `places`)."""
        by_seed = [[middle(x[at]) for x in runs] for runs in self.curves["drawn"]]
        return [(statistics.mean(x), statistics.stdev(x)) for x in by_seed]


def middle(per_head):
    return float(np.median(per_head))


def cell(per_head):
    return f"{np.median(per_head):.3f} ({np.min(per_head):.3f} to {np.max(per_head):.3f})"


def reach(shares, level=0.9):
    """Number of singular values needed to reach a share."""
    return int((shares < level).sum()) + 1


# ---- part a ----


def error_table(part):
    rows = []
    for i, (rank, (mean, spread)) in enumerate(zip(part.ranks, part.drawn())):
        heads = np.mean(part.curves["drawn"][i], axis=0)
        row = [rank, f"{mean:.3f} ± {spread:.3f} ({heads.min():.3f} to {heads.max():.3f})"]
        row += [cell(part.curves[name][i]) if part.curves[name] else "-" for name in (*TITLES, "matrix")]
        rows.append(row)
    return table(["k", "drawn e", *TITLES.values(), "(P itself, cut)"], rows)


def error_findings(part):
    label, floor = f"{part.kind}, n={part.tokens}", middle(part.curves["mean of v"])
    drawn = [mean for mean, _ in part.drawn()]
    best = min(range(len(drawn)), key=lambda i: drawn[i])
    verdict = "better" if drawn[best] < floor else "no better"
    found = [
        f"{label}: a drawn projection errs by {drawn[best]:.2f} at its best (k={part.ranks[best]}), {verdict} than the "
        f"mean of v for every query, which looks at no query and errs by {floor:.2f}."
    ]
    for name, title in TITLES.items():
        if not part.curves[name]:
            continue
        values = [middle(x) for x in part.curves[name]]
        at = min(range(len(values)), key=lambda i: abs(part.ranks[i] - 128))
        text = f"{label}: {title}: {values[at]:.2f} at k={part.ranks[at]}"
        for what, bound in (("the mean of v", floor), ("0.1", 0.1)):
            first = next((rank for rank, x in zip(part.ranks, values) if x < bound), None)
            full = " (that is all tokens)" if first == part.tokens else ""
            text += f", under {what} from k={first}{full} on" if first else f", never under {what}"
        found.append(text + ".")
    return found


def growth_findings(parts, growth):
    """The theorem's k does not depend on n. This compares the error of one k at several n."""
    same = [(part, part.ranks.index(128)) for part in parts if 128 in part.ranks]
    # Heads differ more than lengths do, so compare only heads that every part has.
    common = [head for head in parts[0].heads if all(head in part.heads for part in parts)]
    found = []
    if len(same) > 1:
        drawn, theorem = [], []
        for part, i in same:
            at = [part.heads.index(head) for head in common]
            drawn.append(f"{part.drawn(at)[i][0]:.2f} at n={part.tokens}")
            theorem.append(f"{middle(part.curves['P R^T R v'][i][at]):.2f} at n={part.tokens}")
        found.append(f"k=128 over n, heads {', '.join(map(str, common))}: drawn e {', '.join(drawn)}; P RᵀR v "
                     f"{', '.join(theorem)}. (The paper's k does not depend on n [mem]; only the first n is real.)")
    found.append(f"A drawn e makes projected keys {growth:.1f} times as large as keys (k=128, n={parts[0].tokens}: "
                 "each is a sum of n keys with random signs), and the scores with them: softmax of those is not P's.")
    return found


# ---- part b ----


def spectrum_findings(observed):
    size = len(observed[0]["shares"])
    at = size // 4 - 1

    def span(name):
        values = [float(row[name][at]) for row in observed]
        return f"{min(values):.2f} to {max(values):.2f} (median {statistics.median(values):.2f})"

    ninety = [reach(row["shares"]) for row in observed]
    above = {name: sum(row["shares"][at] > row[name][at] for row in observed) for name in ("scores", "tokens")}
    return [
        f"spectrum, n={size}: the first n/4={at + 1} singular values of P hold {span('shares')} of their sum; 90 % "
        f"takes {min(ninety)} to {max(ninety)} of {size} (median {statistics.median(ninety):g}).",
        f"spectrum: independent Gaussian scores as spread out give {span('scores')} there; {above['scores']} of "
        f"{len(observed)} heads are above theirs.",
        f"spectrum: independent Gaussian tokens with q's and k's mean and covariance give {span('tokens')}; "
        f"{above['tokens']} of {len(observed)} heads are above theirs. A share that these reach as well comes from "
        "the head's dim and these moments, not from what the text says.",
    ]


def spectrum_table(observed):
    at = len(observed[0]["shares"]) // 4 - 1
    rows = []
    for head, row in enumerate(observed):
        shown = [row[name] for name in ("shares", "scores", "tokens")]
        energy = oracle.cumulative(row["singular"] ** 2)[at]
        rows.append([head, *(f"{x[at]:.3f}" for x in shown), *(reach(x) for x in shown), f"{energy:.4f}",
                     f"{row['keys']:.0f}"])
    return table(["head", "share at n/4", "scores", "tokens", "index of 90 %", "scores", "tokens", "energy at n/4",
                  "keys a query looks at"], rows)


def likeness_table(likeness, observed):
    at = len(observed[0]["shares"]) // 4 - 1

    def row(name, rho, heads):
        return [name, rho, f"{statistics.median(float(x['shares'][at]) for x in heads):.3f}",
                f"{statistics.median(x['keys'] for x in heads):.0f}"]

    rows = [row("real", "-", observed)]
    rows += [row(f"start of the generated {length}", f"{rho:.3f}", heads) for length, rho, heads in likeness]
    return table(["tokens", "AR(1) coefficient", f"share of the first {at + 1} singular values",
                  "keys a query looks at (exp of the entropy)"], rows)


# ---- part c ----


def materialised(heads, dim, length):
    """Bytes of q, k, v, o and one n x n matrix per head, f32: the minimum for softmax without tiling."""
    return 4 * heads * length * (4 * dim + length)


def cost_table(runs, args):
    rows = []
    for length, here in runs.items():
        full = materialised(args.heads, args.dim, length)
        for name, (seconds, over, stated, count) in here.items():
            paper = PAPER.get(length, {}).get(name, ("-", "-"))
            # Smaller differences are lost in the noise of allocators and threads.
            seen = over is not None and over >= 4 * MIB
            rows.append([
                length,
                "softmax" if name == "softmax" else f"k={name}",
                f"{seconds * 1e3:.2f}",
                count,
                f"{here['softmax'][0] / seconds:.2f}",
                paper[0],
                "-" if name == "softmax" else f"{length / (2 * name):g}",
                "-" if over is None else f"{over / MIB:.1f}",
                f"{full / over:.1f}" if seen else "-",
                f"{stated / MIB:.1f}",
                f"{full / stated:.1f}",
                paper[1],
            ])
    return table(["n", "what", "ms", "runs", "time ratio", "paper's [mem]", "n/(2k)", "peak MiB", "memory ratio",
                  "stated MiB", "its ratio", "paper's [mem]"], rows)


def cost_findings(runs, args):
    if not runs:
        return ["cost: nothing was measured."]
    found, longest = [], max(runs)
    here = runs[longest]
    for k in (k for k in here if k != "softmax"):
        paper = PAPER.get(longest, {}).get(k)
        beside = f" (paper, another quantity: {paper[0]} [mem])" if paper else ""
        found.append(f"time at n={longest}, k={k}: softmax takes {here['softmax'][0] / here[k][0]:.1f} times as long "
                     f"as linformer{beside}; by multiplications {longest / (2 * k):g}.")
    slower = [(n, k) for n, r in runs.items() for k in r if k != "softmax" and r[k][0] > r["softmax"][0]]
    if slower:
        found.append("linformer is slower than exact softmax at " + ", ".join(f"n={n} k={k}" for n, k in slower) + ".")
    _, over, stated, _ = here["softmax"]
    share = (over if args.backend == "cpu" and over else stated) / materialised(args.heads, args.dim, longest)
    found.append(f"memory at n={longest}: the tiled exact softmax, which approximates nothing, already takes "
                 f"{share:.2f} of what a materialised one would.")
    return found


# ---- the page and the panels ----


def page(args, place, warning, findings, checked, about, parts, likeness, observed, costs):
    """The text of linformer.md."""
    size = len(observed[0]["shares"])
    base = ", ".join(f"{op} {peak / MIB:.0f} MiB" for op, peak in costs["base"].items() if peak)
    text = [
        "# Linformer without training",
        f"Made by `python tools/reproduce/linformer/reproduce.py` on: {place}."
        + (f" **{warning.capitalize()}.**" if warning else ""),
        "The paper (arXiv 2006.04768) trains a model with its projections. Nothing is trained here, so nothing below "
        "says what a trained Linformer reaches: it says what the operator does to the attention of a model that was "
        "trained without it, and what the random projections of the paper's theorem do. [mem]: recalled from the "
        "paper, not checked against it; [sec]: from a summary of it by others.",
        "![error over k, spectrum, time over n](linformer.svg)",
        "## What was found",
        "\n".join(f"- {line}" for line in findings),
        "## The binary against the formulas",
        "Relative RMS over all heads against numpy float64, real sample in f32; bound 1e-5.",
        table(["what", "difference"], checked),
        "## a. Error against exact softmax",
        "Relative RMS of a head's output against exact, non-causal softmax on the same q, k, v (the binary's, checked "
        "above). Median over heads (range over heads). Drawn e: entries N(0, 1/k), one matrix for all heads, k and v; "
        "mean ± standard deviation over seeds of the median over heads (range over heads of the mean over seeds).",
        "P RᵀR v is what Theorem 1 is about [mem]: exact weights P, projected after the softmax; one draw of R, "
        "entries N(0, 1/k). It costs as much as P and is no way to compute; it shows what the argument promises at "
        "these sizes. P cut to rank k by SVD is the matrix of rank k nearest to P, applied to v. The last column, the "
        "error of P itself, is a lower bound for every matrix of rank k. For the output there is no such bound: "
        "P v has a rank of at most D, so that with v known and weights of any sign k = D would do.",
        f"Real: {about.get('model', '?')}; layer {about.get('layer', '?')}; {about.get('text', '?')}.",
        "Generated: a Gaussian AR(1) sequence with the covariance of the sample's moving average over 9 tokens, plus "
        "what is left of single tokens, drawn with replacement (`lengthen` in tools/reproduce/linformer/oracle.py). It "
        "is not text. How like the sample it is, at the sample's own length, median over heads:",
        likeness_table(likeness, observed),
    ]
    for part in parts:
        which = "all" if part.heads == parts[0].heads else ", ".join(map(str, part.heads))
        text.append(f"### {part.kind.capitalize()}: {part.tokens} tokens, heads: {which}, {part.seeds} seeds")
        text.append(f"Mean of v for every query: {cell(part.curves['mean of v'])}.")
        text.append(error_table(part))
        if part.curves["spectra"]:
            reached = [reach(oracle.cumulative(x)) for x in part.curves["spectra"]]
            text.append(f"90 % of the sum of the singular values of P is reached at {statistics.median(reached):g} of "
                        f"{part.tokens} (median over heads; {min(reached)} to {max(reached)}).")
    text += [
        "## b. Spectrum of P (the paper's figure 1)",
        "The paper: RoBERTa, n = 512, mean over 10 000 sentences [sec]; the normalised cumulative singular values rise "
        "steeply, and at index 128 of 512 they are high throughout, more so in higher layers [mem, sec]; its numbers "
        f"are not quoted here. Ours: one layer of another encoder, one text, n = {size}; n/4 = {size // 4} stands for "
        "128 of 512. Energy: the same share of their squares, which the Frobenius error of P goes by.",
        "Two controls, one draw each. Scores: independent Gaussian scores with that head's spread; what they "
        "reach, any softmax this sharp or flat reaches. Tokens: independent Gaussian tokens with the mean and "
        "covariance of that head's q and k; what they reach follows from the head's dim and these moments.",
        spectrum_table(observed),
        "## c. Time and memory",
        "**Not the same quantity as the paper's.** Its ratios are of a whole transformer with materialised softmax on "
        "a 16 GB V100, memory by the largest batch that fits [sec]. Ours are of the attention alone, against exact "
        "softmax in tiles, which never holds the n x n matrix.",
        f"B=1, H={args.heads}, D={args.dim}, f32, not causal, random inputs; e one matrix for all heads, k and v, read "
        "from a file. ms: the binary's own figure, the least of the runs in turns. Time ratio: softmax over this line. "
        "n/(2k): the ratio of the multiplications (2 n² D a head against 4 n k D).",
        f"Peak: peak resident size of the process less that of the same command at n=16 ({base or 'not known here'}), "
        "the least of the runs. It holds the files' contents too, and it sees the host's memory only: on a GPU go by "
        "the stated bytes. Stated: q, k, v, o, e and the workspace the binary reports. Memory ratios: bytes of q, k, "
        "v, o and one n x n f32 matrix a head, **computed, not run**, over this line.",
        cost_table(costs["runs"], args),
    ]
    return "\n\n".join(text) + "\n"


def panels(args, part, observed, runs):
    """The arguments of figure.draw."""

    def band(curve):
        return [np.min(x) for x in curve], [middle(x) for x in curve], [np.max(x) for x in curve]

    heads = [np.mean(x, axis=0) for x in part.curves["drawn"]]
    low, _, high = band(heads)
    curves = {"drawn projection (band: range over heads)": (low, [mean for mean, _ in part.drawn()], high)}
    for name, title in TITLES.items():
        curves[title + (", R drawn (Theorem 1)" if name == "P R^T R v" else "")] = (
            None, [middle(x) for x in part.curves[name]], None)
    size, count = len(observed[0]["shares"]), len(observed)
    ranks = [k for k in args.ranks if any(k in here for here in runs.values())]
    return {
        "error": {
            "ranks": part.ranks,
            "curves": curves,
            "floor": middle(part.curves["mean of v"]),
            "title": f"Error on real q, k, v (n = {part.tokens}, median of {count} heads)",
        },
        "spectrum": {
            "spectra": [row["shares"] for row in observed],
            "controls": {
                "Gaussian scores, as spread out (median)": np.median([row["scores"] for row in observed], axis=0),
                "Gaussian tokens, same covariance (median)": np.median([row["tokens"] for row in observed], axis=0),
            },
            "title": f"Spectrum of P (n = {size}, {count} heads)",
        },
        "time": {
            "measured": {k: [(n, r["softmax"][0] / r[k][0]) for n, r in runs.items() if k in r] for k in ranks},
            "paper": {k: [(n, PAPER[n][k][0]) for n in runs if k in PAPER.get(n, {})] for k in ranks},
            "title": "Time: attention here, whole model in the paper",
        },
    }
