"""The libraries: their versions and tensor layouts.

torch gets bhnd, the layout of its own modules; onnxruntime [B,N,H*D]; fla-core [B,T,H,D], which is bnhd. Tensors are laid
out here, before the clock starts.
"""

import contextlib
import gc
import importlib.metadata
import warnings

import numpy as np
from case import Form, Refused

# Peer.library -> its package.
PACKAGES = {"onnxruntime": "onnxruntime", "torch": "torch", "fla": "fla-core", "transformers": "transformers"}
# torch's device for --device cuda. A test without a GPU sets it to cpu.
CUDA = "cuda"


def load(library):
    """Imports everything its forms need -> `torch 2.15.0`. Import errors propagate."""
    if library == "onnxruntime":
        import onnxops  # noqa: F401
    if library == "fla":
        import fla.ops.linear_attn  # noqa: F401
    if library == "transformers":
        import transformers.models.mamba.modeling_mamba  # noqa: F401
    if library == "torch":
        import torch

        # torch's own version includes its build: 2.15.0+cu130.
        return f"torch {torch.__version__}"
    return f"{PACKAGES[library]} {importlib.metadata.version(PACKAGES[library])}"


def reason(error):
    """An error as one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def cuda():
    """(name of the GPU that torch uses, its properties), None if there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return name, f"{name}; CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"


def tidy(case):
    """Frees the GPU memory of the previous case: graphs keep memory of their own."""
    gc.collect()
    if case.device == "cuda":
        import torch

        torch.cuda.empty_cache()


def backend(name):
    """A context that enables one SDPA backend of torch. Drops torch's warnings about the disabled ones."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    @contextlib.contextmanager
    def around():
        with warnings.catch_warnings(), sdpa_kernel(getattr(SDPBackend, name)):
            warnings.simplefilter("ignore")
            yield

    return around


def dtype_of(case):
    import torch

    return {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[case.dtype]


def torch_tensors(case, arrays, bnhd=False):
    """Contiguous tensors on the case's device in its dtype; bnhd swaps heads and length of tensors with four axes."""
    import torch

    torch.set_num_threads(case.threads)
    device = CUDA if case.device == "cuda" else "cpu"
    made = []
    for array in arrays:
        if bnhd and array.ndim == 4:
            array = array.swapaxes(1, 2)
        made.append(torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype_of(case)))
    return made


def torch_form(case, name, function, tensors, around=contextlib.nullcontext, numbers=None, bnhd=False):
    """A form from function(*tensors), which returns the output or a tuple that starts with it."""
    import torch

    def call():
        with torch.no_grad():
            return function(*tensors)

    def unpack(output):
        if isinstance(output, tuple):
            output = output[0]
        array = output.float().cpu().numpy()
        return array.swapaxes(1, 2) if bnhd else array

    return Form(name, call, unpack, numbers or case.dtype, around)


def fla_form(case, name, function, tensors):
    """A form from a function on [B,T,H,D]. fla-core uses Triton kernels, which multiply f32 as tf32."""
    numbers = "tf32" if case.dtype == "f32" else case.dtype
    return torch_form(case, name, function, tensors, numbers=numbers, bnhd=True)


def onnx_form(case, name, operator, arrays):
    """A form from a session of onnxops, which computes in f32 on the CPU."""
    import onnxops

    if case.dtype != "f32":
        raise Refused(f"its CPU operator is taken in f32 only, not in {case.dtype}")
    packed = [onnxops.pack(x.swapaxes(1, 2)) for x in arrays]

    def unpack(outputs):
        return onnxops.unpack(outputs[0], case.heads).swapaxes(1, 2)

    return Form(name, lambda: operator(*packed), unpack, case.dtype)
