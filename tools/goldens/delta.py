"""Writes tests/goldens/linear_*delta*.safetensors: inputs and expected outputs of operator `linear`, rules delta and
gated-delta, from code that shares nothing with this crate.

    pip install "numpy==2.4.6" "onnx==1.23.2" "onnxruntime==1.32.0" "torch==2.15.0" "transformers==5.23.0" "fla-core==0.6.0"
    python tools/goldens/delta.py

linear_ort_*delta*   onnxruntime's com.microsoft.LinearAttention on the CPU, f32.
linear_fla_*delta*   fla-core's naive forms in torch: delta_rule, gated_delta_rule, kda (log decay per channel).
linear_loop_*delta*  the rule of the papers, token by token, in float64, for cases the others do not cover.

Tensors (f32): q, k, v, beta, o, and g under rule gated-delta, in the file's layout; state_in [B,G,D,E] if the case starts
from a state (pass it to --state-in as `state`); state_out. Metadata: source, layout, and the flags of
`subquad run linear` that reproduce the outputs.

Check: every case also runs through the token loop; the others must agree with it within 1e-6.
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import onnxops  # noqa: E402
import tensorfile  # noqa: E402

LOOP = "numpy float64 token loop"

# name, oracle, layout, B, H, G, N, D, E, scale (None: default), from a state, scope of the log decay, keys of unit length
CASES = [
    ("ort_delta", "ort", "bhnd", 1, 3, 3, 70, 12, 10, None, True, None, True),
    ("ort_gated_delta_head", "ort", "bhnd", 1, 4, 4, 70, 12, 10, None, False, "head", True),
    ("ort_gated_delta_channel", "ort", "bnhd", 2, 4, 2, 37, 5, 7, 0.25, True, "channel", True),
    ("ort_gated_delta_decode", "ort", "bhnd", 2, 6, 3, 1, 12, 5, None, True, "head", True),
    ("fla_delta", "fla", "bhnd", 1, 3, 3, 64, 12, 10, None, False, None, True),
    ("fla_gated_delta_head", "fla", "bnhd", 2, 2, 2, 45, 8, 6, 0.4, True, "head", True),
    ("fla_gated_delta_channel", "fla", "bhnd", 1, 2, 2, 64, 8, 6, None, True, "channel", True),
    ("loop_delta_decode", "loop", "bnhd", 2, 4, 2, 1, 8, 6, None, True, None, True),
    ("loop_delta_long_keys", "loop", "bnhd", 1, 4, 2, 65, 8, 6, 0.5, False, None, False),
    ("loop_gated_delta_channel", "loop", "bhnd", 1, 2, 1, 65, 7, 5, None, True, "channel", False),
]


def rms(a, b):
    return float(np.sqrt(((a.astype(np.float64) - b) ** 2).sum() / (b.astype(np.float64) ** 2).sum()))


def token_loop(q, k, v, beta, logs, scale, state):
    """bhnd, float64; logs [B,G,N,1 or D] or None. Decay, then the delta rule on the decayed state, then the read."""
    out = []
    for n in range(q.shape[2]):
        if logs is not None:
            state = state * np.exp(logs[:, :, n])[..., None]
        answer = np.einsum("bgd,bgde->bge", k[:, :, n], state)
        write = beta[:, :, n, None] * (v[:, :, n] - answer)
        state = state + k[:, :, n, :, None] * write[:, :, None]
        out.append(scale * np.einsum("bhd,bhde->bhe", q[:, :, n], np.repeat(state, q.shape[1] // k.shape[1], 1)))
    return np.stack(out, 2), state


def fla(q, k, v, beta, logs, scale, state):
    """bhnd, f32, G = H. The scope of the log decay selects the rule."""
    import torch
    from fla.ops.delta_rule.naive import delta_rule_recurrence
    from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule
    from fla.ops.kda.naive import naive_recurrent_kda

    q, k, v, beta, state = (torch.from_numpy(np.ascontiguousarray(x)) for x in (q, k, v, beta, state))
    if logs is None:
        o, state = delta_rule_recurrence(q, k, v, beta, initial_state=state)
        return o.numpy(), state.numpy()
    head = logs.shape[-1] == 1
    log = torch.from_numpy(logs[..., 0] if head else logs)
    form = naive_recurrent_gated_delta_rule if head else naive_recurrent_kda
    turned = {"q": q, "k": k, "v": v, "g": log, "beta": beta}
    o, state = form(**{name: x.transpose(1, 2).contiguous() for name, x in turned.items()}, scale=scale,
                    initial_state=state, output_final_state=True)
    return o.transpose(1, 2).numpy(), state.numpy()


def make(index, case):
    name, oracle, layout, b, h, g, n, d, e, scale, carried, gate, unit = case
    rng = np.random.default_rng([20260, index])

    def draw(heads, width):
        return rng.normal(0, 1, (b, heads, n, width)).astype(np.float32)

    q, k, v = draw(h, d), draw(g, d), draw(g, e)
    # beta is a sigmoid, as in models. For keys that are not of unit length it is smaller, so that the state does not grow.
    beta = (1 / (1 + np.exp(-draw(g, 1)[..., 0]))).astype(np.float32)
    if unit:
        k = (k / np.linalg.norm(k, axis=-1, keepdims=True)).astype(np.float32)
    else:
        beta = (1.5 * beta / (k**2).sum(-1)).astype(np.float32)
    logs = -0.3 * np.abs(draw(g, d if gate == "channel" else 1)) if gate else None
    state_in = rng.normal(0, 0.5, (b, g, d, e)).astype(np.float32) * np.float32(carried)

    factor = d**-0.5 if scale is None else scale
    doubles = [None if x is None else x.astype(np.float64) for x in (q, k, v, beta, logs)]
    o, state_out = token_loop(*doubles, factor, state_in.astype(np.float64))
    agree = ""
    if oracle == "fla":
        o_loop, loop_state = o, state_out
        o, state_out = fla(q, k, v, beta, logs, factor, state_in)
        check = max(rms(o, o_loop), rms(state_out, loop_state))
        assert check < 1e-6, (name, check)
        agree = f", the token loop within {check:.1e}"
    if oracle == "ort":
        rule = "gated_delta" if gate else "delta"
        run = onnxops.LinearAttention(h, g, rule, scale=scale or 0.0, state=carried, decay=bool(gate), beta=True)
        arrays = [onnxops.pack(x.swapaxes(1, 2)) for x in (q, k, v)] + [state_in] * carried
        arrays += [onnxops.pack(logs.swapaxes(1, 2))] if gate else []
        theirs, state = run(*arrays, onnxops.pack(beta[..., None].swapaxes(1, 2)))
        theirs = theirs.reshape(b, n, h, e).swapaxes(1, 2)
        check = max(rms(theirs, o), rms(state, state_out))
        assert check < 1e-6, (name, check)
        agree, o, state_out = f", the token loop within {check:.1e}", theirs, state

    tensors = {"q": q, "k": k, "v": v, "beta": beta, "o": o} | ({"g": logs} if gate else {})
    if gate == "head":
        tensors["g"] = logs[..., 0]
    if layout == "bnhd":
        tensors = {key: x.swapaxes(1, 2) for key, x in tensors.items()}
    if carried:
        tensors["state_in"] = state_in
    tensors["state_out"] = state_out
    flags = ["--rule gated-delta" if gate else "--rule delta"]
    flags += [f"--scale {scale}"] * (scale is not None) + [f"--layout {layout}"]
    path = ROOT / "tests" / "goldens" / f"linear_{name}.safetensors"
    tensorfile.save(path, {key: np.ascontiguousarray(x, np.float32) for key, x in tensors.items()}, {
        "operator": "linear",
        "source": {"ort": onnxops.SOURCE, "fla": "fla-core 0.6.0, naive", "loop": LOOP}[oracle],
        "flags": " ".join(flags),
        "layout": layout,
        "script": "tools/goldens/delta.py",
    })
    print(f"{path.name}: {path.stat().st_size} bytes{agree}\n    {' '.join(flags)}")


def main():
    for index, case in enumerate(CASES):
        make(index, case)


if __name__ == "__main__":
    main()
