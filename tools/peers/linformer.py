"""Times the cpu backend's Linformer attention beside torch, in turns, on the same tensors (see turns.py).

    pip install "numpy==2.4.6" "torch==2.15.0"
    cargo build --release --example cpu
    python tools/peers/linformer.py                        (H=8, D=64, N=8192, K=256, f32, two threads, 7 runs)

One projection e [1,K,M], shared over heads, takes keys and values from M to K rows; then softmax attention with scores
scaled by 1/sqrt(D). torch has no operator for it, so the ways to write it are tried and the fastest is the peer:

einsum  the projections and the attention by einsum, as the formula is read
matmul  e expanded over the heads, the attention by matmul; the scale goes to the K projected keys, not to N x K scores
fused   e expanded over the heads, then scaled_dot_product_attention
"""

import numpy as np
import turns


def build(args, q, k, v, e):
    import torch

    scale = args.dim**-0.5

    def einsum(q, k, v, e):
        kp = torch.einsum("km,bhmd->bhkd", e[0], k)
        vp = torch.einsum("km,bhmd->bhkd", e[0], v)
        weights = torch.softmax(torch.einsum("bhnd,bhkd->bhnk", q, kp) * scale, dim=-1)
        return torch.einsum("bhnk,bhkd->bhnd", weights, vp)

    def project(x, e):
        return torch.matmul(e.expand(*x.shape[:2], -1, -1), x)

    def matmul(q, k, v, e):
        kp, vp = project(k, e) * scale, project(v, e)
        return torch.matmul(torch.softmax(torch.matmul(q, kp.mT), dim=-1), vp)

    def fused(q, k, v, e):
        return torch.nn.functional.scaled_dot_product_attention(q, project(k, e), project(v, e))

    return turns.fastest({f.__name__: turns.torch_peer(args, f, q, k, v, e) for f in (einsum, matmul, fused)})


def options(parser):
    parser.add_argument("--rank", type=int, default=256, help="K, the rows that keys and values are projected to")


def main():
    args = turns.arguments("The cpu backend's Linformer attention beside torch.", 8192, options)
    tensors, rng = turns.draw(args)
    # Variance 1/M, so that projected keys and values are again about 1.
    e = rng.standard_normal((1, args.rank, args.length), np.float32)
    tensors["e"] = e * np.float32(args.length**-0.5)
    peers = turns.installed(torch=lambda: build(args, *tensors.values()))
    what = f"linformer, H={args.heads} D={args.dim} N={args.length} K={args.rank}"
    turns.compare(args, "linformer", what, tensors, peers)


if __name__ == "__main__":
    main()
