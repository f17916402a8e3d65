"""What is compared: an operator in one form, a case of it at one shape, and the ways a library has to write it."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Half the step between 1 and the next number: what a number stored so is wrong by at most, of its size. f32 products on
# tensor cores that read tf32 are wrong by as much as f16 ones.
ROUNDING = {"f32": 2.0**-24, "tf32": 2.0**-11, "f16": 2.0**-11, "bf16": 2.0**-8}


def tolerance(dtype):
    """The relative RMS allowed between two outputs: 2e-5 in f32, four roundings of what is stored otherwise."""
    return max(2e-5, 4 * ROUNDING[dtype])


class Refused(Exception):
    """A library has no way to do this, for the reason given."""


@dataclass
class Form:
    """One way to write an operator with a library.

    call() runs once, on tensors laid out beforehand; unpack(what call gave) is the output as an f32 array in bhnd. The
    calls run inside around(). numbers: a key of ROUNDING, the coarsest that is multiplied.
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
    """library: a key of libraries.VERSIONS. build(case, *tensors) -> forms, of which the fastest is taken.

    It imports the library, so that ImportError says that it is missing, and raises Refused where there is no form.
    """

    library: str
    devices: tuple
    build: Callable


@dataclass(frozen=True)
class Entry:
    """One operator of ours in one setting, and its peers.

    name: on the command line. op: our operator. length: N where none is given. causal: the masks it has; the first
    `masks` of them are taken where none is asked for. flags(case): of `subquad run OP`, NAME=VALUE. along(case): the
    tensors along the sequence with their shapes, drawn standard normal. draw(case, tensors, rng): adds parameters to
    these. output: the name of ours that is compared. shape(case): for people. carry: whether the causal form keeps the
    final state, since a peer always gives it. ranked: whether K means something.
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
    """An entry at a shape: B batches, H heads of D, N tokens, K rows where keys are projected. device: cpu or cuda."""

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
        """Of the scores, where nothing else is said."""
        return self.dim**-0.5

    @property
    def mask(self):
        return "causal" if self.causal else "not causal"

    @property
    def shape(self):
        """For people."""
        rank = f" K={self.rank}" if self.entry.ranked else ""
        return f"{self.entry.shape(self)}{rank}"

    def tensors(self):
        """Along the sequence, standard normal, then the entry's parameters: f32, of numbers that the dtype can hold."""
        rng = np.random.default_rng(1)
        along = self.entry.along(self).items()
        tensors = {name: stored(rng.standard_normal(shape, np.float32), self.dtype) for name, shape in along}
        self.entry.draw(self, tensors, rng)
        return tensors


def stored(array, dtype):
    """f32 -> the nearest numbers of the dtype, as f32."""
    if dtype == "f16":
        return array.astype(np.float16).astype(np.float32)
    if dtype == "bf16":
        # The upper half of the bits, rounded to even.
        bits = array.view(np.uint32)
        odd = (bits >> 16) & 1
        return ((bits + 0x7FFF + odd) & np.uint32(0xFFFF0000)).view(np.float32)
    return array
