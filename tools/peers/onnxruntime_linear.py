"""Times the cpu backend beside onnxruntime's CPU LinearAttention, in turns, on the same tensors (see turns.py).

    pip install "numpy==2.4.6" "onnx==1.23.2" "onnxruntime==1.31.1"
    cargo build --release --example cpu
    python tools/peers/onnxruntime_linear.py               (H=8, D=64, N=8192, f32, two threads, 7 runs)

Both compute rule linear: causal, identity map, no denominator, scale 1/sqrt(D), the final state kept. Each reads its
own layout: onnxruntime [1,N,H*D] (bnhd), ours [1,H,N,D] (bhnd).

onnxruntime runs with its defaults but the number of threads (of the ways tried, outputs bound beforehand and no
spinning among them, plain session.run was its fastest). It gives each (batch, kv head) to one thread and walks the
tokens in order; chunk_size has no effect on the CPU.
"""

import turns


def build(args, q, k, v):
    import onnxops

    operator = onnxops.LinearAttention(args.heads, args.heads, threads=args.threads)
    return turns.onnx_peer(onnxops.SOURCE, operator, args.heads, q, k, v)


def main():
    args = turns.arguments("The cpu backend beside onnxruntime's CPU LinearAttention.", length=8192)
    tensors, _ = turns.draw(args)
    peers = turns.installed(onnxruntime=lambda: build(args, *tensors.values()))
    what = f"rule linear, H={args.heads} D={args.dim} N={args.length}"
    flags = ["feature-map=identity", "normalize=false"]
    turns.compare(args, "linear", what, tensors, peers, flags=flags, carry=True)


if __name__ == "__main__":
    main()
