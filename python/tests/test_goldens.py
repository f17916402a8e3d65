"""The functions of the package on the inputs and outputs of independent implementations (tests/goldens)."""

import inspect
import sys
import unittest
from pathlib import Path

import numpy as np
import subquad

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import tensorfile  # noqa: E402

TOLERANCE = 2e-5

# Operator -> function, and the keywords of tensors and flags that have another name there.
SCAN = {"x": "u", "dt": "delta", "a": "A", "b": "B", "c": "C", "d": "D", "dt_bias": "delta_bias", "dt_softplus": "delta_softplus"}
SSD = {"a": "A", "b": "B", "c": "C", "d": "D"}
FUNCTIONS = {
    "linear": (subquad.linear_attention, {}),
    "slay": (subquad.slay_attention, {}),
    "softmax": (subquad.softmax_attention, {}),
    "yat": (subquad.yat_attention, {}),
    "linformer": (subquad.linformer_attention, {}),
    "mta": (subquad.multi_token_attention, {}),
    "ramnet": (subquad.ram_net, {}),
    "mamba": (subquad.selective_scan, SCAN),
    "ssd": (subquad.ssd, SSD),
    "conv1d": (subquad.causal_conv1d, {}),
}
SWITCHES = {"causal", "normalize", "dt-softplus", "l2norm", "beta-sigmoid", "codes"}


def settings(typed):
    """`--no-causal --scale 0.3` -> {"causal": False, "scale": 0.3}."""
    words, found = typed.split(), {}
    while words:
        name = words.pop(0).removeprefix("--")
        if name.removeprefix("no-") in SWITCHES:
            found[name.removeprefix("no-")] = not name.startswith("no-")
        elif name != "decode":
            found[name] = words.pop(0)
    return found


def error(found, expected):
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    return np.sqrt(((found - expected) ** 2).sum() / max((expected**2).sum(), 1e-300))


def arguments(op, names, tensors, flags):
    """Keywords of the call, or None if the function does not take what the file has."""
    function = FUNCTIONS[op][0]
    keywords = {}
    if op in ("mamba", "ssd"):
        keywords["delta_softplus" if op == "mamba" else "dt_softplus"] = True  # the command's default
        if "a_log" in tensors:
            tensors["a"] = -np.exp(tensors.pop("a_log"))
    if op == "slay" and "anchors" in flags:
        flags["num_anchors"] = flags.pop("anchors")
    for name, value in [*tensors.items(), *((k.replace("-", "_"), v) for k, v in flags.items())]:
        name = names.get(name, name)
        if name == "dt_min":
            keywords["dt_limit"] = (float(value), float(flags.get("dt-max", "inf")))
        elif name == "dt_max":
            keywords.setdefault("dt_limit", (0.0, float(value)))
        elif name in inspect.signature(function).parameters:
            keywords[name] = value
        else:
            return None
    return keywords


class Goldens(unittest.TestCase):
    def test_every_file_of_an_operator(self):
        tried = dict.fromkeys(FUNCTIONS, 0)
        for path in sorted((ROOT / "tests" / "goldens").glob("*.safetensors")):
            op = path.stem.partition("_")[0]
            if op not in FUNCTIONS:
                continue
            all_tensors, metadata = tensorfile.load(path)
            if "--decode" in metadata["flags"] or any(name.endswith("_in") for name in all_tensors):
                continue
            function, names = FUNCTIONS[op]
            output = "y" if "y" in all_tensors else "o"
            inputs = {name: x for name, x in all_tensors.items() if name not in ("o", "y", "lse", "code") and not name.endswith("_out")}
            keywords = arguments(op, names, inputs, settings(metadata["flags"]))
            if keywords is None:
                continue
            if op == "conv1d":
                keywords["activation"] = {"none": None}.get(keywords.get("activation", "silu"), "silu")
                keywords["layout"] = keywords.get("layout", "bcn")
            elif "layout" in inspect.signature(function).parameters:
                keywords["layout"] = "bnhd" if metadata["layout"] == "bnhd" else "bhnd"
            keep = {"conv1d": "return_final_states", "mamba": "return_last_state"}.get(op, "output_final_state")
            has_state = any(name.endswith("_out") for name in all_tensors)
            if has_state and keep in inspect.signature(function).parameters:
                keywords[keep] = True
            with self.subTest(path.name):
                found = function(**keywords, device="cpu")
                found = found[0] if isinstance(found, tuple) else found
                self.assertEqual(found.shape, all_tensors[output].shape)
                self.assertLess(error(found, all_tensors[output]), TOLERANCE)
                tried[op] += 1
        self.assertTrue(all(count >= 2 for op, count in tried.items()), tried)
        print(f"{sum(tried.values())} files: {tried}", file=sys.stderr)


if __name__ == "__main__":
    unittest.main()
