"""Arrays of other libraries as NumPy arrays and back, without a copy where their memory allows it."""

import sys

import numpy as np

_CPU = 1  # kDLCPU


class Kind:
    """The library, and the dtype if NumPy lacks it, of the first tensor of a call: what its results are returned as."""

    def __init__(self, like):
        name = type(like).__module__.partition(".")[0]
        self.library = None if isinstance(like, np.ndarray) or not hasattr(like, "__dlpack__") else name
        self.bfloat16 = self.library == "torch" and str(like.dtype) == "torch.bfloat16"

    def out(self, array, *, kept=False):
        """The array as the first tensor of the call was; what is `kept` in float32 stays so."""
        if self.library is None:
            return array
        if self.library == "torch":
            torch = sys.modules["torch"]
            tensor = torch.from_numpy(array)
            return tensor.to(torch.bfloat16) if self.bfloat16 and not kept and tensor.dtype == torch.float32 else tensor
        if self.library in ("jax", "jaxlib"):
            import jax

            return jax.dlpack.from_dlpack(array)
        library = sys.modules[self.library]
        return library.from_dlpack(array) if hasattr(library, "from_dlpack") else array


def array(name, value):
    """A contiguous NumPy array of what a caller gave: of its own memory where that is contiguous, of a CPU, and has a dtype that
    NumPy has."""
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _from_torch(name, value, torch)
    if hasattr(value, "__dlpack__"):
        return np.ascontiguousarray(_from_dlpack(name, value))
    if isinstance(value, (list, tuple, int, float, np.generic)):
        raise TypeError(f"`{name}`: expected an array (NumPy, torch, or anything with __dlpack__), found {type(value).__name__}")
    return np.ascontiguousarray(np.asarray(value))


def check_writable(name, value):
    """Refuses what `write` cannot write."""
    if isinstance(value, np.ndarray):
        writable = value.flags.writeable
    else:
        writable = hasattr(value, "copy_")
    if not writable:
        raise ValueError(f"`{name}`: expected an array that may be written, as in_place=True asks for, found one that may not")


def write(target, values):
    """Writes a NumPy array into what a caller gave, unless it is there already."""
    if isinstance(target, np.ndarray):
        if target is not values:
            np.copyto(target, values, casting="same_kind")
    elif target.data_ptr() != values.__array_interface__["data"][0]:
        target.copy_(sys.modules["torch"].from_numpy(values))


def _from_dlpack(name, value):
    device = value.__dlpack_device__()
    if int(device[0]) != _CPU:
        raise _elsewhere(name, getattr(value, "device", device))
    return np.from_dlpack(value)


def _from_torch(name, value, torch):
    # Every statement counts: a decoded token converts some ten tensors a layer.
    if value.device.type != "cpu":
        raise _elsewhere(name, value.device)
    if value.requires_grad:
        if torch.is_grad_enabled():
            raise ValueError(f"`{name}`: requires a gradient, which subquad does not compute; call under torch.no_grad() or detach it")
        value = value.detach()
    if value.dtype == torch.bfloat16:
        value = value.float()
    return value.contiguous().numpy()


def _elsewhere(name, where):
    return ValueError(f"`{name}`: expected a tensor of the CPU, found one on {where}; move it with .cpu()")
