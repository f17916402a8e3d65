"""Reports the results of reproduce.py: sentences, the page ramnet.md, and the data of the panels."""

import math
from fractions import Fraction

import oracle
from oracle import CODED, GAMMAS, HOW, KINDS, LAG, LOADS, MEMORIES, QUERIES, REFERENCE, SHARP, STORY, VALUES, WIDTH
from page import MIB, table

LEVEL = 0.9


def gamma_text(gamma):
    return {math.inf: "+inf", -math.inf: "-inf"}.get(gamma, f"{gamma:g}")


def slots_of(digits):
    return oracle.CHOICES**digits


def load_text(load):
    return str(Fraction(load).limit_denominator(64))


def listing(values):
    return " / ".join(values)


# ---- recall ----


class Recalls:
    """found: (kind, digits, topk, rule) -> (load -> [gamma] of (recall, error), load -> weights)."""

    def __init__(self, found):
        self.found = found
        self.tops = sorted({topk for _, digits, topk, _ in found if digits == REFERENCE[0]})
        self.sizes = sorted({digits for _, digits, topk, _ in found if topk == REFERENCE[1]})

    def curve(self, kind, rule, gamma, digits=REFERENCE[0], topk=REFERENCE[1]):
        """load -> (recall, error)"""
        at = GAMMAS[rule].index(gamma)
        return {load: rows[at] for load, rows in self.found[kind, digits, topk, rule][0].items()}

    def reach(self, *which, **shape):
        """The load at which recall falls under LEVEL, as text; interpolates the logarithm of the load."""
        points = [(load, recall) for load, (recall, _) in self.curve(*which, **shape).items()]
        below = [i for i, (_, recall) in enumerate(points) if recall < LEVEL]
        if not below:
            return f"over {load_text(points[-1][0])}"
        if below[0] == 0:
            return f"under {load_text(points[0][0])}"
        (a, high), (b, low) = points[below[0] - 1], points[below[0]]
        return f"{a * (b / a) ** ((high - LEVEL) / (high - low)):.2f}"

    def weights(self, kind, digits, topk):
        """Mean weights (of the best slot, of all K slots)."""
        return list(self.found[kind, digits, topk, "gsu"][1].values())[-1]

    def apart(self, first, second):
        """Largest difference in recall between two (rule, gamma), and its place."""
        found = []
        for kind, digits, topk, rule in self.found:
            if rule == "gsu":
                one, other = (self.curve(kind, *x, digits, topk) for x in (first, second))
                found += [(abs(one[load][0] - other[load][0]), kind, slots_of(digits), topk, load) for load in one]
        return max(found)


EACH = [(kind, rule, gamma) for kind in KINDS for rule in GAMMAS for gamma in GAMMAS[rule]]


def label(kind, rule, gamma):
    return [KINDS[kind], rule, gamma_text(gamma)]


def load_table(recalls):
    loads = list(recalls.curve(*EACH[0]))
    rows = [[*label(*which), *(f"{recall:.2f} ({error:.2f})" for recall, error in recalls.curve(*which).values())]
            for which in EACH]
    return table(["addresses", "rule", "gamma", *(f"load {load_text(load)}" for load in loads)], rows)


def reach_table(recalls, name, values, text):
    rows = [[*label(*which), *(recalls.reach(*which, **{name: value}) for value in values)] for which in EACH]
    return table(["addresses", "rule", "gamma", *(text(value) for value in values)], rows)


def weight_table(recalls):
    shapes = dict.fromkeys([(REFERENCE[0], k) for k in recalls.tops] + [(u, REFERENCE[1]) for u in recalls.sizes])
    rows = [[slots_of(digits), topk, *("{:.3f}, {:.3f}".format(*recalls.weights(kind, digits, topk)) for kind in KINDS)]
            for digits, topk in sorted(shapes)]
    return table(["slots", "K", *KINDS.values()], rows)


def recall_findings(recalls):
    inf, tops = math.inf, recalls.tops
    digits, topk = REFERENCE
    whole = [(rule, gamma) for rule in GAMMAS for gamma in GAMMAS[rule] if gamma != inf]
    until = min(recalls.curve("apart", *which, topk=k)[load][0] for which in whole for k in tops for load in LOADS
                if load < 1)
    after = [recalls.curve("apart", *which, topk=k)[2.0][0] for which in whole for k in tops]
    law = {load: oracle.survivors(load, slots_of(digits) - 1) for load in LOADS}
    one = recalls.curve("drawn", "gsu", inf, topk=tops[0])
    off = max(abs(one[load][0] - law[load]) for load in one)

    def over(which, values=tops, name="topk"):
        return listing([recalls.reach(*which, **{name: value}) for value in values])

    def reaches(kind, rule):
        return ", ".join(f"{recalls.reach(kind, rule, gamma)} (gamma {gamma_text(gamma)})" for gamma in GAMMAS[rule])

    some = listing([str(k) for k in tops])
    sixteenth = [recalls.curve("apart", "gsu", inf, topk=k)[LOADS[0]][0] for k in tops]
    mild = recalls.curve("apart", "pdma", inf, topk=tops[-1])[LOADS[0]][0]
    quarter = {which: [recalls.curve("spread", *which, topk=k)[0.25][0] for k in tops]
               for which in (("gsu", 6), ("pdma", 6), ("gsu", -inf))}
    errors = [recalls.curve("spread", "gsu", -inf, topk=k)[0.25] for k in tops]
    sizes = [slots_of(x) for x in recalls.sizes]
    found = [
        f"A slot each (weight {SHARP}), {slots_of(digits)} slots, any gamma but plus infinity, K = {some}: up to load "
        f"1/2 recall is at least {until:.3f}; at load 2, where each slot was named twice, {min(after):.2f} to "
        f"{max(after):.2f}. What breaks it is the second pair on a slot, not fullness.",
        f"Drawn slots, K = {tops[0]}, gamma plus infinity: recall follows the share of pairs whose slot nobody drew "
        f"later, (1 - (1 - 1/S)^n) S/n, within {off:.3f}: load 1/4 gives {one[0.25][0]:.2f} ({law[0.25]:.2f}), load 1 "
        f"{one[1.0][0]:.2f} ({law[1.0]:.2f}).",
        f"Spread addresses, K = {topk}, {slots_of(digits)} slots: recall falls under {LEVEL} at load "
        f"{reaches('spread', 'gsu')} for gsu, {reaches('spread', 'pdma')} for pdma.",
        f"K with spread addresses (K = {some}): under the pure mean (gsu, gamma -inf) recall falls under {LEVEL} at "
        f"load {over(('spread', 'gsu', -inf))}; under gsu at gamma 6 at {over(('spread', 'gsu', 6))}; under pdma at "
        f"gamma 6 at {over(('spread', 'pdma', 6))}. At load 1/4 recall is "
        + "; ".join(f"{listing([f'{x:.2f}' for x in values])} ({rule}, gamma {gamma_text(gamma)})"
                    for (rule, gamma), values in quarter.items())
        + f". The relative error of the pure mean is {listing([f'{error:.2f}' for _, error in errors])} there: what "
        "is nearest can be right while the value read is far off.",
        f"gamma plus infinity overwrites however weak a write is, so that with K > 1 the slots named beside the right "
        f"one lose what they hold: a slot each, load 1/16, gsu, K = {some}: recall "
        f"{listing([f'{x:.2f}' for x in sixteenth])}. pdma there at K = {tops[-1]}: {mild:.2f}; its mass-eps of 1e-6 "
        "holds back weights of that size and less.",
    ]
    for first, second in ((("gsu", -inf), ("pdma", 0)), (("gsu", 0), ("pdma", 1)), (("gsu", 6), ("pdma", 6))):
        gap, kind, slots, k, load = recalls.apart(first, second)
        found.append(
            f"gsu at gamma {gamma_text(first[1])} and pdma at gamma {gamma_text(second[1])}: recall differs by at most "
            f"{gap:.3f} ({KINDS[kind]}, {slots} slots, K = {k}, load {load_text(load)})"
            + {-inf: "; both are the pure mean, and start with mass 1/S and 0",
               0: "; both keep 1 - w of the mass"}.get(first[1], "; for small w gsu keeps about 1 - e^gamma w of the "
                                                       "mass, pdma 1 - gamma w, so one gamma means different things")
            + ".")
    found.append(
        f"Slots, at K = {topk} ({listing([str(x) for x in sizes])}): with spread addresses recall falls under {LEVEL} "
        f"at load {over(('spread', 'gsu', -inf), recalls.sizes, 'digits')} (gsu, gamma -inf) and "
        f"{over(('spread', 'gsu', 6), recalls.sizes, 'digits')} (gamma 6). The logits' spread is the "
        "same at all sizes, so that in a larger memory K slots keep less of the weight.")
    return found


def picture_finding(drawn):
    (off, off_lag), (on, on_lag) = drawn["right"]
    return (f"Picture: of the pairs read back in another order, {off:.2f} are right without CAPE, {on:.2f} with it, "
            "since the slots have turned on in between. With one address for all tokens, a read "
            f"{LAG} beyond it gets the value of {LAG} tokens before for {on_lag:.2f} of the tokens with CAPE, for "
            f"{off_lag:.2f} without, where all write to one slot.")


# ---- codebooks ----

WHAT = {"values": "codes for values", "slots": "codes for slots", "both": "codes for both"}


def sizes_of(found):
    return list(next(iter(found.values()))[1])


def coded_table(found):
    rows = [[VALUES[values], KINDS[where], WHAT[how], f"{recall:.2f}",
             *("{1:.2f} ({0:.2f})".format(*row[how]) for row in by_size.values())]
            for (values, where), (recall, by_size) in found.items() for how in HOW]
    return table(["values", "addresses", "with", "no codes", *(f"C = {size}" for size in sizes_of(found))], rows)


def value_table(errors):
    sizes = list(next(iter(errors.values())))
    rows = [[name, *("{:.2f}, {:.2f}".format(*errors[kind][size]) for size in sizes)] for kind, name in VALUES.items()]
    rows.append(["bound for Gaussian values", *(f"{oracle.bound(size):.2f}" for size in sizes)])
    return table(["values", *(f"C = {size}" for size in sizes)], rows)


def ratio(size, memories):
    """Bytes of memories in f32 over those as indices, with one codebook for all."""
    slots = slots_of(REFERENCE[0])
    codes, book = oracle.coded_bytes(size, slots)
    return memories * 4 * slots * WIDTH / (memories * codes + book)


def bytes_table(sizes):
    rows = []
    for size in sizes:
        codes, book = oracle.coded_bytes(size, slots_of(REFERENCE[0]))
        rows.append([size, oracle.bits(size), f"{32 * WIDTH / oracle.bits(size):.0f}", f"{codes / 1024:g}",
                     f"{book / 1024:g}", *(f"{ratio(size, x):.3g}" for x in MEMORIES)])
    return table(["C", "bits per slot", "slot in f32 over index", "KiB of indices per memory", "KiB of the codebook",
                  *(f"ratio of {x}" for x in MEMORIES)], rows)


def coded_findings(coded):
    found, errors = coded
    sizes = sizes_of(found)

    def over(values, where, how, which):
        """Of each size; which: 0 the error, 1 the recall."""
        return listing([f"{found[values, where][1][size][how][which]:.2f}" for size in sizes])

    def line(values):
        return "; ".join(
            f"{KINDS[where]} (no codes: {found[values, where][0]:.2f}), "
            + ", ".join(f"{WHAT[how]} {over(values, where, how, 1)}" for how in HOW) for where in CODED)

    first, last = sizes[0], sizes[-1]
    return [
        f"Codebooks, C = {listing([str(x) for x in sizes])}. Recall of the word, {VALUES['words']}: {line('words')}.",
        f"Recall of the value, {VALUES['directions']}: {line('directions')}. The codebook is made from the values that are "
        f"recalled; at C = {last} the relative RMS is {errors['directions'][last][0]:.2f} on them, "
        f"{errors['directions'][last][1]:.2f} on fresh values. No codebook of that size can do better than "
        f"C^(-1/{WIDTH}) = {oracle.bound(last):.2f} on Gaussian values.",
        "Relative RMS of reads, codes for both: " + "; ".join(
            f"{VALUES[values]}, {KINDS[where]}: {over(values, where, 'both', 0)}" for values, where in found) + ".",
        f"Bytes in f32 over bytes as indices of {oracle.bits(first)} to {oracle.bits(last)} bits: "
        f"{32 * WIDTH / oracle.bits(first):.0f} to {32 * WIDTH / oracle.bits(last):.0f} for a slot. With the codebook: "
        f"{ratio(first, 1):.0f} to {ratio(last, 1):.2g} for one memory of {slots_of(REFERENCE[0])} slots, "
        f"{ratio(first, MEMORIES[-1]):.0f} to {ratio(last, MEMORIES[-1]):.0f} for {MEMORIES[-1]} memories that share it.",
    ]


# ---- time ----


class Costs:
    """Nanoseconds per token and head, from reproduce.Times."""

    def __init__(self, times, args):
        each = args.length * args.heads

        def least(runs, tokens):
            return {name: 1e9 * min(seconds) / tokens for name, seconds in runs.items()}

        self.slots = {slots_of(digits): least(runs, each) for digits, runs in times.slots.items()}
        self.topk = {topk: least(runs, each) for topk, runs in times.topk.items()}
        self.length = {n: least(runs, n * args.heads) for n, runs in times.length.items()}
        spread = [max(runs) / min(runs) for part in (times.slots, times.topk, times.length) for some in part.values()
                  for name, runs in some.items() if name != "memory"]
        self.unsteady = sorted(spread)[len(spread) // 2]

    def ratios(self, part):
        return {at: row["hot"] / row["random"] for at, row in part.items()}


def slots_table(costs, heads):
    rows = [[slots, f"{row['random']:.0f}", f"{row['hot']:.0f}", f"{row['hot'] / row['random']:.2f}",
             f"{row['memory']:.0f}", f"{row['random'] - row['memory']:.0f}",
             f"{4 * heads * slots * (WIDTH + 1) / MIB:.1f}"] for slots, row in costs.slots.items()]
    return table(["slots", "random", "hot", "hot / random", "of that a run of one token", "random less that",
                  "MiB of memories"], rows)


def length_table(costs):
    rows = [[n, f"{row['random']:.0f}", f"{row['hot']:.0f}", f"{row['hot'] / row['random']:.2f}"]
            for n, row in costs.length.items()]
    return table(["N", "random", "hot", "hot / random"], rows)


def topk_table(costs):
    return table(["K", "random"], [[topk, f"{row['random']:.0f}"] for topk, row in costs.topk.items()])


def time_findings(costs, args):
    ratios = [*costs.ratios(costs.slots).values(), *costs.ratios(costs.length).values()]
    sizes, lengths, tops = list(costs.slots), list(costs.length), list(costs.topk)
    first, last = costs.slots[sizes[0]], costs.slots[sizes[-1]]
    base = 8192 if 8192 in costs.length else lengths[0]
    found = [
        f"Time: {costs.slots[slots_of(REFERENCE[0])]['random']:.0f} ns a token and head at {slots_of(REFERENCE[0])} "
        f"slots, K = {REFERENCE[1]}, E = {WIDTH}, N = {args.length}, H = {args.heads}; from {sizes[0]} to {sizes[-1]} "
        f"slots {first['random']:.0f} to {last['random']:.0f}, {last['random'] / first['random']:.2f} times. A run of "
        f"one token takes as much as {first['memory']:.0f} and {last['memory']:.0f} of these.",
        f"Hot slots: one address for all tokens takes {min(ratios):.2f} to {max(ratios):.2f} times as long as random "
        f"ones, " + ("within" if max(ratios) <= 4 else "**over**") + " the 4 that are allowed.",
        f"Length: from N = {base} to {lengths[-1]} the nanoseconds a token and head change by a factor of "
        f"{costs.length[lengths[-1]]['random'] / costs.length[base]['random']:.2f}. K: from {tops[0]} to {tops[-1]} "
        f"they grow by {costs.topk[tops[-1]]['random'] / costs.topk[tops[0]]['random']:.1f}, K itself by "
        f"{tops[-1] // tops[0]}.",
    ]
    if costs.unsteady > 1.25:
        found.append(f"The slowest of a shape's runs took {costs.unsteady:.2f} times as long as the fastest (median "
                     "over shapes), so small differences in time mean little here.")
    return found


# ---- the page and the panels ----


def page(args, place, warning, checked, times, found, seconds, coded, drawn):
    """The text of ramnet.md."""
    recalls, costs = Recalls(found), Costs(times, args)
    digits, topk = REFERENCE
    findings = recall_findings(recalls) + [picture_finding(drawn)] + coded_findings(coded) + time_findings(costs, args)
    short = [f"{slots_of(u)} slots up to load {load_text(max(recalls.curve(*EACH[0], digits=u)))}"
             for u in recalls.sizes if len(recalls.curve(*EACH[0], digits=u)) < len(LOADS)]
    text = [
        "# RAM-Net's memory with hand-set addresses",
        f"Made by `python tools/reproduce/ramnet/reproduce.py{' --quick' if args.quick else ''}` on: {place}; "
        f"{times.said['variant']}." + (f" **{warning.capitalize()}.**" if warning else ""),
        "Nothing is trained here: addresses are set by hand, so this says what the memory holds once addresses are "
        "good. No recall figures of the paper (arXiv 2602.11958) are known to us, so none stand beside these; "
        "summaries of it say that accuracy rises with the number of slots.",
        "![recall over load and K, slots over time, time over slots and length, codebooks](ramnet.svg)",
        "## What was found",
        "\n".join(f"- {line}" for line in findings),
        "## The binary against the formulas",
        "Relative RMS of o against numpy float64, token after token, on the sequences of the next part with up to 256 "
        "pairs; all gammas; bound 1e-5. The oracle's beam has been held against sorting all slots there.",
        table(["what", "difference"], checked),
        "## a. Recall over load",
        f"P = {oracle.CHOICES}, E = {WIDTH}. Pairs are written; at each load, pairs over slots, up to {QUERIES} of "
        "those so far are queried in another order. Values have unit length and a random direction. Recall: share "
        "of queries for which the nearest of all values stored so far is the right one. Error: relative RMS of o "
        "over the sum of its K weights. A slot each: a key names a slot of its own in random order (from the start "
        f"again when all are named) with weight {SHARP}, the rest is for its neighbours by one digit and more. "
        f"Drawn slots: the same, the slot drawn. Spread: logits drawn with standard deviation {oracle.SPREAD:g}. A "
        "query writes zeros with weight 1 to the last slot, which no key of the first two kinds names.",
        f"All by the binary, {seconds:.1f} s of its own time."
        + (f" With at most {args.max_pairs} pairs: {', '.join(short)}." if short else ""),
        f"### {slots_of(digits)} slots, K = {topk}: recall (error)",
        load_table(recalls),
        f"### Load at which recall falls under {LEVEL}: {slots_of(digits)} slots, over K",
        reach_table(recalls, "topk", recalls.tops, lambda k: f"K = {k}"),
        f"### Load at which recall falls under {LEVEL}: K = {topk}, over slots",
        reach_table(recalls, "digits", recalls.sizes, lambda u: f"{slots_of(u)} slots"),
        "### Weights read: of the best slot, of all K (means)",
        weight_table(recalls),
        "## b. Slots over time",
        f"64 slots, K = 4, gsu, gamma 6, weight 0.7 for the slot named; {STORY[0]} tokens write a pair each, "
        f"{STORY[1]} read them in another order, {STORY[2]} write to one address and read {LAG} beyond it. A token "
        "with nothing to write, or to read, names the last slot with weight 1. Opacity is the root of the weight. "
        "Slots and weights are those of the oracle's beam, since the binary prints none; what was read is the "
        "binary's, and the two agree on o (table above).",
        "## c. Time",
        f"Nanoseconds a token and head by the time line of `subquad run`, the least of {args.repeat} runs in turns; "
        f"B=1, H={args.heads}, E={WIDTH}, gsu, f32, standard normal inputs. Hot: every token has the same q and k, "
        f"so that all write and read the same K slots. N = {args.length}, K = {topk}, over slots:",
        slots_table(costs, args.heads),
        f"{slots_of(digits)} slots, K = {topk}, over the length:",
        length_table(costs),
        f"{slots_of(digits)} slots, N = {args.length}, over K:",
        topk_table(costs),
        "## d. Codebooks",
        f"{slots_of(digits)} slots, K = {topk}, gsu, gamma {oracle.CODED_GAMMA}, load {load_text(oracle.CODED_LOAD)}, E = "
        f"{WIDTH}; pairs, queries and addresses as in part a. {VALUES['words'].capitalize()}: each value is one of "
        f"{oracle.WORDS} directions plus noise of {oracle.NOISE} of its length in another direction; recall asks for the "
        f"word. {VALUES['directions'].capitalize()}: values as in part a, which have no structure; recall asks for the "
        "value. A codebook [C,E] is zeros, for empty slots, and C - 1 codes by k-means (k-means++, "
        f"{oracle.ROUNDS} rounds, numpy) of all values that are written; all memories share it.",
        "Codes for values: `ramnet` with the codebook. Codes for slots: `ramnet` without, then `quantize` on the state and "
        "reads by `topk` and `gather`, so that a slot is one index; a slot is a mean of written values, so this has an "
        "error of its own. Codes for both: `quantize` on the state of `ramnet` with the codebook. The error is the relative "
        "RMS of what the last load's queries read, against a run without codes.",
        "### Recall (error)",
        coded_table(coded[0]),
        "### Relative RMS of the codes of values: of those that are written, of fresh ones of the same kind",
        "The bound holds for fresh values. Values from which a codebook was made can be under it if they are few per "
        "code.",
        value_table(coded[1]),
        "### Bytes",
        "Counted, with indices packed to whole bits. The command keeps a state in f32, and writes codes as i32. A memory "
        f"that is written to later also needs its masses, {4 * slots_of(digits) / 1024:g} KiB, in either form. Ratio of M: "
        "M memories in f32 over their indices and one codebook.",
        bytes_table(sizes_of(coded[0])),
    ]
    return "\n\n".join(text) + "\n"


def panels(args, times, found, coded, drawn):
    """The arguments of figure.draw."""
    recalls, costs = Recalls(found), Costs(times, args)
    digits, topk = REFERENCE
    slots = slots_of(digits)
    acts = dict(zip(("write", "read, another order", "one address"), STORY))

    def recalled(kind, rule, gamma, k=None):
        if k is None:
            return {load: recall for load, (recall, _) in recalls.curve(kind, rule, gamma).items()}
        return recalls.curve(kind, rule, gamma, topk=k)[0.25][0]

    def over(kind):
        """name -> (style, hollow, which) of each rule and gamma."""
        return {f"{rule}, gamma {gamma_text(gamma)}": (i, rule == "pdma", (kind, rule, gamma))
                for rule in GAMMAS for i, gamma in enumerate(GAMMAS[rule])}

    by_load = {name: (i, hollow, recalled(*which)) for name, (i, hollow, which) in over("spread").items()}
    by_topk = {name: (i, hollow, {k: recalled(*which, k) for k in recalls.tops})
               for name, (i, hollow, which) in over("spread").items()}
    by_topk["a slot each, gsu, gamma +inf"] = (4, False, {k: recalled("apart", "gsu", math.inf, k)
                                                         for k in recalls.tops})
    loads = list(recalls.curve(*EACH[0]))
    return {
        "load": {
            "curves": by_load,
            "title": f"Recall with spread addresses, {slots} slots, K = {topk}",
            "xlabel": "load: pairs a slot",
            "values": loads,
            "text": load_text,
            "law": ("law of one drawn slot each, overwritten", {x: oracle.survivors(x, slots - 1) for x in loads}),
        },
        "topk": {
            "curves": by_topk,
            "title": f"Recall over K at load 1/4 (spread addresses, and a slot each), {slots} slots",
            "xlabel": "K",
            "values": recalls.tops,
        },
        "pictures": [{"events": events, "slots": 64, "acts": acts, "title": title} for events, title in
                     zip(drawn["events"], ("Slots over time, no CAPE", "Slots over time, CAPE"))],
        "slots": {
            "curves": {name: {x: row[key] for x, row in costs.slots.items()} for name, key in
                       (("random addresses", "random"), ("one address (hot)", "hot"), ("run of one token", "memory"))},
            "title": f"Time over slots, N = {args.length}, H = {args.heads}, K = {topk}, E = {WIDTH}",
            "xlabel": "slots",
        },
        "length": {
            "curves": {name: {x: row[key] for x, row in costs.length.items()} for name, key in
                       (("random addresses", "random"), ("one address (hot)", "hot"))},
            "title": f"Time over the length, {slots} slots, H = {args.heads}, K = {topk}, E = {WIDTH}",
            "xlabel": "N",
        },
        "coded": coded_panels(coded),
    }


def coded_panels(coded):
    found, _ = coded
    sizes = sizes_of(found)

    def curves(which):
        """which: 0 the error, 1 the recall."""
        return {f"{values}, {KINDS[where]}; {WHAT[how]}":
                (i, how == "both", {size: row[how][which] for size, row in by_size.items()})
                for how in ("values", "both") for i, ((values, where), (_, by_size)) in enumerate(found.items())}

    common = {"xlabel": "C: codes in the codebook (bits of an index)", "values": sizes, "columns": 2,
              "text": lambda size: f"{size} ({oracle.bits(size)})"}
    title = f", {slots_of(REFERENCE[0])} slots, K = {REFERENCE[1]}, gsu, gamma {oracle.CODED_GAMMA}"
    return [
        common | {"curves": curves(0), "title": f"Error of reads at load {load_text(oracle.CODED_LOAD)} with codes{title}",
                  "ylabel": "relative RMS"},
        common | {"curves": curves(1), "title": f"Recall at load {load_text(oracle.CODED_LOAD)} with codes{title}"},
    ]
