"""What all functions share: counts of calls, the device, tensors as the engine takes them."""

import functools
import threading

import torch

_lock = threading.Lock()
_counts = {}
_device = "auto"


def calls(reset=False):
    """How often each function has run so far, a dict of name -> number. With reset=True the counts start again from nothing."""
    with _lock:
        found = dict(_counts)
        if reset:
            _counts.clear()
    return found


def device(name=None):
    """The device of all functions here ("auto", "cpu", "vulkan:0", .. as in `subquad.operators`); with `name` it is set first."""
    global _device
    if name is not None:
        _device = name
    return _device


def counted(function):
    """Counts the calls of a function by its name, and refuses tensors that need a gradient."""
    name = function.__name__

    @functools.wraps(function)
    def run(*args, **kwargs):
        if needs_gradient(args, kwargs):
            raise ValueError(f"{name}: a tensor requires a gradient, which subquad does not compute; call under torch.no_grad()")
        with _lock:
            _counts[name] = _counts.get(name, 0) + 1
        return function(*args, **kwargs)

    return run


def tensors(args, kwargs):
    """All tensors among the arguments of a call."""
    return [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]


def needs_gradient(args, kwargs):
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors(args, kwargs))


def ready(x):
    """A float32 tensor of the CPU with the values of `x`: `x` itself where it is one."""
    return x if x is None else x.detach().to(device="cpu", dtype=torch.float32)


def like(y, x):
    """`y` on the device and in the dtype of `x`."""
    return y.to(device=x.device, dtype=x.dtype)


def on(y, x):
    """`y` on the device of `x`."""
    return y.to(device=x.device)


def borders(seq_idx):
    """cu_seqlens [S + 1] over the B * N tokens of seq_idx [B, N], whose sequences are runs of one number, and for each row of the
    batch its first and its last sequence, two lists of B."""
    b, n = seq_idx.shape
    starts = torch.ones(b, n, dtype=torch.bool)
    starts[:, 1:] = (seq_idx[:, 1:] != seq_idx[:, :-1]).cpu()
    first = starts.flatten().nonzero().flatten()
    cu = torch.cat([first, first.new_tensor([b * n])])
    counts = starts.sum(1).cumsum(0).tolist()
    return cu, [0, *counts[:-1]], [count - 1 for count in counts]


def unsupported(name, **given):
    """Refuses the first argument of `given` that is set: name=(value, reason)."""
    for argument, (value, reason) in given.items():
        if value is not None and value is not False:
            raise NotImplementedError(f"{name}: `{argument}` is not supported: {reason}")
