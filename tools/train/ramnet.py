"""RAM-Net (arXiv 2602.11958, version 2) as a torch module: the memory with its gradient by hand, and the mixer around it.

The memory of a head has S = P^U slots. The gradient walks the tokens backwards and undoes one write at a time from rows
that the forward pass kept, so that no copy of the memory per token is needed.
"""

import torch
from torch import nn
from torch.nn import functional as F

from mixers import Weight, apply, projection, rms


def addresses(logits, choices, topk):
    """The K slots [.., K] of the largest sums of one logit per digit, digit 0 least significant. Not differentiable."""
    digits = logits.detach().unflatten(-1, (-1, choices))
    sums, found = digits[..., 0, :], torch.arange(choices).expand_as(digits[..., 0, :])
    for u in range(digits.shape[-2]):
        if u > 0:
            sums = (sums[..., :, None] + digits[..., u, None, :]).flatten(-2)
            found = (found[..., :, None] + choices**u * torch.arange(choices)).flatten(-2)
        best = sums.topk(min(topk, sums.shape[-1]), -1).indices
        sums, found = sums.gather(-1, best), found.gather(-1, best)
    return found


def weights(logits, slots, choices):
    """Products of softmaxed digits at these slots, not renormalised: [.., K]."""
    shares = logits.unflatten(-1, (-1, choices)).log_softmax(-1)
    total = 0.0
    for u in range(shares.shape[-2]):
        total = total + shares[..., u, :].gather(-1, slots // choices**u % choices)
    return total.exp()


class Memory(torch.autograd.Function):
    """Writes and reads: (at, w, to, r, v, alpha, slots) -> o.

    at, to: slots written and read [T, N, K]; w, r: their weights; v [T, N, E]; alpha [T, N, K]: share of its mass that a
    slot keeps at this write. T is batch times heads.
    """

    @staticmethod
    def forward(ctx, at, w, to, r, v, alpha, slots):
        batch, length, _ = at.shape
        content, mass = v.new_zeros(batch, slots, v.shape[-1]), v.new_full((batch, slots), 1.0 / slots)
        rows = torch.arange(batch)[:, None]
        out, old, masses, read = torch.empty_like(v), [], [], []
        for t in range(length):
            slot = at[:, t]
            before, was = content[rows, slot], mass[rows, slot]
            now = alpha[:, t] * was + w[:, t]
            content[rows, slot] = before + (w[:, t] / now)[..., None] * (v[:, t, None] - before)
            mass[rows, slot] = now
            found = content[rows, to[:, t]]
            out[:, t] = (r[:, t, :, None] * found).sum(1)
            old.append(before), masses.append(was), read.append(found)
        ctx.save_for_backward(at, w, to, r, v, alpha, torch.stack(old), torch.stack(masses), torch.stack(read))
        ctx.slots = slots
        return out

    @staticmethod
    def backward(ctx, grad):
        at, w, to, r, v, alpha, old, masses, read = ctx.saved_tensors
        batch, length, _ = at.shape
        content, mass = v.new_zeros(batch, ctx.slots, v.shape[-1]), v.new_zeros(batch, ctx.slots)
        rows = torch.arange(batch)[:, None]
        dw, dr, dv, dalpha = (torch.empty_like(x) for x in (w, r, v, alpha))
        for t in reversed(range(length)):
            g, slot = grad[:, t, None], at[:, t]
            dr[:, t] = (g * read[t]).sum(-1)
            content[rows, to[:, t]] += r[:, t, :, None] * g
            before, was = old[t], masses[t]
            now = alpha[:, t] * was + w[:, t]
            eta = w[:, t] / now
            g = content[rows, slot]
            dv[:, t] = (eta[..., None] * g).sum(1)
            deta = (g * (v[:, t, None] - before)).sum(-1)
            dnow = mass[rows, slot] - deta * eta / now
            dw[:, t] = deta / now + dnow
            dalpha[:, t] = dnow * was
            content[rows, slot] = (1 - eta)[..., None] * g
            mass[rows, slot] = dnow * alpha[:, t]
        return None, dw, None, dr, dv, dalpha, None


def memory(q, k, v, gamma, choices, topk, cape=False):
    """Rule gsu. q, k [B, H, N, U P], v [B, H, N, E], gamma [B, H, N] -> [B, H, N, E]."""
    slots = choices ** (q.shape[-1] // choices)
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    to, at = addresses(q, choices, topk), addresses(k, choices, topk)
    r, w = weights(q, to, choices), weights(k, at, choices)
    # (1 - w) / (1 - w + e^gamma w); a weight of one keeps nothing.
    alpha = torch.sigmoid(torch.log1p(-w.clamp_max(1 - 6e-8)) - w.clamp_min(1e-37).log() - gamma.flatten(0, 1)[..., None])
    if cape:
        shift = torch.arange(q.shape[1])[:, None]
        to, at = (to - shift) % slots, (at - shift) % slots
    return Memory.apply(at, w, to, r, v, alpha, slots).unflatten(0, gamma.shape[:2])


class Ramnet(nn.Module):
    """The whole layer: address logits, memory, RMS norm per head, sigmoid gate, output."""

    def __init__(self, model, layer):
        super().__init__()
        width, self.heads = model["hidden_size"], layer["heads"]
        self.choices, self.topk, self.eps = layer.get("choices", 4), layer.get("topk", 8), model["norm_eps"]
        self.cape, self.dim = layer.get("cape", "none") == "all", layer.get("value_dim", width // self.heads)
        logits = self.heads * layer["head_dim"]
        self.q, self.k = projection(width, logits), projection(width, logits)
        self.v, self.z = projection(width, self.heads * self.dim), projection(width, self.heads * self.dim)
        self.gamma = Weight(torch.zeros(self.heads, width), torch.zeros(self.heads))
        self.norm = Weight(torch.ones(self.dim))
        self.o = projection(self.heads * self.dim, width, (2 * len(model["layers"])) ** -0.5)

    def forward(self, x):
        def heads(weight):
            return apply(weight, x).unflatten(-1, (self.heads, -1)).transpose(1, 2)

        o = memory(heads(self.q), heads(self.k), heads(self.v), apply(self.gamma, x).transpose(1, 2), self.choices,
                   self.topk, self.cape)
        o = rms(o, self.norm.weight, self.eps).transpose(1, 2).flatten(2)
        return apply(self.o, o * torch.sigmoid(apply(self.z, x)))
