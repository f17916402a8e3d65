"""Reports the results of reproduce.py: sentences, the page mta.md, and the data of the panels."""

import numpy as np

import oracle
from oracle import FORMS
from page import table

STAGES = {"scores": "scores", "kq_pre": "after kq_pre", "softmax": "after softmax", "kq_post": "after kq_post"}

KERNELS = {
    "last": ("-", "-", "each letter asks for itself, so the last query sees the second letter alone"),
    "both": ("-", "-", "the last query asks for both: the sum of two one-hot vectors"),
    "near": ("2 x 2N-1", "-", "first letter on the key itself (weight 2N), second on N-1 keys to each side (1 each)"),
    "gather": ("3 x 2N+1", "-", "on a `.` (N+1, from the row of `#`): 1 for each of the N keys before it that is a "
               "letter asked for"),
    "spread": ("3 x 2N+1", "1 x 2N+1", "as gather; then the weight of a `.` goes to each of the N keys before it"),
    "ordered": ("2 heads, 3 x 2N+1", "-", "on one letter: does the other come behind it sooner than `.`? A head for "
                "each order; `#`, of value 0, takes the weight where the answer is no"),
}


def shape(found):
    """(lengths, numbers of blocks)"""
    return sorted({n for _, n, _ in found}), sorted({blocks for _, _, blocks in found})


def mean(x):
    return f"{np.mean(x):.2f}"


def accuracy_table(found, repeats):
    lengths, blocks = shape(found)
    rows = [[form.name, *(mean(found[repeats, n, x][0][name]) for n in lengths for x in blocks)]
            for name, form in FORMS.items()]
    rows.append(["*texts with letters close across a border*",
                 *(mean(found[repeats, n, x][1]) for n in lengths for x in blocks)])
    rows.append(["*texts with a block as crowded*", *(mean(found[repeats, n, x][2]) for n in lengths for x in blocks)])
    return table(["N, blocks", *(f"{n}, {x}" for n in lengths for x in blocks)], rows)


def split(found, name, test):
    """(right, texts) of a form on texts that fail the test (1 borders, 2 crowded), and on texts that pass it."""
    out = []
    for holds in (False, True):
        some = [row[0][name][row[test] == holds] for row in found.values()]
        out.append((int(sum(x.sum() for x in some)), sum(len(x) for x in some)))
    return out


def findings(found, shares, reached, reference):
    n, blocks = reference
    each = {name: mean(x) for name, x in found[False, n, blocks][0].items()}
    (free, free_of), (held, held_of) = split(found, "near", 1)
    (few, few_of), (many, many_of) = split(found, "gather", 2)
    least = min(found, key=lambda at: found[at][0]["ordered"].mean())
    ordered = float(found[least][0]["ordered"].mean())
    different = min(float(row[0]["gather"].mean()) for at, row in found.items() if not at[0])
    weight, most = shares["both", False]

    best = max(reached["near"], key=reached["near"].get)

    def curve(name):
        return ", ".join(f"{share:.2f} ({r})" for r, share in reached[name].items())

    return [
        f"The paper's shape (N = {n}, {blocks} blocks, different letters): softmax reads {each['both']} of the blocks "
        f"right, and {each['last']} where its last query has the second letter alone; one head of mta {each['near']} "
        f"(near) and {each['gather']} (gather).",
        f"Softmax asked for both letters gives each key with either of them the same weight, so the right block gets "
        f"{weight:.2f} of it (mean), at larger factors too. That is more than any other block gets in "
        f"{most:.2f} of the texts: a reader "
        "that compares whole blocks would find it, the letters read place by place do not, as all the others "
        "vote too. What "
        "the convolution adds in front of the softmax is that the sum over a block is taken before the exponential.",
        f"near fails at borders alone: of the texts in which the two letters never stand less than N apart in "
        f"different blocks it reads {free} of {free_of} right, of the others {held} of {held_of}. In a kernel "
        "that is the same for "
        "all places of a block a distance does not say whether a `.` lies between.",
        f"gather has no borders, since a `.` has its own block before it, and reads at least {different:.2f} right "
        "wherever letters differ, as they do in the paper's data. With repeated letters it counts one letter "
        f"twice: where no other block is as crowded {few} of {few_of} are right, elsewhere {many} of {many_of}.",
        f"Two heads, one for each order of the letters, read {ordered:.2f} right at least, repeated letters "
        "or not. One "
        "head that scores the keys with the first letter, as near does, cannot for N of 3 and more, whatever "
        "the weights "
        "of its kernel: at the first place of a block the second letter behind must count for more than before, from a "
        "distance of 2 up, at the last place the other way round, and places have one kernel.",
        f"Reach of a kernel at N = {n}, {blocks} blocks, different letters: share right (keys to each side). gather: "
        f"{curve('gather')}; it needs the whole block and no letter of the one before. near: {curve('near')}; less "
        f"misses pairs, more finds pairs across a `.`, and the best of it is {best} rather than the {n - 1} "
        "that a block "
        "needs.",
    ]


def page(args, place, checked, shares, found, reached, short, told, reference, texts):
    """The text of mta.md."""
    n, blocks = reference
    text = [
        "# The toy task of Multi-Token Attention, weights set by hand",
        f"Made by `python tools/reproduce/mta/reproduce.py` on: {place}.",
        "Blocks of N letters, a `.` behind each, then `#` and two letters that one block alone holds both of, in any "
        "order: which block? The answer is right if all its N letters are. Nothing is trained here: queries, keys, "
        "values and kernels are set by hand, one layer of one head (two in the last form), so this says what the "
        "convolution can do, not what is learned. The paper (arXiv 2504.00927) trains four layers of two "
        "heads at N = 5 "
        "with kernels of 2 x 9; its code's table has 51.6 % of the answers wrong without the convolution (77.7, 75.3 "
        "and 1.9 for three seeds) and 0.1 % with it. Those are "
        "not compared with the figures below: the model, and what is measured, are others.",
        "![accuracy over blocks, block length and reach](mta.svg)",
        "## What was found",
        "\n".join(f"- {line}" for line in findings(found, shares, reached, reference)),
        "## What is set by hand",
        "Keys are one-hot: 26 letters, `.`, `#`; the letters behind `#` have keys of zeros, lest they find themselves. "
        "Queries are the last three tokens: `#` asks for `.`, a letter for itself. Values: every token of a block, its "
        "`.` too, has the whole block, one-hot by place (in a model an earlier layer would have to bring it there); in "
        "the form gather and spread a letter has itself alone, at its place, which takes a position only. "
        "`#` has zeros. "
        f"All forms run with the factor {oracle.SHARP:g} of the scores; keys and values are the same tensors but for "
        "what is said here, and softmax has no kernel. Kernels depend on N and are twice as wide as they need be where "
        "they look to one side, since ck is odd and the middle key the key's own.",
        table(["form", "kq_pre", "kq_post", "what"], [[form.name, *KERNELS[name]] for name, form in FORMS.items()]),
        "## The binary against the formulas",
        "Relative RMS of o against numpy float64, the most over three shapes and both kinds of letters; bound 1e-5.",
        table(["form", "difference"], checked),
        "## a. Accuracy over block length and number of blocks",
        f"Share of {args.trials} drawn texts. Close across a border: both letters less than N apart in "
        "different blocks "
        "somewhere. As crowded: another block has one of the letters as often as the right one has both together.",
        "### Letters of a block all different, as in the paper's data",
        accuracy_table(found, False),
        "### Letters repeated",
        accuracy_table(found, True),
        f"### Weight on the right block: N = {n}, {blocks} blocks",
        f"The last query's weight on it over that on all blocks (mean), and in what share of {texts} texts it is the "
        "most: by the formulas, as the binary prints no map.",
        table(["form", "different", "the most", "repeated", "the most"],
              [[form.name, *(f"{x:.2f}" for repeats in (False, True) for x in shares[name, repeats])]
               for name, form in FORMS.items()]),
        "## b. The attention map of a short text",
        f"`{short[0]}#{short[1]}`: N = 4. The first block has one letter twice and ends on it, and the second has the "
        "other near its start, so that both near and gather are led astray; the right block has the second "
        "letter first. "
        "Rows are the queries `#` and the two letters, the last of which is read; scores stand without the factor, "
        "each panel's colours go from 0 (and below) to its largest entry. Maps are those of the formulas.",
        "![attention maps before and after each stage](maps.svg)",
        "What the binary's o spells, a letter for each place, or all that tie:",
        table(["form", "read"], [[name, " ".join(x if len(x) == 1 else f"({x})" for x in places)]
                                 for name, places in told.items()]),
    ]
    return "\n\n".join(text) + "\n"


def panels(found, reached, reference):
    """The arguments of the four calls of figure.accuracy_panel."""
    lengths, numbers = shape(found)
    n, blocks = reference

    def curves(points):
        return {form.name: (i, {x: float(found[at][0][name].mean()) for x, at in points.items()})
                for i, (name, form) in enumerate(FORMS.items())}

    def over_lengths(repeats):
        kind = "repeated" if repeats else "different"
        return {"curves": curves({x: (repeats, x, blocks) for x in lengths}), "xlabel": "N, letters of a block",
                "title": f"{blocks} blocks, {kind} letters", "values": lengths}

    return [
        {"curves": curves({x: (False, n, x) for x in numbers}), "xlabel": "blocks", "values": numbers,
         "title": f"N = {n}, different letters"},
        {"curves": {FORMS[name].name: (list(FORMS).index(name), points) for name, points in reached.items()},
         "xlabel": "keys to each side", "values": list(reached["near"]),
         "title": f"Reach of the kernel: N = {n}, {blocks} blocks, different letters"},
        over_lengths(False),
        over_lengths(True),
    ]
