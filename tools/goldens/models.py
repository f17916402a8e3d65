"""Writes tests/goldens/models/NAME/: whole models of published families with random weights, and their logits, by
transformers' own torch classes.

    pip install "numpy==2.4.6" "torch==2.15.0" "transformers==5.24.0"
    python tools/goldens/models.py                  (or some of them: NAME...)

Each folder holds config.json and the weights as save_pretrained writes them, one file or shards, in f32, f16 or bf16, and
expected.safetensors. Cases marked `older` have their config.json in the spelling of transformers 4, which published folders
have: mamba/attention in layer_types, rope_theta beside it, torch_dtype, a bare Infinity. The weights are drawn from a seed,
not trained; the files are our own, under the licence of this crate.

expected.safetensors: tokens i32 [26]; logits f32 [26,V]: one forward pass of the saved folder, loaded again, in float64, where
every f32 conversion of the classes is float64 too (a dispatch hook refuses any other float); greedy i32 [12]: what generate()
appends to the first 8 tokens in f32, without a cache, because transformers' step with a cache ignores time_step_limit.

Each case stops with a message unless
  - changing any tensor by a tenth of its size changes the logits by more than 1e-3 (relative RMS), and so does every setting
    under `other`, and the first token in the last row of logits;
  - logits are between 0.5 and 8 (RMS), and no greedy token wins by less than 0.01.
Epsilons are larger than published ones (1e-2), time steps reach both limits, and rope frequencies are high, so that each
matters.
"""

import argparse
import contextlib
import json
import logging
import math
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here comes from a hub

import numpy as np
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

import golden

FOLDER = golden.FOLDER / "models"
TOKENS, PROMPT, NEW = 26, 8, 12
MATTERS = 1e-3
PLAIN = {"vocab_size": 48, "hidden_size": 32, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
MAMBA2 = {"num_heads": 4, "head_dim": 16, "state_size": 4, "chunk_size": 8, "layer_norm_epsilon": 1e-2}
HYBRID = {
    "num_attention_heads": 4, "num_key_value_heads": 2, "mamba_n_heads": 4, "mamba_d_state": 4, "mamba_chunk_size": 8,
    "rms_norm_eps": 1e-2,
}  # fmt: skip
QWEN = {
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24, "rms_norm_eps": 1e-2,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 6,
}  # fmt: skip


@dataclass
class Case:
    """A model.

    config: settings of its class. dtype: of the saved weights. shards: bytes per file, at most. older: config.json as
    transformers 4 wrote it. edit: changes of config.json, None removes a key. other: settings that must change the logits.
    same: settings that must not. seed: of weights and tokens, chosen so that no greedy token is close.
    """

    name: str
    model: str
    config: dict
    dtype: torch.dtype = torch.float32
    shards: int = 0
    older: bool = False
    edit: dict = field(default_factory=dict)
    other: dict = field(default_factory=dict)
    same: dict = field(default_factory=dict)
    seed: int = 0


CASES = [
    Case(
        "mamba", "Mamba",
        {"num_hidden_layers": 3, "state_size": 4, "use_bias": True, "layer_norm_epsilon": 1e-2},
        edit={"time_step_rank": "auto"},
        other={"layer_norm_epsilon": 1e-5},
        same={"time_step_rank": 2, "residual_in_fp32": False, "use_associative_scan": False},
        seed=2,
    ),
    # The inner width is that of intermediate_size, not of expand.
    Case(
        "mamba_f16", "Mamba",
        {"num_hidden_layers": 4, "state_size": 5, "conv_kernel": 3, "time_step_rank": 3, "intermediate_size": 48,
         "use_conv_bias": False, "residual_in_fp32": False, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-2},
        dtype=torch.float16,
        other={"layer_norm_epsilon": 1e-5},
    ),
    Case(
        "mamba2", "Mamba2",
        MAMBA2 | {"num_hidden_layers": 3, "n_groups": 2, "use_bias": True, "time_step_limit": (0.05, 0.25)},
        other={"time_step_limit": [0.0, 0.25], "layer_norm_epsilon": 1e-5},
        same={"chunk_size": 5, "intermediate_size": 1, "time_step_rank": 7, "time_step_min": 0.5},
    ),
    Case(
        "mamba2_sharded", "Mamba2",
        MAMBA2 | {"num_hidden_layers": 3, "hidden_size": 24, "head_dim": 12, "n_groups": 1, "use_conv_bias": False,
                  "tie_word_embeddings": True},
        shards=30_000, older=True,
        other={"time_step_limit": [0.05, 0.25]},
    ),
    Case(
        "bamba", "Bamba",
        HYBRID | {"num_hidden_layers": 3, "attn_layer_indices": [1], "intermediate_size": 24, "mamba_n_groups": 2,
                  "mamba_proj_bias": True, "attention_bias": True, "mlp_bias": True, "time_step_limit": (0.05, 0.25),
                  "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        other={"rms_norm_eps": 1e-5, "time_step_limit": [0.05, 0.5],
               "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        seed=1,
    ),
    Case(
        "granite", "GraniteMoeHybrid",
        HYBRID | {"num_hidden_layers": 4, "layer_types": ["mamba", "attention", "mamba", "attention"],
                  "num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 32, "intermediate_size": 32,
                  "embedding_multiplier": 2, "residual_multiplier": 0.9, "attention_multiplier": 0.25, "logits_scaling": 2,
                  "position_embedding_type": "nope", "tie_word_embeddings": True},
        dtype=torch.bfloat16, older=True, edit={"time_step_limit": None},
        other={"embedding_multiplier": 1, "residual_multiplier": 1, "attention_multiplier": 8**-0.5, "logits_scaling": 1,
               "position_embedding_type": "rope"},
        same={"position_embedding_type": None, "rope_theta": 500, "intermediate_size": 7, "mamba_chunk_size": 64},
        seed=2,
    ),
    Case(
        "granite_rope", "GraniteMoeHybrid",
        HYBRID | {"num_hidden_layers": 3, "layer_types": ["attention", "mamba", "mamba"], "mamba_n_groups": 2,
                  "num_local_experts": 0, "shared_intermediate_size": 24, "intermediate_size": 32,
                  "embedding_multiplier": 1.5, "residual_multiplier": 0.8, "attention_multiplier": 0.5, "logits_scaling": 0.5,
                  "mamba_conv_bias": False, "mamba_proj_bias": True, "attention_bias": True,
                  "position_embedding_type": "rope", "time_step_limit": (0.05, 0.25),
                  "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        other={"position_embedding_type": None, "rms_norm_eps": 1e-5, "time_step_limit": [0.0, 0.25],
               "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    ),
    # Experts are configured, but no layer has any: two of them by name, the other by its number.
    Case(
        "qwen3_next", "Qwen3Next",
        QWEN | {"num_hidden_layers": 3, "layer_types": ["linear_attention", "full_attention", "linear_attention"],
                "head_dim": 16, "num_experts": 4, "mlp_only_layers": [1], "decoder_sparse_step": 2, "attention_bias": True,
                "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        other={"rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0,
                                                         "partial_rotary_factor": 0.5}},
        same={"full_attention_interval": 1, "moe_intermediate_size": 7},
    ),
    Case(
        "qwen3_next_older", "Qwen3Next",
        QWEN | {"num_hidden_layers": 4, "head_dim": 8, "num_experts": 0, "linear_conv_kernel_dim": 3,
                "tie_word_embeddings": True, "full_attention_interval": 2,
                "rope_parameters": {"rope_type": "default", "rope_theta": 500, "partial_rotary_factor": 0.5}},
        dtype=torch.bfloat16, older=True, edit={"layer_types": None, "full_attention_interval": 2},
        other={"partial_rotary_factor": 1.0, "rope_theta": 10000},
    ),
]  # fmt: skip


def relative(found, want):
    """Relative RMS of the difference."""
    return float((found - want).pow(2).sum().sqrt() / want.pow(2).sum().sqrt())


def draw(model, rng):
    """New values for every parameter, of the size that a trained model has."""
    zero_centred = {id(module.weight) for module in model.modules() if type(module).__name__ == "Qwen3NextRMSNorm"}
    tied = model.config.tie_word_embeddings
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        noise = rng.standard_normal(shape)
        if name.endswith("A_log"):
            # The initial value plus noise: equal rows would hide a wrong order. qwen3_next draws rates from 0.01 to 16, most
            # of which forget everything within a token.
            start = np.log(rng.uniform(0.05, 1.5, shape)) if "linear_attn" in name else parameter.detach().double().numpy()
            value = start + 0.1 * noise
        elif name.endswith(("dt_bias", "dt_proj.bias")):
            # softplus of it is a step between 0.02 and 0.5.
            step = np.exp(rng.uniform(math.log(0.02), math.log(0.5), shape))
            value = step + np.log(-np.expm1(-step))
        elif id(parameter) in zero_centred:
            # Longer q and k make attention attend to few keys, so that their norms matter.
            value = (0.8 if name.endswith(("q_norm.weight", "k_norm.weight")) else 0) + 0.3 * noise
        elif "norm" in name or name.endswith(".D"):
            value = 1 + 0.3 * noise
        elif name.endswith("bias"):
            value = 0.3 * noise
        elif name.endswith("conv1d.weight"):
            value = noise / math.sqrt(shape[-1])
            if "linear_attn" in name:
                # Short q and k, so that the constant in their l2norm (1e-6) matters.
                value[: 2 * model.config.linear_num_key_heads * model.config.linear_key_head_dim] *= 0.02
        elif "embed" in name:
            value = (0.4 if tied else 1.0) * noise
        elif name == "lm_head.weight":
            value = 2 * noise / math.sqrt(shape[-1])
        else:
            value = 1.3 * noise / math.sqrt(shape[-1])
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.asarray(value)))


class Doubles(TorchDispatchMode):
    """Refuses floats other than f64, so that no step in between rounds to f32."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = result if isinstance(result, (tuple, list)) else [result]
        single = [t.dtype for t in made if isinstance(t, torch.Tensor) and t.is_floating_point() and t.dtype != torch.float64]
        assert not single, f"{function} made {single}"
        return result


@contextlib.contextmanager
def in_doubles():
    """Inside, what the classes convert to f32 is f64, and new floats are."""
    names = {"float32": torch.float64, "float": torch.float64}
    kept, method = {name: getattr(torch, name) for name in names}, torch.Tensor.float
    try:
        torch.set_default_dtype(torch.float64)
        for name, dtype in names.items():
            setattr(torch, name, dtype)
        torch.Tensor.float = torch.Tensor.double
        with torch.no_grad(), Doubles():
            yield
    finally:
        torch.Tensor.float = method
        for name, dtype in kept.items():
            setattr(torch, name, dtype)
        torch.set_default_dtype(torch.float32)


def load(folder):
    """The saved model, its weights widened to f32."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def logits(model, tokens):
    """[N,V], f64."""
    model.double()
    with in_doubles():
        for module in model.modules():
            if hasattr(module, "inv_freq"):
                module.inv_freq = module.compute_default_rope_parameters(module.config)[0]
        return model(torch.from_numpy(tokens[None]).long(), use_cache=False).logits[0].detach()


def generate(model, tokens, cache):
    """Greedy tokens after the prompt, in f32."""
    prompt = torch.from_numpy(tokens[None, :PROMPT]).long()
    plan = transformers.GenerationConfig(max_new_tokens=NEW, do_sample=False, use_cache=cache, pad_token_id=0)
    found = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=plan)
    return found[0, PROMPT:].numpy().astype(np.int32)


def older(config):
    """config.json of transformers 5 -> as transformers 4 wrote it."""
    renamed = {"linear_attention": "mamba", "full_attention": "attention"}
    if "layer_types" in config and config["model_type"] != "qwen3_next":
        config["layer_types"] = [renamed[kind] for kind in config["layer_types"]]
    rope = config.pop("rope_parameters", None)
    if rope:
        config |= {"rope_theta": rope["rope_theta"], "rope_scaling": None}
        if "partial_rotary_factor" in rope:
            config["partial_rotary_factor"] = rope["partial_rotary_factor"]
    config |= {"torch_dtype": config.pop("dtype"), "transformers_version": "4.57.0"}
    if "time_step_limit" in config:
        config["time_step_limit"] = [math.inf if isinstance(x, dict) else x for x in config["time_step_limit"]]
    return config


def rewrite(folder, edit, change=lambda config: config):
    path = folder / "config.json"
    config = change(json.loads(path.read_text())) | edit
    config = {key: config[key] for key in sorted(config) if config[key] is not None or key not in edit}
    path.write_text(json.dumps(config, indent=2) + "\n")


def save(case, rng, folder):
    """Draws the weights and writes the model."""
    settings = dict(PLAIN, **case.config)
    config = getattr(transformers, f"{case.model}Config")(**settings)
    model = getattr(transformers, f"{case.model}ForCausalLM")(config)
    draw(model, rng)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model.to(case.dtype).save_pretrained(folder, max_shard_size=case.shards or "5GB")
    (folder / "generation_config.json").unlink()
    rewrite(folder, case.edit, older if case.older else lambda config: config)


def check(case, folder, tokens, want, greedy):
    """Stops if a tensor or a setting does not matter, or if rounding could change the outcome. Returns the least effect."""

    def matters(what, found, of=want):
        effect = relative(found, of)
        assert effect > MATTERS, f"{case.name}: {what} changes logits by {effect:.1e} only"
        effects[what] = effect

    effects, rng = {}, np.random.default_rng(1)
    size = want.pow(2).mean().sqrt()
    assert 0.5 < size < 8, f"{case.name}: logits are {size:.2f}"
    model = load(folder)
    for name, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter += 0.1 * kept.pow(2).mean().sqrt() * torch.from_numpy(rng.standard_normal(tuple(kept.shape)))
        matters(name, logits(model, tokens))
        with torch.no_grad():
            parameter.copy_(kept)
    changed = tokens.copy()
    changed[0] = (changed[0] + 1) % case.config.get("vocab_size", PLAIN["vocab_size"])
    matters("the first token", logits(model, changed)[-1], want[-1])
    for key, value in [*case.other.items(), *case.same.items()]:
        with tempfile.TemporaryDirectory() as place:
            copy = shutil.copytree(folder, Path(place) / "model")
            rewrite(copy, {key: value})
            found = logits(load(copy), tokens)
        if (key, value) in case.other.items():
            matters(key, found)
        else:
            assert relative(found, want) < 1e-12, f"{case.name}: {key} changes logits"

    row = np.concatenate([tokens[:PROMPT], greedy])
    ahead = logits(model, row)[PROMPT - 1 : -1]
    best = ahead.topk(2, dim=-1)
    assert (best.indices[:, 0].numpy() == greedy).all(), f"{case.name}: greedy in f64 is {best.indices[:, 0].tolist()}"
    lead = float((best.values[:, 0] - best.values[:, 1]).min())
    assert lead > 0.01, f"{case.name}: a greedy token wins by {lead:.4f}"
    least = min(effects, key=effects.get)
    kinds = len(set(greedy.tolist()))
    return f"least effect {effects[least]:.1e} ({least}), least lead {lead:.3f}, {kinds} kinds of greedy token"


def make(index, case):
    folder = FOLDER / case.name
    rng = np.random.default_rng([20240531, index, case.seed])
    save(case, rng, folder)
    tokens = rng.integers(0, PLAIN["vocab_size"], TOKENS).astype(np.int32)
    model = load(folder)
    greedy, cached = (generate(model, tokens, cache) for cache in (False, True))
    with torch.no_grad():
        single = model(torch.from_numpy(tokens[None]).long(), use_cache=False).logits[0].double()
    want = logits(model, tokens)
    expected = {"tokens": tokens, "logits": want.numpy().astype(np.float32), "greedy": greedy}
    source = f"transformers {transformers.__version__} {type(model).__name__}, float64; greedy in float32"
    script = {"source": source, "weights": "random, from a seed", "script": "tools/goldens/models.py"}
    golden.tensorfile.save(folder / "expected.safetensors", expected, script)
    size = sum(path.stat().st_size for path in folder.iterdir())
    rms = want.pow(2).mean().sqrt()
    print(f"{case.name}: {size} bytes, logits RMS {rms:.2f}, in f32 within {relative(single, want):.1e}")
    print(f"    {check(case, folder, tokens, want, greedy)}")
    if (greedy != cached).any():
        print(f"    with a cache transformers generates {cached.tolist()}, without one {greedy.tolist()}")


def main():
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description="Writes the models of tests/goldens/models.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, or some of {', '.join(names)}")
    args = parser.parse_args()
    if unknown := set(args.names) - set(names):
        sys.exit(f"no model `{min(unknown)}`; there are {', '.join(names)}")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    for index, case in enumerate(CASES):
        if not args.names or case.name in args.names:
            make(index, case)


if __name__ == "__main__":
    main()
