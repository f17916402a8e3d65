"""Data types of the comparison: an operator's entry, a case of it at one shape, and the forms of a library."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Relative rounding error: half the step between 1 and the next number. f32 products on tensor cores that read tf32 have
# the same error as f16 ones.
ROUNDING = {"f32": 2.0**-24, "tf32": 2.0**-11, "f16": 2.0**-11, "bf16": 2.0**-8}


def tolerance(dtype):
    """The relative RMS allowed between two outputs: 2e-5 in f32, four roundings of the storage type otherwise."""
    return max(2e-5, 4 * ROUNDING[dtype])


class Refused(Exception):
    """The library cannot compute this case, for the given reason."""


@dataclass
class Form:
    """One implementation of an operator with a library.

    call() runs once, on tensors laid out beforehand; unpack(its result) is the output as an f32 array in bhnd. The calls
    run inside around(). numbers: a key of ROUNDING, the least precise type that is multiplied.
    """

    name: str
    call: Callable
    unpack: Callable
    numbers: str
    around: Callable = contextlib.nullcontext

    def result(self):
        with self.around():
            return self.unpack(self.call())


@dataclass(frozen=True)
class Peer:
    """library: a key of libraries.VERSIONS. build(case, *tensors) -> forms; the fastest one counts.

    build imports the library, so ImportError means that it is missing. It raises Refused if there is no form.
    """

    library: str
    devices: tuple
    build: Callable


@dataclass(frozen=True)
class Entry:
    """One of our operators in one setting, and its peers.

    name: on the command line. op: our operator. length: default N. causal: the masks it has; by default the first `masks`
    of them. flags(case): flags of `subquad run OP`, NAME=VALUE. along(case): the tensors along the sequence with their
    shapes, drawn standard normal. draw(case, tensors, rng): adds parameters to them. output: our output to compare.
    shape(case): the shape as text. carry: the causal form keeps the final state, because a peer always returns it.
    ranked: the operator has a K.
    """

    name: str
    op: str
    length: int
    causal: tuple
    peers: tuple
    flags: Callable = lambda case: []
    along: Callable = lambda case: dict.fromkeys("qkv", (case.batch, case.heads, case.length, case.dim))
    draw: Callable = lambda case, tensors, rng: None
    output: str = "o"
    shape: Callable = lambda case: f"B={case.batch} H={case.heads} N={case.length} D={case.dim}"
    masks: int = 1
    carry: bool = False
    ranked: bool = False


@dataclass(frozen=True)
class Case:
    """An entry at a shape: B batches, H heads of D, N tokens, K rows of projected keys. device: cpu or cuda."""

    entry: Entry
    causal: bool
    batch: int
    heads: int
    length: int
    dim: int
    rank: int
    dtype: str
    device: str
    threads: int

    @property
    def scale(self):
        """Default scale of the scores."""
        return self.dim**-0.5

    @property
    def mask(self):
        return "causal" if self.causal else "not causal"

    @property
    def shape(self):
        """The shape as text."""
        rank = f" K={self.rank}" if self.entry.ranked else ""
        return f"{self.entry.shape(self)}{rank}"

    def tensors(self):
        """Tensors along the sequence, standard normal, then the entry's parameters: f32, rounded to the dtype."""
        rng = np.random.default_rng(1)
        along = self.entry.along(self).items()
        tensors = {name: stored(rng.standard_normal(shape, np.float32), self.dtype) for name, shape in along}
        self.entry.draw(self, tensors, rng)
        return tensors


def stored(array, dtype):
    """f32 -> rounded to the dtype, as f32."""
    if dtype == "f16":
        return array.astype(np.float16).astype(np.float32)
    if dtype == "bf16":
        # Keep the upper half of the bits, rounded to even.
        bits = array.view(np.uint32)
        odd = (bits >> 16) & 1
        return ((bits + 0x7FFF + odd) & np.uint32(0xFFFF0000)).view(np.float32)
    return array
