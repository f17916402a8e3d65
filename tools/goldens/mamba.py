"""Writes tests/goldens/mamba_*.safetensors: inputs and expected outputs of operator `mamba`, from code that shares
nothing with this crate.

    pip install "numpy==2.4.6" "torch==2.15.0" "transformers==5.23.0"
    python tools/goldens/mamba.py

The oracle is transformers' mamba_selective_scan in plain torch (its __wrapped__), in float64, group by group. It starts
from zeros, so for a carried state it runs over the earlier tokens, which produced the state, and the new ones. `decode` is
transformers' mamba_selective_state_update, which computes in f32.

Tensors (f32): x, dt, y [B,C,N]; a or a_log [C,S]; b, c [B,S,N] or [B,G,S,N]; d, dt_bias [C] and z [B,C,N] if the case has
them; state_in, state_out [B,C,S] if it starts from a state (pass the first to --state-in as `state`). Metadata: source,
layout, and the flags of `subquad run mamba` that reproduce the outputs.

Check: every case also runs in the closed form, y_t = sum over j <= t of C_t exp(a (D_t - D_j)) dt_j B_j x_j with D the
running sum of steps; the script stops if the two differ by more than 1e-12 (f32's rounding for `decode`).
"""


import numpy as np
import torch
from transformers.models.mamba import modeling_mamba

import golden


PREFIX = 23  # tokens that produced a carried state

# name, B, C, N, S, G (0: no axis), a_log, optional tensors, softplus, from a state
CASES = [
    ("plain", 1, 5, 65, 4, 0, False, "", True, False),
    ("default", 2, 6, 70, 16, 0, True, "d z dt_bias", True, False),
    ("groups", 1, 6, 40, 3, 2, False, "d z dt_bias", True, True),
    ("no_softplus", 1, 4, 40, 8, 0, False, "d dt_bias", False, True),
    ("long_steps", 1, 4, 50, 4, 0, False, "z", True, True),
    ("one_state", 2, 5, 33, 1, 1, True, "d", True, True),
    ("decode", 2, 8, 1, 16, 0, False, "d z dt_bias", True, True),
]


def rms(a, b):
    return float(np.sqrt(((a - b) ** 2).sum() / (b**2).sum()))


def closed(x, dt, a, b, c, d, z, dt_bias, softplus):
    """The closed form; b and c [B,C,S,N], expanded to channels."""
    steps = dt if dt_bias is None else dt + dt_bias[:, None]
    steps = np.logaddexp(0, steps) if softplus else steps
    total = np.cumsum(steps, axis=2)
    left = np.tril(np.ones((x.shape[2], x.shape[2]), bool))
    between = np.where(left, total[..., :, None] - total[..., None, :], 0)
    decay = np.where(left, np.exp(a[None, :, :, None, None] * between[:, :, None]), 0)
    own = (steps * x)[:, :, None] * b
    y = np.einsum("zcsn,zcsnm,zcsm->zcn", c, decay, own)
    y = y if d is None else y + d[:, None] * x
    state = np.einsum("zcsm,zcsm->zcs", decay[:, :, :, -1], own)
    return (y if z is None else y * z / (1 + np.exp(-z))), state


def scan(tensors, groups, softplus, length):
    """Output and final state after the first `length` tokens, group by group."""
    x, dt, a, b, c, d, z, dt_bias = tensors
    size = x.shape[1] // groups
    ys, states = [], []
    for g in range(groups):
        own = slice(g * size, (g + 1) * size)
        y, state = modeling_mamba.mamba_selective_scan.__wrapped__(
            x[:, own, :length],
            dt[:, own, :length],
            a[own],
            b[:, g, :, :length],
            c[:, g, :, :length],
            None if d is None else d[own],
            z=None if z is None else z[:, own, :length],
            delta_bias=None if dt_bias is None else dt_bias[own],
            delta_softplus=softplus,
            return_last_state=True,
        )
        ys.append(y)
        states.append(state)
    return torch.cat(ys, 1), torch.cat(states, 1)


def make(index, case):
    name, batch, channels, n, s, g, a_log, more, softplus, carried = case
    rng = np.random.default_rng([20231202, index])
    before = PREFIX if carried else 0
    groups, length = max(g, 1), before + n

    def draw(*shape, scale=1.0):
        return rng.normal(0, scale, shape).astype(np.float32)

    x, b, c = draw(batch, channels, length), draw(batch, groups, s, length), draw(batch, groups, s, length)
    if name == "long_steps":  # from keeping the state to erasing it, and past the range of exp
        dt = rng.uniform(-120, 120, x.shape).astype(np.float32)
    else:
        dt = draw(*x.shape) if softplus else np.abs(draw(*x.shape, scale=0.1))
    logarithm = (np.log(np.arange(1, s + 1)) + 0.1 * draw(channels, s)).astype(np.float32)
    a = -np.exp(logarithm.astype(np.float64)) if a_log else (-np.exp(logarithm)).astype(np.float32)
    d = draw(channels) if "d " in more + " " else None
    z = draw(*x.shape) if "z" in more else None
    dt_bias = np.abs(draw(channels, scale=0.1)) - (2 if softplus else 0) if "dt_bias" in more else None
    dt_bias = None if dt_bias is None else dt_bias.astype(np.float32)

    wide = [None if t is None else torch.from_numpy(np.asarray(t, np.float64)) for t in (x, dt, a, b, c, d, z, dt_bias)]
    y, state_out = scan(wide, groups, softplus, length)
    own = [None if t is None else t.numpy() for t in wide]
    own[3:5] = (np.repeat(t, channels // groups, axis=1) for t in own[3:5])
    closed_y, closed_state = closed(*own, softplus)
    check = max(rms(closed_y, y.numpy()), rms(closed_state, state_out.numpy()))
    assert check < 1e-12, (name, check)
    y = y[..., length - n :]
    source = "transformers 5.23.0 mamba_selective_scan, float64"
    state_in = scan(wide, groups, softplus, before)[1] if carried else None
    if name == "decode":
        source = "transformers 5.23.0 mamba_selective_state_update"
        last = [None if t is None else torch.from_numpy(t)[..., -1] for t in (x, dt, b[:, 0], c[:, 0], z)]
        state = state_in.float().clone()
        stepped = modeling_mamba.mamba_selective_state_update.__wrapped__(
            state,
            last[0],
            last[1],
            torch.from_numpy(a),
            last[2],
            last[3],
            torch.from_numpy(d),
            torch.from_numpy(dt_bias),
            dt_softplus=softplus,
            z=last[4],
        )
        check = max(rms(stepped.numpy(), y[..., 0].numpy()), rms(state.numpy(), state_out.numpy()))
        assert check < 1e-6, (name, check)
        y, state_out = stepped[..., None], state

    def new(t):
        return t[..., length - n :]

    along = (lambda t: new(t)) if g else (lambda t: new(t)[:, 0])
    tensors = {"x": new(x), "dt": new(dt), "b": along(b), "c": along(c), "y": y.numpy()}
    tensors |= {"a_log": logarithm} if a_log else {"a": a}
    tensors |= {key: t for key, t in (("d", d), ("dt_bias", dt_bias)) if t is not None}
    tensors |= {"z": new(z)} if z is not None else {}
    if carried:
        tensors |= {"state_in": state_in.numpy(), "state_out": state_out.numpy()}
    flags = ("--dt-softplus" if softplus else "--no-dt-softplus") + (" --decode" if name == "decode" else "")
    tensors = {key: t.astype(np.float32) for key, t in tensors.items()}
    golden.save(__file__, "mamba", name, tensors, source, flags, agree=f", the other form within {check:.1e}")


def main():
    for index, case in enumerate(CASES):
        make(index, case)


if __name__ == "__main__":
    main()
