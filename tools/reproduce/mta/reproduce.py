"""The toy task of Multi-Token Attention (arXiv 2504.00927) with hand-set weights: find the block that has both letters.

    cargo build --release
    pip install "numpy==2.4.6" "matplotlib==3.11.2"
    python tools/reproduce/mta/reproduce.py            (under a minute on two cores; --help has the flags)

The operators `softmax` and `mta` run in the binary; oracle.py has the task, the weights, and attention in numpy float64.
First the script compares both on a few texts: a relative RMS over 1e-5 anywhere ends it with exit code 1. Then it runs
three parts:

    accuracy    over block length and number of blocks; letters in a block differ (the paper's data) or repeat
    reach       over the number of keys a kernel covers on each side
    picture     the attention map of a short text before and after each stage

Prints the page mta.md and writes it to --output with mta.svg and maps.svg; progress goes to stderr.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
import command  # noqa: E402
import figure  # noqa: E402
import oracle  # noqa: E402
import report  # noqa: E402
from command import Binary, Parser, count, progress  # noqa: E402

TOLERANCE = 1e-5
LENGTHS = (3, 5, 8, 12)
BLOCKS = (4, 16, 52)
REFERENCE = (5, 52)  # N and number of blocks in the paper; a text has 319 characters with the answer
TRIALS = 25  # tolerance of the comparison with the formulas
ROOM = 16 << 20  # maximum number of values in one run's v
SHORT = ("daca.ebdf.agec.fcba.", "ab")


# ---- the binary on a task ----


def run(binary, form, task):
    """o [B, N * LETTERS] of the last query, summed over heads."""
    source = binary.file("task", **form.tensors(task))
    return binary.run(form.op(), source, "--causal", "--scale", oracle.SHARP)[:, :, -1].sum(1)


def right(o, task):
    """[B] True if at every place the largest entry is the target's letter."""
    trials, _, length = task.blocks.shape
    told = o.reshape(trials, length, oracle.LETTERS).argmax(-1)
    return (told == task.blocks[np.arange(trials), task.target]).all(-1)


def borders(task):
    """[B] True if the two letters are less than N apart in different blocks anywhere."""
    trials, blocks, length = task.blocks.shape
    place = np.arange(blocks)[:, None] * (length + 1) + np.arange(length)
    found = np.zeros(trials, bool)
    for trial in range(trials):
        first, second = (place[task.blocks[trial] == x] for x in task.asked[trial])
        apart = np.abs(first[:, None] - second)
        other = first[:, None] // (length + 1) != second // (length + 1)
        found[trial] = (other & (apart < length)).any()
    return found


def crowded(task):
    """[B] True if a block with only one of the letters has it as often as the target has both together."""
    hits = (task.blocks[..., None] == task.asked[:, None, None]).sum((2, 3))  # [B, blocks]
    best = np.take_along_axis(hits, task.target[:, None], 1)[:, 0]
    np.put_along_axis(hits, task.target[:, None], 0, 1)
    return hits.max(-1) >= best


def tasks(length, blocks, trials, repeats):
    """Tasks of all trials, in batches whose values fit ROOM."""
    rng = np.random.default_rng([5, repeats, length, blocks])
    most = max(1, ROOM // ((blocks * (length + 1) + 3) * length * oracle.LETTERS))
    return [oracle.draw(length, blocks, min(most, trials - x), repeats, rng) for x in range(0, trials, most)]


def rights(binary, form, some):
    return np.concatenate([right(run(binary, form, task), task) for task in some])


def accuracy(binary, trials):
    """(repeats, N, blocks) -> (form -> [trials] right, borders, crowded)."""
    found = {}
    for repeats in (False, True):
        for length in LENGTHS:
            for blocks in BLOCKS:
                some = tasks(length, blocks, trials, repeats)
                each = {name: rights(binary, form, some) for name, form in oracle.FORMS.items()}
                tests = [np.concatenate([test(task) for task in some]) for test in (borders, crowded)]
                found[repeats, length, blocks] = (each, *tests)
            progress(f"  N = {length}, {'repeated' if repeats else 'different'} letters")
    return found


def reach(binary, trials):
    """form -> keys on each side -> share of right answers, at REFERENCE with different letters."""
    length, blocks = REFERENCE
    some = tasks(length, blocks, trials, False)
    return {name: {r: float(rights(binary, oracle.Form(name, pre=lambda n, r=r: make(n, r)), some).mean())
                   for r in range(1, length + 3)}
            for name, make in (("near", oracle.near), ("gather", oracle.gather))}


# ---- the binary against the formulas ----


def share(maps, task):
    """The last query's weight on the target block and its `.`, relative to all blocks: mean, and how often it is largest."""
    weights = list(maps.values())[-1][:, :, -1].sum(1)
    trials, blocks, length = task.blocks.shape
    each = weights[:, : blocks * (length + 1)].reshape(trials, blocks, -1).sum(-1)
    on = each[np.arange(trials), task.target]
    each[np.arange(trials), task.target] = 0
    return float((on / (on + each.sum(-1))).mean()), float((on > 1.01 * each.max(-1)).mean())


def cross_check(binary):
    """(rows of the largest difference per form; share per form and repeats at REFERENCE); exits if one differs."""
    rows, shares, failed = [], {}, []
    for name, form in oracle.FORMS.items():
        worst = 0.0
        for repeats in (False, True):
            for length, blocks in ((3, 4), (12, 6), REFERENCE):
                task = oracle.draw(length, blocks, TRIALS, repeats, np.random.default_rng([6, repeats, length]))
                tensors = form.tensors(task)
                got = binary.run(form.op(), binary.file("check", **tensors), "--causal", "--scale", oracle.SHARP)
                maps, want = oracle.stages(**tensors)
                worst = max(worst, oracle.relative_rms(got, want))
                shares[name, repeats] = share(maps, task)
        rows.append([form.name, f"{worst:.1e}"])
        if not worst < TOLERANCE:
            failed.append(f"{form.name}: relative RMS {worst:.1e}")
    if failed:
        sys.exit("the binary and the formulas differ (bound 1e-5): " + "; ".join(failed))
    return rows, shares


# ---- the picture ----


def short():
    """The task of the picture."""
    text, asked = SHORT
    blocks = np.array([[ord(x) - ord("a") for x in block] for block in text.split(".") if block])
    letters = np.array([[ord(x) - ord("a") for x in asked]])
    both = [set(letters[0]) <= set(block) for block in blocks.tolist()]
    return oracle.Task(blocks[None], np.array([both.index(True)]), letters)


def picture(binary):
    """(name -> stage -> map [3, M]; name -> the block the binary's o spells)."""
    task = short()
    rows, told = {}, {}
    for form in oracle.FORMS.values():
        maps, _ = oracle.stages(**form.tensors(task))
        heads = maps["softmax"].shape[1]
        for head in range(heads):
            name = form.name + (f" ({head})" if heads > 1 else "")
            rows[name] = {stage: x[0, head] for stage, x in maps.items()}
        o = run(binary, form, task).reshape(-1, oracle.LETTERS)
        # An entry as large as the answer at another place means a tie; report all its letters.
        told[form.name] = ["".join(chr(ord("a") + x) for x in np.flatnonzero(place > 0.99 * place.max()))
                           for place in o]
    return rows, told


# ---- all of it ----


def arguments():
    parser = Parser(description="The toy task of Multi-Token Attention with weights set by hand.")
    command.add_arguments(parser, "mta")
    parser.add_argument("--trials", type=count, default=200, help="texts of each length and number of blocks (200)")
    args = parser.parse_args()
    command.prepare(args)
    return args


def main():
    args = arguments()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        binary = Binary(args, folder)
        progress("the binary against the formulas in float64")
        checked, shares = cross_check(binary)
        rows, told = picture(binary)
        progress("accuracy and reach")
        found = accuracy(binary, args.trials)
        reached = reach(binary, args.trials)
        place = command.place(binary.last)
    text = report.page(args, place, checked, shares, found, reached, SHORT, told, REFERENCE, TRIALS)
    (args.output / "mta.md").write_text(text, encoding="utf-8")
    for name in ("mta", "maps"):
        files = [args.output / f"{name}.{x}" for x in (["svg", "png"] if args.png else ["svg"])]
        if name == "mta":
            figure.draw(files, report.panels(found, reached, REFERENCE))
        else:
            figure.draw_maps(files, rows, report.STAGES, SHORT[0] + "#" + SHORT[1])
    print(text, end="")
    progress(f"mta.md, mta.svg and maps.svg written, {time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
