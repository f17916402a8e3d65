"""Times the cpu backend's softmax attention beside onnxruntime and torch, in turns, on the same tensors (see turns.py).

    pip install "numpy==2.4.6" "onnx==1.23.2" "onnxruntime==1.32.0" "torch==2.15.0"
    cargo build --release --example cpu
    python tools/peers/softmax.py                          (H=8, D=64, N=2048, f32, two threads, 7 runs)
    python tools/peers/softmax.py --causal

onnxruntime: com.microsoft.MultiHeadAttention on [1,N,H*D], with its defaults but the number of threads. Its causal form
holds all N x N scores, the other does not. torch: scaled_dot_product_attention on [1,H,N,D]. All scale the
scores by 1/sqrt(D).
"""

import turns


def onnxruntime(args, q, k, v):
    import onnxops

    operator = onnxops.MultiHeadAttention(args.heads, causal=args.causal, threads=args.threads)
    source = f"{onnxops.VERSION} com.microsoft.MultiHeadAttention"
    return turns.onnx_peer(source, operator, args.heads, q, k, v)


def torch(args, q, k, v):
    from torch.nn.functional import scaled_dot_product_attention as attend

    return turns.torch_peer(args, lambda q, k, v: attend(q, k, v, is_causal=args.causal), q, k, v)


def options(parser):
    parser.add_argument("--causal", action="store_true", help="query i sees keys up to i")


def main():
    args = turns.arguments("The cpu backend's softmax attention beside onnxruntime and torch.", 2048, options)
    tensors, _ = turns.draw(args)
    arrays = tensors.values()
    peers = turns.installed(onnxruntime=lambda: onnxruntime(args, *arrays), torch=lambda: torch(args, *arrays))
    form = "causal" if args.causal else "not causal"
    what = f"softmax, {form}, H={args.heads} D={args.dim} N={args.length}"
    turns.compare(args, "softmax", what, tensors, peers, flags=[f"causal={str(args.causal).lower()}"])


if __name__ == "__main__":
    main()
