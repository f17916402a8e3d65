"""Writes tests/goldens/conv1d_form_*.safetensors: inputs and expected outputs of operator `conv1d` with dilation, padding
`same`, channels last, a weight [C,1,W] and packed sequences, from code that shares nothing with this crate.

    pip install "numpy==2.4.6"
    python tools/goldens/conv1d_forms.py

The oracle is numpy.convolve, in float64, of each row with its taps reversed and K - 1 zeros between them. The row has zeros or
the state in front and zeros behind, as many as torch.nn.functional.conv1d adds: (W - 1) K in front for the causal form; for
`same` half of them, rounded down, in front and the rest behind.

Tensors (f32): x, y [B,C,N], or [B,N,C] in layout bnhd, which is the command's bnc; weight [C,W] or [C,1,W]; bias [C]; cu_seqlens
[S+1] (i64); state_in, state_out [B or S,C,(W-1)K] if the case starts from a state. Metadata: source, layout, and the flags of
`subquad run conv1d` that reproduce the outputs.

Check: every case also runs as a sum over taps of slices; the script stops if the two differ by more than 1e-12.
"""


import numpy as np

import golden

# name, B, C, N, W, K, padding, channels last, weight of three axes, borders, from a state
CASES = [
    ("dilated", 2, 4, 33, 3, 4, "causal", False, False, None, True),
    ("same_even", 1, 4, 32, 4, 3, "same", False, True, None, False),
    ("bnc_wide", 1, 8, 21, 18, 1, "causal", True, False, None, True),
    ("packed", 1, 4, 30, 4, 2, "causal", True, True, [0, 0, 5, 6, 30], True),
    ("packed_same", 1, 3, 24, 5, 1, "same", False, False, [0, 9, 11, 24], False),
]


def convolved(row, taps, step):
    """y[n] = sum of taps[w] row[n + w K], by numpy's convolution."""
    spread = np.zeros((len(taps) - 1) * step + 1)
    spread[::step] = taps
    return np.convolve(row, spread[::-1], mode="valid")


def summed(row, taps, step):
    """The same as a sum of slices."""
    length = len(row) - (len(taps) - 1) * step
    return sum(tap * row[w * step : w * step + length] for w, tap in enumerate(taps))


def rms(a, b):
    return float(np.sqrt(((a - b) ** 2).sum() / (b**2).sum()))


def make(index, case):
    name, b, c, n, w, step, padding, last, three, borders, carried = case
    rng = np.random.default_rng([20261129, index])
    span = (w - 1) * step
    left = span if padding == "causal" else span // 2
    x = rng.normal(0, 1, (b, c, n)).astype(np.float32)
    weight = rng.normal(0, 0.5, (c, w)).astype(np.float32)
    bias = rng.normal(0, 0.5, c).astype(np.float32)
    # Sequences as batch entry, first token, end.
    runs = [(0, *ends) for ends in zip(borders, borders[1:])] if borders else [(at, 0, n) for at in range(b)]
    before = rng.normal(0, 1, (len(runs), c, span)).astype(np.float32) if carried else np.zeros((len(runs), c, left))

    y, other, after = np.zeros((b, c, n)), np.zeros((b, c, n)), []
    for state, (at, start, end) in zip(before, runs):
        behind = np.zeros((c, span - left))
        rows = np.concatenate([state, x[at, :, start:end], behind], axis=1).astype(np.float64)
        after.append(rows[:, rows.shape[1] - span :])
        for channel in range(c if end > start else 0):
            taps = weight[channel].astype(np.float64)
            y[at, channel, start:end] = convolved(rows[channel], taps, step)
            other[at, channel, start:end] = summed(rows[channel], taps, step)
    check = rms(other, y)
    assert check < 1e-12, (name, check)
    y += bias[:, None]
    y /= 1 + np.exp(-y)

    turned = (lambda t: t.transpose(0, 2, 1)) if last else (lambda t: t)
    tensors = {"x": turned(x), "weight": weight[:, None] if three else weight, "bias": bias, "y": turned(y)}
    if carried:
        tensors |= {"state_in": before, "state_out": np.stack(after)}
    tensors = {key: np.ascontiguousarray(t, dtype=np.float32) for key, t in tensors.items()}
    if borders:
        tensors["cu_seqlens"] = np.array(borders, dtype=np.int64)
    flags = f"--dilation {step} --padding {padding}"
    source = f"numpy {np.__version__} convolve, float64"
    agree = f", the other form within {check:.1e}"
    golden.save(__file__, "conv1d", f"form_{name}", tensors, source, flags, "bnhd" if last else "bhnd", agree)


def main():
    for index, case in enumerate(CASES):
        make(index, case)


if __name__ == "__main__":
    main()
