"""Times ggml's operators on a Vulkan device beside ours, in turns, after their outputs are compared.

    npm pack @node-llama-cpp/linux-x64-vulkan && tar xzf node-llama-cpp-linux-x64-vulkan-*.tgz
    cargo build --release
    GGML_VK_VISIBLE_DEVICES=0 python tools/peers/ggml.py package/bins/linux-x64-vulkan

The folder holds libggml-base.so and libggml-vulkan.so; any build of llama.cpp with Vulkan has them. Both programs take the
first Vulkan device (VK_DRIVER_FILES chooses the driver). ggml leaves out software devices unless GGML_VK_VISIBLE_DEVICES
names one. A time is that of one operator: ggml's by the host's clock around a graph of one node, ours as `bench` has it.
Exit codes: 0 done; 1 an output differed by more than 2e-5 (relative RMS; attention 5e-3), or something failed; 2 usage.
"""

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import tensorfile  # noqa: E402

F32, I32 = 0, 26
TOLERANCE = 2e-5
# ggml's attention multiplies in f16 whatever its inputs are.
LOOSER = {"FLASH_ATTN_EXT": 5e-3}


class InitParams(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


def span(array):
    """Address, offset and bytes of an array, as ggml takes them."""
    return array.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(0), ctypes.c_size_t(array.nbytes)


class Ggml:
    """The first device of ggml's Vulkan backend."""

    def __init__(self, folder):
        folder = Path(folder)
        self.lib = ctypes.CDLL(str(folder / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
        vulkan = ctypes.CDLL(str(folder / "libggml-vulkan.so"), mode=ctypes.RTLD_GLOBAL)
        made = "ggml_init ggml_new_tensor_4d ggml_new_graph ggml_gated_linear_attn ggml_gated_delta_net ggml_ssm_scan"
        for name in [*made.split(), "ggml_flash_attn_ext", "ggml_backend_alloc_ctx_tensors"]:
            getattr(self.lib, name).restype = ctypes.c_void_p
        vulkan.ggml_backend_vk_init.restype = ctypes.c_void_p
        self.lib.ggml_nbytes.restype = ctypes.c_size_t
        self.backend = ctypes.c_void_p(vulkan.ggml_backend_vk_init(ctypes.c_size_t(0)))
        if not self.backend:
            sys.exit("ggml.py: ggml has no Vulkan device (GGML_VK_VISIBLE_DEVICES=0 lets it take a software one)")

    def run(self, build, inputs, repeat):
        """Output of the operator that `build` makes of tensors, and the seconds of each of its runs."""
        lib = self.lib
        context = ctypes.c_void_p(lib.ggml_init(InitParams(1 << 24, None, True)))
        tensors = []
        for array in inputs:
            shape = [ctypes.c_int64(n) for n in (array.shape[::-1] + (1, 1, 1))[:4]]
            kind = I32 if array.dtype == np.int32 else F32
            tensors.append(ctypes.c_void_p(lib.ggml_new_tensor_4d(context, kind, *shape)))
        output = ctypes.c_void_p(build(lib, context, tensors))
        graph = ctypes.c_void_p(lib.ggml_new_graph(context))
        lib.ggml_build_forward_expand(graph, output)
        lib.ggml_backend_alloc_ctx_tensors(context, self.backend)
        for tensor, array in zip(tensors, inputs, strict=True):
            data = np.ascontiguousarray(array)
            lib.ggml_backend_tensor_set(tensor, *span(data))
        seconds = []
        for _ in range(repeat + 1):
            start = time.perf_counter()
            if lib.ggml_backend_graph_compute(self.backend, graph) != 0:
                sys.exit("ggml.py: ggml refused to compute the graph")
            seconds.append(time.perf_counter() - start)
        result = np.empty(lib.ggml_nbytes(output) // 4, np.float32)
        lib.ggml_backend_tensor_get(output, *span(result))
        lib.ggml_free(context)
        return result, seconds[1:]


def gated_linear(rng, n, h, d):
    """GATED_LINEAR_ATTN with a decay for each channel: names, ggml's inputs and builder, our tensors and arguments."""
    q, k, v = (rng.standard_normal((n, h, d), np.float32) for _ in range(3))
    g = np.float32(-0.1) * rng.random((n, h, d), np.float32)
    state = np.zeros((1, h * d * d), np.float32)

    def build(lib, context, t):
        return lib.ggml_gated_linear_attn(context, *t, ctypes.c_float(d**-0.5))

    ours = {"q": q[None], "k": k[None], "v": v[None], "g": g[None]}
    flags = ["--rule", "gated", "--layout", "bnhd"]
    bench = ["linear", "--length", n, "--heads", h, "--dim", d, "--flag", "rule=gated", "--with", "g.D"]
    bench += ["--layout", "bnhd"]
    return "GATED_LINEAR_ATTN", "linear", [k, v, q, np.exp(g), state], build, ours, flags, bench, lambda o: o["o"]


def ssm_scan(rng, n, h, p, s):
    """SSM_SCAN as Mamba-2 has it, one group."""
    x = rng.standard_normal((1, n, h, p), np.float32)
    dt = rng.standard_normal((1, n, h), np.float32) - np.float32(3)
    a = -np.exp(rng.standard_normal((h, 1), np.float32) * np.float32(0.5))
    b, c = (rng.standard_normal((1, n, 1, s), np.float32) for _ in range(2))
    state = np.zeros((1, h, p, s), np.float32)
    ids = np.zeros(1, np.int32)

    def build(lib, context, t):
        return lib.ggml_ssm_scan(context, *t)

    ours = {"x": x, "dt": dt, "a": a[:, 0], "b": b, "c": c}
    bench = ["ssd", "--length", n, "--heads", h, "--shape", f"P={p}", "--shape", f"S={s}", "--shape", "G=1"]
    return "SSM_SCAN", "ssd", [state, x, dt, a, b, c, ids], build, ours, [], bench, lambda o: o["y"]


def gated_delta(rng, n, h, d):
    """GATED_DELTA_NET with keys of length 1: ggml scales queries by 1 / sqrt(d), as ours does."""
    q, k, v = (rng.standard_normal((1, n, h, d), np.float32) for _ in range(3))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    g = -np.exp(rng.standard_normal((1, n, h, 1), np.float32) - np.float32(3))
    beta = (1 / (1 + np.exp(-rng.standard_normal((1, n, h, 1), np.float32)))).astype(np.float32)
    state = np.zeros((1, h, d, d), np.float32)

    def build(lib, context, t):
        # The last argument: only the final state is kept.
        return lib.ggml_gated_delta_net(context, *t, ctypes.c_int64(1))

    ours = {"q": q, "k": k, "v": v, "g": g[..., 0], "beta": beta[..., 0]}
    flags = ["--rule", "gated-delta", "--layout", "bnhd"]
    bench = ["linear", "--length", n, "--heads", h, "--dim", d, "--flag", "rule=gated-delta", "--layout", "bnhd"]
    return "GATED_DELTA_NET", "linear", [q, k, v, g, beta, state], build, ours, flags, bench, lambda o: o["o"]


def flash_attention(rng, n, h, d):
    """FLASH_ATTN_EXT without a mask, that is not causal; its output is in layout bnhd."""
    q, k, v = (rng.standard_normal((1, h, n, d), np.float32) for _ in range(3))

    def build(lib, context, t):
        floats = [ctypes.c_float(x) for x in (d**-0.5, 0, 0)]
        output = lib.ggml_flash_attn_ext(context, *t, ctypes.c_void_p(None), *floats)
        # GGML_PREC_F32: sums in f32, not in f16.
        lib.ggml_flash_attn_ext_set_prec(ctypes.c_void_p(output), 10)
        return output

    bench = ["softmax", "--length", n, "--heads", h, "--dim", d, "--flag", "causal=false"]
    ours = {"q": q, "k": k, "v": v}
    flags = ["--no-causal"]
    return "FLASH_ATTN_EXT", "softmax", [q, k, v], build, ours, flags, bench, lambda o: o["o"].transpose(0, 2, 1, 3)


def our_output(binary, operator, tensors, flags):
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "in.safetensors"), Path(folder, "out.safetensors")
        tensorfile.save(given, tensors)
        command = [binary, "run", operator, "--input", given, "--output", found, "--backend", "vulkan", *flags]
        command.append("--quiet")
        subprocess.run([str(word) for word in command], check=True)
        return tensorfile.load(found)[0]


def our_seconds(binary, words):
    command = [binary, "bench", *words, "--backend", "vulkan", "--adapter", "0", "--format", "json", "--repeat", "5"]
    command.append("--quiet")
    text = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout

    def times(value):
        if isinstance(value, dict):
            return [value["time_us"]] if "time_us" in value else [t for v in value.values() for t in times(v)]
        return [t for v in value for t in times(v)] if isinstance(value, list) else []

    return times(json.loads(text))[0] / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder with libggml-base.so and libggml-vulkan.so")
    parser.add_argument("--binary", default=ROOT / "target" / "release" / "subquad")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    ggml, rng, failed = Ggml(given.folder), np.random.default_rng(1), False
    n = given.length
    gated = (gated_linear(rng, n, 8, 64), gated_delta(rng, n, 8, 64))
    for form in (*gated, ssm_scan(rng, n, 8, 64, 128), flash_attention(rng, n, 8, 64)):
        name, operator, inputs, build, tensors, flags, bench, theirs_of = form
        ours = theirs_of(our_output(given.binary, operator, tensors, flags)).ravel().astype(np.float64)
        theirs, _ = ggml.run(build, inputs, 0)
        theirs = theirs[: ours.size].astype(np.float64)
        rms = float(np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(theirs**2)))
        if rms > LOOSER.get(name, TOLERANCE):
            print(f"{name}: outputs differ by {rms:.1e} (relative RMS): not timed")
            failed = True
            continue
        their_seconds, our = [], []
        for _ in range(given.turns):
            their_seconds += ggml.run(build, inputs, 5)[1]
            our.append(our_seconds(given.binary, bench))
        a, b = sorted(their_seconds)[len(their_seconds) // 2], sorted(our)[len(our) // 2]
        print(f"{name} N={given.length}: ggml {1e3 * a:.2f} ms, ours {1e3 * b:.2f} ms, {a / b:.2f}; differ by {rms:.1e}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
