"""Writes rope_*.safetensors, norm_*.safetensors and embedding_*.safetensors of tests/goldens: inputs and outputs of published
models' own layers.

    pip install "numpy==2.4.6" "torch==2.15.0" "transformers==5.24.0"
    python tools/goldens/parts.py

rope_*       LlamaRotaryEmbedding and GPTNeoXRotaryEmbedding (a quarter of the columns) with their apply_rotary_pos_emb, of
             transformers, in float32 as models run them: angles are products in float32.
norm_*       torch.nn.LayerNorm in float64; LlamaRMSNorm and Qwen3NextRMSNormGated of transformers in float32.
embedding_*  torch.nn.Embedding twice, tokens and positions as GPT-2 adds them.

Tensors (f32): q, k, q_out, k_out [B,H,N,D]; x, gate, o [B,H,N,E], weight, bias [E]; index (i64) [N], table [V,D],
positions [L,D], o [N,D]. Check: every rope also runs as a loop over pairs in float64, from the frequencies of the layer; the
script stops if the two differ by more than 2e-6 of the largest value.
"""

import math
import sys

import torch
import transformers
from golden import save
from transformers.models.gpt_neox import modeling_gpt_neox as gpt_neox
from transformers.models.llama import modeling_llama as llama
from transformers.models.qwen3_next import modeling_qwen3_next as qwen3_next

SOURCE = f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"


def turned(x, frequencies, first):
    """The definition, pair by pair, of angles that are rounded to float32."""
    y, half = x.double().clone(), len(frequencies)
    for n in range(x.shape[2]):
        for i, frequency in enumerate(frequencies):
            angle = float(torch.tensor(float(first + n)) * frequency)
            a, b, c, s = x[:, :, n, i].double(), x[:, :, n, i + half].double(), math.cos(angle), math.sin(angle)
            y[:, :, n, i], y[:, :, n, i + half] = a * c - b * s, b * c + a * s
    return y


def rope(name, module, layer, config, first, flags):
    """One run of a model's rotary layer on 4 heads of q and 2 of k."""
    torch.manual_seed(len(name))
    tokens = 9
    q, k = torch.randn(2, 4, tokens, config.head_dim), torch.randn(2, 2, tokens, config.head_dim)
    embedding = layer(config)
    cos, sin = embedding(q, torch.arange(first, first + tokens)[None])
    q_out, k_out = module.apply_rotary_pos_emb(q, k, cos, sin)
    worst = 0.0
    for x, y in [(q, q_out), (k, k_out)]:
        loop = turned(x, embedding.inv_freq, first)
        worst = max(worst, float((loop - y.double()).abs().max() / loop.abs().max()))
    if not worst < 2e-6:
        sys.exit(f"{name}: {worst:.1e} from the loop")
    tensors = {"q": q, "k": k, "q_out": q_out, "k_out": k_out}
    tensors = {key: tensor.detach().numpy() for key, tensor in tensors.items()}
    save(__file__, "rope", name, tensors, f"{SOURCE}: {layer.__name__}", flags, agree=f", loop {worst:.1e}")


def norm(name, layer, shape, flags, gated=False):
    """One run of a norm over the last axis."""
    torch.manual_seed(len(name))
    dtype = next(layer.parameters()).dtype
    x, gate = torch.randn(shape, dtype=dtype) * 3 + 1, torch.randn(shape, dtype=dtype)
    weights = {key: torch.randn_like(weight) for key, weight in layer.named_parameters()}
    layer.load_state_dict(weights)
    given = {"x": x, **weights} | ({"gate": gate} if gated else {})
    # The numbers of the file are float32.
    rounded = {key: tensor.float().to(dtype) for key, tensor in given.items()}
    layer.load_state_dict({key: rounded[key] for key in weights})
    o = layer(rounded["x"], rounded["gate"]) if gated else layer(rounded["x"])
    tensors = {key: tensor.detach().float().numpy() for key, tensor in {**rounded, "o": o}.items()}
    save(__file__, "norm", name, tensors, f"{SOURCE}: {type(layer).__name__}", flags)


def embedding():
    """Embeddings of 7 of 20 tokens at the first positions."""
    torch.manual_seed(1)
    tokens, positions = torch.nn.Embedding(20, 12), torch.nn.Embedding(9, 12)
    index = torch.tensor([3, 0, 19, 3, 7, 7, 11])
    o = tokens(index) + positions(torch.arange(len(index)))
    tensors = {"index": index, "table": tokens.weight, "positions": positions.weight, "o": o}
    tensors = {key: tensor.detach().numpy() for key, tensor in tensors.items()}
    save(__file__, "embedding", "gpt2", tensors, f"{SOURCE}: Embedding", "")


def main():
    small = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    theta = {"rope_type": "default", "rope_theta": 500000.0}
    config = llama.LlamaConfig(**small, rope_parameters=theta)
    rope("llama", llama, llama.LlamaRotaryEmbedding, config, 0, "--theta 500000")
    rope("llama_far", llama, llama.LlamaRotaryEmbedding, config, 100000, "--theta 500000 --position 100000")
    theta = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
    config = gpt_neox.GPTNeoXConfig(hidden_size=128, num_attention_heads=4, rope_parameters=theta)
    config.head_dim = 32
    rope("gpt_neox", gpt_neox, gpt_neox.GPTNeoXRotaryEmbedding, config, 0, "--rope-dims 8")
    with torch.no_grad():
        norm("torch_layer", torch.nn.LayerNorm(36, eps=1e-5, dtype=torch.float64), (1, 1, 5, 36), "--kind layer")
        norm("llama", llama.LlamaRMSNorm(768, eps=1e-6), (1, 1, 2, 768), "--eps 1e-6")
        gated = qwen3_next.Qwen3NextRMSNormGated(24, eps=1e-6)
        norm("qwen3_next_gated", gated, (1, 2, 5, 24), "--gate silu --eps 1e-6", gated=True)
    embedding()


if __name__ == "__main__":
    main()
