"""subquad.distributed on 2, 3 and 5 processes beside one process, which needs torch with gloo, and the scripts of
examples/many_machines beside one run."""

import importlib.util
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import unittest
from pathlib import Path

import numpy as np
import subquad

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import tensorfile  # noqa: E402

TOLERANCE = 2e-5  # relative RMS
TOKENS, SEGMENT = 61, 8
LIMIT = 120  # seconds for all ranks of one size
MISSING = "torch is not installed" if importlib.util.find_spec("torch") is None else None
CPU = {"device": "cpu"}


class Numbers:
    """The same arrays on every rank."""

    def __init__(self, seed=11):
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape):
        return self.rng.standard_normal(shape, dtype=np.float32)

    def decays(self, *shape):
        return -0.2 * np.abs(self(*shape))


def rms(found, want):
    found, want = (np.asarray(x, np.float64) for x in (found, want))
    assert found.shape == want.shape, f"expected {want.shape}, found {found.shape}"
    return float(np.sqrt(np.mean((found - want) ** 2) / max(np.mean(want**2), 1e-30)))


def leaves(result):
    """The arrays of a result by name."""
    found = {}
    for at, part in enumerate(result if isinstance(result, tuple) else (result,)):
        found.update({f"state {name}": x for name, x in part.items()} if isinstance(part, dict) else {f"{at}": part})
    return found


def linear_cases():
    """(name, arrays along the tokens, settings) of linear attention, layout bnhd."""
    x = Numbers()
    n, wide = TOKENS, {"q": x(2, TOKENS, 4, 8), "k": x(2, TOKENS, 2, 8), "v": x(2, TOKENS, 2, 6)}
    yield "linear", wide, {}
    yield "plain", wide, {"feature_map": "relu", "normalize": False, "scale": 0.5}
    yield "performer", wide, {"feature_map": "performer", "features": 32, "seed": 3}
    yield "performer_relu", wide, {"feature_map": "performer_relu", "features": 32, "omega": x(32, 8)}
    yield "cosformer", wide, {"feature_map": "cosformer", "max_len": 100}
    yield "gated", {**wide, "g": x.decays(2, n, 2)}, {"rule": "gated", "l2norm": True}
    yield "channel", {**wide, "g": x.decays(2, n, 2, 8)}, {"rule": "gated", "state_layout": "ed"}
    yield "computed", {**wide, "a": x(2, n, 2)}, {"rule": "gated", "a_log": x(2), "dt_bias": x(2)}
    yield "constant", wide, {"rule": "gated", "g": x.decays(2)}


def other_cases():
    """(name, function, arrays along the tokens, their axis, settings, name of the initial state, it, name of the flag)."""
    x = Numbers(12)
    n = TOKENS
    qkv = {"q": x(2, n, 4, 8), "k": x(2, n, 2, 8), "v": x(2, n, 2, 6)}
    yield "slay", "slay_attention", qkv, 1, {"seed": 5, "nodes": 2, "features": 4}, "initial_state", None, "output_final_state"
    along = {"x": x(2, n, 4, 6), "dt": x(2, n, 4), "B": x(2, n, 2, 5), "C": x(2, n, 2, 5), "z": x(2, n, 4, 6)}
    fixed = {"A": x.decays(4), "D": x(4), "dt_bias": x(4), "dt_softplus": True}
    yield "ssd", "ssd", along, 1, fixed, "initial_state", {"state": x(2, 4, 6, 5)}, "output_final_state"
    along = {"u": x(2, 6, n), "delta": x(2, 6, n), "B": x(2, 5, n), "C": x(2, 5, n), "z": x(2, 6, n)}
    fixed = {"A": x.decays(6, 5), "D": x(6), "delta_bias": x(6), "delta_softplus": True}
    yield "mamba", "selective_scan", along, 2, fixed, "initial_state", x(2, 6, 5), "return_last_state"
    fixed = {"weight": x(6, 4), "bias": x(6), "activation": "silu"}
    yield "conv1d", "causal_conv1d", {"x": x(2, 6, n)}, 2, fixed, "initial_states", x(2, 6, 3), "return_final_states"
    fixed = {"weight": x(6, 5), "dilation": 6, "layout": "bnc"}
    yield "conv1d dilated", "causal_conv1d", {"x": x(2, n, 6)}, 1, fixed, "initial_states", x(2, 6, 24), "return_final_states"


def softmax_cases():
    """(name, q, k, v, rows of all queries, settings)."""
    x = Numbers(13)
    q, k, v = x(2, TOKENS, 4, 8), x(2, TOKENS, 2, 8), x(2, TOKENS, 2, 6)
    hidden = x(2, 1, TOKENS, TOKENS) > 0
    hidden[:, :, 20] = False
    yield "causal", q, k, v, {}, {}
    yield "whole", q, k, v, {}, {"causal": False, "sink": x(4), "softcap": 3.0}
    yield "window", q, k, v, {}, {"window": 17, "sink": x(4)}
    yield "bias", q, k, v, {"bias": x(1, 4, TOKENS, TOKENS)}, {"scale": 0.3}
    yield "window with bias", q, k, v, {"bias": x(1, 4, TOKENS, TOKENS)}, {"window": 30}
    yield "mask", q, k, v, {"mask": hidden}, {"causal": False}
    yield "half", *(a.astype(np.float16) for a in (q, k, v)), {}, {}


class Rank:
    """The checks that one rank runs. Each appends (name, passed, what was found)."""

    def __init__(self, rank, size, dist, distributed, torch):
        self.rank, self.size, self.dist, self.distributed, self.torch = rank, size, dist, distributed, torch
        # The second of three shards or more has one token.
        borders = np.sort(np.random.default_rng(size).choice(np.arange(8, TOKENS - 8), size - 1, replace=False))
        self.borders = [0, *map(int, borders), TOKENS]
        if size > 2:
            self.borders[1] = self.borders[2] - 1
        self.found = []

    def cut(self, array, axis, borders=None):
        borders = borders or self.borders
        index = [slice(None)] * array.ndim
        index[axis] = slice(borders[self.rank], borders[self.rank + 1])
        return np.ascontiguousarray(array[tuple(index)])

    def compare(self, name, found, want, axis, borders=None, bits=False, tolerance=TOLERANCE):
        """Compares the outputs of this rank and the states with those of one process."""
        for (part, found), want in zip(leaves(found).items(), leaves(want).values()):
            along = {"0": axis, "1": 2}.get(part) if not name.startswith(("mamba", "conv1d")) or part == "0" else None
            want = self.cut(want, along, borders) if along is not None else want
            if bits:
                same = bool(np.array_equal(found, want))
                self.found.append((f"{name}, {part}", same, f"relative RMS {rms(found, want):.1e}"))
            else:
                # Logarithms of rows without keys are -inf in both.
                error = rms(np.nan_to_num(found, neginf=0), np.nan_to_num(want, neginf=0))
                self.found.append((f"{name}, {part}", error < tolerance, f"relative RMS {error:.1e}"))

    def refuses(self, name, call, *words, kind=ValueError):
        try:
            call()
        except Exception as error:  # noqa: BLE001
            passed = isinstance(error, kind) and all(word in str(error) for word in words) and "\n" not in str(error)
            self.found.append((name, passed, f"{type(error).__name__}: {error}"))
        else:
            self.found.append((name, False, "no error"))

    def linear(self):
        for name, arrays, settings in linear_cases():
            settings = {**settings, **CPU, "output_final_state": True}
            want, state = subquad.linear_attention(**arrays, **settings)
            own = {key: self.cut(array, 1) for key, array in arrays.items()}
            self.compare(f"linear {name}", self.distributed.linear_attention(**own, **settings), (want, state), 1)
            # The state after all tokens is that before the first of another pass.
            again = subquad.linear_attention(**arrays, **settings, initial_state=state)
            before = state if self.rank == 0 else None
            found = self.distributed.linear_attention(**own, **settings, initial_state=before)
            self.compare(f"linear {name} from a state", found, again, 1)
        turned = {key: array.swapaxes(1, 2) for key, array in arrays.items()}
        own = {key: self.torch.from_numpy(self.cut(array, 2)) for key, array in turned.items()}
        settings.update(layout="bhnd", output_final_state=False)
        found = self.distributed.linear_attention(**own, **settings)
        self.found.append(("torch in, torch out", isinstance(found, self.torch.Tensor), str(type(found))))
        self.compare("linear bhnd", found, subquad.linear_attention(**turned, **settings), 2)

    def others(self):
        for name, function, arrays, axis, fixed, initial, before, flag in other_cases():
            one, many = getattr(subquad, function), getattr(self.distributed, function)
            own = {key: self.cut(array, axis) for key, array in arrays.items()}
            self.compare(name, many(**own, **fixed, **CPU), one(**arrays, **fixed, **CPU), axis)
            settings = {**fixed, **CPU, flag: True}
            before = one(**arrays, **settings)[1] if before is None else before
            want = one(**arrays, **settings, **{initial: before})
            found = many(**own, **settings, **{initial: before if self.rank == 0 else None})
            self.compare(f"{name} from a state", found, want, axis)
        # One tap looks at no input before its own.
        x, weight = Numbers(19)(1, 6, TOKENS), Numbers(20)(6, 1)
        y, state = self.distributed.causal_conv1d(self.cut(x, 2), weight, return_final_states=True, **CPU)
        self.compare("conv1d of one tap", y, subquad.causal_conv1d(x, weight, **CPU), 2)
        self.found.append(("conv1d of one tap, state", state.shape == (1, 6, 0), str(state.shape)))

    def softmax(self):
        for name, q, k, v, rows, settings in softmax_cases():
            settings = {**settings, **CPU, "return_lse": True}
            want = subquad.softmax_attention(q, k, v, **rows, **settings)
            own = [self.cut(x, 1) for x in (q, k, v)]
            found = self.distributed.softmax_attention(*own, **{key: self.cut(x, 2) for key, x in rows.items()}, **settings)
            self.compare(f"softmax {name}", found, want, 1, tolerance=1e-3 if name == "half" else TOLERANCE)
        x = Numbers(14)
        q, k, v = x(1, TOKENS, 2, 8), x(1, 10 * self.size, 2, 8), x(1, 10 * self.size, 2, 6)
        tens = list(range(0, 10 * self.size + 1, 10))
        own = [self.cut(q, 1), self.cut(k, 1, tens), self.cut(v, 1, tens)]
        found = self.distributed.softmax_attention(*own, causal=False, **CPU)
        self.compare("softmax of other keys", found, subquad.softmax_attention(q, k, v, causal=False, **CPU), 1)

    def bits(self):
        """Shards of multiples of the segment. The first two ranks have the bits of one process in both forms, all have in one."""
        x = Numbers(15)
        borders = [0, *np.cumsum([SEGMENT * (1 + rank % 2) for rank in range(self.size)]).tolist()]
        n = borders[-1]
        q, k, v = x(1, n, 2, 8), x(1, n, 2, 8), x(1, n, 2, 6)
        gates, strengths = {"g": x.decays(1, n, 2)}, {"beta": np.abs(x(1, n, 2)) / 4}
        keep = {"output_final_state": True}
        along = {"x": x(1, n, 2, 6), "dt": np.abs(x(1, n, 2)), "B": x(1, n, 1, 5), "C": x(1, n, 1, 5)}
        wide = {"u": x(1, 6, n), "delta": np.abs(x(1, 6, n)), "B": x(1, 5, n), "C": x(1, 5, n)}
        cases = [
            ("linear", "linear_attention", {"q": q, "k": k, "v": v}, 1, keep),
            ("gated", "linear_attention", {"q": q, "k": k, "v": v, **gates}, 1, {"rule": "gated", **keep}),
            ("delta", "linear_attention", {"q": q, "k": k, "v": v, **strengths}, 1, {"rule": "delta", "l2norm": True, **keep}),
            ("slay", "slay_attention", {"q": q, "k": k, "v": v}, 1, {"features": 4, **keep}),
            ("ssd", "ssd", along, 1, {"A": x.decays(2), **keep}),
            ("mamba", "selective_scan", wide, 2, {"A": x.decays(6, 5), "return_last_state": True}),
        ]
        for name, function, arrays, axis, settings in cases:
            settings = {**settings, **CPU, "segment": SEGMENT}
            own = {key: self.cut(array, axis, borders) for key, array in arrays.items()}
            want, many = getattr(subquad, function)(**arrays, **settings), getattr(self.distributed, function)
            self.compare(f"{name}, bits, exact", many(**own, **settings, exact=True), want, axis, borders, bits=True)
            if name != "delta":
                found = many(**own, **settings)
                self.compare(f"{name}, bits, folded", found[0], want[0], axis, borders, bits=self.rank < 2)
                self.compare(f"{name}, folded", found, want, axis, borders)

    def errors(self):
        x, last = Numbers(16), self.rank == self.size - 1
        q, k, v, g = x(1, 9, 2, 8), x(1, 9, 2, 8), x(1, 9, 2, 6), x.decays(1, 9, 2)
        wider = x(1, 9, 2, 7) if last else v
        many = self.distributed
        both = ("expected the same on every rank", "[1, N, 2, 6] on rank 0", f"[1, N, 2, 7] on rank {self.size - 1}")
        self.refuses("other shape, linear", lambda: many.linear_attention(q, k, wider, **CPU), "linear: ", *both)
        self.refuses("other shape, softmax", lambda: many.softmax_attention(q, k, wider, **CPU), "softmax: ", *both)
        self.refuses("other weights", lambda: many.causal_conv1d(k[0], x(9, 4) + last, **CPU), "conv1d: ", "`weight`", "crc")
        other = lambda: many.ssd(v, g, g[0, 0], q, q, dt_limit=(0.1 + last, 9.0), **CPU)  # noqa: E731
        self.refuses("other setting", other, "dt-min 0.1", "dt-min 1.1")
        delta = lambda: many.linear_attention(q, k, v, rule="delta", beta=-g, **CPU)  # noqa: E731
        sentence = "linear: `rule`: expected linear or gated for a summary, because a delta rule changes the state that enters"
        self.refuses("delta", delta, sentence)
        short = g[:, 1:] if self.rank == 1 else g
        words = ["linear: ", "`g`"] if self.rank == 1 else ["linear: rank 1 of ", "`g`"]
        self.refuses("one rank", lambda: many.linear_attention(q, k, v, rule="gated", g=short, **CPU), *words)
        exact = {"rule": "gated", "exact": True, "output_final_state": True, **CPU}
        self.refuses("one rank, exact", lambda: many.linear_attention(q, k, v, g=short, **exact), "linear: ", "`g`")
        whole = lambda: many.softmax_attention(q, k, v, window=2, causal=False, **CPU)  # noqa: E731
        self.refuses("window", whole, "softmax: `window` needs the causal form")
        self.refuses("no tokens", lambda: many.softmax_attention(q[:, :0], k[:, :0], v[:, :0], **CPU), "1 token or more")

    def subgroup(self):
        members = list(range(self.size))[1:]
        group = self.dist.new_group(members)
        if self.rank not in members:
            return self.refuses("a stranger", lambda: self.distributed.ssd(0, 0, 0, 0, 0, group=group), "expected a group")
        x = Numbers(17)
        borders = [0, 0, *(5 * (at + 1) for at in range(len(members)))]
        q, k, v = (x(1, borders[-1], 2, 8) for _ in range(3))
        own, settings = [self.cut(a, 1, borders) for a in (q, k, v)], {**CPU, "group": group}
        for name in ("linear_attention", "softmax_attention"):
            want = getattr(subquad, name)(q, k, v, **CPU)
            self.compare(f"{name} of a part of the ranks", getattr(self.distributed, name)(*own, **settings), want, 1, borders)
        weight, want = x(2, 4), subquad.causal_conv1d(q[..., 0], np.zeros((2, 4), np.float32) + 1, layout="bnc", **CPU)
        found = self.distributed.causal_conv1d(own[0][..., 0], np.ones_like(weight), layout="bnc", **settings)
        self.compare("conv of a part of the ranks", found, want, 1, borders)


def work(rank, size, folder):
    """Runs all checks as one rank and writes them as JSON, or the traceback of a failure."""
    os.environ.update(RAYON_NUM_THREADS="1", OMP_NUM_THREADS="1")
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist
    from subquad import distributed

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    checks = Rank(rank, size, dist, distributed, torch)
    try:
        for part in (checks.linear, checks.others, checks.softmax, checks.bits, checks.errors, checks.subgroup):
            part()
        dist.destroy_process_group()
    except Exception:  # noqa: BLE001
        checks.found.append(("all checks", False, traceback.format_exc()))
    Path(folder, f"{rank}.json").write_text(json.dumps(checks.found))


def context():
    """Starts processes from one that has imported torch, where the system can: the import takes seconds."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["torch.distributed"])
    return found


@unittest.skipIf(MISSING, MISSING)
class Distributed(unittest.TestCase):
    def of_size(self, size):
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            ranks = [context().Process(target=work, args=(rank, size, folder), daemon=True) for rank in range(size)]
            for process in ranks:
                process.start()
            late = time.monotonic() + LIMIT
            for process in ranks:
                process.join(max(0, late - time.monotonic()))
            for rank, process in enumerate(ranks):
                process.kill()
                path = Path(folder, f"{rank}.json")
                found[rank] = json.loads(path.read_text()) if path.exists() else [("end", False, f"nothing within {LIMIT} s")]
        for rank, checks in found.items():
            for name, passed, what in checks:
                with self.subTest(check=name, rank=rank, size=size):
                    self.assertTrue(passed, what)
            self.assertGreater(len(checks), 50 if rank or size > 2 else 40)

    def test_two_processes(self):
        self.of_size(2)

    def test_three_processes(self):
        self.of_size(3)

    def test_five_processes(self):
        self.of_size(5)


class Files(unittest.TestCase):
    """The scripts of examples/many_machines, with processes in the place of machines."""

    def setUp(self):
        self.command = shutil.which("subquad") or str(ROOT / "target" / "release" / "subquad")
        if not Path(self.command).exists():
            self.skipTest("no command subquad: cargo build --release")
        if shutil.which("xargs") is None:
            self.skipTest("no xargs")

    def test_shards_are_one_run(self):
        scripts = ROOT / "python" / "examples" / "many_machines"
        x, flags = Numbers(18), "--rule gated --backend cpu --segment 16"
        given = {"q": x(1, 4, 100, 8), "k": x(1, 2, 100, 8), "v": x(1, 2, 100, 6), "g": x.decays(1, 2, 100)}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            tensorfile.save(folder / "in.safetensors", given)
            environment = {**os.environ, "SUBQUAD": self.command, "OP": "linear", "DIR": "work", "FLAGS": flags, "JOBS": "2"}
            run = lambda *words: subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True)  # noqa: E731
            shards = [sys.executable, str(scripts / "shards.py")]
            run(*shards, "split", "in.safetensors", "work", "--shards", "4", "--axis", "2", "--multiple", "16")
            run("sh", str(scripts / "parallel.sh"), "4")
            run(*shards, "join", "out.safetensors", *sorted(map(str, folder.glob("work/out-*"))), "--axis", "2")
            settings = ["--input", "in.safetensors", "--output", "one.safetensors", "--state-out", "state.safetensors"]
            run(self.command, "run", "linear", *flags.split(), *settings)
            load = lambda path: tensorfile.load(folder / path)[0]  # noqa: E731
            self.assertLess(rms(load("out.safetensors")["o"], load("one.safetensors")["o"]), TOLERANCE)
            self.assertLess(rms(load("work/state-00004.safetensors")["state"], load("state.safetensors")["state"]), TOLERANCE)


if __name__ == "__main__":
    unittest.main()
