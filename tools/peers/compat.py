"""Models of transformers with and without `subquad.compat`: errors of logits, greedy text, milliseconds of a prompt.

    PYTHONPATH=python python tools/peers/compat.py [NAME ..] [--tokens 1024] [--rounds 5] [--hidden 512] [--device cpu]
        [--threads 2] [--table]

Weights are random. Both ways run in turns in one process; the least of all rounds and the median of the ratios are printed, and
milliseconds of one decoded token.
"""

import argparse
import statistics
import sys
import time
import warnings

WIDE = {"vocab_size": 1024, "hidden_size": 512, "num_hidden_layers": 4}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4}
SSD = {"mamba_n_heads": 16, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1}
KINDS = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]
# Three layers with a state to one of attention in hybrids; sizes of heads as published models have them.
MODELS = {
    "Mamba": WIDE,
    "Mamba2": {**WIDE, "num_heads": 16, "head_dim": 64, "state_size": 128, "n_groups": 1},
    "Bamba": {**WIDE, **HEADS, **SSD, "intermediate_size": 1024, "attn_layer_indices": [3]},
    "GraniteMoeHybrid": {**WIDE, **HEADS, **SSD, "shared_intermediate_size": 1024, "layer_types": ["mamba"] * 3 + ["attention"],
                         "num_local_experts": 0, "num_experts_per_tok": 0},
    "Qwen3Next": {**WIDE, **HEADS, "head_dim": 64, "intermediate_size": 1024, "mlp_only_layers": [0, 1, 2, 3],
                  "layer_types": KINDS, "linear_num_key_heads": 4, "linear_num_value_heads": 8},
    "Jamba": {**WIDE, **HEADS, "intermediate_size": 1024, "attn_layer_period": 4, "attn_layer_offset": 3, "num_experts": 1,
              "num_experts_per_tok": 1},
    "Zamba2": {**WIDE, **HEADS, "intermediate_size": 1024, "layers_block_type": ["mamba"] * 3 + ["hybrid"], "n_mamba_heads": 16,
               "mamba_headdim": 64, "mamba_d_state": 128, "mamba_ngroups": 1, "num_mem_blocks": 1},
    "FalconH1": {**WIDE, **HEADS, **SSD, "intermediate_size": 1024, "mamba_d_ssm": 1024},
    "NemotronH": {"vocab_size": 1024, "hidden_size": 512, **HEADS, "head_dim": 64, "intermediate_size": 1024,
                  "layers_block_type": ["mamba"] * 3 + ["attention"], "mamba_num_heads": 16, "mamba_head_dim": 64,
                  "ssm_state_size": 128, "n_groups": 1},
}  # fmt: skip
AIMED = ["Mamba", "Mamba2", "Bamba", "GraniteMoeHybrid", "Qwen3Next"]


def built(name, settings):
    """A model with random weights, large enough to make greedy text depend on the tokens."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**settings)).eval()
    for which, weight in model.named_parameters():
        if weight.dim() > 1 and "A_log" not in which:
            torch.nn.init.normal_(weight, std=0.05)
    return model


def without_fla(name):
    """Imports a model's code as where fla is not installed: transformers would call its Triton functions on any device."""
    import importlib

    import transformers

    there = sys.modules.get("fla")
    sys.modules["fla"] = None
    try:
        config = getattr(transformers, f"{name}Config")
        importlib.import_module(config.__module__.replace("configuration_", "modeling_"))
    finally:
        del sys.modules["fla"]
        if there is not None:
            sys.modules["fla"] = there


def one(name, args):
    import subquad.compat
    import subquad.compat.transformers as shim
    import torch

    without_fla(name)
    model = built(name, {**MODELS[name], "hidden_size": args.hidden})
    prompt = torch.randint(0, 1024, (1, args.tokens))

    def logits(ours):
        shim.enable(force=True, device=args.device) if ours else shim.disable()
        start = time.perf_counter()
        found = model(prompt, use_cache=False).logits
        return found, (time.perf_counter() - start) * 1e3

    def text(ours, tokens=17):
        shim.enable(force=True, device=args.device) if ours else shim.disable()
        settings = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        settings["attention_mask"] = torch.ones(1, 64, dtype=torch.long)
        marks = []
        hook = model.register_forward_hook(lambda *_: marks.append(time.perf_counter()))
        found = model.generate(prompt[:, :64], max_new_tokens=tokens, **settings)
        hook.remove()
        return found, statistics.median([(b - a) * 1e3 for a, b in zip(marks, marks[1:])])  # noqa: B905

    with torch.no_grad():
        want, found = logits(False)[0], logits(True)[0]
        subquad.compat.calls(reset=True)
        rounds = [(logits(True)[1], logits(False)[1]) for _ in range(args.rounds)]
        counts = subquad.compat.calls(reset=True)
        texts = [(text(False), text(True)) for _ in range(3)]
    mine, theirs = texts[0][1][0], texts[0][0][0]
    torch_step, step = (min(one[1] for one in way) for way in zip(*texts))  # noqa: B905
    error = ((found - want).square().mean() / want.square().mean()).sqrt().item()
    least = [min(times) for times in zip(*rounds)]  # noqa: B905
    ratio = statistics.median([b / a for a, b in rounds])
    same = torch.equal(mine, theirs)
    if args.table:
        shape = f"{args.hidden}, 4"
        words = "equal" if same else "differs"
        print(f"| {name}ForCausalLM | {shape} | {error:.1e} | {words} | {least[1]:.0f} → {least[0]:.0f} | "
              f"{ratio:.1f} | {torch_step:.1f} → {step:.1f} |", flush=True)  # fmt: skip
    else:
        print(f"{name:17} error {error:.1e}  text {'equal' if same else 'DIFFERS'}  prompt {least[1]:.1f} -> {least[0]:.1f} ms, "
              f"{ratio:.2f} x  token {torch_step:.2f} -> {step:.2f} ms  {counts}", flush=True)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=AIMED, help=f"of {', '.join(MODELS)} (default: the first five)")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=WIDE["hidden_size"], help="width of a token, which products in torch depend on")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", action="store_true", help="rows of a table")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in MODELS]
    if unknown:
        parser.error(f"NAME: expected some of {', '.join(MODELS)}, found {', '.join(unknown)}")
    warnings.filterwarnings("ignore")
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    for name in args.names:
        one(name, args)


if __name__ == "__main__":
    main()
