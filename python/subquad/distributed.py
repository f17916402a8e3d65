"""Sequence mixers over a sequence whose shards lie on several processes, with torch.distributed.

    import torch.distributed as dist
    from subquad import distributed
    dist.init_process_group("gloo")                                     # torchrun sets rank and size
    o = distributed.linear_attention(q, k, v, rule="gated", g=g)        # each rank gives its shard and gets its outputs

Rank r of the group has the r-th shard of the tokens; shards may have different lengths, of one token or more. Every rank calls
the same function with the same settings. Arguments, shapes and results are those of the function of that name in
subquad.operators, for the tokens of the rank. Tensors lie on the CPU (`device` says what computes); any backend carries them,
NCCL by way of the current GPU.

linear_attention (rules linear and gated), slay_attention, ssd, selective_scan: each rank runs its shard from an empty state, one
all-gather carries the states and decays, each rank folds those before it and runs again from there. What is sent does not depend
on the number of tokens. Rank 0 runs once. Source: LASP-2, arXiv 2502.07563.

initial_state is the state before the first token: rank 0 reads it, the others need not give it. The final state is that after the
last shard, the same on every rank.

exact=True passes the state from rank to rank instead. The ranks then compute one after another. With segment=L and shards of
multiples of L the results have the bits of one process; it also takes delta rules, which have no summaries.

Errors: a ValueError with one sentence, on every rank, if shapes, dtypes, settings or weights differ between ranks or if one rank
refuses its arguments. A rank that never calls is left to the timeout of the group.
"""

import hashlib
import json
import zlib

import numpy as np
import torch
import torch.distributed as dist

from . import _arrays, _core
from ._call import OUTPUTS, flags, states
from .operators import _dashed, _steps

__all__ = ["causal_conv1d", "linear_attention", "selective_scan", "slay_attention", "softmax_attention", "ssd"]


class _Team:
    """The processes of a group, and what they send each other as bytes."""

    def __init__(self, op, group):
        self.op, self.group = op, group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError(f"{op}: group: expected a group that this process belongs to")
        known = dist.get_backend_config(group)
        self.place = "cpu" if "cpu:" in known or "cuda:" not in known else torch.device("cuda", torch.cuda.current_device())

    def _tensor(self, array):
        """An array as a tensor that the backend carries. Shares memory on a CPU."""
        return torch.from_numpy(array.reshape(-1).view(np.uint8)).to(self.place)

    def gather(self, array):
        """The arrays of all ranks, which have the same shape and dtype, in order."""
        own = self._tensor(np.ascontiguousarray(array))
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own, group=self.group)
        return [tensor.cpu().numpy().view(array.dtype).reshape(array.shape) for tensor in found]

    def exchange(self, sends, receives):
        """Starts sending (rank, array) and receiving into (rank, array), contiguous arrays. Returns a function that waits."""
        ops, landed = [], []
        for to, array in sends:
            ops.append(dist.P2POp(dist.isend, self._tensor(array), self._peer(to), self.group))
        for of, array in receives:
            tensor = self._tensor(array)
            landed.append((tensor, array))
            ops.append(dist.P2POp(dist.irecv, tensor, self._peer(of), self.group))
        works = dist.batch_isend_irecv(ops) if ops else []

        def wait():
            for work in works:
                work.wait()
            for tensor, array in landed:
                if self.place != "cpu":
                    array.reshape(-1).view(np.uint8)[:] = tensor.cpu().numpy()

        return wait

    def _peer(self, rank):
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    def agree(self, lines, problem, length=0):
        """Raises on every rank if one has a problem or if their lines differ. Returns the length that each rank gave.

        One all-gather of 24 bytes a rank, and of texts if they differ: no rank waits for one that has raised.
        """
        text = "\n".join(lines).encode() if problem is None else _sentence(problem).encode()
        digest = int.from_bytes(hashlib.sha256(text).digest()[:8], "little", signed=True)
        own = np.array([digest, -len(text) if problem is not None else len(text), length], np.int64)
        heads = self.gather(own)
        if all(head[1] >= 0 and head[0] == digest for head in heads):
            return [int(head[2]) for head in heads]
        most = max(1, *(abs(int(head[1])) for head in heads))
        texts = self.gather(np.frombuffer(text.ljust(most), np.uint8).copy())
        texts = [bytes(found)[: abs(int(head[1]))].decode() for found, head in zip(texts, heads)]
        if problem is not None:
            raise problem
        for rank, head in enumerate(heads):
            if head[1] < 0:
                raise ValueError(f"{self.op}: rank {rank} of {self.size}: {texts[rank].removeprefix(self.op + ': ')}")
        first = texts[0].split("\n")
        rank, other = next((rank, text.split("\n")) for rank, text in enumerate(texts) if text != texts[0])
        pairs = [(mine, its) for mine, its in zip(first, other) if mine != its]
        mine, its = pairs[0] if pairs else (f"{len(first)} tensors and settings", str(len(other)))
        raise ValueError(f"{self.op}: expected the same on every rank, found {mine} on rank 0 and {its} on rank {rank}")


def _sentence(error):
    return " ".join(str(error).split()) or type(error).__name__


class _Local:
    """The operator on the tokens of this rank. `along` is the axis of the length of each tensor that follows the sequence."""

    def __init__(self, op, tensors, along, settings, *, layout="bhnd", seed=0, device="auto"):
        given = {name: value for name, value in tensors.items() if value is not None}
        self.op, self.layout, self.seed, self.device = op, layout, seed, device
        self.kind = _arrays.Kind(next(iter(given.values())))
        self.settings = settings
        self.arrays = {name: _arrays.array(name, value) for name, value in given.items()}
        self.along = {}
        for name, axis in along.items():
            if name in self.arrays and self.arrays[name].ndim >= 3:
                self.along[name] = axis % self.arrays[name].ndim

    def lines(self, private=()):
        """What must be the same on every rank, a line each: shapes without the length, values of weights by their checksum."""
        lines = [f"seed {self.seed}", f"layout {self.layout}"]
        for name, array in self.arrays.items():
            axis, shape = self.along.get(name), list(map(str, array.shape))
            if axis is not None:
                shape[axis] = "N"
            values = "" if axis is not None or name in private else f" (crc {zlib.crc32(array):08x})"
            lines.append(f"`{name}`" + ("" if name in private else f" {array.dtype} [{', '.join(shape)}]{values}"))
        return lines + [f"{name} {value}" for name, value in flags(self.settings)]

    def length(self, name):
        shape = self.arrays[name].shape
        if name not in self.along or shape[self.along[name]] == 0:
            raise ValueError(f"{self.op}: `{name}`: expected 3 axes or more and 1 token or more, found {list(shape)}")
        return shape[self.along[name]]

    def run(self, before=None, *, carry=False, summary=False, arrays=None, settings=None):
        """Returns (outputs, states) as NumPy arrays; the states are there with `carry` or `summary`."""
        arrays = {**(arrays or self.arrays), **(before or {})}
        done, _, _ = _core.run(self.op, arrays, flags(settings or self.settings), layout=self.layout, carry=carry or bool(before),
                               seed=self.seed, device=self.device, summary=summary, in_place=False)  # fmt: skip
        keep = carry or summary
        outputs = {name: array for name, array in done.items() if name in OUTPUTS}
        return outputs, {name: array for name, array in done.items() if keep and name not in OUTPUTS}

    def single(self, array):
        """An array in the library of the first tensor: float32 stays float32, also where that tensor is bfloat16."""
        return torch.from_numpy(np.ascontiguousarray(array)) if self.kind.library == "torch" else self.kind.out(array)

    def result(self, name, outputs, state, keep):
        """What the function of one process returns: the output, then the state if it is wanted."""
        o = self.kind.out(outputs[name])
        return (o, {name: self.single(array) for name, array in state.items()}) if keep else o


def _flat(arrays):
    return np.concatenate([np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays])


def _parts(flat, likes):
    """The arrays of (dtype, shape) that lie one after another in bytes."""
    found, at = [], 0
    for dtype, shape in likes:
        size = np.dtype(dtype).itemsize * int(np.prod(shape))
        found.append(flat[at : at + size].copy().view(dtype).reshape(shape))
        at += size
    return found


def _scan(op, tensors, along, settings, *, group, exact, initial_state, keep, layout="bhnd", seed=0, device="auto"):
    """An operator with a state. Returns (local, outputs, the state after the last shard or {})."""
    team = _Team(op, group)
    local = problem = own = None
    lines, outputs = [], {}
    try:
        before = {name: _arrays.array(name, value) for name, value in states(initial_state if team.rank == 0 else None).items()}
        local = _Local(op, tensors, along, {**settings}, layout=layout, seed=seed, device=device)
        lines = [*local.lines(), f"exact {exact}", f"final state {keep}"]
        if not exact:
            outputs, own = local.run(before, summary=True)
            lines += [f"state `{name}` {array.dtype} {list(array.shape)}" for name, array in own.items()]
    except Exception as error:  # noqa: BLE001 - the other ranks must hear of any error, or they wait
        problem = error
    team.agree(lines, problem)
    if exact:
        outputs, after = _chain(team, local, before, keep)
        return local, outputs, after
    likes = [(array.dtype, array.shape) for array in own.values()]
    gathered = team.gather(_flat(own.values()))
    pieces = [dict(zip(own, _parts(flat, likes))) for flat in gathered]
    # Rank 0 began with the initial state, so its piece is the state after it.
    found = _core.merge(op, flags(_folding(op, settings, own)), pieces if keep else pieces[: max(1, team.rank)], None)
    if team.rank > 0:
        outputs, _ = local.run(found[team.rank])
    return local, outputs, found[-1] if keep else {}


def _folding(op, settings, own):
    """The settings that say how summaries fold, with the defaults that the operator used."""
    if op != "linear":
        return {"state_layout": settings.get("state_layout")}
    usual = "elu1" if settings["rule"] == "linear" else "identity"
    return {"feature_map": settings["feature_map"] or usual, "normalize": "norm" in own, "max_len": settings["max_len"],
            "state_layout": settings["state_layout"]}  # fmt: skip


def _chain(team, local, before, keep):
    """Runs after the rank before and passes the state on. A rank that fails passes its sentence on in the place of the state."""
    outputs, after, failed = {}, {}, None
    if team.rank > 0:
        before, failed = _receive_state(team, team.rank - 1)
    if failed is None:
        try:
            outputs, after = local.run(before, carry=True)
        except Exception as error:  # noqa: BLE001 - the ranks after this one wait for a message
            failed = error
    if team.rank + 1 < team.size:
        _send_state(team, [team.rank + 1], after, failed)
    if keep:
        last = team.size - 1
        if team.rank == last:
            _send_state(team, range(last), after, failed)
        else:
            after, late = _receive_state(team, last)
            failed = failed or late
    if failed is not None:
        raise failed
    return outputs, after if keep else {}


def _send_state(team, ranks, state, failed):
    likes = {name: [array.dtype.str, array.shape] for name, array in state.items()}
    text = json.dumps(likes if failed is None else {"": _sentence(failed)}).encode()
    sends = [np.array([len(text)], np.int64), np.frombuffer(text, np.uint8).copy()]
    for array in sends + ([_flat(state.values())] if failed is None else []):
        team.exchange([(rank, array) for rank in ranks], [])()


def _receive_state(team, rank):
    """Returns (state, None), or (None, the error of a rank before)."""

    def receive(array):
        team.exchange([], [(rank, array)])()
        return array

    text = receive(np.empty(int(receive(np.empty(1, np.int64))[0]), np.uint8))
    likes = json.loads(text.tobytes())
    if "" in likes:
        return None, ValueError(likes[""])
    sizes = [(np.dtype(dtype), shape) for dtype, shape in likes.values()]
    flat = receive(np.empty(sum(dtype.itemsize * int(np.prod(shape)) for dtype, shape in sizes), np.uint8))
    return dict(zip(likes, _parts(flat, sizes))), None


def _axis(layout):
    return 1 if layout in ("bnhd", "bnc") else 2


def linear_attention(
    q, k, v, *, rule="linear", g=None, beta=None, feature_map=None, features=None, omega=None, a=None, a_log=None, dt_bias=None,
    scale=None, normalize=None, norm_eps=None, l2norm=None, beta_sigmoid=None, max_len=None, initial_state=None,
    output_final_state=False, state_layout=None, segment=None, layout="bnhd", seed=0, device="auto", group=None, exact=False,
):  # fmt: skip
    """`subquad.linear_attention`, causal, of the shards of a sequence: q [B, N, H, D], k [B, N, G, D], v [B, N, G, E].

    Each rank sends its state [B, G, D', E] (and norm) and its decay in float32. cosformer needs max_len, the most tokens of the
    whole sequence. Delta rules need exact=True. Returns o [B, N, H, E], or (o, state).
    """
    tensors = {"q": q, "k": k, "v": v, "g": g, "beta": beta, "omega": omega, "a": a, "a_log": a_log, "dt_bias": dt_bias}
    settings = {"rule": _dashed(rule), "feature_map": _dashed(feature_map), "features": features, "scale": scale,
                "normalize": normalize, "norm_eps": norm_eps, "l2norm": l2norm, "beta_sigmoid": beta_sigmoid, "max_len": max_len,
                "state_layout": state_layout, "segment": segment}  # fmt: skip
    along = dict.fromkeys(["q", "k", "v", "g", "beta", "a"], _axis(layout))
    local, outputs, state = _scan("linear", tensors, along, settings, group=group, exact=exact, initial_state=initial_state,
                                  keep=output_final_state, layout=layout, seed=seed, device=device)  # fmt: skip
    return local.result("o", outputs, state, output_final_state)


def slay_attention(
    q, k, v, *, anchors=None, omega=None, num_anchors=None, nodes=None, features=None, poly=None, epsilon=None, norm_eps=None,
    initial_state=None, output_final_state=False, segment=None, layout="bnhd", seed=0, device="auto", group=None, exact=False,
):  # fmt: skip
    """`subquad.slay_attention`, causal, of the shards of a sequence. Each rank sends [B, G, m, E + 1] numbers.

    Returns o [B, N, H, E], or (o, state).
    """
    tensors = {"q": q, "k": k, "v": v, "anchors": anchors, "omega": omega}
    settings = {"anchors": num_anchors, "nodes": nodes, "features": features, "poly": poly, "epsilon": epsilon,
                "norm_eps": norm_eps, "segment": segment}  # fmt: skip
    along = dict.fromkeys(["q", "k", "v"], _axis(layout))
    local, outputs, state = _scan("slay", tensors, along, settings, group=group, exact=exact, initial_state=initial_state,
                                  keep=output_final_state, layout=layout, seed=seed, device=device)  # fmt: skip
    return local.result("o", outputs, state, output_final_state)


def ssd(
    x, dt, A, B, C, *, D=None, z=None, dt_bias=None, dt_softplus=False, dt_limit=None, dt_offset=None, initial_state=None,
    output_final_state=False, state_layout=None, segment=None, device="auto", group=None, exact=False,
):  # fmt: skip
    """`subquad.ssd` of the shards of a sequence: x, z [B, N, H, P], dt [B, N, H], B, C [B, N, G, S].

    Each rank sends its state [B, H, P, S] and one decay a head. Returns y [B, N, H, P], or (y, state).
    """
    tensors = {"x": x, "dt": dt, "a": A, "b": B, "c": C, "d": D, "z": z, "dt_bias": dt_bias}
    settings = {**_steps(dt_softplus, dt_limit, dt_offset), "state_layout": state_layout, "segment": segment}
    along = dict.fromkeys(["x", "dt", "b", "c", "z"], 1)
    local, outputs, state = _scan("ssd", tensors, along, settings, group=group, exact=exact, initial_state=initial_state,
                                  keep=output_final_state, device=device)  # fmt: skip
    return local.result("y", outputs, state, output_final_state)


def selective_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False, *, dt_limit=None,
    dt_offset=None, initial_state=None, segment=None, device="auto", group=None, exact=False,
):  # fmt: skip
    """`subquad.selective_scan` of the shards of a sequence: u, delta, z [B, C, N], B, C [B, S, N] or [B, G, S, N].

    Each rank sends its state and its decays, [B, C, S] each. Returns y [B, C, N], or (y, last state [B, C, S]).
    """
    tensors = {"x": u, "dt": delta, "a": A, "b": B, "c": C, "d": D, "z": z, "dt_bias": delta_bias}
    settings = {**_steps(delta_softplus, dt_limit, dt_offset), "segment": segment}
    along = dict.fromkeys(["x", "dt", "b", "c", "z"], -1)
    local, outputs, state = _scan("mamba", tensors, along, settings, group=group, exact=exact, initial_state=initial_state,
                                  keep=return_last_state, layout="bcn", device=device)  # fmt: skip
    found = local.result("y", outputs, state, return_last_state)
    return (found[0], found[1]["state"]) if return_last_state else found


def _rows(team, array, axis, lengths, ranges):
    """The rows ranges[rank] = (begin, end) of the whole sequence, sent from rank to rank; None if there are none.

    Rank r has lengths[r] rows, of which `array` holds the last ones along `axis`, as many as are asked for.
    """
    ends = [sum(lengths[: rank + 1]) for rank in range(team.size)]

    def overlap(owner, reader):
        # The rows before the first token are those of rank 0.
        begin, end = ranges[reader]
        return max(begin, ends[owner - 1]) if owner else begin, min(end, ends[owner])

    def part(begin, end):
        index, after = [slice(None)] * array.ndim, array.shape[axis] - ends[team.rank]
        index[axis] = slice(begin + after, end + after)
        return np.ascontiguousarray(array[tuple(index)])

    sends, receives, parts = [], [], []
    for rank in range(team.size):
        begin, end = overlap(team.rank, rank)
        if rank != team.rank and begin < end:
            sends.append((rank, part(begin, end)))
        begin, end = overlap(rank, team.rank)
        if begin >= end:
            continue
        if rank == team.rank:
            parts.append(part(begin, end))
            continue
        shape = list(array.shape)
        shape[axis] = end - begin
        parts.append(np.empty(shape, array.dtype))
        receives.append((rank, parts[-1]))
    team.exchange(sends, receives)()
    return np.concatenate(parts, axis) if parts else None


def causal_conv1d(
    x, weight, bias=None, activation=None, *, initial_states=None, return_final_states=False, dilation=None, layout="bcn",
    device="auto", group=None,
):  # fmt: skip
    """`subquad.causal_conv1d` of the shards of a sequence: x [B, C, N] (layout "bnc": [B, N, C]).

    Each rank gets the last (W - 1) dilation inputs before its own from the rank before, from several if shards are shorter.
    initial_states [B, C, W - 1]: rank 0 reads them. Returns y, or (y, the final states on every rank).
    """
    team = _Team("conv1d", group)
    local = problem = None
    lines, length, reach, before = [], 0, 0, {}
    try:
        named = {None: "none", "swish": "silu"}.get(activation, activation)
        settings = {"activation": named, "dilation": dilation}
        tensors = {"x": x, "weight": weight, "bias": bias}
        local = _Local("conv1d", tensors, {"x": _axis(layout)}, settings, layout=layout, device=device)
        lines = [*local.lines(), f"final state {return_final_states}"]
        length, reach = local.length("x"), (local.arrays["weight"].shape[-1] - 1) * (dilation or 1)
        inputs = local.arrays["x"] if _axis(layout) == 2 else local.arrays["x"].transpose(0, 2, 1)
        tail = inputs[..., max(0, length - reach) :].astype(np.float32)
        if team.rank == 0:
            wanted = (*inputs.shape[:2], reach)
            if initial_states is not None:
                before = {"state": _arrays.array("state", initial_states).astype(np.float32)}
                if before["state"].shape != wanted:
                    raise ValueError(f"conv1d: `state`: expected {list(wanted)}, found {list(before['state'].shape)}")
            tail = np.concatenate([before.get("state", np.zeros(wanted, np.float32)), tail], 2)
    except Exception as error:  # noqa: BLE001 - the other ranks must hear of any error, or they wait
        problem = error
    lengths = team.agree(lines, problem, length)
    final = None
    if reach:
        starts = [sum(lengths[:rank]) for rank in range(team.size + 1)]
        # Rank 0 has what comes before it.
        rows = _rows(team, tail, 2, lengths, [(0, 0)] + [(start - reach, start) for start in starts[1:-1]])
        before = before if rows is None else {"state": rows}
        if return_final_states:
            final = _rows(team, tail, 2, lengths, [(starts[-1] - reach, starts[-1])] * team.size)
    elif return_final_states:
        final = tail[..., :0]
    outputs, _ = local.run(before)
    found = local.result("y", outputs, {"state": final}, return_final_states)
    return (found[0], found[1]["state"]) if return_final_states else found


def softmax_attention(
    q, k, v, *, scale=None, causal=True, window=None, bias=None, mask=None, sink=None, softcap=None, return_lse=False,
    layout="bnhd", device="auto", group=None,
):  # fmt: skip
    """`subquad.softmax_attention` of the shards of a sequence: q [B, N, H, D], k [B, M, G, D], v [B, M, G, E]; causal: N = M.

    bias and mask are [1 | B, 1 | H, N, all keys], the rows of the rank. Keys and values go from rank to rank; each rank attends
    to one shard at a time and merges outputs by their logarithms of the sums of exponentials. Causal ranks see the shards up to
    their own, so the last computes most. With a window only the window - 1 keys before a shard are sent. A rank holds at most
    three shards of keys and values. Source of the ring: arXiv 2310.01889. Returns o [B, N, H, E], or (o, lse [B, H, N]).
    """
    team = _Team("softmax", group)
    local = problem = None
    lines, length, axis = [], 0, _axis(layout)
    try:
        tensors = {"q": q, "k": k, "v": v, "bias": bias, "mask": mask, "sink": sink}
        settings = {"scale": scale, "causal": causal, "window": window, "softcap": softcap, "lse": True}
        local = _Local("softmax", tensors, {"q": axis, "k": axis, "v": axis}, settings, layout=layout, device=device)
        lines, length = local.lines(private=["bias", "mask"]), local.length("k")
        if length != local.length("v"):
            raise ValueError(f"softmax: `v`: expected {length} tokens as `k` has, found {local.length('v')}")
        if causal and local.length("q") != length:
            raise ValueError(f"softmax: `k`: expected {local.length('q')} tokens as `q` has on this rank, found {length}")
    except Exception as error:  # noqa: BLE001 - the other ranks must hear of any error, or they wait
        problem = error
    lengths = team.agree(lines, problem, length)
    o, lse = _window(team, local, axis, lengths, window) if window and causal else _ring(team, local, axis, lengths, causal)
    o = local.kind.out(o.astype(local.arrays["q"].dtype, copy=False))
    return (o, local.single(lse)) if return_lse else o


def _columns(arrays, begin, end):
    """The arrays with the columns of bias and mask that belong to these keys."""
    cut = {name: np.ascontiguousarray(arrays[name][..., begin:end]) for name in ("bias", "mask") if name in arrays}
    return {**arrays, **cut}


def _window(team, local, axis, lengths, window):
    end = sum(lengths[: team.rank + 1])
    starts = [sum(lengths[:rank]) for rank in range(team.size)]
    ranges = [(max(0, start - (window - 1)), start) for start in starts]
    arrays = _columns(local.arrays, ranges[team.rank][0], end)
    for name in ("k", "v"):
        before = _rows(team, local.arrays[name], axis, lengths, ranges)
        if before is not None:
            arrays[name] = np.ascontiguousarray(np.concatenate([before, local.arrays[name]], axis))
    outputs, _ = local.run(arrays=arrays)
    return outputs["o"], outputs["lse"]


def _ring(team, local, axis, lengths, causal):
    """Step s: this rank has the keys of rank - s, passes them on and attends to them."""
    rank, size = team.rank, team.size
    single = {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in local.arrays.items()}
    held = _flat([local.arrays["k"], local.arrays["v"]])
    total = failed = None
    for step in range(size):
        owner = rank - step if causal else (rank - step) % size
        coming, wait = None, lambda: None
        if step + 1 < size:
            sends = [((rank + 1) % size, held)] if not causal or (owner >= 0 and rank + 1 < size) else []
            before = owner - 1 if causal else (owner - 1) % size
            if before >= 0:
                coming = np.empty(held.size // lengths[owner] * lengths[before], np.uint8)
            wait = team.exchange(sends, [((rank - 1) % size, coming)] if coming is not None else [])
        # A failure is raised after the ring, in which the other ranks count on this one.
        if owner >= 0 and failed is None:
            try:
                total = _attend(local, single, axis, lengths, (held, owner, causal and step == 0, step == 0), total)
            except Exception as error:  # noqa: BLE001
                failed = error
        wait()
        if coming is None and causal:
            break
        held = coming
    if failed is not None:
        raise failed
    return total


def _attend(local, single, axis, lengths, shard, total):
    """Adds the outputs for the keys of one shard to (o, lse)."""
    held, owner, causal, first = shard
    shapes = [list(local.arrays[name].shape) for name in ("k", "v")]
    for shape in shapes:
        shape[axis] = lengths[owner]
    begin = sum(lengths[:owner])
    arrays = _columns(single, begin, begin + lengths[owner])
    for name, array in zip(("k", "v"), _parts(held, [(local.arrays[name].dtype, shape) for name, shape in zip("kv", shapes)])):
        arrays[name] = array.astype(single[name].dtype, copy=False)
    if not first:
        # The sink joins the sum of a row once.
        arrays.pop("sink", None)
    outputs, _ = local.run(arrays=arrays, settings={**local.settings, "causal": causal})
    o, lse = outputs["o"], outputs["lse"]
    if total is None:
        return o, lse
    both = np.logaddexp(total[1], lse)
    # A row that sees no key has an output of 0 and the logarithm -inf.
    shift = np.where(np.isneginf(both), 0, both)
    weights = [np.exp(part - shift) for part in (total[1], lse)]
    mine, its = (np.expand_dims(weight if axis == 2 else weight.transpose(0, 2, 1), -1) for weight in weights)
    return total[0] * mine + o * its, both
