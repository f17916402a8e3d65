"""Associative recall in RAM-Net's memory (arXiv 2602.11958) with hand-set addresses, its slots over time, and the time.

    cargo build --release
    pip install "numpy==2.4.6" "matplotlib==3.11.2"
    python tools/reproduce/ramnet/reproduce.py         (minutes on two cores; --quick: under one; --help has the flags)

The operator `ramnet` runs in the binary; oracle.py has the same formulas in numpy float64. First the script compares both
on the sequences below at small sizes: a relative RMS over 1e-5 anywhere ends it with exit code 1. Then it runs four parts:

    time        over slots, over K and over the length, and with one address for all tokens (a hot slot)
    recall      of written pairs, queried in another order, over pairs per slot, slots, K, rule and gamma
    picture     which slots are read and written over time, with CAPE and without
    codebooks   values, slots, or both replaced by codes of a codebook: error, recall and bytes over the codebook's size

Prints the page ramnet.md and writes it to --output with ramnet.svg; progress goes to stderr.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
import command  # noqa: E402
import figure  # noqa: E402
import oracle  # noqa: E402
import report  # noqa: E402
import tensorfile  # noqa: E402
from command import Binary, Parser, count, progress  # noqa: E402

TOLERANCE = 1e-5


# ---- recall ----


def rest(digits, *shape):
    """Logits that address only the last slot, for tokens that should not write, or not read."""
    return oracle.logits(np.full(shape, oracle.CHOICES**digits - 1), digits, 1)


def addresses(kind, digits, pairs, rng):
    """Logits [pairs, 4 U] of keys. No key has the last slot."""
    free = oracle.CHOICES**digits - 1
    if kind == "spread":
        return (oracle.SPREAD * rng.standard_normal((pairs, digits * oracle.CHOICES))).astype(np.float32)
    slots = rng.integers(free, size=pairs) if kind == "drawn" else np.resize(rng.permutation(free), pairs)
    return oracle.logits(slots, digits, oracle.SHARP)


@dataclass
class Sequence:
    """q, k [B, N, 4 U], v [B, N, E]; checks: (load, first query token, queried pairs [B, queries])."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    values: np.ndarray
    checks: list


def sequence(kind, digits, trials, most, seed, values=None):
    """Writes pairs up to each load, then queries some of the pairs so far in another order.

    A query writes zeros to the last slot with weight 1; a write reads from there. most: maximum number of pairs. values:
    [trials, pairs, E] of unit length, directions if None.
    """
    rng = np.random.default_rng([seed, digits])
    slots = oracle.CHOICES**digits
    loads = [x for x in oracle.LOADS if x * slots <= most]
    pairs = round(loads[-1] * slots)
    keys = np.stack([addresses(kind, digits, pairs, rng) for _ in range(trials)])
    values = oracle.directions(rng, trials, pairs) if values is None else values
    q, k, v, checks, done, tokens = [], [], [], [], 0, 0
    for load in loads:
        upto = round(load * slots)
        chosen = np.stack([rng.permutation(upto)[:oracle.QUERIES] for _ in range(trials)])
        new = slice(done, upto)
        q += [rest(digits, trials, upto - done), np.take_along_axis(keys, chosen[..., None], 1)]
        k += [keys[:, new], rest(digits, *chosen.shape)]
        v += [values[:, new], np.zeros((*chosen.shape, oracle.WIDTH), np.float32)]
        tokens += upto - done
        checks.append((load, tokens, chosen))
        tokens, done = tokens + chosen.shape[1], upto
    return Sequence(*(np.concatenate(x, 1) for x in (q, k, v)), values, checks)


def over_gammas(made, gammas):
    """Tensors of the operator: one head per gamma, otherwise identical."""
    tensors = {x: np.repeat(y[:, None], len(gammas), 1) for x, y in (("q", made.q), ("k", made.k), ("v", made.v))}
    shape = (len(made.q), len(gammas), made.q.shape[1])
    return tensors | {"gamma": np.broadcast_to(np.float32(gammas)[:, None], shape)}


def judge(made, o, topk):
    """load -> [gamma] of (recall, relative error), and load -> mean weights (of the best slot, of all K)."""
    found, weights = {}, {}
    for load, first, chosen in made.checks:
        tokens = slice(first, first + chosen.shape[1])
        r = oracle.access(made.q[:, tokens], topk)[1]
        weights[load] = (float(r[..., 0].mean()), float(r.sum(-1).mean()))
        rows = []
        for got in np.moveaxis(o[:, :, tokens], 1, 0):
            right, wrong = 0, 0.0
            for trial, some in enumerate(chosen):
                stored = made.values[trial, : round(load * oracle.CHOICES ** (made.q.shape[-1] // oracle.CHOICES))]
                right += int((oracle.nearest(got[trial], stored) == some).sum())
                wrong += float(((got[trial] / r[trial].sum(-1, keepdims=True) - stored[some]) ** 2).sum())
            rows.append((right / chosen.size, (wrong / chosen.size) ** 0.5))
        found[load] = rows
    return found, weights


def addressing(topk):
    return ["--choices", oracle.CHOICES, "--topk", topk]


def flags(topk, rule):
    return [*addressing(topk), "--rule", rule]


def recall(binary, sizes, tops, most, written):
    """((kind, digits, topk, rule) -> result of judge, seconds of the binary). written: approximate slots of all trials."""
    found, seconds = {}, 0.0
    reference, usual = oracle.REFERENCE
    shapes = dict.fromkeys([(reference, topk) for topk in tops] + [(digits, usual) for digits in sizes])
    for digits, topk in shapes:
        begun = time.perf_counter()
        trials = max(1, min(32, written // oracle.CHOICES**digits))
        for kind in oracle.KINDS:
            made = sequence(kind, digits, trials, most, seed=2)
            for rule in oracle.GAMMAS:
                source = binary.file("recall", **over_gammas(made, oracle.GAMMAS[rule]))
                found[kind, digits, topk, rule] = judge(made, binary.run("ramnet", source, *flags(topk, rule)), topk)
                seconds += binary.last["seconds"]
        progress(f"  {oracle.CHOICES**digits} slots, K = {topk}: {time.perf_counter() - begun:.0f} s")
    return found, seconds


# ---- codebooks ----


class Coding:
    """The memories of a sequence, one head each, and what the queries of its last load read from them."""

    def __init__(self, binary, made):
        self.binary, self.made = binary, made
        self.source = binary.file("coded", **over_gammas(made, [oracle.CODED_GAMMA]))
        self.state = binary.folder / "state.safetensors"
        _, first, chosen = made.checks[-1]
        self.queries = slice(first, first + chosen.shape[1])
        logits = binary.file("queries", q=made.q[:, None, self.queries])
        self.reads = binary.file("reads", **binary.outputs("topk", logits, *addressing(oracle.REFERENCE[1])))

    def run(self, *more):
        """(o [B, 1, queries, E], all outputs); the memories after the run are in the file `state`."""
        found = self.binary.outputs("ramnet", self.source, *flags(oracle.REFERENCE[1], "gsu"), "--state-out", self.state,
                                    *more)
        return found["o"][:, :, self.queries], found

    def slots(self):
        """[B, 1, S, E] of the file `state`."""
        return tensorfile.load(self.state)[0]["state"]

    def read(self, table):
        """[B, 1, queries, E], by the parts of the operator alone."""
        return self.binary.run("gather", self.reads, "--params", self.binary.file("table", table=table))

    def recall(self, reads, targets):
        """Share of reads whose nearest target [C, E] is that of the right value. None: the values stored."""
        right = []
        for got, stored, some in zip(reads[:, 0], self.made.values, self.made.checks[-1][2]):
            among = stored if targets is None else targets
            right.append((oracle.nearest(got, among) == oracle.nearest(stored[some], among)).mean())
        return float(np.mean(right))


def quantised(binary, rows, book):
    """Each row [B, H, N, E] replaced by its nearest code."""
    return binary.run("quantize", binary.file("rows", x=rows), "--params", book)


def code(coding, books, targets):
    """(recall without codes, C -> {what has codes: (relative RMS of reads against those without codes, recall)}).

    What has codes: values as they are written, slots after the last token (one code per slot), or both.
    """
    o, _ = coding.run()
    exact, found = coding.slots(), {}
    for size, book in books.items():
        reads = {"slots": coding.read(quantised(coding.binary, exact, book)), "values": coding.run("--params", book)[0]}
        reads["both"] = coding.read(quantised(coding.binary, coding.slots(), book))
        found[size] = {how: (oracle.relative_rms(reads[how], o), coding.recall(reads[how], targets)) for how in oracle.HOW}
    return coding.recall(o, targets), found


def codebooks(binary, sizes, trials):
    """((values, addresses) -> result of code, values -> C -> relative RMS of the codes of written and of fresh values)."""
    found, errors, digits = {}, {}, oracle.REFERENCE[0]
    pairs = round(oracle.CODED_LOAD * oracle.CHOICES**digits)
    for kind in oracle.VALUES:
        begun, rng = time.perf_counter(), np.random.default_rng(5)
        values = oracle.values(kind, rng, trials, pairs)
        fresh, rows = oracle.values(kind, rng, trials, pairs), values.reshape(-1, oracle.WIDTH)
        starts, books, errors[kind] = oracle.seeds(rows, max(sizes) - 1, rng), {}, {}
        for size in sizes:
            books[size] = binary.file(f"book{size}", codebook=oracle.codebook(rows, starts[: size - 1]))
            errors[kind][size] = [oracle.relative_rms(quantised(binary, x, books[size]), x) for x in (values, fresh)]
        progress(f"  {oracle.VALUES[kind]}, codebooks by k-means: {time.perf_counter() - begun:.0f} s")
        for where in oracle.CODED:
            coding = Coding(binary, sequence(where, digits, trials, pairs, 5, values))
            found[kind, where] = code(coding, books, oracle.words() if kind == "words" else None)
        progress(f"  {oracle.VALUES[kind]}: {time.perf_counter() - begun:.0f} s")
    return found, errors


# ---- the picture ----

def story():
    """q, k [N, 12], v of three acts on 64 slots, and the pair that each token of the second act queries.

    Third act: all tokens write to one address and read LAG beyond it; with CAPE the token LAG earlier wrote there.
    """
    digits, (pairs, queries, hot) = 3, oracle.STORY
    rng = np.random.default_rng(3)
    slots = np.linspace(2, 58, pairs).astype(int)
    order = rng.permutation(pairs)[:queries]

    def soft(some):
        return oracle.logits(some, digits, 0.7)

    q = [rest(digits, pairs), soft(slots[order]), soft(np.full(hot, 32 + oracle.LAG))]
    k = [soft(slots), rest(digits, queries), soft(np.full(hot, 32))]
    v = rng.standard_normal((sum(oracle.STORY), oracle.WIDTH)).astype(np.float32)
    v /= np.linalg.norm(v, axis=-1, keepdims=True)
    v[pairs : pairs + queries] = 0
    return np.concatenate(q), np.concatenate(k), v, order


def picture(binary):
    """Events of the oracle's beam, and the binary's reads: recall per act and head, and the error against float64."""
    q, k, v, order = story()
    topk, (pairs, queries, hot) = 4, oracle.STORY
    tensors = {x: np.stack([y, y])[None] for x, y in (("q", q), ("k", k), ("v", v))}
    tensors["gamma"] = np.full((1, 2, len(q)), 6, np.float32)
    o = binary.run("ramnet", binary.file("story", **tensors), *flags(topk, "gsu"), "--cape", 1)
    error = oracle.relative_rms(o, oracle.walk(**tensors, topk=topk, rule="gsu", cape=[1]))
    last = np.arange(pairs + queries + oracle.LAG, len(q))
    written = np.flatnonzero(v.any(-1))
    right = []
    for head in o[0]:
        back = oracle.nearest(head[pairs : pairs + queries], v[:pairs]) == order
        right.append((back.mean(), (written[oracle.nearest(head[last], v[written])] == last - oracle.LAG).mean()))
    turn = np.arange(len(q))[:, None]
    events = [{name: ((slots - on * turn) % 64, weights) for name, (slots, weights) in
               (("write", oracle.access(k, topk)), ("read", oracle.access(q, topk)))} for on in (0, 1)]
    return {"events": events, "right": right, "error": error}


# ---- the binary against the formulas ----


def cross_check(binary, drawn):
    """Compares every form used here at small sizes; returns rows, exits if one differs."""
    rows, failed = [], []

    def compare(name, error):
        rows.append([name, f"{error:.1e}"])
        if not error < TOLERANCE:
            failed.append(f"{name}: relative RMS {error:.1e}")

    for digits, topk in ((3, 1), (3, 8), (4, 4), (4, 32)):
        for kind in oracle.KINDS:
            made = sequence(kind, digits, 1, 256, seed=1)
            if not (oracle.beam(made.k, topk) == oracle.every(made.k, topk)).all():
                failed.append(f"{kind}, {oracle.CHOICES**digits} slots, K = {topk}: the beam is not the K largest")
            for rule in oracle.GAMMAS:
                tensors = over_gammas(made, oracle.GAMMAS[rule])
                got = binary.run("ramnet", binary.file("check", **tensors), *flags(topk, rule))
                name = f"{oracle.KINDS[kind]}, {oracle.CHOICES**digits} slots, K = {topk}, {rule}"
                compare(name, oracle.relative_rms(got, oracle.walk(**tensors, topk=topk, rule=rule)))
    compare("the picture: CAPE on one head of two", drawn["error"])
    topk = oracle.REFERENCE[1]
    made = sequence("spread", 3, 1, 64, seed=1)
    codes = oracle.codebook(made.values[0], made.values[0][:15])
    near = oracle.nearest(made.v[0].astype(np.float64), codes.astype(np.float64))
    coding = Coding(binary, made)
    o, found = coding.run("--params", binary.file("book", codebook=codes), "--codes")
    if not (found["code"] == near).all():
        failed.append("a code is not the nearest")
    tensors = over_gammas(made, [oracle.CODED_GAMMA]) | {"v": codes[near][None, None]}
    name = f"{oracle.KINDS['spread']}, 64 slots, K = {topk}, gsu, codes for values"
    compare(name, oracle.relative_rms(found["o"], oracle.walk(**tensors, topk=topk, rule="gsu")))
    compare(f"{name}: the memory read by topk and gather, against o", oracle.relative_rms(coding.read(coding.slots()), o))
    if failed:
        sys.exit("the binary and the formulas differ (bound 1e-5): " + "; ".join(failed))
    return rows


# ---- time ----


def inputs(binary, name, digits, length, heads, hot=False):
    """Standard normal q, k, v, gamma, as from `subquad sample`; hot: every token has the q and k of the first one."""
    rng = np.random.default_rng(4)
    tensors = {x: rng.standard_normal((1, heads, length, width), np.float32)
               for x, width in (("q", 4 * digits), ("k", 4 * digits), ("v", oracle.WIDTH))}
    if hot:
        tensors |= {x: np.broadcast_to(tensors["q"][:, :, :1], tensors[x].shape) for x in "qk"}
    return binary.file(name, **tensors, gamma=rng.standard_normal((1, heads, length), np.float32))


class Times:
    """Seconds of runs in turns, as the binary reports them. The minimum counts.

    slots: digits -> {"random", "hot", "memory"}; topk: K -> {"random"}; length: N -> {"random", "hot"}; each a list.
    """

    def __init__(self, binary, args):
        self.binary, self.args, self.said = binary, args, None

    def turns(self, sources, topk):
        found = {name: [] for name in sources}
        for _ in range(self.args.repeat):
            for name, source in sources.items():
                self.binary.run("ramnet", source, *flags(topk, "gsu"))
                found[name].append(self.binary.last["seconds"])
        self.said = self.binary.last
        return found

    def run(self, sizes, tops):
        heads, length, (digits, topk) = self.args.heads, self.args.length, oracle.REFERENCE

        def both(digits, length):
            return {name: inputs(self.binary, name, digits, length, heads, name == "hot") for name in ("random", "hot")}

        self.slots, self.length = {}, {}
        for one in sizes:
            # A run of one token: the fixed cost of a memory, for any N.
            sources = both(one, length) | {"memory": inputs(self.binary, "memory", one, 1, heads)}
            self.slots[one] = self.turns(sources, topk)
        source = {"random": inputs(self.binary, "random", digits, length, heads)}
        self.topk = {one: self.turns(source, one) for one in tops}
        progress(f"  slots and K: {sum(len(x) for y in self.slots.values() for x in y.values())} runs and more")
        n = 1024
        while n <= self.args.max_n:
            self.length[n] = self.turns(both(digits, n), topk)
            n *= 2
        return self


# ---- all of it ----


def arguments():
    parser = Parser(description="RAM-Net's memory: associative recall, a picture of slots over time, and the time.")
    command.add_arguments(parser, "ramnet")
    parser.add_argument("--quick", action="store_true", help="fewer sizes, up to 4096 slots and N=16384")
    parser.add_argument("--repeat", type=count, help="runs in turns, of which the least time counts (7)")
    parser.add_argument("--heads", type=count, default=8, help="of the times")
    parser.add_argument("--length", type=count, default=8192, help="of the times over slots and K")
    parser.add_argument("--max-n", type=count, help="longest sequence of the times (131072)")
    parser.add_argument("--max-pairs", type=count, help="most pairs of a recall (131072)")
    args = parser.parse_args()
    args.repeat = args.repeat or (3 if args.quick else 7)
    args.max_n = args.max_n or (16384 if args.quick else 131072)
    args.max_pairs = args.max_pairs or (4096 if args.quick else 131072)
    slots = 4096 if args.quick else 65536
    for name, found, least in (("--max-n", args.max_n, 1024), ("--max-pairs", args.max_pairs, slots)):
        if found < least:
            parser.error(f"argument {name}: expected {least} or more, found {found}")
    command.prepare(args)
    return args


def main():
    args = arguments()
    begun, busy = time.perf_counter(), command.load()
    sizes, tops = ((3, 5, 6), (1, 8, 32)) if args.quick else (range(3, 9), (1, 2, 4, 8, 16, 32))
    with tempfile.TemporaryDirectory() as folder:
        binary = Binary(args, folder)
        progress("the binary against the formulas in float64")
        drawn = picture(binary)
        checked = cross_check(binary, drawn)
        # Measure times first: after minutes of work a machine may run slower.
        progress("time")
        times = Times(binary, args).run(sizes, tops)
        progress("recall")
        recalled, seconds = recall(binary, sizes, tops, args.max_pairs, 2048 if args.quick else 8192)
        progress("codebooks")
        coded = codebooks(binary, oracle.CODES[:3] if args.quick else oracle.CODES, 16 if args.quick else 64)
        place = command.place(times.said)
    warning = ""
    if busy > 0.5:
        warning = f"other work was running (load {busy:.1f} at the start): the times are not to be quoted"
    text = report.page(args, place, warning, checked, times, recalled, seconds, coded, drawn)
    (args.output / "ramnet.md").write_text(text, encoding="utf-8")
    files = [args.output / "ramnet.svg"] + ([args.output / "ramnet.png"] if args.png else [])
    figure.draw(files, **report.panels(args, times, recalled, coded, drawn))
    print(text, end="")
    progress(f"{', '.join(x.name for x in files)} and ramnet.md written, {time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
