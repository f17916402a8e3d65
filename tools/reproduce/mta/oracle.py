"""The toy task, the weights set by hand, and attention once more in numpy float64, apart from the Rust code.

Text: blocks of N letters with a `.` behind each, then `#` and the two letters asked for. Rows of queries are those
three last tokens, in that order; what is read is the last one's. Used by reproduce.py.
"""

from dataclasses import dataclass

import numpy as np

LETTERS = 26
END, SINK = LETTERS, LETTERS + 1  # features of `.` and of `#`
FEATURES = LETTERS + 2
SHARP = 40.0  # --scale of every run: a lead of 1/2 in a score is a factor of e^20

# ---- the task ----


@dataclass
class Task:
    """blocks [B, blocks, N] letters, target [B] the one block that holds both, asked [B, 2]."""

    blocks: np.ndarray
    target: np.ndarray
    asked: np.ndarray


def draw(length, blocks, trials, repeats, rng):
    """Letters of a block all differ, as in the paper's data; repeats: drawn one by one, but the target has both."""

    def some(count):
        if repeats:
            return rng.integers(LETTERS, size=(count, length))
        return rng.permuted(np.tile(np.arange(LETTERS), (count, 1)), axis=1)[:, :length]

    found = np.stack([some(blocks) for _ in range(trials)])
    target, asked = rng.integers(blocks, size=trials), np.zeros((trials, 2), np.int64)
    for trial, at in enumerate(target):
        while len(set(found[trial, at])) < 2:
            found[trial, at] = some(1)[0]
        asked[trial] = rng.permutation(np.unique(found[trial, at]))[:2]
        while True:
            both = np.all([(found[trial] == x).any(-1) for x in asked[trial]], 0)
            both[at] = False
            if not both.any():
                break
            found[trial, both] = some(both.sum())
    return Task(found, target, asked)


def keys(task):
    """k [B, 1, M, FEATURES]: one-hot letters, `.` and `#`; zeros for the letters behind `#`."""
    trials, blocks, length = task.blocks.shape
    ids = np.concatenate([task.blocks, np.full((trials, blocks, 1), END)], -1).reshape(trials, -1)
    k = np.eye(FEATURES)[np.concatenate([ids, np.full((trials, 1), SINK)], -1)]
    return np.concatenate([k, np.zeros((trials, 2, FEATURES))], 1)[:, None]


def values(task, own):
    """v [B, 1, M, N * LETTERS]: every token of a block, its `.` too, has the block's letters, one-hot by place.

    own: a letter has itself alone, at its place, and `.` nothing.
    """
    trials, blocks, length = task.blocks.shape
    letters = np.eye(LETTERS)[task.blocks]  # [B, blocks, N, LETTERS]
    if own:
        each = np.zeros((trials, blocks, length + 1, length, LETTERS))
        each[:, :, np.arange(length), np.arange(length)] = letters
    else:
        each = np.broadcast_to(letters[:, :, None], (trials, blocks, length + 1, length, LETTERS))
    v = each.reshape(trials, blocks * (length + 1), -1)
    return np.concatenate([v, np.zeros((trials, 3, v.shape[-1]))], 1)[:, None]


def queries(task, form):
    """q [B, H, 3, FEATURES]. `#` asks for `.`, a letter for itself; the last for both where the form says so.

    sinks: a head for each letter, whose query asks for `#` as well.
    """
    q = np.zeros((len(task.asked), max(1, len(form.sinks)), 3, FEATURES))
    q[:, :, 0, END] = 1
    for i in (0, 1):
        q[:, :, 1 + i] += np.eye(FEATURES)[task.asked[:, None, i]]
    if form.both:
        q[:, :, 2] += q[:, :, 1]
    for head, row in enumerate(form.sinks):
        q[:, head, row, SINK] = 1
    return q


# ---- kernels ----


def near(n, reach=None):
    """2 x 2N-1, the paper's shape: the first letter on a key itself, the second on N-1 keys before it and behind.

    reach: how many instead of N-1.
    """
    reach = n - 1 if reach is None else reach
    kernel = np.zeros((1, 2, 2 * reach + 1))
    kernel[0, 0, reach] = 2 * n
    kernel[0, 1] = np.arange(2 * reach + 1) != reach
    return kernel


def gather(n, reach=None):
    """3 x 2N+1: on a `.`, how many of the N keys before it are one of the letters. reach: of how many instead of N."""
    reach = n if reach is None else reach
    kernel = np.zeros((1, 3, 2 * reach + 1))
    kernel[0, 0, reach] = n + 1
    kernel[0, 1:, :reach] = 1
    return kernel


def spread(n):
    """1 x 2N+1, after the softmax: the weight of a `.` to each of the N keys before it."""
    return (np.arange(2 * n + 1) > n).astype(float)[None, None]


def ordered(n):
    """2 heads, 3 x 2N+1: on a letter, whether the other letter comes behind it sooner than `.` does.

    A key d behind weighs 2^(N-d) if it is the other letter and -1.5 2^(N-d) if it is `.`: binary numbers compared. Over
    2^N, what `#` gets too, is a yes. Head 0: the first letter asked for stands first; head 1: the second one does.
    """
    ahead = np.arange(1, n + 1)
    kernel = np.zeros((2, 3, 2 * n + 1))
    kernel[:, 0, n + ahead] = -1.5 * 2.0 ** (n - ahead)
    for head, (own, other) in enumerate(((1, 2), (2, 1))):
        kernel[head, own, n] = 2.0**n
        kernel[head, other, n + ahead] = 2.0 ** (n - ahead)
    return kernel


@dataclass
class Form:
    """What is run: pre and post make kernels of N; the rest is as queries() and values() have it."""

    name: str
    pre: object = None
    post: object = None
    both: bool = False
    own: bool = False
    sinks: tuple = ()

    def op(self):
        return "mta" if self.pre else "softmax"

    def tensors(self, task):
        n = task.blocks.shape[-1]
        kernels = {x: make(n) for x, make in (("kq_pre", self.pre), ("kq_post", self.post)) if make}
        return {"q": queries(task, self), "k": keys(task), "v": values(task, self.own)} | kernels


FORMS = {
    "last": Form("softmax, last letter"),
    "both": Form("softmax, both letters", both=True),
    "near": Form("mta, near", pre=near),
    "gather": Form("mta, gather", pre=gather),
    "spread": Form("mta, gather and spread", pre=gather, post=spread, own=True),
    "ordered": Form("mta, two heads", pre=ordered, sinks=(1, 2)),
}

# ---- attention ----


def convolve(scores, kernel):
    """sum_{a,b} kernel[h, cq-1-a, half+b] scores[..., h, i-a, j+b], zeros outside."""
    _, rows, taps = kernel.shape
    half, (n, m) = taps // 2, scores.shape[-2:]
    room = np.pad(scores, [(0, 0), (0, 0), (rows - 1, 0), (half, half)])
    out = np.zeros(scores.shape)
    for a in range(rows):
        for b in range(taps):
            out += kernel[:, a, b, None, None] * room[..., a : a + n, b : b + m]
    return out


def stages(q, k, v, kq_pre=None, kq_post=None):
    """(name -> map [B, H, 3, M] of each stage there is, o): scores are shown over SHARP, 0 where not seen."""
    n, m = q.shape[-2], k.shape[-2]
    seen = np.arange(m) <= np.arange(n)[:, None] + m - n
    scores = np.where(seen, q @ k.swapaxes(-1, -2), 0)
    found = {"scores": scores}
    if kq_pre is not None:
        scores = found["kq_pre"] = np.where(seen, convolve(scores, kq_pre), 0)
    weights = np.where(seen, np.exp(SHARP * (scores - np.where(seen, scores, -np.inf).max(-1, keepdims=True))), 0)
    weights = found["softmax"] = weights / weights.sum(-1, keepdims=True)
    if kq_post is not None:
        weights = found["kq_post"] = np.where(seen, convolve(weights, kq_post), 0)
    return found, weights @ v


def relative_rms(got, want):
    return float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want))
