"""The toy task, the hand-set weights, and attention in numpy float64, independent of the Rust code.

Text: blocks of N letters, each followed by a `.`; then `#` and the two letters asked for. The queries are these three last
tokens, in that order; the answer is the output of the last one. Used by reproduce.py.
"""

from dataclasses import dataclass

import numpy as np

LETTERS = 26
END, SINK = LETTERS, LETTERS + 1  # features of `.` and of `#`
FEATURES = LETTERS + 2
SHARP = 40.0  # --scale of every run: a score lead of 1/2 is a factor of e^20

# ---- the task ----


@dataclass
class Task:
    """blocks [B, blocks, N]: letters; target [B]: the block that has both letters; asked [B, 2]."""

    blocks: np.ndarray
    target: np.ndarray
    asked: np.ndarray


def draw(length, blocks, trials, repeats, rng):
    """Letters within a block differ, as in the paper's data; repeats: drawn independently, but the target has both."""

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
    """k [B, 1, M, FEATURES]: one-hot letters, `.` and `#`; zeros for the letters after `#`."""
    trials, blocks, length = task.blocks.shape
    ids = np.concatenate([task.blocks, np.full((trials, blocks, 1), END)], -1).reshape(trials, -1)
    k = np.eye(FEATURES)[np.concatenate([ids, np.full((trials, 1), SINK)], -1)]
    return np.concatenate([k, np.zeros((trials, 2, FEATURES))], 1)[:, None]


def values(task, own):
    """v [B, 1, M, N * LETTERS]: each token of a block, including its `.`, has the block's letters, one-hot per place.

    own: a letter has only itself, at its place, and `.` has zeros.
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
    """q [B, H, 3, FEATURES]. `#` asks for `.`, a letter for itself; the last query for both letters if the form says so.

    sinks: one head per letter, whose query also asks for `#`.
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
    """2 x 2N-1, the paper's shape: matches the first letter at a key and the second within N-1 keys before or after it.

    reach: replaces N-1.
    """
    reach = n - 1 if reach is None else reach
    kernel = np.zeros((1, 2, 2 * reach + 1))
    kernel[0, 0, reach] = 2 * n
    kernel[0, 1] = np.arange(2 * reach + 1) != reach
    return kernel


def gather(n, reach=None):
    """3 x 2N+1: at a `.`, counts the letters asked for among the N keys before it. reach: replaces N."""
    reach = n if reach is None else reach
    kernel = np.zeros((1, 3, 2 * reach + 1))
    kernel[0, 0, reach] = n + 1
    kernel[0, 1:, :reach] = 1
    return kernel


def spread(n):
    """1 x 2N+1, after the softmax: copies the weight of a `.` to each of the N keys before it."""
    return (np.arange(2 * n + 1) > n).astype(float)[None, None]


def ordered(n):
    """2 heads, 3 x 2N+1: at a letter, tests whether the other letter comes after it before the next `.`.

    A key d places later has weight 2^(N-d) if it is the other letter and -1.5 2^(N-d) if it is `.`, which compares binary
    numbers. A sum over 2^N, the score of `#`, means yes. Head 0: the first letter asked for comes first; head 1: the second.
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
    """A form to run: pre and post make kernels for N; the rest are arguments of queries() and values()."""

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
    """(name -> map [B, H, 3, M] of each stage, o): scores are divided by SHARP, and 0 where masked."""
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
