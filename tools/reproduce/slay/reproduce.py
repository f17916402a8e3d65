"""Reproduces the results of SLAY (arXiv 2602.04915) that need no training, and reports where the paper falls short.

    cargo build --release
    pip install "numpy==2.4.6" "matplotlib==3.11.2"
    python tools/reproduce/slay/reproduce.py           (minutes on two cores; --quick: under one; --help has the flags)

The operators `slay`, `yat`, `softmax` and `linear` run in the binary; oracle.py has the same formulas in numpy float64.
First the script compares both: a relative RMS over 1e-5 anywhere ends it with exit code 1. Then it runs three parts:

    ablation    the paper's ablation of the polynomial factor: distance from exact spherical attention after the output
                layer, at its three settings, compared with the mean of v; then which part the distance comes from
    quadrature  error of the Gauss-Laguerre rule over the number of nodes
    cost        time and memory over the length at the paper's shape, compared with its table

Values of --poly that the binary has run there; the others run in oracle.py and are marked. --also adds mechanisms to the
last part: a feature map or a rule of `linear`, or an operator. Prints the page slay.md and writes it to --output with
slay.svg; progress goes to stderr. The paper's figures come from its text and from the files published with its code.
"""

import re
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
from command import Binary, Parser, Refused, count, positive, progress, tensorfile  # noqa: E402

TOLERANCE = 1e-5
POLY = ("anchor", "exact", "laplace", "hadamard", "nystrom", "maclaurin", "tensorsketch")


# ---- slay in the binary ----


def width(poly, setting):
    """(features per node, P): without a second map a node has M P features, as in the paper, so that m is the same."""
    alone = poly in ("laplace", "hadamard")
    return setting.features * setting.anchors if alone else setting.features, setting.anchors


class Slay:
    """`run slay` and its drawn parameters."""

    def __init__(self, binary):
        self.binary = binary
        self.offered = [poly for poly in POLY if poly in binary.choices("slay", "--poly")]
        self.unsized = set()  # those whose P is not --anchors
        self.on_cpu = set()  # only on the cpu backend

    def run(self, poly, source, setting, seed, epsilon=oracle.EPSILON):
        """(o, the drawn parameters)."""
        target = self.binary.folder / "drawn.safetensors"
        features, anchors = width(poly, setting)
        flags = ["--poly", poly, "--nodes", setting.nodes, "--features", features, "--epsilon", epsilon,
                 "--seed", seed, "--save-params", target]
        sized = ["--anchors", anchors] if poly in oracle.MAPS and poly not in self.unsized else []
        where = ["--backend", "cpu"] if poly in self.on_cpu else self.binary.where
        try:
            self.binary.call(self.binary.command("slay", source, *flags, *sized, where=where))
        except Refused as error:
            if sized and "--anchors" in error.reason:
                self.unsized.add(poly)
            elif where[1] != "cpu":
                self.on_cpu.add(poly)
            else:
                raise
            return self.run(poly, source, setting, seed, epsilon)
        return tensorfile.load(self.binary.folder / "o.safetensors")[0]["o"], tensorfile.load(target)[0]


def over_batch(layer, function):
    """Stacks function(q, k, v) -> o over the entries of the batch."""
    return np.stack([function(q, k, v) for q, k, v in zip(layer.q, layer.k, layer.v)])


def weighed(layer, poly, params, floor=False):
    """(o, sums) for a value of --poly, from the oracle."""
    scores = (oracle.scores(poly, q, k, params, oracle.EPSILON) for q, k in zip(layer.q, layer.k))
    o, sums = zip(*(oracle.weigh(x, v, floor) for x, v in zip(scores, layer.v)))
    return np.stack(o), np.stack(sums)


def cross_check(binary, slay):
    """Compares every form used below with float64; returns rows, exits if one differs."""
    layer = oracle.Layer(0, 96)
    source = binary.file("check", q=layer.q, k=layer.k, v=layer.v)
    rows, failed = [], []

    def judge(name, got, want, tokens=slice(None)):
        error = oracle.relative_rms(got[tokens], want[tokens])
        rows.append([name, f"{error:.1e}"])
        if not error < TOLERANCE:
            failed.append(f"{name}: relative RMS {error:.1e}")

    for epsilon in (oracle.EPSILON, 1e-2):
        got = binary.run("yat", source, "--epsilon", epsilon)
        want = over_batch(layer, lambda q, k, v: oracle.weigh(oracle.kernel(oracle.cosines(q, k), epsilon), v)[0])
        judge(f"yat, spherical, epsilon {epsilon:g}", got, want)
    for poly in slay.offered:
        for setting in (oracle.Setting("", 96, 2, 16, 8), oracle.Setting("", 96, 12, 3, 5)):
            features, anchors = width(poly, setting)
            name = f"slay --poly {poly}, R={setting.nodes}, F={features}"
            got, saved = slay.run(poly, source, setting, 1, 1e-3)
            params = oracle.known(poly, saved, anchors)
            if not params or params["omega"].shape != (setting.nodes, oracle.HEADS, features, layer.q.shape[-1]):
                shapes = ", ".join(f"{x} {list(y.shape)}" for x, y in saved.items())
                rows.append([name, f"not compared: the oracle cannot tell its parameters by shape ({shapes})"])
                continue
            scores = [oracle.scores(poly, q, k, params, 1e-3) for q, k in zip(layer.q, layer.k)]
            want = np.stack([oracle.weigh(x, v)[0] for x, v in zip(scores, layer.v)])
            if poly in oracle.SIGNED:
                name += ", where the sum is no small difference"
            judge(name, got, want, np.stack([oracle.steady(x) for x in scores]))
    if failed:
        sys.exit("the binary and the formulas differ (bound 1e-5): " + "; ".join(failed))
    return rows


# ---- part a: the ablation ----


def variants(slay, source, layer, setting, seed, want):
    """Values of --poly: name -> (relative L2, cosine), and the share of negative sums for signed ones.

    "P authors" is P as in the authors' code, "P summed" the same divided by the sum. Also returns what `anchor` drew.
    """
    rows, negative, first = {}, {}, None
    rng = np.random.default_rng([7, seed, setting.tokens])
    for poly in POLY:
        features, anchors = width(poly, setting)
        sizes = (setting.nodes, oracle.HEADS, features, layer.q.shape[-1], anchors)
        params = None
        if poly in slay.offered:
            o, saved = slay.run(poly, source, setting, seed)
            rows[poly] = oracle.compare(layer.output(o), want)
            params = oracle.known(poly, saved, anchors)
        params = params or oracle.draw(poly, rng, *sizes)
        first = first or params
        if poly in slay.offered and poly not in oracle.SIGNED:
            continue
        o, sums = weighed(layer, poly, params)
        if poly not in slay.offered:
            rows[poly] = oracle.compare(layer.output(o), want)
        if poly in oracle.SIGNED:
            negative[poly] = float(np.mean(sums < 0))
            params = oracle.authors(poly, rng, *sizes)
            for name, floor in (("authors", True), ("summed", False)):
                o, _ = weighed(layer, poly, params, floor)
                rows[f"{poly} {name}"] = oracle.compare(layer.output(o), want)
    return rows, negative, first


def ladder(layer, setting, params, want):
    """The error when only some of the parts are approximate: name -> (relative L2, cosine)."""
    nodes = setting.nodes
    outputs = {}
    for q, k, v in zip(layer.q, layer.k, layer.v):
        c = oracle.cosines(q, k)
        rule, features = (oracle.quadrature(c, nodes, oracle.EPSILON),
                          oracle.random_exponential(q, k, params["omega"], oracle.EPSILON))
        anchors = oracle.gram(lambda u: oracle.anchor(u, params["poly"]), q, k)
        steps = {
            "x2 x rule": c**2 * rule,
            "x2 x features": c**2 * features,
            "1 x rule": rule,
            "population x rule": oracle.population(c) * rule,
            "anchors x rule": anchors * rule,
            "population x features": oracle.population(c) * features,
            "anchors x features": anchors * features,
        }
        for name, scores in steps.items():
            outputs.setdefault(name, []).append(oracle.weigh(scores, v)[0])
    return {name: oracle.compare(layer.output(np.stack(o)), want) for name, o in outputs.items()}


def ablation(binary, slay, settings, seeds):
    """A report.Ablation of each setting."""
    found = []
    for setting in settings:
        begun, result = time.perf_counter(), report.Ablation(setting)
        for seed in range(1, seeds + 1):
            layer = oracle.Layer(seed, setting.tokens)
            mean = oracle.mean(layer.v)
            source = binary.file("ablation", q=layer.q, k=layer.k, v=layer.v)
            exact = {e: layer.output(binary.run("yat", source, "--epsilon", e)) for e in (oracle.EPSILON, 1e-2)}
            want = exact[oracle.EPSILON]
            rows, negative, params = variants(slay, source, layer, setting, seed, want)
            result.add("variants", rows | {"mean": oracle.compare(layer.output(mean), want)})
            result.add("negative", negative)
            result.add("ladder", ladder(layer, setting, params, want))
            at = [slay.run("anchor", source, setting, seed, e)[0] for e in (oracle.EPSILON, 1e-2)]
            near, far = (layer.output(o) for o in at)
            result.add("epsilon", {"slay": oracle.compare(far, near), "yat": oracle.compare(exact[1e-2], want)})

            plain = oracle.Layer(seed, setting.tokens, biased=False)
            source = binary.file("plain", q=plain.q, k=plain.k, v=plain.v)
            want = plain.output(binary.run("yat", source, "--epsilon", oracle.EPSILON))
            outputs = {poly: slay.run(poly, source, setting, seed)[0] for poly in ("anchor", "exact")}
            outputs["mean"] = oracle.mean(plain.v)
            result.add("unbiased", {name: oracle.compare(plain.output(o), want) for name, o in outputs.items()})
        found.append(result)
        progress(f"  {setting.name}: {time.perf_counter() - begun:.0f} s")
    return found


# ---- part b: quadrature ----


def quadrature_errors():
    """Relative errors of the rule: {"mean": R -> mean over |x| < 0.9 at epsilon 0.01, x: R -> at x and epsilon 0.001}."""
    grid = np.linspace(-0.9, 0.9, 1801)
    found = {}
    for name, x, epsilon in [("mean", grid, 1e-2), *((f"{x:g}", np.array([x]), 1e-3) for x in report.POINTS)]:
        # x^2 is a factor of both, so it cancels.
        exact = 1 / (2 + epsilon - 2 * x)
        found[name] = {r: float(np.mean(np.abs(oracle.quadrature(x, r, epsilon) / exact - 1))) for r in report.NODES}
    return found


# ---- part c: time and memory ----


@dataclass(frozen=True)
class Contender:
    """flags: NAME=VALUE of `run`."""

    name: str
    op: str
    flags: tuple = ()


DEFAULT = [
    Contender("softmax", "softmax"),
    Contender("yat", "yat"),
    Contender("linear", "linear"),
    Contender("slay", "slay"),
    # The authors' scripts time P = 32.
    Contender("slay m=1024", "slay", ("anchors=32",)),
]


def contenders(binary, names):
    """The five mechanisms, and others of the binary by name."""
    text = binary.call([binary.path, "bench", "--help"])
    ops = re.search(r"\[OP\]\.\.\..*?possible values: ([^\]]*)\]", text)[1].split(", ")
    maps, rules = (binary.choices("linear", flag) for flag in ("--feature-map", "--rule"))
    found = list(DEFAULT)
    for name in names:
        if any(name == one.name for one in DEFAULT):
            continue
        if name in maps:
            # The authors' Performer uses relu, with 64 features.
            more = ("features=64",) if name == "performer-relu" else ()
            found.append(Contender(name, "linear", (f"feature-map={name}", *more)))
        elif name in rules:
            found.append(Contender(f"linear {name}", "linear", (f"rule={name}",)))
        elif name in ops:
            found.append(Contender("linformer, not causal" if name == "linformer" else name, name))
        else:
            wanted = ", ".join(dict.fromkeys([*maps, *rules, *ops]))
            Parser().error(f"argument --also: expected one of {wanted}, found `{name}`")
    return list({one.name: one for one in found}.values())


class Costs:
    """times: name -> {n: a row of bench}; memory: name -> {n: (peak or None, tensors, stated)} in bytes.

    Peaks are over `base`: name -> (its n, its peak).
    """

    def __init__(self, binary, args):
        self.binary, self.args = binary, args
        self.times, self.memory, self.notes, self.base, self.said = {}, {}, [], {}, None

    def shape(self, length):
        return ["--heads", self.args.heads, "--dim", self.args.dim, "--length", length, "--batch", 1]

    def time(self, group, length):
        """One call of bench, so that ratios come from the same run."""
        flags = [x for flag in group[0].flags for x in ("--flag", flag)]
        how = ["--repeat", self.args.repeat, "--max-seconds", 2, *flags]
        names = {one.op: one.name for one in group}
        try:
            rows = self.binary.bench(list(names), *self.shape(length), *how)
        except Refused as error:
            self.drop(group, f"left out from n={length} on: {error.reason}")
            return
        for row in rows:
            name = names[row["operator"]]
            if row["status"] == "ok":
                self.times.setdefault(name, {})[length] = row
            else:
                why = row["message"] or row["status"]
                if row["status"] == "wrong":
                    why = f"its output is off by {row['error']:.1e}, over the bound of {row['error_bound']:.1e}"
                self.drop([one for one in group if one.name == name], f"left out from n={length} on: {why}")

    def drop(self, some, why):
        for one in some:
            self.going.remove(one)
            self.notes.append(f"{one.name}: {why}.")

    def measure(self, one, length):
        """(the binary's report, peak of its process, bytes of the tensors read and written)."""
        source = self.binary.folder / "sample.safetensors"
        shape = f"B=1,H={self.args.heads},N={length},D={self.args.dim}"
        self.binary.call([self.binary.path, "sample", one.op, "--output", source, "--shape", shape])
        flags = []
        for flag in one.flags:
            name, _, value = flag.partition("=")
            flags += [f"--{name}", value]
        # The smaller of two: the interleaving of threads can only add to a peak.
        said, peaks = zip(*(self.binary.measure(one.op, source, *flags) for _ in range(2)))
        self.said = said[0]
        read, written = source.stat().st_size, (self.binary.folder / "o.safetensors").stat().st_size
        return said[0], None if peaks[0] is None else min(peaks), read + written

    def peak(self, one, length):
        if one.name not in self.base:
            try:
                self.base[one.name] = (16, self.measure(one, 16)[1])
            except Refused:  # too short, as for linformer's rank
                self.base[one.name] = (512, self.measure(one, 512)[1])
        said, peak, tensors = self.measure(one, length)
        over = None if peak is None else peak - self.base[one.name][1]
        self.memory.setdefault(one.name, {})[length] = (over, tensors, tensors + said["workspace_bytes"])

    def expected(self, one, length):
        """Estimated seconds of a run, extrapolated from the previous lengths."""
        points = sorted(self.times.get(one.name, {}).items())
        if not points:
            return 0.0
        seconds = [row["time_us"] / 1e6 for _, row in points]
        growth = max(2.0, seconds[-1] / seconds[-2]) if len(points) > 1 else 4.0
        return seconds[-1] * growth

    def run(self, some):
        self.going, begun, length = list(some), time.perf_counter(), 1024
        while length <= self.args.max_n and self.going:
            start = time.perf_counter()
            for one in list(self.going):
                seconds = self.expected(one, length)
                if seconds > self.args.seconds / 40:
                    self.drop([one], f"n={length} and longer left out: a run would take about {seconds:.0f} s, and "
                              f"--seconds {self.args.seconds:g} allows a fortieth")
            plain = [one for one in self.going if not one.flags]
            for group in [plain, *([one] for one in self.going if one.flags)]:
                if group:
                    self.time(group, length)
            # Peaks under a few MiB are lost in the noise of allocators and threads.
            if length >= 4096:
                for one in list(self.going):
                    try:
                        self.peak(one, length)
                    except Refused as error:
                        self.drop([one], f"left out from n={length} on: {error.reason}")
            progress(f"  n={length}: {time.perf_counter() - start:.0f} s")
            length *= 2
            if length <= self.args.max_n and time.perf_counter() - begun > self.args.seconds:
                self.notes.append(f"n={length} and longer left out: --seconds {self.args.seconds:g} were used up.")
                break
        return self


# ---- all of it ----


def arguments():
    parser = Parser(description="SLAY against the exact kernels: ablation, quadrature, time and memory.")
    command.add_arguments(parser, "slay")
    parser.add_argument("--quick", action="store_true", help="two seeds, two settings, lengths up to 4096")
    parser.add_argument("--seeds", type=count, help="of the ablation (5)")
    parser.add_argument("--max-n", type=count, help="longest sequence of the last part (131072)")
    parser.add_argument("--seconds", type=positive, default=240, help="for the last part; no run over a fortieth")
    parser.add_argument("--repeat", type=count, help="timings of each shape, of which the median counts (7)")
    parser.add_argument("--heads", type=count, default=8, help="of the last part")
    parser.add_argument("--dim", type=count, default=32, help="of the last part")
    parser.add_argument("--also", nargs="+", default=[], metavar="NAME", help="in the last part too, as performer-relu")
    args = parser.parse_args()
    args.seeds = args.seeds or (2 if args.quick else 5)
    args.repeat = args.repeat or (3 if args.quick else 7)
    args.max_n = args.max_n or (4096 if args.quick else 131072)
    if args.max_n < 1024:
        parser.error(f"argument --max-n: expected 1024 or more, found {args.max_n}")
    command.prepare(args)
    return args


def main():
    args = arguments()
    begun, busy = time.perf_counter(), command.load()
    with tempfile.TemporaryDirectory() as folder:
        binary = Binary(args, folder)
        some = contenders(binary, args.also)
        slay = Slay(binary)
        progress("the binary against the formulas in float64")
        checked = cross_check(binary, slay)
        # Measure the cost first: after minutes of work a machine may run slower.
        progress("cost")
        costs = Costs(binary, args).run(some)
        progress("ablation")
        ablations = ablation(binary, slay, oracle.SETTINGS[: 2 if args.quick else 3], args.seeds)
        place = command.place(costs.said or binary.last)
    warning = ""
    if busy > 0.5:
        warning = f"other work was running (load {busy:.1f} at the start): the times are not to be quoted"
    errors = quadrature_errors()
    text = report.page(args, place, warning, checked, slay, ablations, errors, costs)
    (args.output / "slay.md").write_text(text, encoding="utf-8")
    files = [args.output / "slay.svg"] + ([args.output / "slay.png"] if args.png else [])
    figure.draw(files, **report.panels(args, ablations, errors, costs))
    print(text, end="")
    progress(f"{', '.join(x.name for x in files)} and slay.md written, {time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
