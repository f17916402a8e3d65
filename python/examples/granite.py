"""A small Granite-4-H of transformers with random weights writes tokens, in torch and then through subquad.

    python python/examples/granite.py [--device cpu] [--tokens 64] [--prompt 256]
"""

import argparse
import time

import torch
import transformers

import subquad.compat
import subquad.compat.transformers


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", help="of subquad: auto, cpu, vulkan, metal, ..")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to write")
    parser.add_argument("--prompt", type=int, default=256, help="tokens to read first")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = transformers.GraniteMoeHybridConfig(
        vocab_size=1024, hidden_size=384, shared_intermediate_size=768, num_hidden_layers=5, num_attention_heads=6,
        num_key_value_heads=2, layer_types=["mamba"] * 4 + ["attention"], num_local_experts=0, num_experts_per_tok=0,
        mamba_n_heads=12, mamba_d_head=64, mamba_d_state=128, eos_token_id=None,
    )  # fmt: skip
    model = transformers.GraniteMoeHybridForCausalLM(config).eval()
    prompt = torch.randint(0, 1024, (1, args.prompt))

    def write():
        marks = []
        hook = model.register_forward_hook(lambda *_: marks.append(time.perf_counter()))
        start = time.perf_counter()
        text = model.generate(prompt, max_new_tokens=args.tokens, do_sample=False, attention_mask=torch.ones_like(prompt))
        hook.remove()
        read, wrote = args.prompt / (marks[0] - start), (len(marks) - 1) / (marks[-1] - marks[0])
        print(f"  prompt {read:.0f} tokens/s, then {wrote:.1f} tokens/s")
        return text

    write()  # the first run also sets things up
    print("torch")
    want = write()
    subquad.compat.transformers.enable(device=args.device)
    write()
    subquad.compat.calls(reset=True)
    print(f"subquad, {args.device}")
    found = write()
    print(f"  the same tokens: {torch.equal(found, want)}")
    print(f"  calls: {subquad.compat.calls()}")


if __name__ == "__main__":
    main()
