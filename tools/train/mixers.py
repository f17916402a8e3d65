"""The mixers of a model: softmax, linear, slay, ssd and conv1d as torch modules, with the names that subquad reads.

A mixer maps [B, N, d] to [B, N, d] causally. Parameters have the names and shapes of the model format, so that a state
dictionary is the file. docs/operators.md has the formulas; ramnet.py has the mixer of that name.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

CHUNK = 64


class Weight(nn.Module):
    """A parameter called `weight`, and `bias` if asked for."""

    def __init__(self, weight, bias=None):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)


def projection(inputs, outputs, gain=1.0):
    """[outputs, inputs], normal with variance gain^2 / inputs."""
    return Weight(torch.randn(outputs, inputs) * (gain * inputs**-0.5))


def apply(weight, x):
    return F.linear(x, weight.weight, weight.bias)


def rms(x, weight, eps):
    """RMS norm over the last axis."""
    return F.rms_norm(x, x.shape[-1:], weight, eps)


class Convolution(Weight):
    """Causal depthwise convolution over [B, N, C] and SiLU."""

    def __init__(self, channels, width):
        bound = width**-0.5
        super().__init__(torch.empty(channels, 1, width).uniform_(-bound, bound), torch.zeros(channels))

    def forward(self, x):
        width = self.weight.shape[-1]
        padded = F.pad(x, (0, 0, width - 1, 0))
        length, taps = x.shape[1], self.weight[:, 0]
        return F.silu(self.bias + sum(taps[:, w] * padded[:, w : w + length] for w in range(width)))


class Conv1d(Convolution):
    """The convolution as a mixer of its own, with an output projection."""

    def __init__(self, model, layer):
        width = model["hidden_size"]
        super().__init__(width, layer.get("conv", 4))
        self.o = projection(width, width, (2 * len(model["layers"])) ** -0.5)

    def forward(self, x):
        return apply(self.o, super().forward(x))


def rotate(x, theta):
    """Rotary positions (rotate_half) on [B, H, N, D]."""
    half, length = x.shape[-1] // 2, x.shape[-2]
    rate = theta ** (-torch.arange(half, dtype=torch.float32) / half)
    angle = torch.arange(length, dtype=torch.float32)[:, None] * rate
    first, second = x[..., :half], x[..., half:]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Attention(nn.Module):
    """Projections q, k, v and o around a core, with the optional parts: convolution, norm per head, gate z."""

    def __init__(self, model, layer):
        super().__init__()
        width = model["hidden_size"]
        self.heads = layer["heads"]
        self.kv_heads = layer.get("kv_heads", self.heads)
        self.dim = layer.get("head_dim", width // self.heads)
        self.value_dim = layer.get("value_dim", self.dim)
        self.theta = layer.get("rope_theta", 10000.0) if model["positions"] == "rope" else None
        self.eps = model["norm_eps"]
        self.q = projection(width, self.heads * self.dim)
        self.k = projection(width, self.kv_heads * self.dim)
        self.v = projection(width, self.kv_heads * self.value_dim)
        self.o = projection(self.heads * self.value_dim, width, (2 * len(model["layers"])) ** -0.5)
        channels = (self.heads + self.kv_heads) * self.dim + self.kv_heads * self.value_dim
        self.conv = Convolution(channels, layer["conv"]) if layer.get("conv") else None
        self.norm = Weight(torch.ones(self.value_dim)) if layer.get("norm") else None
        self.z = projection(width, self.heads * self.value_dim) if layer.get("gate") else None

    def split(self, x, dim):
        """[B, N, heads * dim] -> [B, heads, N, dim]."""
        return x.unflatten(-1, (-1, dim)).transpose(1, 2)

    def shared(self, x):
        """[B, G, N, ..] -> [B, H, N, ..]."""
        return x if self.heads == self.kv_heads else x.repeat_interleave(self.heads // self.kv_heads, 1)

    def forward(self, x):
        q, k, v = apply(self.q, x), apply(self.k, x), apply(self.v, x)
        if self.conv is not None:
            q, k, v = self.conv(torch.cat([q, k, v], -1)).split([q.shape[-1], k.shape[-1], v.shape[-1]], -1)
        o = self.core(self.split(q, self.dim), self.split(k, self.dim), self.split(v, self.value_dim))
        if self.norm is not None:
            o = rms(o, self.norm.weight, self.eps)
        o = o.transpose(1, 2).flatten(2)
        if self.z is not None:
            o = o * F.silu(apply(self.z, x))
        return apply(self.o, o)


class Softmax(Attention):
    """Exact attention, all keys or a window of the last W."""

    def __init__(self, model, layer):
        super().__init__(model, layer)
        self.window, self.scale = layer.get("window"), layer.get("scale")

    def core(self, q, k, v):
        if self.theta is not None:
            q, k = rotate(q, self.theta), rotate(k, self.theta)
        k, v = self.shared(k), self.shared(v)
        if self.window is None or q.shape[2] <= self.window:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return self.blocks(q, k, v)

    def blocks(self, q, k, v):
        """Blocks of W queries; each sees its own block of keys and the one before, as far as the window reaches."""
        window, length = self.window, q.shape[2]
        pad = -length % window
        q, k, v = (F.pad(x, (0, 0, 0, pad)).unflatten(2, (-1, window)) for x in (q, k, v))
        first = [F.pad(x, (0, 0, 0, 0, 1, 0))[:, :, :-1] for x in (k, v)]
        k, v = (torch.cat([before, x], 3) for before, x in zip(first, (k, v)))
        lag = torch.arange(window)[:, None] - torch.arange(-window, window)
        seen = (lag >= 0) & (lag < window)
        begun = seen & (torch.arange(-window, window) >= 0)
        mask = torch.cat([begun[None], seen[None].expand(q.shape[2] - 1, -1, -1)])
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return o.flatten(2, 3)[:, :, :length]


def normalised_chunks(scores, features, q, k, v, eps, chunk=CHUNK):
    """Causal sum of weighted values over the sum of weights.

    scores(q, k): weights [.., n, m] inside a chunk; features(x): the vectors of which weights are the products, for the
    state between chunks. Every chunk is computed at once; only the sums over chunks are in order.
    """
    length = q.shape[2]
    pad = -length % min(chunk, length)
    q, k, v = (F.pad(x, (0, 0, 0, pad)).unflatten(2, (-1, min(chunk, length))) for x in (q, k, v))
    v = F.pad(v, (0, 1), value=1.0)
    o = scores(q, k).tril() @ v
    if q.shape[2] > 1:
        states = (features(k[:, :, :-1]).transpose(-1, -2) @ v[:, :, :-1]).cumsum(2)
        o = torch.cat([o[:, :, :1], o[:, :, 1:] + features(q[:, :, 1:]) @ states], 2)
    o = o.flatten(2, 3)[:, :, :length]
    return o[..., :-1] / (o[..., -1:] + eps)


class Linear(Attention):
    """Rule `linear` with feature map elu1, normalised."""

    def __init__(self, model, layer):
        super().__init__(model, layer)
        self.norm_eps = layer.get("norm_eps", 1e-6)

    def core(self, q, k, v):
        q, k, v = F.elu(q) + 1, self.shared(F.elu(k) + 1), self.shared(v)
        return normalised_chunks(lambda q, k: q @ k.transpose(-1, -2), lambda x: x, q, k, v, self.norm_eps)


class Slay(Attention):
    """SLAY with anchors. anchors and omega are drawn once and not trained, as in the paper."""

    def __init__(self, model, layer):
        super().__init__(model, layer)
        nodes, features = layer.get("nodes", 2), layer.get("features", 16)
        self.norm_eps = layer.get("norm_eps", 1e-6)
        anchors = F.normalize(torch.randn(layer.get("anchors", 8), self.dim), dim=-1)
        self.anchors = nn.Parameter(anchors, requires_grad=False)
        self.omega = nn.Parameter(torch.randn(nodes, self.kv_heads, features, self.dim), requires_grad=False)
        t, alpha = np.polynomial.laguerre.laggauss(nodes)
        c = 2 + layer.get("epsilon", 1e-3)
        self.nodes = [(math.sqrt(w / c / features), math.sqrt(2 * s / c), s / c) for s, w in zip(t, alpha)]

    def maps(self, x):
        """(A [.., P], E [.., R F]) of [B, H, .., D], whose products are the features."""
        u = x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        square = (u @ self.anchors.T) ** 2 / math.sqrt(len(self.anchors))
        heads = u.flatten(2, -2)
        omega = self.shared(self.omega)
        exponential = [factor * (root * (heads @ w.transpose(-1, -2)) - s).exp()
                       for w, (factor, root, s) in zip(omega, self.nodes)]
        return square, torch.cat(exponential, -1).unflatten(2, u.shape[2:-1])

    def core(self, q, k, v):
        (a, e), (b, f) = self.maps(q), self.maps(self.shared(k))
        split = a.shape[-1]

        def scores(q, k):
            return (q[..., :split] @ k[..., :split].mT) * (q[..., split:] @ k[..., split:].mT)

        def features(x):
            return (x[..., :split, None] * x[..., None, split:]).flatten(-2)

        return normalised_chunks(scores, features, torch.cat([a, e], -1), torch.cat([b, f], -1), self.shared(v),
                                 self.norm_eps)


class Ssd(nn.Module):
    """Mamba-2: one projection, a convolution over x, B and C, the recurrence by chunks, a gated norm, one projection."""

    def __init__(self, model, layer):
        super().__init__()
        width, self.heads = model["hidden_size"], layer["heads"]
        self.dim = layer.get("head_dim", width // self.heads)
        self.state, self.groups, self.eps = layer["state"], layer.get("groups", 1), model["norm_eps"]
        self.inner = self.heads * self.dim
        channels = self.inner + 2 * self.groups * self.state
        self.in_proj = projection(width, self.inner + channels + self.heads)
        self.conv = Convolution(channels, layer.get("conv", 4))
        step = torch.exp(torch.empty(self.heads).uniform_(math.log(1e-3), math.log(1e-1)))
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.a_log = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        self.d = nn.Parameter(torch.ones(self.heads))
        self.norm = Weight(torch.ones(self.inner))
        self.out_proj = projection(self.inner, width, (2 * len(model["layers"])) ** -0.5)

    def forward(self, x):
        sizes = [self.inner, self.conv.weight.shape[0], self.heads]
        z, mixed, dt = apply(self.in_proj, x).split(sizes, -1)
        part = self.groups * self.state
        x, b, c = self.conv(mixed).split([self.inner, part, part], -1)
        x = x.unflatten(-1, (self.heads, self.dim))
        b, c = (y.unflatten(-1, (self.groups, self.state)) for y in (b, c))
        y = scan(x, F.softplus(dt.float() + self.dt_bias), -self.a_log.exp(), b, c)
        y = (y + self.d[:, None] * x).flatten(2) * F.silu(z)
        y = rms(y.unflatten(-1, (self.groups, -1)), None, self.eps).flatten(2) * self.norm.weight
        return apply(self.out_proj, y)


def scan(x, dt, a, b, c, chunk=CHUNK):
    """Mamba-2's recurrence (arXiv 2405.21060, section 6) in chunks.

    x [B, N, H, P], dt [B, N, H], a [H], b and c [B, N, G, S] -> [B, N, H, P], without the skip.
    """
    length, heads, groups = x.shape[1], x.shape[2], b.shape[2]
    chunk = min(chunk, length)
    pad = -length % chunk
    x = F.pad(x * dt[..., None], (0, 0, 0, 0, 0, pad)).unflatten(1, (-1, chunk)).permute(0, 3, 1, 2, 4)
    decay = F.pad(dt * a, (0, 0, 0, pad)).unflatten(1, (-1, chunk)).permute(0, 3, 1, 2).cumsum(-1)
    b, c = (F.pad(y, (0, 0, 0, 0, 0, pad)).unflatten(1, (-1, chunk)).permute(0, 3, 1, 2, 4) for y in (b, c))
    # Inside a chunk: [B, H, chunks, n, m]. The mask goes before exp, since sums above the diagonal are positive.
    hidden = torch.ones(chunk, chunk, dtype=torch.bool).triu(1)
    shares = (decay[..., :, None] - decay[..., None, :]).masked_fill(hidden, -torch.inf).exp()
    products = c @ b.mT
    each = (products[:, :, None] * shares.unflatten(1, (groups, -1))).flatten(1, 2)
    y = each @ x
    # Between chunks: each adds its state [B, H, P, S] to the decayed one before.
    left = (decay[..., -1:] - decay).exp()
    states = (x * left[..., None]).mT.unflatten(1, (groups, -1)) @ b[:, :, None]
    states, whole = states.flatten(1, 2), decay[..., -1].exp()[..., None, None]
    carried = [torch.zeros_like(states[:, :, 0])]
    for i in range(states.shape[2] - 1):
        carried.append(whole[:, :, i] * carried[-1] + states[:, :, i])
    carried = torch.stack(carried, 2).unflatten(1, (groups, -1))
    y = y + (c[:, :, None] @ carried.mT).flatten(1, 2) * decay.exp()[..., None]
    return y.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :length].reshape(-1, length, heads, y.shape[-1])
