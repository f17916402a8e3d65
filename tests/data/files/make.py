"""Makes the files in this folder with numpy, ml_dtypes and safetensors, for tests/files.rs. Values are
((7 i) mod 23 - 11) / 4 for floats, (7 i) mod 23 - 11 for signed and (7 i) mod 23 for unsigned integers: exact in every
type."""

import os

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save_file

os.chdir(os.path.dirname(os.path.abspath(__file__)))


def floats(dtype, *shape):
    n = int(np.prod(shape))
    return ((np.arange(n) * 7 % 23 - 11) / 4).reshape(shape).astype(dtype)


def ints(dtype, *shape):
    n = int(np.prod(shape))
    return (np.arange(n) * 7 % 23 - (0 if dtype.strip("<>")[0] == "u" else 11)).reshape(shape).astype(dtype)


readable = {
    "f32": floats("<f4", 2, 3, 5),
    "f16": floats("<f2", 3, 7),
    "f64": floats("<f8", 4, 3),
    "i64": ints("<i8", 5),
    "i32": ints("<i4", 2, 2),
    "u32": ints("<u4", 6),
    "scalar": np.array(floats("<f4", 1)[0]),
    "empty": floats("<f4", 0, 3),
}
numpy_only = {
    "big_f4": floats(">f4", 2, 3),
    "big_f2": floats(">f2", 5),
    "big_f8": floats(">f8", 2, 3),
    "big_i8": ints(">i8", 4),
    "big_i4": ints(">i4", 4),
    "big_u4": ints(">u4", 4),
    "fortran": np.asfortranarray(floats("<f4", 4, 6)),
    "fortran3": np.asfortranarray(floats("<f2", 2, 3, 4)),
    "fortran_big": np.asfortranarray(floats(">f8", 3, 2)),
    "fortran_int": np.asfortranarray(ints("<i4", 3, 2)),
}
refused = {
    "bool": np.zeros(3, bool),
    "i16": ints("<i2", 4),
    "u64": ints("<u8", 4),
    "complex": floats("<c8", 3),
    "text": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bcd"]),
    "time": np.zeros(2, "<M8[ns]"),
    "object": np.array([None, {}], dtype=object),
    "struct": np.zeros(2, [("a", "<f4"), ("b'[", "<i8", (2, 3))]),
    "bf16": floats(ml_dtypes.bfloat16, 3),
}
np.savez("numpy.npz", **readable, **numpy_only)
np.savez_compressed("compressed.npz", **readable, **numpy_only)
os.makedirs("numpy", exist_ok=True)
for name, array in {**readable, **numpy_only}.items():
    np.save(f"numpy/{name}.npy", array)
for version in [(2, 0), (3, 0)]:
    with open(f"numpy/version{version[0]}.npy", "wb") as out:
        np.lib.format.write_array(out, readable["f32"], version=version)
np.savez("refused.npz", **refused)

bf16 = floats(ml_dtypes.bfloat16, 2, 5)
save_file({**readable, "bf16": bf16}, "hf.safetensors", {"made_by": "safetensors", "text": 'two\nlines, "quoted", µ'})
other = {"bool": np.zeros(3, bool), "u8": np.zeros(5, "u1"), "i16": ints("<i2", 4), "u64": ints("<u8", 4)}
other |= {"f8": floats(ml_dtypes.float8_e4m3fn, 7), "c64": floats("<c8", 2), "f32": floats("<f4", 2)}
save_file(other, "refused.safetensors")
print(np.__version__, safetensors.__version__)
