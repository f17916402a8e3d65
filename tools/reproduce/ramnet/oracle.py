"""The formulas in numpy float64, written from the text independently of the Rust code, and hand-set addresses.

P = 4 choices per digit, U digits, S = 4^U slots; each token writes K slots and reads K. Logits are [..., tokens, 4 U]; digit
0 of a slot is the least significant. Used by reproduce.py.
"""

import numpy as np

CHOICES = 4
EPSILON = {"gsu": 1e-12, "pdma": 1e-6}

# ---- what is run ----

WIDTH = 64  # E, of values
REFERENCE = (5, 8)  # the paper's U and K: 1024 slots
GAMMAS = {"gsu": (-np.inf, 0, 6, np.inf), "pdma": (0, 1, 6, np.inf)}
KINDS = {"apart": "a slot each", "drawn": "drawn slots", "spread": "spread"}  # addresses of keys
LOADS = [2.0**i for i in range(-4, 3)]  # pairs over slots
QUERIES = 512  # maximum per trial and load
SHARP = 0.99  # weight of the slot that a key names
STORY = (20, 20, 24)  # tokens that write pairs, that read them in another order, that all use one address
LAG = 3

CODES = (16, 64, 256, 1024, 4096)  # codebook sizes C
WORDS = 256
NOISE = 0.3  # length of the noise on a word, of length 1
VALUES = {"words": f"{WORDS} noisy words", "directions": "a direction each"}  # values of pairs
CODED = ("apart", "spread")  # kinds of addresses
HOW = ("values", "slots", "both")  # what is replaced by codes
CODED_LOAD = 0.25
CODED_GAMMA = 0
ROUNDS = 10  # of k-means
MEMORIES = (1, 16, 256)  # that share a codebook

# ---- values and codebooks ----


def directions(rng, *shape):
    """Values [..., E] of unit length and random direction."""
    values = rng.standard_normal((*shape, WIDTH), np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def words():
    """The WORDS directions [WORDS, E] that values of the kind "words" are near."""
    return directions(np.random.default_rng(6), WORDS)


def values(kind, rng, *shape):
    """Values [..., E] of unit length. words: each is one of the words plus noise."""
    if kind == "directions":
        return directions(rng, *shape)
    noisy = words()[rng.integers(WORDS, size=shape)] + np.float32(NOISE) * directions(rng, *shape)
    return noisy / np.linalg.norm(noisy, axis=-1, keepdims=True)


def nearest(rows, codes):
    """Index of the code [C, E] nearest to each row [rows, E]."""
    half = (codes**2).sum(-1) / 2
    return np.concatenate([(part @ codes.T - half).argmax(-1) for part in np.array_split(rows, -(-len(rows) // 128))])


def seeds(rows, count, rng):
    """count rows [count, E] by k-means++: each is drawn in proportion to its squared distance to those before it."""
    norms = (rows**2).sum(-1)
    chosen, far = [int(rng.integers(len(rows)))], np.inf
    while len(chosen) < count:
        last = chosen[-1]
        far = np.minimum(far, np.maximum(norms - 2 * (rows @ rows[last]) + norms[last], 0))
        sums = np.cumsum(far, dtype=np.float64)
        chosen.append(int(np.searchsorted(sums, rng.random() * sums[-1], side="right")))
    return rows[chosen]


def codebook(rows, start):
    """Codebook [C, E]: zeros, for what is empty, and C - 1 codes by k-means of the rows from start [C - 1, E].

    A code without rows stays where it is.
    """
    codes = start
    for _ in range(ROUNDS):
        code = nearest(rows, codes)
        counts = np.bincount(code, minlength=len(codes))[:, None]
        sums = np.stack([np.bincount(code, column, len(codes)) for column in rows.T], -1)
        codes = np.where(counts > 0, sums / np.maximum(counts, 1), codes).astype(np.float32)
    return np.concatenate([np.zeros((1, codes.shape[1]), np.float32), codes])


def bits(codes):
    """Bits of an index of one of so many codes."""
    return (codes - 1).bit_length()


def coded_bytes(codes, slots):
    """Bytes of a memory kept as one packed index per slot, and of the codebook in f32, which memories can share."""
    return slots * bits(codes) / 8, 4 * codes * WIDTH


def bound(codes):
    """Least relative RMS of so many codes for Gaussian values: the distortion at a rate of log2(C) / E bits."""
    return codes ** (-1 / WIDTH)


# ---- addresses ----


def beam(logits, topk):
    """Slots [..., tokens, K] of the K largest sums of one logit per digit, the best first; ties go to the smaller slot.

    It runs level by level over f32 sums, so that ties are those of the operator.
    """
    z = np.asarray(logits, np.float32).reshape(*logits.shape[:-1], -1, CHOICES)
    slots, sums = np.zeros((*z.shape[:-2], 1), np.int64), np.zeros((*z.shape[:-2], 1), np.float32)
    for u in range(z.shape[-2]):
        slots = np.concatenate([slots + j * CHOICES**u for j in range(CHOICES)], -1)
        sums = np.concatenate([sums + z[..., u, j, None] for j in range(CHOICES)], -1)
        order = np.lexsort((slots, -sums), axis=-1)[..., :topk]
        slots, sums = (np.take_along_axis(x, order, -1) for x in (slots, sums))
    return slots


def every(logits, topk):
    """Like beam, but sorts all slots."""
    z = np.asarray(logits, np.float32).reshape(*logits.shape[:-1], -1, CHOICES)
    at = digits(np.arange(CHOICES ** z.shape[-2]), z.shape[-2])
    sums = np.zeros((*z.shape[:-2], len(at)), np.float32)
    for u in range(z.shape[-2]):
        sums += z[..., u, at[:, u]]
    return np.argsort(-sums, axis=-1, kind="stable")[..., :topk]


def access(logits, topk):
    """(slots, weights), both [..., tokens, K]: products of softmaxes, not renormalised; 0 if f32 underflows."""
    slots = beam(logits, topk)
    z = np.asarray(logits, np.float64).reshape(*logits.shape[:-1], -1, CHOICES)
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    weights = np.ones(slots.shape)
    for u in range(z.shape[-2]):
        weights *= np.take_along_axis(p[..., u, :], slots // CHOICES**u % CHOICES, -1)
    return slots, np.where(weights.astype(np.float32) == 0, 0.0, weights)


# ---- logits that name a slot ----

SPREAD = 3.0  # standard deviation of drawn logits
SURE = 200.0  # a lead that makes the weight of every other slot underflow f32


def digits(slots, count):
    return slots[..., None] // CHOICES ** np.arange(count) % CHOICES


def logits(slots, count, weight):
    """Logits [..., 4 U] that give the slot this weight and distribute the rest evenly per digit."""
    if weight < 1:
        p = weight ** (1 / count)
        lead = np.log(p * (CHOICES - 1) / (1 - p))
    else:
        lead = SURE
    z = np.where(digits(slots, count)[..., None] == np.arange(CHOICES), lead, 0.0)
    return z.reshape(*slots.shape, -1).astype(np.float32)


# ---- the memory ----


def retention(rule, w, gamma):
    """Share of its mass that a slot keeps when written with weight w > 0; gamma may be infinite."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        finite = 1 / (1 + np.exp(gamma) * w / (1 - w)) if rule == "gsu" else (1 - w) ** gamma
    return np.where(gamma == np.inf, 0.0, np.where(gamma == -np.inf, 1.0, finite))


def walk(q, k, v, gamma, topk, rule, cape=()):
    """o [B, H, N, E], token by token: write K slots, then read K. cape: heads whose slots rotate by one per token."""
    batch, heads, tokens, width = v.shape
    slots = CHOICES ** (q.shape[-1] // CHOICES)
    shift = np.arange(tokens) * np.isin(np.arange(heads), cape)[:, None]
    (write, w), (read, r) = ((((x - shift[..., None]) % slots).reshape(-1, tokens, topk), y.reshape(-1, tokens, topk))
                             for x, y in (access(k, topk), access(q, topk)))
    v, gamma = v.reshape(-1, tokens, width).astype(np.float64), gamma.reshape(-1, tokens).astype(np.float64)
    unit = np.arange(batch * heads)[:, None]
    content = np.zeros((batch * heads, slots, width))
    mass = np.full((batch * heads, slots), 1 / slots if rule == "gsu" else 0.0)
    o = np.zeros(v.shape)
    for t in range(tokens):
        at, weight, live = write[:, t], w[:, t], w[:, t] > 0
        old = mass[unit, at]
        new = np.where(live, retention(rule, weight, gamma[:, t, None]) * old + weight, old)
        rate = np.where(live, weight / (new + EPSILON[rule]), 0.0)
        mass[unit, at] = new
        content[unit, at] += rate[..., None] * (v[:, t, None] - content[unit, at])
        o[:, t] = (r[:, t, :, None] * content[unit, read[:, t]]).sum(1)
    return o.reshape(batch, heads, tokens, width)


def survivors(load, slots):
    """Share of load * slots pairs, each written to a random slot, that no later pair overwrites."""
    pairs = round(load * slots)
    return slots / pairs * (1 - (1 - 1 / slots) ** pairs)


def relative_rms(got, want):
    got, want = got.astype(np.float64), want.astype(np.float64)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))
