"""Writes tests/goldens/softmax_onnx_*.safetensors, from the tests of ONNX's Attention operator, and softmax_hf_*.safetensors,
from the forms of attention in published models.

    pip install "numpy==2.4.6" "onnx==1.23.2"
    python tools/goldens/onnx_attention.py

softmax_onnx_*  The node tests of the package onnx (Apache-2.0, onnx/backend/test/case/node/attention.py) that subquad can
                express: inputs and the output Y as that package has them, in f32. Names are theirs. The script says which
                tests it leaves out, and why.
softmax_hf_*    numpy in float64, whole matrices at once, as the code of transformers has it: sinks as one more column of the
                scores (gpt_oss), tanh caps with sliding windows (gemma2), additive position biases (t5), and the logarithm of
                the sum of exponentials.

How ONNX's inputs are put: heads packed into the last axis are split; past keys and values are put in front of k and v;
attn_mask becomes `mask` (bool) or `bias` (float), with its leading axes and its missing last columns filled in;
nonpad_kv_seqlen becomes `lengths`; is_causal aligns at the first key (`--align start`) unless there are past keys or lengths.
Check: every case also runs as a loop over queries in float64; the script stops if the two differ.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx.backend.test.case.node import collect_testcases

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import tensorfile  # noqa: E402

NAMES = ["q", "k", "v", "bias", "mask", "sink", "lengths", "o", "lse"]


def loop(t, causal=True, align="end", window=None, scale=None, softcap=None):
    """The definition, query by query. Returns o and lse."""
    q, k, v = (t[name].astype(np.float64) for name in "qkv")
    (batch, heads, n, d), (_, kv_heads, m, _) = q.shape, k.shape
    spread = lambda x: np.broadcast_to(x, (batch, heads, n, m))  # noqa: E731
    bias, mask = spread(t.get("bias", np.zeros((1, 1, n, m)))), spread(t.get("mask", np.ones((1, 1, n, m), bool)))
    o, lse = np.zeros((batch, heads, n, v.shape[3])), np.full((batch, heads, n), -np.inf)
    for b, h, i in np.ndindex(batch, heads, n):
        g, keys = h // (heads // kv_heads), int(t["lengths"][b]) if "lengths" in t else m
        own = i + (keys - n if align == "end" else 0)
        seen = [
            j for j in range(keys)
            if (not causal or own - (window or m + n) < j <= own) and mask[b, h, i, j] and bias[b, h, i, j] > -np.inf
        ]
        s = k[b, g, seen] @ q[b, h, i] * (d**-0.5 if scale is None else scale)
        s = softcap * np.tanh(s / softcap) if softcap else s
        s = np.append(s + bias[b, h, i, seen], t["sink"][h].astype(np.float64) if "sink" in t else -np.inf)
        if s.max() > -np.inf:
            w = np.exp(s - s.max())
            o[b, h, i], lse[b, h, i] = w[:-1] @ v[b, g, seen] / w.sum(), s.max() + np.log(w.sum())
    return o, lse


def save(name, source, tensors, bound, flags="", **settings):
    """Compares the outputs with the loop, and writes the file."""
    for output, check in zip(("o", "lse"), loop(tensors, **settings), strict=True):
        if output in tensors:
            error = np.abs(tensors[output] - check).max() / np.abs(check).max()
            if not error < bound:
                sys.exit(f"{name}: {output} is {error:.1e} from the loop")
    kinds = {"mask": bool, "lengths": np.int64}
    tensors = {n: np.ascontiguousarray(tensors[n], kinds.get(n, np.float32)) for n in NAMES if n in tensors}
    for setting, value in settings.items():
        if setting == "causal":
            flags += "" if value else " --no-causal"
        elif setting == "align":
            flags += " --align start" if value == "start" else ""
        elif value is not None:
            flags += f" --{setting} {value:.9g}"
    path = ROOT / "tests" / "goldens" / f"softmax_{name}.safetensors"
    tensorfile.save(path, tensors, {
        "operator": "softmax",
        "source": source,
        "flags": " ".join(f"{flags} --layout bhnd".split()),
        "layout": "bhnd",
        "script": "tools/goldens/onnx_attention.py",
    })
    print(f"{path.name:76} {path.stat().st_size:6} bytes")


def from_onnx(node, given):
    """ONNX's inputs as ours, and the settings; a text where they cannot be expressed."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    arrays = dict(zip(("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen"), node.input, strict=False))
    arrays = {name: given[of] for name, of in arrays.items() if of}
    if any(arrays[name].dtype != np.float32 for name in "QKV"):
        return "its results are those of half precision"
    if any(not np.isfinite(arrays[name]).all() for name in "QKV"):
        return "its inputs are not finite"

    def split(x, heads):
        return x if x.ndim == 4 else x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)

    heads = [attributes.get(name) for name in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
    q, k, v = (split(arrays[name], of) for name, of in zip("QKV", heads, strict=True))
    new = k.shape[2]
    past = arrays["past_key"].shape[2] if "past_key" in arrays else 0
    if past:
        k, v = (np.concatenate([arrays[name], x], 2) for name, x in (("past_key", k), ("past_value", v)))
    n, m = q.shape[2], k.shape[2]
    causal = bool(attributes.get("is_causal", 0))
    if causal and past and n != new:
        return "its queries are at neither end of the keys"
    if any(attributes.get(name, -1) >= 0 for name in ("left_window_size", "right_window_size")) and not causal:
        return "its window is without a causal mask"
    tensors = dict(q=q, k=k, v=v)
    if "attn_mask" in arrays:
        x = arrays["attn_mask"]
        fill = False if x.dtype == bool else -np.inf
        x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, m - x.shape[-1])], constant_values=fill)
        x = x.reshape((1,) * (4 - x.ndim) + x.shape)
        x = np.broadcast_to(x, (*x.shape[:2], n, m))
        tensors["mask" if x.dtype == bool else "bias"] = x
    if "nonpad_kv_seqlen" in arrays:
        tensors["lengths"] = arrays["nonpad_kv_seqlen"].reshape(-1)
    settings = dict(causal=causal)
    if causal:
        settings["align"] = "end" if past or "lengths" in tensors else "start"
        left = attributes.get("left_window_size", -1)
        settings["window"] = left + 1 if left >= 0 else None
    settings["scale"] = attributes.get("scale")
    settings["softcap"] = attributes.get("softcap") or None
    return tensors, settings


def onnx_cases():
    # Several tests have the same inputs in another form, or differ in an output that subquad does not have.
    skipped = ("with_qk_matmul", "present_qk_matmul", "diff_heads_sizes_", "_expanded")
    packed = ("_gqa", "_gqa_attn_mask", "_transpose_verification", "_local_window")
    for case in collect_testcases("Attention"):
        node = case.model.graph.node[0]
        name = case.name.removeprefix("test_")
        again = name.startswith("attention_3d") and name.removeprefix("attention_3d") not in packed
        if again or any(word in name for word in skipped) or node.op_type != "Attention":
            continue
        inputs, outputs = case.data_sets[0]
        given = dict(zip([i.name for i in case.model.graph.input], inputs, strict=True))
        found = from_onnx(node, given)
        if isinstance(found, str):
            print(f"left out: {name}: {found}")
            continue
        tensors, settings = found
        y = outputs[[o.name for o in case.model.graph.output].index(node.output[0])]
        heads = tensors["q"].shape[1]
        o = y if y.ndim == 4 else y.reshape(*y.shape[:2], heads, -1).swapaxes(1, 2)
        save(f"onnx_{name}", f"onnx {onnx.__version__}, test_{name}", tensors | {"o": o}, 1e-5, **settings)


def hf_cases(rng):
    def softmax(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    single = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    b, h, g, n, d, e = 2, 4, 2, 21, 8, 6
    q, k, v = single(b, h, n, d), single(b, g, n, d), single(b, g, n, e)
    key, query = np.arange(n)[None], np.arange(n)[:, None]
    many = lambda x: np.repeat(x.astype(np.float64), h // g, axis=1)  # noqa: E731
    source = f"numpy {np.__version__}, float64"
    plain = q.astype(np.float64) @ many(k).swapaxes(2, 3) * d**-0.5

    # gpt_oss: the sink is one more column, which is dropped after the softmax.
    sink = single(h) * 2
    for name, window in (("sink", None), ("sink_window", 5)):
        seen = (key <= query) & (key > query - (window or n))
        scores = np.where(seen, plain, -np.inf)
        column = np.broadcast_to(sink.astype(np.float64)[None, :, None, None], (b, h, n, 1))
        weights = softmax(np.concatenate([scores, column], -1))[..., :-1]
        every = np.concatenate([scores, column], -1)
        lse = np.log(np.exp(every - every.max(-1, keepdims=True)).sum(-1)) + every.max(-1)
        tensors = dict(q=q, k=k, v=v, sink=sink, o=weights @ many(v), lse=lse)
        save(f"hf_gpt_oss_{name}", source, tensors, 1e-12, window=window)

    # gemma2: scores are capped before the mask is added; query_pre_attn_scalar sets the scale. Every other layer has a window.
    scale, cap = float(np.float32(24**-0.5)), 5.0
    large = q * np.float32(6)
    capped = np.tanh(large.astype(np.float64) @ many(k).swapaxes(2, 3) * scale / cap) * cap
    for name, window in (("softcap", None), ("softcap_window", 7)):
        seen = (key <= query) & (key > query - (window or n))
        o = softmax(np.where(seen, capped, -np.inf)) @ many(v)
        save(f"hf_gemma2_{name}", source, dict(q=large, k=k, v=v, o=o), 1e-12, window=window, scale=scale, softcap=cap)

    # t5: a bias for each head, no scale, and padding that hides keys.
    bias, padding = single(1, h, n, n), np.ones((b, 1, n, n), bool)
    padding[1, :, :, 15:] = False
    o = softmax(np.where(padding, plain * d**0.5 + bias, -np.inf)) @ many(v)
    save("hf_t5_bias", source, dict(q=q, k=k, v=v, bias=bias, mask=padding, o=o), 1e-12, causal=False, scale=1.0)


if __name__ == "__main__":
    onnx_cases()
    hf_cases(np.random.default_rng(7))
