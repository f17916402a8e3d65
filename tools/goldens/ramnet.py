"""Writes tests/goldens/ramnet_*.safetensors: inputs and expected outputs of operator `ramnet`, from code that shares nothing
with this crate.

    pip install "numpy==2.4.6"
    python tools/goldens/ramnet.py

The oracle runs token by token in float64, from the text of the specification: it computes and sorts all P^U products of
softmaxes and keeps the K largest unchanged; CAPE rotates flat slot indices; then it updates mass, rate and content, and
reads.

Tensors: q, k [B,H,N,UP], v [B,H,N,E], gamma [B,H,N] and o in the file's layout; state_in [B,H,P^U,E], mass_in [B,H,P^U] and
position_in [1] (i64) if the case starts from a state (pass them to --state-in without `_in`); state_out, mass_out and
position_out after it. Metadata: source, layout, and the flags of `subquad run ramnet` that reproduce the outputs.

Check: pdma is written as its defining sums (numerator and denominator, divided at the read), not as the mean that the
operator carries; the two agree if mass-eps is zero. Logits are multiples of 1/64, so their sums are exact in f32 and ties
resolve by address in any order of addition. First the script asserts the rates of the published trace (the specification's
acceptance vectors).
"""

import itertools

import numpy as np

import golden


SOURCE = "numpy float64, token after token"
PREFIX = 9  # tokens that produced a carried state

# name, layout, B, H, N, E, U, P, K, rule, cape, tau, mass_eps, from a state
CASES = [
    ("default", "bhnd", 1, 2, 40, 4, 5, 4, 8, "gsu", "none", None, None, False),
    ("cape", "bnhd", 2, 3, 30, 8, 2, 4, 3, "gsu", "0,2", None, None, True),
    ("state", "bhnd", 1, 2, 21, 6, 3, 4, 8, "gsu", "all", 0.5, 1e-3, True),
    ("pdma", "bhnd", 1, 2, 33, 6, 3, 3, 5, "pdma", "none", None, 0.0, False),
    ("pdma_state", "bnhd", 1, 2, 20, 5, 2, 6, 4, "pdma", "1", 0.75, None, True),
    ("decode", "bhnd", 2, 2, 1, 7, 4, 2, 6, "gsu", "all", None, None, True),
    ("binary", "bhnd", 1, 1, 40, 4, 8, 2, 16, "gsu", "none", 2.0, None, False),
]


def rms(a, b):
    return float(np.sqrt(((a - b) ** 2).sum() / (b**2).sum()))


def access(logits, digits, choices, topk, tau):
    """Slot indices before CAPE and weights of one row, from all slots."""
    z = logits.reshape(digits, choices)
    p = np.exp(z / tau - (z / tau).max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    every = list(itertools.product(range(choices), repeat=digits))
    index = [sum(j * choices**u for u, j in enumerate(js)) for js in every]
    sums = [sum(z[u, j] for u, j in enumerate(js)) for js in every]
    order = sorted(range(len(every)), key=lambda i: (-sums[i], index[i]))[:topk]
    weight = [np.prod([p[u, j] for u, j in enumerate(every[i])]) for i in order]
    return np.array([index[i] for i in order]), np.array(weight)


def gsu(w, gamma):
    return 1 / (1 + np.exp(-(np.log((1 - w) / w) - gamma)))


def pdma(w, gamma):
    return (1 - w) ** gamma


def walk(q, k, v, gamma, case, state, mass, position, sums=False):
    """Token by token. With `sums` the state is the numerator of pdma; reads divide it by the mass."""
    _, _, b, h, _, e, digits, choices, topk, rule, cape, tau, mass_eps, _ = case
    slots = choices**digits
    eps = float(np.float32(mass_eps if mass_eps is not None else 1e-12 if rule == "gsu" else 1e-6))
    tau = float(np.float32(tau or 1))
    on = range(h) if cape == "all" else [int(x) for x in cape.split(",")] if cape != "none" else []
    o = np.zeros(q.shape[:3] + (e,))
    for i, j, t in itertools.product(range(b), range(h), range(q.shape[2])):
        shift = position + t if j in on else 0
        at, w = access(k[i, j, t], digits, choices, topk, tau)
        for slot, w in zip((at - shift) % slots, w):
            keep = (gsu if rule == "gsu" else pdma)(w, gamma[i, j, t])
            mass[i, j, slot] = keep * mass[i, j, slot] + w
            if sums:
                state[i, j, slot] = keep * state[i, j, slot] + w * v[i, j, t]
            else:
                state[i, j, slot] += w / (mass[i, j, slot] + eps) * (v[i, j, t] - state[i, j, slot])
        at, r = access(q[i, j, t], digits, choices, topk, tau)
        for slot, r in zip((at - shift) % slots, r):
            weight = r / mass[i, j, slot] if sums and mass[i, j, slot] > 0 else r
            o[i, j, t] += weight * state[i, j, slot]
    return o, state, mass


def check_trace():
    def rate(mass, w, gamma):
        mass = gsu(w, gamma) * mass + w
        return mass, w / (mass + 1e-12)

    for w, want in [(0.26088032126426697, 0.9999769439), (0.0540463961660862, 0.9993341504),
                    (0.025982456281781197, 0.9971595399)]:
        assert abs(rate(1 / 1024, w, 6.125)[1] - want) < 2e-10
    mass, _ = rate(1 / 1024, 0.14748835563659668, 6.125)
    assert abs(rate(mass, 0.14606589078903198, 6.375)[1] - 0.9901398046) < 1.1e-8  # the precision of the trace


def make(number, case):
    name, layout, b, h, n, e, digits, choices, topk, rule, cape, tau, mass_eps, carried = case
    rng = np.random.default_rng([20260211, number])
    slots = choices**digits
    before = PREFIX if carried else 0
    logits = [np.round(rng.normal(0, 1, (b, h, before + n, digits * choices)) * 64) / 64 for _ in range(2)]
    q, k = (x.astype(np.float32) for x in logits)
    v = rng.normal(0, 1, (b, h, before + n, e)).astype(np.float32)
    gamma = rng.normal(1, 1, (b, h, before + n)).astype(np.float32)
    if rule == "pdma":
        gamma = np.abs(gamma)
    new = [x[:, :, before:] for x in (q, k, v, gamma)]

    state = np.zeros((b, h, slots, e))
    mass = np.full((b, h, slots), 1 / slots if rule == "gsu" else 0.0)
    tensors = dict(zip(("q", "k", "v", "gamma"), new))
    if carried:
        wide = [x[:, :, :before].astype(np.float64) for x in (q, k, v, gamma)]
        _, state, mass = walk(*wide, case, state, mass, 0)
        # as the file stores them
        state, mass = (x.astype(np.float32).astype(np.float64) for x in (state, mass))
    given = {"state_in": state.copy(), "mass_in": mass.copy()} if carried else {}
    wide = [x.astype(np.float64) for x in new]
    agree = ""
    if rule == "pdma" and mass_eps == 0:
        other = walk(*wide, case, state.copy(), mass.copy(), before, sums=True)[0]
    o, state, mass = walk(*wide, case, state, mass, before)
    if rule == "pdma" and mass_eps == 0:
        error = rms(other, o)
        assert error < 1e-12, (name, error)
        agree = f", the form with sums within {error:.1e}"
    tensors["o"] = o
    if layout == "bnhd":
        tensors = {key: x.swapaxes(1, 2) for key, x in tensors.items()}
    tensors |= given | {"state_out": state, "mass_out": mass}
    tensors = {key: x.astype(np.float32) for key, x in tensors.items()}
    if carried:
        tensors["position_in"] = np.array([before], np.int64)
    tensors["position_out"] = np.array([before + n], np.int64)

    flags = [f"--choices {choices}", f"--topk {topk}", f"--rule {rule}", f"--cape {cape}"]
    flags += [f"--tau {tau}"] * (tau is not None) + [f"--mass-eps {mass_eps}"] * (mass_eps is not None)
    flags += ["--decode"] * (n == 1) + [f"--layout {layout}"]
    golden.save(__file__, "ramnet", name, tensors, SOURCE, " ".join(flags), layout, agree)


def main():
    check_trace()
    for number, case in enumerate(CASES):
        make(number, case)


if __name__ == "__main__":
    main()
