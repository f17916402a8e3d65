"""Splits a .safetensors file along the sequence into shards, and joins outputs. Needs numpy only; any dtype passes unchanged.

    python shards.py split in.safetensors work --shards 8 --axis 2 --multiple 512
    python shards.py join  out.safetensors work/out-*.safetensors --axis 2

--axis is the axis of the length: 2 for q [B, H, N, D], 1 for q [H, N, D] or [B, N, H, D], -1 for x [B, C, N] of mamba, 1 for x of
ssd. Tensors of the length of --like (default: q, else x) along it are cut; all others, such as weights, are copied into each shard.
Shards are as even as their borders at multiples of --multiple allow: with `--segment L` and multiples of L, one run and chunks of
it agree bit for bit.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I8": 1, "U8": 1, "BOOL": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8,
         "U64": 8}  # fmt: skip


def load(path):
    """name -> (dtype, array of shape [.., bytes of an element]) of a file, which stays on disk, and its metadata."""
    path = Path(path)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise ValueError(f"{path}: expected a .safetensors file, found a header of {size} bytes")
        header = json.loads(file.read(size))
    metadata, data, tensors = header.pop("__metadata__", {}), np.memmap(path, np.uint8, "r", 8 + size), {}
    for name, entry in header.items():
        if entry["dtype"] not in BYTES:
            raise ValueError(f"{path}: tensor `{name}`: expected one of {', '.join(BYTES)}, found {entry['dtype']}")
        begin, end = entry["data_offsets"]
        tensors[name] = entry["dtype"], data[begin:end].reshape(*entry["shape"], BYTES[entry["dtype"]])
    return tensors, metadata


def save(path, tensors, metadata):
    header, offset = {"__metadata__": metadata} if metadata else {}, 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape[:-1]), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with Path(path).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in tensors.values():
            file.write(np.ascontiguousarray(array).data)


def length(array, axis):
    """Tokens of an array, or None if it has no such axis. The last axis of the array is that of bytes."""
    rank = array.ndim - 1
    return array.shape[axis % rank] if -rank <= axis < rank else None


def borders(tokens, shards, multiple):
    found = [tokens * i // shards // multiple * multiple for i in range(shards)] + [tokens]
    if any(a >= b for a, b in zip(found, found[1:])):
        raise ValueError(f"expected {multiple * shards} tokens or more for {shards} shards, found {tokens}")
    return found


def split(path, folder, shards, axis, multiple, like):
    tensors, metadata = load(path)
    like = like or next((name for name in ("q", "x") if name in tensors), None)
    tokens = length(tensors[like][1], axis) if like in tensors else None
    if tokens is None:
        raise ValueError(f"{path}: --like: expected a tensor with axis {axis}, found {like} (given: {', '.join(tensors)})")
    along = {name for name, (_, array) in tensors.items() if length(array, axis) == tokens}
    print(f"{tokens} tokens; cut: {', '.join(sorted(along))}; copied: {', '.join(sorted(set(tensors) - along)) or 'none'}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    found = borders(tokens, shards, multiple)
    for i, (begin, end) in enumerate(zip(found, found[1:])):
        part = {}
        for name, (dtype, array) in tensors.items():
            index = [slice(None)] * array.ndim
            if name in along:
                index[axis % (array.ndim - 1)] = slice(begin, end)
            part[name] = dtype, array[tuple(index)]
        save(Path(folder, f"shard-{i:05d}.safetensors"), part, metadata)


def join(path, parts, axis):
    files = [load(part) for part in parts]
    first, metadata = files[0]
    tensors = {}
    for name, (dtype, array) in first.items():
        for part, (other, _) in zip(parts, files):
            if name not in other or other[name][0] != dtype:
                raise ValueError(f"{part}: tensor `{name}`: expected {dtype} as in {parts[0]}, found another or none")
        tensors[name] = dtype, np.concatenate([other[name][1] for other, _ in files], axis % (array.ndim - 1))
    save(path, tensors, metadata)


def main():
    parser = argparse.ArgumentParser(description="Splits a .safetensors file along the sequence, and joins outputs.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("split")
    one.add_argument("input")
    one.add_argument("folder")
    one.add_argument("--shards", type=int, required=True)
    one.add_argument("--axis", type=int, required=True)
    one.add_argument("--multiple", type=int, default=1)
    one.add_argument("--like")
    two = commands.add_parser("join")
    two.add_argument("output")
    two.add_argument("parts", nargs="+")
    two.add_argument("--axis", type=int, required=True)
    args = parser.parse_args()
    try:
        if args.command == "split":
            split(args.input, args.folder, args.shards, args.axis, args.multiple, args.like)
        else:
            join(args.output, args.parts, args.axis)
    except (OSError, ValueError) as error:
        sys.exit(f"shards.py: {error}")


if __name__ == "__main__":
    main()
