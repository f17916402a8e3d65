"""What a layer sends when its sequence lies on several processes: the states of linear attention beside keys and values.

    pip install "torch==2.15.0" "numpy==2.4.6" "matplotlib==3.11.2"      and the package subquad (python/README.md)
    python tools/peers/distributed.py --output distributed.svg

Three tables on standard output and, with --output, a figure:
 - bytes computed for a layer of 16 heads of 64 in float32 states and float16 keys and values, at 4, 16 and 64 shards
 - bytes counted with gloo at 2, 3 and 4 processes: those handed to torch.distributed, and those on the loopback (Linux), headers
   included
 - seconds of one process with one thread and of two, for the same sequence

Sent means: by all ranks together, where what goes to each other rank counts. An all-gather of n bytes a rank sends P (P - 1) n.
Exit codes: 0 done; 1 something failed, or a result differed from that of one process by more than 2e-5.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools" / "reproduce")]

import numpy as np  # noqa: E402
import page  # noqa: E402

HEADS, DIM, SINGLE, HALF = 16, 64, 4, 2
HEADER = 24  # bytes that each rank gives first, so that errors are the same on every rank
SHARDS, LENGTHS = (4, 16, 64), (1024, 4096, 16384, 65536)
LOOPBACK = Path("/sys/class/net/lo/statistics/tx_bytes")
TOLERANCE = 2e-5


def state_bytes(heads=HEADS, dim=DIM):
    """What a rank gives: the state [H, D, D] and one decay a head in float32, and the header."""
    return heads * (dim * dim + 1) * SINGLE + HEADER


def cache_bytes(tokens, heads=HEADS, dim=DIM, size=HALF):
    """What a rank gives: keys and values."""
    return tokens * heads * 2 * dim * size


def gathered(shards, own):
    return shards * (shards - 1) * own


def chained(shards, own):
    """Each rank needs the shards before its own only, as in the causal form of `softmax_attention`."""
    return shards * (shards - 1) // 2 * own


def size(count):
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def computed():
    rows = []
    for tokens in LENGTHS:
        for shards in SHARDS:
            states, cache = gathered(shards, state_bytes()), gathered(shards, cache_bytes(tokens))
            ring = chained(shards, cache_bytes(tokens) + HEADER) + gathered(shards, HEADER)
            rows.append([f"{tokens:,}", shards, size(states), size(cache), size(ring), f"{cache / states:,.0f}"])
    header = ["tokens a shard", "shards", "states", "all-gather of K and V", "K and V from rank to rank, causal"]
    return page.table([*header, "K and V / states"], rows)


class Counter:
    """Counts the bytes handed to torch.distributed by this rank, times the ranks that they go to."""

    def __init__(self, dist, ranks):
        self.sent, self.dist, self.ranks = 0, dist, ranks
        self.gather, self.batch = dist.all_gather, dist.batch_isend_irecv
        dist.all_gather, dist.batch_isend_irecv = self.all_gather, self.batch_isend_irecv

    def all_gather(self, found, own, group=None):
        self.sent += own.numel() * own.element_size() * (self.ranks - 1)
        return self.gather(found, own, group=group)

    def batch_isend_irecv(self, ops):
        self.sent += sum(op.tensor.numel() * op.tensor.element_size() for op in ops if op.op is self.dist.isend)
        return self.batch(ops)

    def of(self, call):
        """(bytes handed over by all ranks, bytes on the loopback, the result)."""
        import torch

        self.dist.barrier()
        time.sleep(0.1)
        before, self.sent = loopback(), 0
        result = call()
        self.dist.barrier()
        time.sleep(0.1)
        after, sent = loopback(), torch.tensor([self.sent])
        self.dist.all_reduce(sent)
        return int(sent), after - before, result


def loopback():
    return int(LOOPBACK.read_text()) if LOOPBACK.exists() else 0


def inputs(tokens):
    """q, k, v, g of the whole sequence."""
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((1, tokens, HEADS, DIM), dtype=np.float32) for _ in range(3))
    return q, k, v, -0.05 * np.abs(rng.standard_normal((1, tokens, HEADS), dtype=np.float32))


def rms(found, want):
    return float(np.sqrt(np.mean((found.astype(np.float64) - want) ** 2) / np.mean(want.astype(np.float64) ** 2)))


def work(rank, ranks, store, tokens, repeats):
    """Counts and times as one rank; rank 0 prints what was found."""
    import subquad
    import torch
    import torch.distributed as dist
    from subquad import distributed

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    counter, settings = Counter(dist, ranks), {"device": "cpu"}
    whole = inputs(tokens * ranks)
    q, k, v, g = (np.ascontiguousarray(x[:, rank * tokens : (rank + 1) * tokens]) for x in whole)
    half = [x.astype(np.float16) for x in (q, k, v)]

    def all_gather():
        for array in half[1:]:
            own = torch.from_numpy(array)
            dist.all_gather([torch.empty_like(own) for _ in range(ranks)], own)

    linear = lambda: distributed.linear_attention(q, k, v, rule="gated", g=g, **settings)  # noqa: E731
    counted = {}
    counted["states"] = counter.of(linear)[:2]
    counted["all-gather of K and V"] = counter.of(all_gather)[:2]
    few = slice(0, min(tokens, 512))
    counted["few"] = counter.of(lambda: distributed.softmax_attention(*(x[:, few] for x in half), **settings))[:2]
    found = {"counted": counted, "few": few.stop, "times": {}, "errors": {}}
    if repeats:
        forms = {
            "linear, gated": (subquad.linear_attention, distributed.linear_attention, {"rule": "gated"}, slice(None)),
            "softmax, causal": (subquad.softmax_attention, distributed.softmax_attention, {}, slice(0, tokens // 8)),
        }
        for name, (one, many, fixed, part) in forms.items():
            cut = lambda x: np.ascontiguousarray(x[:, part])  # noqa: E731
            own = [cut(x) for x in (q, k, v)] + [cut(g)]
            all_of = [np.concatenate([cut(x[:, at * tokens : (at + 1) * tokens]) for at in range(ranks)], 1) for x in whole]
            gates = lambda tensors: {"g": tensors[3]} if "rule" in fixed else {}  # noqa: E731
            alone, together, gathers = [], [], []
            for _ in range(repeats):
                if rank == 0:
                    begin = time.perf_counter()
                    want = one(*all_of[:3], **gates(all_of), **fixed, **settings)
                    alone.append(time.perf_counter() - begin)
                dist.barrier()
                begin = time.perf_counter()
                output = many(*own[:3], **gates(own), **fixed, **settings)
                dist.barrier()
                together.append(time.perf_counter() - begin)
            gathered = [torch.empty(output.shape) for _ in range(ranks)]
            counter.gather(gathered, torch.from_numpy(output))
            if rank == 0:
                found["errors"][name] = rms(torch.cat(gathered, 1).numpy(), want)
                found["times"][name] = [all_of[0].shape[1], statistics.median(alone), statistics.median(together)]
    dist.destroy_process_group()
    if rank == 0:
        print(json.dumps(found))


def spawn(ranks, tokens, repeats):
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    with tempfile.TemporaryDirectory() as folder:
        words = [str(ranks), str(Path(folder, "store")), str(tokens), str(repeats)]
        started = [subprocess.Popen([sys.executable, __file__, "--rank", str(rank), *words], env=environment, text=True,
                                    stdout=subprocess.PIPE) for rank in range(ranks)]  # fmt: skip
        try:
            texts = [process.communicate(timeout=600)[0] for process in started]
        finally:
            for process in started:
                process.kill()
    if any(process.returncode for process in started):
        sys.exit(f"distributed.py: a rank of {ranks} failed")
    return json.loads(texts[0])


def figure(path):
    import plots

    drawn, ax = plots.plt.subplots(figsize=(7, 4.6))
    lengths = [2**n for n in range(8, 18)]
    forms = [("K and V", lambda tokens: cache_bytes(tokens), 0), ("states", lambda tokens: state_bytes(), 1)]
    for name, own, style in forms:
        for shards, line in zip(SHARDS, (":", "--", "-")):
            values = [gathered(shards, own(tokens)) / 1e6 for tokens in lengths]
            ax.plot(lengths, values, linestyle=line, color=plots.STYLES[style][0], label=f"{name}, {shards} shards")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    plots.ticks(ax.xaxis, lengths[::3], lambda n: f"{n:,}")
    plots.ticks(ax.yaxis, [10.0**n for n in range(0, 7)], lambda n: f"{n:,}")
    ax.set_xlabel("tokens of a shard")
    ax.set_ylabel("MB sent by all ranks, a layer")
    ax.set_title("16 heads of 64, states in float32, keys and values in float16", fontsize=10)
    plots.legend(ax, columns=2)
    drawn.tight_layout()
    plots.save(drawn, path, "distributed")


def main():
    parser = argparse.ArgumentParser(description="Bytes and seconds of a sequence on several processes.")
    parser.add_argument("--output", type=Path, help="SVG to write")
    parser.add_argument("--tokens", type=int, default=4096, help="of a shard, where bytes are counted and time is taken")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    print(f"Bytes sent for a layer of {HEADS} heads of {DIM}, computed\n\n{computed()}\n")
    rows, failed = [], False
    for ranks in (2, 3, 4):
        found = spawn(ranks, args.tokens, args.repeats if ranks == 2 else 0)
        few = found["few"]
        expected = {
            "states": gathered(ranks, state_bytes()),
            "all-gather of K and V": gathered(ranks, cache_bytes(args.tokens)),
            "few": chained(ranks, cache_bytes(few)) + gathered(ranks, HEADER),
        }
        for name, (sent, wire) in found["counted"].items():
            title = f"K and V from rank to rank, causal, {few:,} tokens a shard" if name == "few" else name
            rows.append([ranks, title, f"{expected[name]:,}", f"{sent:,}", f"{wire:,}"])
            failed |= sent != expected[name]
        if ranks == 2:
            times, errors = found["times"], found["errors"]
    print(f"Bytes sent with gloo, {args.tokens:,} tokens a shard\n")
    print(page.table(["processes", "what", "computed", "counted", "on the loopback"], rows) + "\n")
    rows = []
    for name, (tokens, alone, together) in times.items():
        rows.append([name, f"{tokens:,}", f"{alone:.3f}", f"{together:.3f}", f"{alone / together:.2f}", f"{errors[name]:.1e}"])
        failed |= not errors[name] < TOLERANCE
    print(f"Seconds, median of {args.repeats}, one thread a process\n")
    print(page.table(["operator", "tokens in all", "one process", "two processes", "times faster", "relative RMS"], rows))
    if args.output:
        figure(args.output)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank, ranks, store, tokens, repeats = sys.argv[2:]
        work(int(rank), int(ranks), store, int(tokens), int(repeats))
    else:
        main()
