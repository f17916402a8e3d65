"""Times operators on this machine."""

from . import _call, _core


def bench(op, *, dtype="float32", layout=None, device="auto", repeats=10, seconds=2.0, flags=None, **axes):
    """Times an operator on random inputs, after comparing its output with the reference.

    op       "linear", "slay", "softmax", "ssd", "mamba", "conv1d", "ramnet", "linformer", "mta", "yat"
    axes     lengths by letter: bench("linear", N=4096, H=8, D=64)
    flags    settings, as keywords of the function of the operator: {"rule": "gated-delta"}
    Returns a dict: seconds (median), least_seconds, floor_seconds (the least that bytes, multiply-adds or exponentials take at the
    rates measured here) and floor_by, copy_seconds (a copy of the same bytes), error (relative RMS), variant, device.
    """
    layout = layout or ("bcn" if op in ("mamba", "conv1d") else "bhnd")
    return _core.bench(op, list(axes.items()), _call.flags(flags or {}), dtype=dtype, layout=layout, device=device,
                       repeats=repeats, seconds=seconds)  # fmt: skip
