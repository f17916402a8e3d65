"""Reads and writes .safetensors with only numpy. Every run writes the same bytes (sorted header, no timestamps)."""

import json
from pathlib import Path

import numpy as np

DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "BOOL": "|b1", "U8": "|u1"}


def save(path, tensors, metadata=None):
    """Writes name -> array, in the order given; metadata is text -> text."""
    header, blobs, offset = {}, [], 0
    if metadata:
        header["__metadata__"] = {key: str(metadata[key]) for key in sorted(metadata)}
    for name, array in tensors.items():
        code = next(c for c, t in DTYPES.items() if np.dtype(t) == array.dtype)
        blob = np.ascontiguousarray(array, DTYPES[code]).tobytes()
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def parse(data):
    """Bytes of a file -> (name -> array, metadata). The arrays are read-only views of data."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + size + x for x in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata


def load(path):
    return parse(Path(path).read_bytes())
