"""The formulas in numpy float64, written from the paper independently of the Rust code, and the inputs of the comparison.

Arrays are [heads, tokens, dim]; scores are scaled by 1/sqrt(dim). Used by reproduce.py.
"""

import numpy as np


def weights(q, k):
    """softmax(q k^T / sqrt(D)) over the last axis: the paper's P."""
    scores = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def attention(q, k, v):
    return weights(q, k) @ v.astype(np.float64)


def linformer(q, k, v, e, f=None):
    """softmax(q (e k)^T / sqrt(D)) (f v); e and f are [1 or heads, K, tokens]."""
    e = e.astype(np.float64)
    f = e if f is None else f.astype(np.float64)
    return attention(q, e @ k.astype(np.float64), f @ v.astype(np.float64))


def pooled(x, rank, kind):
    """Row r pools positions floor(r M / K) to ceil((r + 1) M / K) - 1; neighbouring rows may share a position."""
    length = x.shape[1]
    reduce = {"mean": np.mean, "max": np.max}[kind]
    spans = [(r * length // rank, -(-(r + 1) * length // rank)) for r in range(rank)]
    return np.stack([reduce(x[:, begin:end].astype(np.float64), axis=1) for begin, end in spans], axis=1)


def pool(q, k, v, rank, kind):
    return attention(q, pooled(k, rank, kind), pooled(v, rank, kind))


def error(got, want):
    """Relative root mean square of the difference, per head."""
    got, want = got.astype(np.float64), want.astype(np.float64)
    return np.sqrt(((got - want) ** 2).sum((-1, -2)) / (want**2).sum((-1, -2)))


def total_error(got, want):
    got, want = got.astype(np.float64), want.astype(np.float64)
    return float(np.sqrt(((got - want) ** 2).sum() / (want**2).sum()))


def decompose(p):
    """Singular values of one square p, largest first, and its left singular vectors.

    Computed from the eigenvectors of p p^T, in a third of the time of a full decomposition. Values under 1e-8 of the
    largest are rounding errors, far below any figure printed here.
    """
    values, vectors = np.linalg.eigh(p @ p.T)
    return np.sqrt(np.clip(values[::-1], 0, None)), vectors[:, ::-1]


def cumulative(singular):
    return np.cumsum(singular) / singular.sum()


def perplexity(p):
    """Effective number of keys per query: exp of the entropy of its weights, mean over queries."""
    return float(np.exp(-(p * np.log(np.maximum(p, 1e-300))).sum(-1)).mean())


def unstructured(q, k, rng):
    """Weights from independent Gaussian scores with the spread of the real ones: how much of a falling spectrum comes from
    the sharpness of softmax alone."""
    scores = q @ k.T / np.sqrt(q.shape[-1])
    spread = (scores - scores.mean(-1, keepdims=True)).std()
    noise = np.exp(spread * rng.standard_normal(scores.shape))
    return noise / noise.sum(-1, keepdims=True)


def unordered(q, k, rng):
    """Weights of independent Gaussian tokens with the mean and covariance of the real q and k: how much comes from the
    small D of a head and from these moments, and not from the order of the text."""
    q, k = (rng.multivariate_normal(x.mean(0), np.cov(x.T), len(x), method="cholesky") for x in (q, k))
    return weights(q, k)


WINDOW = 9


def lengthen(qkv, length, rng):
    """A longer sequence with the statistics of a real one. It is not text, and is weaker evidence than text would be.

    q, k and v of all heads of a token form one vector x, which keeps their correlations. Without the first and last token
    ([CLS] and [SEP]), x splits into its mean, the moving average over 9 tokens (slow changes along the text, mostly
    position and topic) and the rest. The new sequence is
        mean + AR(1) Gaussian with the covariance and the lag-1 correlation of the moving average
             + the rest of a token of the sample, drawn with replacement.
    Kept: mean, covariance, heavy tails of single tokens, locality. Lost: word order, links between far tokens, and the
    variety of a longer text (only 452 different rests).
    """
    heads, tokens, dim = qkv[0].shape
    x = np.concatenate(qkv, axis=-1).astype(np.float64)[:, 1:-1].transpose(1, 0, 2).reshape(tokens - 2, -1)
    mean = x.mean(0)
    x = x - mean
    padded = np.pad(x, ((WINDOW // 2, WINDOW // 2), (0, 0)), mode="edge")
    smooth = np.mean([padded[i : i + len(x)] for i in range(WINDOW)], axis=0)
    rest = x - smooth
    rho = float((smooth[1:] * smooth[:-1]).sum() / (smooth**2).sum())
    # A mix of all smoothed tokens with Gaussian coefficients has exactly their covariance.
    mix = rng.standard_normal((length, len(x)))
    for t in range(1, length):
        mix[t] = rho * mix[t - 1] + np.sqrt(1 - rho * rho) * mix[t]
    new = mean + mix @ smooth / np.sqrt(len(x)) + rest[rng.integers(len(x), size=length)]
    new = new.reshape(length, heads, 3 * dim).transpose(1, 0, 2)
    return [np.ascontiguousarray(part, np.float32) for part in np.split(new, 3, axis=-1)], rho
