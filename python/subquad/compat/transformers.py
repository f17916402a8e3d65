"""Models of transformers on subquad, without a change to the code that calls them.

    import subquad.compat.transformers
    subquad.compat.transformers.enable()

transformers wraps each function of a Mamba or delta-rule layer: it takes the package's own function where the package can be
imported (`mamba_ssm`, `causal_conv1d`, `fla`; they need CUDA or Triton), and a slow one in torch where not. `enable` puts its own
functions into these wrappers, those of models that are imported already and those of models that will be, and modules of these
names into `sys.modules` for all who import them. It does not touch a package that is installed, unless force=True.

The wrappers still call torch where subquad cannot serve: when a gradient is needed, under torch.compile and torch.export, and
with tensors without values (meta). Hub kernels, which transformers loads only on request (use_kernels=True), come before all of
this.

Tried with transformers 5.24.
"""

import functools
import gc
import importlib.machinery
import importlib.util
import inspect
import sys
import types

import torch

from . import _common, causal_conv1d, fla, mamba_ssm, norms

_PACKAGES = ("mamba_ssm", "causal_conv1d", "fla")
# Versions that answer as the packages whose arguments these functions have; the local part says who it is.
_VERSIONS = {"mamba_ssm": "2.3.2+subquad", "causal_conv1d": "1.7.0+subquad", "fla": "0.6.0+subquad"}
_FREE = {"implementation", "applicable_params", "is_new_implementation", "torch_function", "func_name", "package"}

_taken = set()  # packages that subquad answers for
_replaced = {}  # name in sys.modules -> the module that was there, or None
_slots = {}  # id of a wrapper -> (the wrapper, what its cells held)
_hooked = {}  # module of transformers -> its own decorator


def _functions():
    """package -> name -> function: what the wrappers of transformers may ask for."""
    return {
        "mamba_ssm": _public(mamba_ssm),
        "causal_conv1d": _public(causal_conv1d),
        "fla": {name: getattr(fla, name) for name in fla.__all__},
    }


def _public(module):
    return {name: one for name, one in vars(module).items() if hasattr(one, "__wrapped__") and one.__module__ == module.__name__}


# ---- modules of the packages


def _modules(package):
    """name of a module -> its contents."""
    own = _functions()[package]
    some = lambda *names: {name: own[name] for name in names}  # noqa: E731
    if package == "causal_conv1d":
        return {package: own, f"{package}.causal_conv1d_interface": own}
    if package == "mamba_ssm":
        gated = {"RMSNorm": norms.RMSNormGated, "rmsnorm_fn": norms.rmsnorm_fn}
        combined = some("mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined")
        scan = some("selective_scan_fn", "mamba_inner_fn")
        return {
            package: scan, f"{package}.ops": {}, f"{package}.ops.selective_scan_interface": scan, f"{package}.ops.triton": {},
            f"{package}.ops.triton.ssd_combined": combined, f"{package}.ops.triton.layernorm_gated": gated,
            f"{package}.ops.triton.selective_state_update": some("selective_state_update"),
        }  # fmt: skip
    gate = {"FusedRMSNormGated": norms.FusedRMSNormGated}
    found = {package: {}, f"{package}.ops": own, f"{package}.modules": gate, f"{package}.modules.fused_norm_gate": gate}
    for family, names in fla.FAMILIES.items():
        found[f"{package}.ops.{family}"] = some(*names)
    return found


def _stands_in(module):
    return getattr(module, "__subquad__", False)


def _installed(package):
    module = sys.modules.get(package)
    if module is not None:
        return not _stands_in(module)
    return importlib.util.find_spec(package) is not None


def _put(package):
    """Puts the modules of a package into sys.modules, in the place of those that are there."""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        _replaced[name] = sys.modules.pop(name)
    contents = _modules(package)
    for name, members in contents.items():
        _replaced.setdefault(name, None)
        module = types.ModuleType(name, f"`{name}` answered by subquad.")
        # The search of transformers for a package wants a spec, and reads the version where there is no metadata.
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        module.__version__ = _VERSIONS[package]
        module.__subquad__ = True
        vars(module).update(members)
        sys.modules[name] = module
    for name in contents:
        above, _, last = name.rpartition(".")
        # A function has precedence over the module that is named after it, as in the packages.
        if above and not hasattr(sys.modules[above], last):
            setattr(sys.modules[above], last, sys.modules[name])


def _take_back():
    for name, module in _replaced.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module
    _replaced.clear()


# ---- wrappers of transformers


def _hub():
    """The module of transformers that makes the wrappers, and the code that all wrappers have in common."""
    import transformers
    from transformers.integrations import hub_kernels

    make = getattr(hub_kernels, "use_kernel_func_from_hub_with_fallback", None)
    make = _hooked.get(hub_kernels, make)
    code = None if make is None else _inner(_inner(make.__code__, "decorator"), "wrapped")
    if code is None or not _FREE <= set(code.co_freevars):
        raise RuntimeError(
            f"transformers {transformers.__version__}: its kernels are not as subquad knows them; tried with transformers 5.24"
        )
    return hub_kernels, make, code


def _inner(code, name):
    inner = () if code is None else (one for one in code.co_consts if isinstance(one, types.CodeType) and one.co_name == name)
    return next(iter(inner), None)


def _cells(wrapper):
    return dict(zip(wrapper.__code__.co_freevars, wrapper.__closure__, strict=True))


def _without_values(x):
    return type(x) not in (torch.Tensor, torch.nn.Parameter) or x.is_meta


def _bridge(ours, in_torch):
    """Calls ours where it can serve, else the function in torch."""

    @functools.wraps(ours)
    def run(*args, **kwargs):
        given = _common.tensors(args, kwargs)
        gradient = torch.is_grad_enabled() and any(x.requires_grad for x in given)
        if not gradient and not torch.compiler.is_compiling() and not any(map(_without_values, given)):
            return ours(*args, **kwargs)
        if kwargs.get("seq_idx") is not None or kwargs.get("cu_seqlens") is not None:
            why = "with a gradient, which subquad does not compute" if gradient else "under torch.compile"
            raise ValueError(f"{ours.__name__}: packed sequences are not kept apart {why}; call it eagerly under torch.no_grad()")
        return in_torch(*args, **kwargs)

    return run


def _fill(wrapper):
    """Puts our function into one wrapper, if it is of a package that subquad answers for."""
    cells = _cells(wrapper)
    package, name = cells["package"].cell_contents, cells["func_name"].cell_contents
    ours = _functions().get(package, {}).get(name) if package in _taken else None
    if ours is None or id(wrapper) in _slots:
        return
    names = ("implementation", "applicable_params", "is_new_implementation")
    found = {name: cells[name].cell_contents for name in names}
    # A model that was imported while our modules stood there has our function without the way back to torch.
    if _is_ours(found["implementation"]):
        in_torch = cells["torch_function"].cell_contents
        found = dict(zip(names, (in_torch, tuple(inspect.signature(in_torch).parameters), False), strict=True))
    _slots[id(wrapper)] = (wrapper, found)
    cells["implementation"].cell_contents = _bridge(ours, cells["torch_function"].cell_contents)
    cells["applicable_params"].cell_contents = tuple(inspect.signature(ours).parameters)
    cells["is_new_implementation"].cell_contents = True


def _is_ours(function):
    return getattr(function, "__module__", "").startswith(f"{__package__}.")


def _fill_all(code):
    # The functions that share this code are the wrappers, wherever a model or the package `kernels` keeps them.
    for one in gc.get_referrers(code):
        if isinstance(one, types.FunctionType) and one.__code__ is code and one.__closure__:
            _fill(one)


def _hook(hub_kernels, make, code):
    """Fills the wrappers of models that are imported later."""
    from transformers import integrations

    @functools.wraps(make)
    def hooked(*args, **kwargs):
        decorate = make(*args, **kwargs)

        def decorator(function):
            made = decorate(function)
            if isinstance(made, types.FunctionType) and made.__code__ is code:
                _fill(made)
            else:
                _fill_all(code)
            return made

        return decorator

    for module in (hub_kernels, integrations):
        _hooked.setdefault(module, make)
        setattr(module, make.__name__, hooked)


# ---- what a user calls


def enable(force=False, device="auto"):
    """Answers for `mamba_ssm`, `causal_conv1d` and `fla` where they are not installed; with force=True where they are, too.

    device as in `subquad.operators`. May be called again, with another device. Returns the packages that subquad now answers for.
    Errors: ImportError without transformers, RuntimeError if the version of transformers is unknown.
    """
    hub_kernels, make, code = _hub()
    _common.device(device)
    for package in _PACKAGES:
        if package not in _taken and (force or not _installed(package)):
            _put(package)
            _taken.add(package)
    _hook(hub_kernels, make, code)
    _fill_all(code)
    return sorted(_taken)


def disable():
    """Puts everything back as it was before `enable`; models that were imported since then call torch."""
    for wrapper, found in _slots.values():
        cells = _cells(wrapper)
        for name, value in found.items():
            cells[name].cell_contents = value
    _slots.clear()
    for module, make in _hooked.items():
        setattr(module, make.__name__, make)
    _hooked.clear()
    _take_back()
    _taken.clear()
    _common.device("auto")
