"""Turns the Mamba network of the PyPI package typeseg into a folder that `subquad model` reads.

    pip install "numpy==2.4.6"
    pip download --no-deps "typeseg==0.2.7"                            (Apache-2.0, 21 MB, with its weights)
    python tools/models/typeseg.py typeseg-0.2.7-py3-none-any.whl DIR
    python tools/models/typeseg.py typeseg-0.2.7-py3-none-any.whl DIR --check README.md

Model   TypeSeg by Martin Dallinger: it labels every byte of a text with one of 35 types of content. Six Mamba layers that run
        in both directions, 256 channels, 16 states, 1.36 M parameters, trained. tools/goldens/typeseg.py has the formula.
Writes  DIR/config.json: our own form (model_type subquad, head tags), and `labels`, the 35 names in the order of the classes;
        DIR/model.safetensors: f32, the numbers of the package, dense kernels [in,out] as weights [out,in];
        DIR/LICENSE: that of the package.
Bytes   The network has 130 embeddings: 128 of ASCII, one of everything else, one of padding, which no text needs. The package
        gives it tab, line feed, carriage return and 0x20 to 0x7E as they are, and any other byte as everything else. The
        folder has one embedding per byte, 256 in all, so any file can be read without a rule of its own.

--check computes the logits of the first --bytes bytes of FILE twice, from the written folder by the NumPy code below, and by
the package's NumPy out of the wheel. It fails (exit code 1) if their relative RMS is above 1e-5 or any label differs.
"""

import argparse
import hashlib
import io
import json
import sys
import time
import zipfile
import zipimport
from importlib.util import module_from_spec
from pathlib import Path

import numpy as np

# In the place of this script's folder, where `import typeseg` would find this file.
sys.path[0] = str(Path(__file__).resolve().parents[1])
import tensorfile  # noqa: E402

WEIGHTS, MANIFEST = "typeseg/data/mamba_al.npz", "typeseg/data/manifest.json"
LICENCE = "typeseg-0.2.7.dist-info/licenses/LICENSE"
SHA256 = "36c1f318b149d5508fedf127e2ffc0854c6eced79c815677f03fe8c43cb22a44"
OTHER = 128  # the embedding of every byte that the package does not take as it is
BOUND = 1e-5


def parse(blob):
    """The bytes of mamba_al.npz -> name -> f32 array, by the names of the package, `Module/parameter`."""
    if hashlib.sha256(blob).hexdigest() != SHA256:
        sys.exit("mamba_al.npz is not that of typeseg 0.2.7 (SHA-256 differs)")
    archive = np.load(io.BytesIO(blob))
    return {name.replace("__", "/"): archive[name].astype(np.float32) for name in archive.files}


def rows():
    """The embedding of each byte [256]."""
    taken = np.zeros(256, bool)
    taken[[*b"\t\n\r", *range(0x20, 0x7F)]] = True
    return np.where(taken, np.arange(256), OTHER)


def tensors(theirs, layers):
    """Tensors of our form."""
    made = {"embed.weight": theirs["Embed_0/embedding"][rows()]}

    def norm(name, source):
        made[f"{name}.weight"], made[f"{name}.bias"] = theirs[f"{source}/scale"], theirs[f"{source}/bias"]

    def dense(name, source):
        made[f"{name}.weight"], made[f"{name}.bias"] = theirs[f"{source}/kernel"].T, theirs[f"{source}/bias"]

    for index in range(layers):
        layer, source = f"layers.{index}.", f"CheckpointMambaBlock1D_{index}/"
        norm(f"{layer}norm1", f"{source}LayerNorm_0")
        dense(f"{layer}mixer.in_proj", f"{source}Dense_0")  # u, gate: our x, z
        made[f"{layer}mixer.conv.weight"] = theirs[f"{source}Conv_0/kernel"].transpose(2, 1, 0)  # [W,1,I] -> [I,1,W]
        made[f"{layer}mixer.conv.bias"] = theirs[f"{source}Conv_0/bias"]
        dense(f"{layer}mixer.x_proj", f"{source}Dense_1")  # dt, B, C
        dense(f"{layer}mixer.dt_proj", f"{source}Dense_2")
        made[f"{layer}mixer.a_log"], made[f"{layer}mixer.d"] = theirs[f"{source}A_log"], theirs[f"{source}D"]
        dense(f"{layer}mixer.out_proj", f"{source}Dense_3")
    norm("norm", "LayerNorm_0")
    dense("head", "Dense_0")
    used = sum(t.size for t in made.values()) - made["embed.weight"].size + theirs["Embed_0/embedding"].size
    if used != sum(t.size for t in theirs.values()):
        sys.exit("mamba_al.npz has parameters that no tensor was made of")
    return made


def configuration(manifest, made):
    """config.json of our form."""
    network = manifest["mamba"]
    layer = {
        "mixer": "mamba",
        "inner": made["layers.0.mixer.d"].shape[0],
        "state": network["d_state"],
        "dt_rank": network["dt_rank"],
        "conv": network["d_conv"],
        "padding": "same",
        "direction": "both",
        "dt_offset": 1e-4,
    }
    return {
        "model_type": "subquad",
        "vocab_size": 256,
        "hidden_size": made["embed.weight"].shape[1],
        "tokens": "bytes",
        "causal": False,
        "norm": "layer",
        "norm_eps": 1e-6,
        "positions": "none",
        "tie_embeddings": False,
        "head": "tags",
        "classes": manifest["num_classes"],
        "labels": manifest["labels"],
        "layers": [layer] * network["n_layers"],
        "mlp": {"kind": "none"},
    }


def convert(wheel, folder):
    with zipfile.ZipFile(wheel) as archive:
        blob, manifest, terms = (archive.read(name) for name in (WEIGHTS, MANIFEST, LICENCE))
    manifest = json.loads(manifest)
    made = tensors(parse(blob), manifest["mamba"]["n_layers"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(configuration(manifest, made), indent=2) + "\n")
    (folder / "LICENSE").write_bytes(terms)
    tensorfile.save(folder / "model.safetensors", made, {
        "source": f"typeseg 0.2.7 on PyPI, mamba_al.npz, SHA-256 {SHA256}",
        "licence": "Apache-2.0 (TypeSeg by Martin Dallinger)",
        "script": "tools/models/typeseg.py",
    })  # fmt: skip
    size = (folder / "model.safetensors").stat().st_size
    print(f"{folder}: {len(made)} tensors, {sum(t.size for t in made.values())} parameters, {size} bytes")


def silu(x):
    return x / (1 + np.exp(-x))


def scan(x, dt, b, c, a, d):
    """x, dt [N,I]; b, c [N,S]; a [I,S]; d [I] -> [N,I]: the state is exp(dt a) state + dt b x, from the first token on."""
    state, out = np.zeros_like(a), np.empty_like(x)
    for n in range(len(x)):
        state = np.exp(dt[n, :, None] * a) * state + (dt[n] * x[n])[:, None] * b[n]
        out[n] = state @ c[n] + d * x[n]
    return out


def forward(folder, tokens):
    """Logits [N,classes] of the written folder, in f32: what our form says of a mamba layer and of head tags."""
    config = json.loads((folder / "config.json").read_text())
    w = tensorfile.load(folder / "model.safetensors")[0]

    def project(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(config["norm_eps"]))
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    h = w["embed.weight"][tokens]
    for index, layer in enumerate(config["layers"]):
        name = f"layers.{index}.mixer"
        x, z = np.split(project(f"{name}.in_proj", norm(f"layers.{index}.norm1", h)), 2, axis=1)
        taps, left = layer["conv"], (layer["conv"] - 1) // 2
        padded = np.pad(x, ((left, taps - 1 - left), (0, 0)))
        kernel = w[f"{name}.conv.weight"][:, 0]
        x = silu(sum(padded[i : i + len(x)] * kernel[:, i] for i in range(taps)) + w[f"{name}.conv.bias"])
        rank, states = layer["dt_rank"], layer["state"]
        dt, b, c = np.split(project(f"{name}.x_proj", x), [rank, rank + states], axis=1)
        dt = np.logaddexp(np.float32(0), project(f"{name}.dt_proj", dt)) + np.float32(layer["dt_offset"])
        fixed = -np.exp(w[f"{name}.a_log"]), w[f"{name}.d"]
        both = scan(x, dt, b, c, *fixed) + scan(x[::-1], dt[::-1], b[::-1], c[::-1], *fixed)[::-1]
        h = h + project(f"{name}.out_proj", both * silu(z))
    return project("head", norm("norm", h))


def module(wheel, name):
    """A module of the package out of the wheel, without the package itself, which imports onnxruntime."""
    spec = zipimport.zipimporter(f"{wheel}/typeseg").find_spec(name)
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def check(wheel, folder, file, count):
    data = file.read_bytes()[:count]
    with zipfile.ZipFile(wheel) as archive:
        weights = parse(archive.read(WEIGHTS))
    tokens = module(wheel, "_tokenize").text_to_bytes(data.decode("utf-8", "ignore"))
    if len(tokens) != len(data):
        sys.exit(f"{file}: the package needs UTF-8 text, and the first {count} bytes are not")
    start = time.perf_counter()
    ours = forward(folder, np.frombuffer(data, np.uint8))
    middle = time.perf_counter()
    want = module(wheel, "_mamba_kernel").mamba_forward(np, weights, tokens).astype(np.float64)
    end = time.perf_counter()
    error = float(np.sqrt(((ours - want) ** 2).sum() / (want**2).sum()))
    equal = int((ours.argmax(1) == want.argmax(1)).sum())
    labels = json.loads((folder / "config.json").read_text())["labels"]
    most = np.bincount(ours.argmax(1), minlength=len(labels)).argmax()
    print(f"{len(data)} bytes of {file.name}: relative RMS {error:.1e} (at most {BOUND:.0e}), {equal} labels equal")
    print(f"most frequent label: {labels[most]}; {middle - start:.1f} s here, {end - middle:.1f} s in the package")
    if not error <= BOUND or equal != len(data):
        sys.exit("the written folder does not compute what the package computes")


def main():
    parser = argparse.ArgumentParser(description="Turns the network of typeseg into a folder of our own form.")
    parser.add_argument("wheel", type=Path, metavar="WHEEL", help="typeseg-0.2.7-py3-none-any.whl")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to write; made if it is not there")
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare logits with the package's on this text")
    parser.add_argument("--bytes", type=int, default=4096, help="of --check, from the beginning (default: 4096)")
    args = parser.parse_args()
    if not args.wheel.is_file():
        sys.exit(f"no {args.wheel}: pip download --no-deps typeseg==0.2.7")
    convert(args.wheel, args.folder)
    if args.check:
        check(args.wheel, args.folder, args.check, args.bytes)


if __name__ == "__main__":
    main()
