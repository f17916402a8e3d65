"""Writes tests/goldens/ssd_*.safetensors: inputs and expected outputs of operator `ssd`, from code that shares nothing
with this crate.

    pip install "numpy==2.4.6" "torch==2.15.0" "transformers==5.23.0"
    python tools/goldens/ssd.py

The oracle is transformers' mamba2_chunk_scan in plain torch (its __wrapped__), in chunks of 16 tokens. It converts all
inputs to f32. It has no gate, so this script applies y * z / (1 + exp(-z)), in float64. `decode` is transformers'
mamba2_selective_state_update, including the gate.

Tensors (f32): x, y [B,N,H,P]; dt [B,N,H]; a or a_log [H]; b, c [B,N,G,S]; d, dt_bias [H] and z [B,N,H,P] if the case has
them; state_in, state_out [B,H,P,S] if it starts from a state (pass the first to --state-in as `state`). Metadata: source,
layout, and the flags of `subquad run ssd` that reproduce the outputs.

Check: every case also runs through the recurrence, token by token in float64; the script stops if the two differ by more
than f32's rounding (1e-6).
"""


import numpy as np
import torch
from transformers.models.mamba2 import modeling_mamba2

import golden


PREFIX = 23  # tokens that produced a carried state
CHUNK = 16

# name, B, H, N, P, G, S, a_log, optional tensors, softplus, from a state
CASES = [
    ("plain", 1, 2, 65, 5, 1, 4, False, "", True, False),
    ("default", 2, 4, 37, 5, 2, 8, True, "d z dt_bias", True, False),
    ("carried", 1, 6, 40, 5, 3, 7, False, "d z dt_bias", True, True),
    ("no_softplus", 2, 2, 33, 4, 1, 8, False, "d dt_bias", False, True),
    ("long_steps", 1, 4, 50, 6, 2, 5, False, "z", True, True),
    ("one_state", 1, 3, 70, 3, 3, 1, True, "d", True, True),
    ("decode", 2, 6, 1, 8, 2, 12, False, "d z dt_bias", True, True),
]


def rms(a, b):
    return float(np.sqrt(((a - b) ** 2).sum() / (b**2).sum()))


def silu(z):
    return z / (1 + np.exp(-z))


def token_loop(x, dt, a, b, c, d, z, dt_bias, softplus, state):
    """The recurrence of src/ops/ssd, token by token, in float64."""
    x, dt, a, d, dt_bias = (None if t is None else t.astype(np.float64) for t in (x, dt, a, d, dt_bias))
    b, c = (np.repeat(t.astype(np.float64), x.shape[2] // t.shape[2], axis=2) for t in (b, c))
    steps = dt if dt_bias is None else dt + dt_bias
    steps = np.logaddexp(0, steps) if softplus else steps
    state, out = state.astype(np.float64), []
    for n in range(x.shape[1]):
        step = steps[:, n, :, None, None]
        state = np.exp(step * a[:, None, None]) * state + step * x[:, n, :, :, None] * b[:, n, :, None, :]
        out.append(np.einsum("zhps,zhs->zhp", state, c[:, n]))
    y = np.stack(out, 1)
    y = y if d is None else y + d[:, None] * x
    return (y if z is None else y * silu(z.astype(np.float64))), state


def scan(x, dt, a, b, c, d, z, dt_bias, softplus, state):
    """transformers' chunked scan, then the gate."""
    x, dt, a, b, c, d, dt_bias = (None if t is None else torch.from_numpy(t) for t in (x, dt, a, b, c, d, dt_bias))
    y, last = modeling_mamba2.mamba2_chunk_scan.__wrapped__(
        x, dt, a, b, c, CHUNK, D=d, dt_bias=dt_bias, dt_softplus=softplus, return_final_states=True,
        initial_states=torch.from_numpy(state),
    )  # fmt: skip
    y = y.numpy().astype(np.float64)
    return (y if z is None else y * silu(z.astype(np.float64))), last.numpy()


def update(x, dt, a, b, c, d, z, dt_bias, softplus, state):
    """transformers' one-token step, which expects per-head parameters expanded to channels."""
    heads, channels, states = state.shape[1:]

    def wide(t, *shape):
        return torch.from_numpy(t).reshape(*t.shape, *[1] * len(shape)).expand(*t.shape, *shape)

    state = torch.from_numpy(state.copy())
    y = modeling_mamba2.mamba2_selective_state_update.__wrapped__(
        state,
        torch.from_numpy(x[:, 0]),
        wide(dt[:, 0], channels),
        wide(a, channels, states),
        torch.from_numpy(b[:, 0]),
        torch.from_numpy(c[:, 0]),
        wide(d, channels),
        wide(dt_bias, channels),
        dt_softplus=softplus,
        z=torch.from_numpy(z[:, 0]),
    )
    return y.numpy()[:, None], state.numpy()


def make(index, case):
    name, batch, heads, n, p, g, s, a_log, more, softplus, carried = case
    rng = np.random.default_rng([20240531, index])
    before = PREFIX if carried else 0
    length = before + n

    def draw(*shape, scale=1.0):
        return rng.normal(0, scale, shape).astype(np.float32)

    x, b, c = draw(batch, length, heads, p), draw(batch, length, g, s), draw(batch, length, g, s)
    if name == "long_steps":  # from keeping the state to erasing it, and past the range of exp
        dt = rng.uniform(-120, 120, (batch, length, heads)).astype(np.float32)
    else:
        dt = draw(batch, length, heads) if softplus else np.abs(draw(batch, length, heads, scale=0.1))
    logarithm = np.log(rng.uniform(1, 16 if a_log else 2, heads)).astype(np.float32)
    a = -np.exp(logarithm)
    has = more.split()
    d = draw(heads) if "d" in has else None
    z = draw(*x.shape) if "z" in has else None
    dt_bias = np.abs(draw(heads, scale=0.1)) - (2 if softplus else 0) if "dt_bias" in has else None
    dt_bias = None if dt_bias is None else dt_bias.astype(np.float32)

    def part(piece):
        along = [None if t is None else t[:, piece] for t in (x, dt, b, c, z)]
        return (along[0], along[1], a, along[2], along[3], d, along[4], dt_bias, softplus)

    zeros = np.zeros((batch, heads, p, s), np.float32)
    state_in = token_loop(*part(slice(before)), zeros)[1].astype(np.float32) if carried else zeros
    new = part(slice(before, None))
    y, state_out = (update if name == "decode" else scan)(*new, state_in)
    check = max(rms(*pair) for pair in zip((y, state_out), token_loop(*new, state_in), strict=True))
    assert check < 1e-6, (name, check)

    along = dict(zip(("x", "dt", "a", "b", "c", "d", "z", "dt_bias"), new, strict=False))
    if a_log:
        along |= {"a": None, "a_log": logarithm}
    tensors = {key: t for key, t in along.items() if t is not None} | {"y": y}
    if carried:
        tensors |= {"state_in": state_in, "state_out": state_out}
    flags = ("--dt-softplus" if softplus else "--no-dt-softplus") + (" --decode" if name == "decode" else "")
    function = "mamba2_selective_state_update" if name == "decode" else "mamba2_chunk_scan"
    tensors = {key: t.astype(np.float32) for key, t in tensors.items()}
    source, agree = f"transformers 5.23.0 {function}", f", the recurrence within {check:.1e}"
    golden.save(__file__, "ssd", name, tensors, source, flags, agree=agree)


def main():
    for index, case in enumerate(CASES):
        make(index, case)


if __name__ == "__main__":
    main()
