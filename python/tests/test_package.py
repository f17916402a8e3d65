"""Arrays, states, models, errors: what a caller meets."""

import ast
import inspect
import json
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

import numpy as np
import subquad
from subquad import _core, operators

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(7)


def normal(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def softmax(q, k, v, causal):
    """q, k, v [B, N, H, D]."""
    scores = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[-1])
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhnm,bmhe->bnhe", weights / weights.sum(-1, keepdims=True), v)


class Arrays(unittest.TestCase):
    def test_a_result_is_right_in_both_layouts_and_from_strided_arrays(self):
        q, k, v = normal(2, 30, 3, 8), normal(2, 30, 3, 8), normal(2, 30, 3, 5)
        want = softmax(q, k, v, True)
        np.testing.assert_allclose(subquad.softmax_attention(q, k, v, device="cpu"), want, atol=2e-6)
        turned = [x.transpose(0, 2, 1, 3) for x in (q, k, v)]
        found = subquad.softmax_attention(*turned, layout="bhnd", device="cpu")
        np.testing.assert_allclose(found, want.transpose(0, 2, 1, 3), atol=2e-6)
        found, lse = subquad.softmax_attention(q, k, v, causal=False, return_lse=True, device="cpu")
        np.testing.assert_allclose(found, softmax(q, k, v, False), atol=2e-6)
        self.assertEqual(lse.shape, (2, 3, 30))

    def test_half_precision_stays_half(self):
        q, k, v = (normal(1, 20, 2, 8).astype(np.float16) for _ in range(3))
        found = subquad.linear_attention(q, k, v, device="cpu")
        self.assertEqual(found.dtype, np.float16)

    def test_inputs_are_read_in_place(self):
        q = normal(1, 4096, 8, 64)
        before = q.copy()
        subquad.linear_attention(q, q, q, device="cpu")
        np.testing.assert_array_equal(q, before)

    def test_a_sequence_in_pieces_and_tokens_is_the_whole(self):
        q, k, v = normal(1, 24, 2, 8), normal(1, 24, 2, 8), normal(1, 24, 2, 6)
        g = -np.abs(normal(1, 24, 2))
        settings = {"rule": "gated", "device": "cpu"}
        whole, last = subquad.linear_attention(q, k, v, g=g, output_final_state=True, **settings)
        cut = lambda a, b: [x[:, a:b] for x in (q, k, v)]  # noqa: E731
        o, state = subquad.linear_attention(*cut(0, 20), g=g[:, :20], output_final_state=True, **settings)
        parts = [o]
        for at in range(20, 24):
            o, state = subquad.linear_attention_step(*cut(at, at + 1), state, g=g[:, at : at + 1], **settings)
            parts.append(o)
        np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-6)
        np.testing.assert_allclose(state["state"], last["state"], atol=1e-6)

    def test_one_token_of_each_operator(self):
        x, dt = normal(2, 6, 9), normal(2, 6, 9)
        a, b, c = -np.abs(normal(6, 4)), normal(2, 4, 9), normal(2, 4, 9)
        whole, last = subquad.selective_scan(x, dt, a, b, c, delta_softplus=True, return_last_state=True, device="cpu")
        state = np.zeros((2, 6, 4), np.float32)
        for n in range(9):
            y, state = subquad.selective_state_update(state, x[..., n], dt[..., n], a, b[..., n], c[..., n], dt_softplus=True, device="cpu")
            np.testing.assert_allclose(y, whole[..., n], atol=1e-6)
        np.testing.assert_allclose(state, last, atol=1e-6)
        weight, state = normal(6, 4), np.zeros((2, 6, 3), np.float32)
        whole = subquad.causal_conv1d(x, weight, activation="silu", device="cpu")
        for n in range(9):
            y, state = subquad.causal_conv1d_update(x[..., n], state, weight, activation="silu", device="cpu")
            np.testing.assert_allclose(y, whole[..., n], atol=1e-6)

    def test_states_are_written_where_they_are(self):
        q, k, v = normal(2, 1, 4, 8), normal(2, 1, 2, 8), normal(2, 1, 2, 6)
        settings = {"rule": "gated_delta", "g": -np.abs(normal(2, 1, 2)), "beta": np.full((2, 1, 2), 0.5, np.float32), "device": "cpu"}
        before = normal(2, 2, 8, 6)
        o, after = subquad.linear_attention_step(q, k, v, before, **settings)
        self.assertIsNot(after["state"], before)
        # Contiguous, with strides, in another order of bytes in memory: each receives the state.
        strided, turned = np.zeros((2, 2, 8, 12), np.float32)[..., ::2], np.zeros((6, 8, 2, 2), np.float32).T
        for own in (before.copy(), strided, turned):
            own[...] = before
            found, state = subquad.linear_attention_step(q, k, v, {"state": own}, in_place=True, **settings)
            self.assertIs(state["state"], own)
            np.testing.assert_allclose(own, after["state"], atol=1e-6)
            np.testing.assert_allclose(found, o, atol=1e-6)
        fixed = before.copy()
        fixed.flags.writeable = False
        with self.assertRaisesRegex(ValueError, "`state`: expected an array that may be written, .* found one that may not"):
            subquad.linear_attention_step(q, k, v, fixed, in_place=True, **settings)
        x = normal(1, 12)
        with self.assertRaisesRegex(ValueError, "conv1d: tensor `state`: expected memory of its own, found that of `x`"):
            subquad.causal_conv1d_update(x[:, :4], x.reshape(1, 4, 3), normal(4, 4), in_place=True, device="cpu")

    def test_threads_run_side_by_side(self):
        q = normal(1, 256, 4, 32)
        want, found = subquad.softmax_attention(q, q, q, device="cpu"), [None] * 4

        def work(at):
            found[at] = subquad.softmax_attention(q, q, q, device="cpu")

        threads = [threading.Thread(target=work, args=[at]) for at in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        for one in found:
            np.testing.assert_array_equal(one, want)


class Errors(unittest.TestCase):
    def refuse(self, sentence, call, kind=ValueError):
        with self.assertRaises(kind) as caught:
            call()
        self.assertEqual(str(caught.exception), sentence)

    def test_each_is_one_sentence(self):
        q, v = normal(1, 6, 2, 4), normal(1, 6, 2, 3)
        linear = lambda *arrays, **settings: (lambda: subquad.linear_attention(*arrays, device="cpu", **settings))  # noqa: E731
        self.refuse("`q`: expected float32, float16, bool or whole numbers, found float64", linear(q.astype(np.float64), q, v))
        self.refuse("linear: tensor `q`: expected rank 4 [B, N, H, D], found rank 3 [1, 6, 8]", linear(q.reshape(1, 6, 8), q, v))
        self.refuse("linear: tensor `k`: expected key dim D = 4 as in q, found 3", linear(q, v, v))
        self.refuse("linear: tensor `k`: expected f32 as `q` has, found f16", linear(q, q.astype(np.float16), v))
        self.refuse("linear: rule: expected linear, gated, delta or gated-delta, found `fast`", linear(q, q, v, rule="fast"))
        borders = np.array([0, 4, 3, 6])
        self.refuse("linear: tensor `cu_seqlens`: expected values that do not decrease, found 3 after 4 at 2", linear(q, q, v, cu_seqlens=borders))
        self.refuse("linear: layout: expected bhnd or bnhd, found `nhd`", linear(q, q, v, layout="nhd"))
        with self.assertRaises(TypeError):
            subquad.linear_attention([[1.0]], q, v)

        class OnAGpu:
            device = "cuda:0"

            def __dlpack__(self):
                raise AssertionError("not asked for")

            def __dlpack_device__(self):
                return 2, 0

        sentence = "`k`: expected a tensor of the CPU, found one on cuda:0; move it with .cpu()"
        self.refuse(sentence, linear(q, OnAGpu(), v))
        for device in ("cuda", "vulkan:x:y:0:z"):
            with self.assertRaises((ValueError, RuntimeError)):
                subquad.linear_attention(q, q, v, device=device)

    def test_nothing_of_a_device_opens_on_import(self):
        code = "import sys, subquad; sys.exit(any('vulkan' in line or 'libGL' in line for line in open('/proc/self/maps')))"
        if sys.platform == "linux":
            self.assertEqual(subprocess.run([sys.executable, "-c", code], check=False).returncode, 0)

    def test_a_panic_is_an_exception(self):
        with self.assertRaises(RuntimeError) as caught:
            _core.panics()
        self.assertIn("a fault of subquad", str(caught.exception))


class Models(unittest.TestCase):
    def test_a_model_scores_and_writes_as_the_command_does(self):
        folder = ROOT / "examples" / "models" / "ssd"
        model = subquad.load_model(folder, device="cpu")
        text = "It is a truth universally acknowledged"
        logits = model.run(text)
        self.assertEqual(logits.shape, (len(text), 256))
        rows = logits[:-1].astype(np.float64)
        bits = np.log(np.exp(rows).sum(1)) - rows[np.arange(len(rows)), list(text.encode()[1:])]
        found = model.score(text)
        self.assertAlmostEqual(found["bits"], bits.sum() / np.log(2), places=3)
        self.assertEqual(found["tokens"], len(text) - 1)
        wrote = model.generate(text, 12)
        best = model.run(text + wrote)[len(text) - 1 : -1].argmax(1)
        self.assertEqual(bytes(best.astype(np.uint8).tolist()), wrote.encode())
        self.assertEqual(model.generate(text, 20, temperature=0.8, seed=3), model.generate(text, 20, temperature=0.8, seed=3))
        self.assertEqual(model.sizes()["weight_bytes"], sum(x.size for x in _tensors(folder).values()) * 2)
        with self.assertRaises(ValueError):
            model.generate("", 3)
        with self.assertRaises(OSError):
            subquad.load_model(ROOT / "nothing")
        for tokens in ([-1], [300], np.zeros((2, 2), np.int64), np.zeros(3, np.float32)):
            with self.assertRaises(ValueError):
                model.run(tokens)

    def test_a_folder_that_does_not_fit_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "config.json").write_text(json.dumps({"model_type": "bert"}))
            with self.assertRaises((ValueError, OSError)) as caught:
                subquad.load_model(folder)
            self.assertIn("`model_type`: expected one of", str(caught.exception))


def _tensors(folder):
    sys.path.insert(0, str(ROOT / "tools"))
    import tensorfile

    return tensorfile.load(folder / "model.safetensors")[0]


class Stubs(unittest.TestCase):
    def test_they_have_the_arguments_and_defaults_of_the_functions(self):
        tree = ast.parse((ROOT / "python" / "subquad" / "operators.pyi").read_text())
        stubs = {node.name: node.args for node in tree.body if isinstance(node, ast.FunctionDef)}
        self.assertEqual(sorted(stubs), sorted(operators.__all__))
        for name, args in stubs.items():
            found = {}
            plain = [None] * (len(args.args) - len(args.defaults)) + args.defaults
            for arg, default in [*zip(args.args, plain), *zip(args.kwonlyargs, args.kw_defaults)]:
                found[arg.arg] = inspect.Parameter.empty if default is None else ast.literal_eval(default)
            signature = inspect.signature(getattr(operators, name))
            self.assertEqual(found, {p.name: p.default for p in signature.parameters.values()}, name)


class Bench(unittest.TestCase):
    def test_times_and_adapters(self):
        found = subquad.bench("linear", N=64, H=2, D=16, device="cpu", repeats=3, seconds=0.2)
        self.assertGreater(found["seconds"], 0)
        self.assertLess(found["error"], 1e-5)
        self.assertEqual(subquad.adapters()[-1]["device"], "cpu")


if __name__ == "__main__":
    unittest.main()
