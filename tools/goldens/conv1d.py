"""Writes tests/goldens/conv1d_*.safetensors: inputs and expected outputs of operator `conv1d`, from code that shares
nothing with this crate.

    pip install "numpy==2.4.6" "torch==2.15.0" "transformers==5.23.0"
    python tools/goldens/conv1d.py

The oracle is transformers' causal_conv1d_fn in plain torch (its __wrapped__), in float64. For a carried state it runs over
the earlier tokens, which produced the state, and the new ones. `decode` is transformers' causal_conv1d_update.

Tensors (f32): x, y [B,C,N]; weight [C,W]; bias [C] if there is one; state_in, state_out [B,C,W-1] if the case starts from
a state (pass the first to --state-in as `state`). Metadata: source, layout, and the flags of `subquad run conv1d` that
reproduce the outputs.

Check: every case also runs as a sum over taps in numpy; the script stops if the two differ by more than 1e-12.
"""


import numpy as np
import torch
from transformers.models.mamba import modeling_mamba

import golden


PREFIX = 11  # tokens that produced a carried state

# name, B, C, N, W, bias, activation, from a state
CASES = [
    ("default", 2, 6, 65, 4, True, "silu", False),
    ("no_activation", 1, 5, 40, 3, True, "none", False),
    ("no_bias", 1, 5, 40, 2, False, "silu", False),
    ("width_8", 1, 4, 37, 8, True, "silu", True),
    ("short", 2, 3, 2, 6, True, "silu", True),
    ("decode", 2, 9, 1, 4, True, "silu", True),
]


def rms(a, b):
    return float(np.sqrt(((a - b) ** 2).sum() / (b**2).sum()))


def taps(x, weight, bias, activation):
    """Sum over taps of shifted rows."""
    width, length = weight.shape[1], x.shape[2]
    padded = np.concatenate([np.zeros((*x.shape[:2], width - 1)), x], axis=2)
    y = sum(weight[:, w, None] * padded[:, :, w : w + length] for w in range(width))
    y = y if bias is None else y + bias[:, None]
    return y / (1 + np.exp(-y)) if activation == "silu" else y


def make(index, case):
    name, b, c, n, w, biased, activation, carried = case
    rng = np.random.default_rng([20231201, index])
    before = PREFIX if carried else 0
    x = rng.normal(0, 1, (b, c, before + n)).astype(np.float32)
    weight = rng.normal(0, 0.5, (c, w)).astype(np.float32)
    bias = rng.normal(0, 0.5, c).astype(np.float32) if biased else None

    act = None if activation == "none" else activation
    wide = [None if t is None else torch.from_numpy(t).double() for t in (x, weight, bias)]
    if name == "decode":
        source = "transformers 5.23.0 causal_conv1d_update, float64"
        state = wide[0][:, :, before - w + 1 : before].clone()
        y = modeling_mamba.causal_conv1d_update.__wrapped__(wide[0][:, :, before:], state, wide[1], wide[2], act)
        assert torch.equal(state, wide[0][:, :, -(w - 1) :])
    else:
        source = "transformers 5.23.0 causal_conv1d_fn, float64"
        y = modeling_mamba.causal_conv1d_fn.__wrapped__(*wide, act)[:, :, before:]
    y = y.numpy()
    check = rms(taps(*(None if t is None else t.numpy() for t in wide), activation)[:, :, before:], y)
    assert check < 1e-12, (name, check)

    tensors = {"x": x[:, :, before:], "weight": weight} | ({} if bias is None else {"bias": bias}) | {"y": y}
    if carried:
        tensors |= {"state_in": x[:, :, before - w + 1 : before], "state_out": x[:, :, x.shape[2] - w + 1 :]}
    flags = f"--activation {activation}" + (" --decode" if name == "decode" else "")
    tensors = {key: t.astype(np.float32) for key, t in tensors.items()}
    golden.save(__file__, "conv1d", name, tensors, source, flags, agree=f", the other form within {check:.1e}")


def main():
    for index, case in enumerate(CASES):
        make(index, case)


if __name__ == "__main__":
    main()
