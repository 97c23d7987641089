"""A CUDA device that is none: on a machine without a GPU, torch refuses what a GPU refuses.

Within `virtual_cuda()` torch says that it has a GPU. What is moved there is a `CudaTensor`, which says that
it lies on "cuda" and is computed by the CPU. Refused, with CUDA's own words: operations that mix devices (a
CPU tensor without dimensions may take part, as on a GPU), numpy's look at a CUDA tensor, and a CPU generator
for a draw on CUDA. What it cannot show: speed, memory, and the last digits of a real GPU.

Every call of torch goes through `call`, because a `TorchFunctionMode` sees it, or, in a thread that the mode
does not reach, because one of its tensors is a `CudaTensor`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
BYTES = 16 * 10**9
NUMPY = {Tensor.numpy, Tensor.__array__, Tensor.__dlpack__}
OF_TENSOR = {Tensor.device.__get__: CUDA, Tensor.is_cuda.__get__: True, Tensor.is_cpu.__get__: False}
OF_TENSOR |= {Tensor.get_device: 0, Tensor.is_pinned: False}
# They look at, or set, what a tensor is to autograd, so they need the tensor itself and not its view.
ITSELF = {Tensor.requires_grad_, Tensor.detach_, Tensor.retain_grad, Tensor.register_hook}
ITSELF |= {Tensor.requires_grad.__set__, Tensor.grad.__set__, Tensor.data.__set__, Tensor.backward}
ITSELF |= {Tensor.requires_grad.__get__, Tensor.is_leaf.__get__, Tensor.grad_fn.__get__, Tensor.grad.__get__}
ITSELF |= {Tensor.register_post_accumulate_grad_hook, torch.autograd.grad, torch.autograd.backward}
# They take a shape, a type or nothing from their second tensor.
ANY_DEVICE = {Tensor.expand_as, Tensor.view_as, Tensor.reshape_as, Tensor.copy_, Tensor.is_set_to}
OF_LISTS = {torch.tensor, torch.as_tensor}
# In half precision a GPU adds up in float32; a CPU is several times slower than in float32.
WIDE = {
    F.linear,
    F.conv2d,
    torch.conv2d,
    F.group_norm,
    F.layer_norm,
    F.silu,
    F.gelu,
    F.interpolate,
    torch.bmm,
}
WIDE |= {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.baddbmm, F.scaled_dot_product_attention}
WIDE |= {F.softmax, torch.softmax, Tensor.softmax}
AUGMENTED = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__iand__", "__ior__"}


class CudaTensor(Tensor):
    """A tensor that says it lies on "cuda"."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return call(func, args, kwargs or {})


class _Mode(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return call(func, args, kwargs or {})


def is_cuda(x) -> bool:
    return isinstance(x, CudaTensor)


def view(x, kind):
    """`x` with every tensor in it seen as one of `kind`, sharing memory and autograd's graph."""
    if isinstance(x, Tensor):
        with torch._C.DisableTorchFunctionSubclass():
            return x if is_cuda(x) == (kind is CudaTensor) else x.as_subclass(kind)
    if isinstance(x, dict):
        return {key: view(value, kind) for key, value in x.items()}
    if not isinstance(x, (list, tuple)) or isinstance(x, torch.Size):
        return x
    parts = [view(value, kind) for value in x]
    if type(x) in (list, tuple):
        return type(x)(parts)
    return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)  # named tuples, torch.return_types


def tensors(x) -> Iterator[Tensor]:
    """Every tensor in nested lists, tuples and dicts."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, (list, tuple, dict)):
        for value in x.values() if isinstance(x, dict) else x:
            yield from tensors(value)


def call(func, args, kwargs):
    """What torch does when `func(*args, **kwargs)` is called, on a machine with a GPU."""
    some = [*tensors(args), *tensors(kwargs)]
    if not any(map(is_cuda, some)) and func not in (Tensor.to, Tensor.cuda) and not kwargs.get("device"):
        return func(*args, **kwargs)
    if func in OF_TENSOR:
        return OF_TENSOR[func]
    if func in NUMPY:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host"
            " memory first."
        )
    if func in (Tensor.to, Tensor.type_as):
        return _to(*args, **kwargs)
    if func in (Tensor.cpu, Tensor.cuda):
        return _to(args[0], CPU if func is Tensor.cpu else CUDA)
    if func is Tensor.__deepcopy__:
        return _copy(args[0])
    if func in ITSELF:
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **kwargs)
        return found if isinstance(found, torch.utils.hooks.RemovableHandle) else view(found, CudaTensor)
    if func is torch._has_compatible_shallow_copy_type:
        return False  # a module that moves gets new parameters
    _check(func, args, kwargs, some)
    return _compute(func, args, kwargs)


def _check(func, args, kwargs, some) -> None:
    """RuntimeError for what a GPU refuses."""
    drawn_by = kwargs.get("generator")
    target = kwargs.get("device")
    cuda = _device(target).type == "cuda" if target else any(map(is_cuda, some))
    if cuda and isinstance(drawn_by, torch.Generator) and drawn_by.device.type == "cpu":
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    if func is Tensor.__getitem__:
        if not is_cuda(args[0]) and any(is_cuda(x) and len(x.shape) for x in some):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor")
        return
    if func is Tensor.__setitem__:
        into, index, value = args
        index = index if isinstance(index, tuple) else (index,)
        if not any(isinstance(part, (Tensor, list)) for part in index):
            return  # a copy into a slice
        some = [into, value] if isinstance(value, Tensor) else []
    elif func in ANY_DEVICE or func in OF_LISTS:
        return
    if any(map(is_cuda, some)) and any(not is_cuda(x) and x.dim() for x in some):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
            f" (when checking arguments in {getattr(func, '__name__', func)})"
        )


def _compute(func, args, kwargs):
    """The result of `func`, computed on the CPU, on the device where a GPU would have it."""
    first = args[0] if args else None
    target = kwargs.get("device")
    if target:
        cuda, kwargs = _device(target).type == "cuda", {**kwargs, "device": _on_cpu(target)}
    elif func in OF_LISTS or func is Tensor.__getitem__:
        cuda = is_cuda(first)
    else:
        cuda = True
    with torch._C.DisableTorchFunctionSubclass():
        own = view(tuple(args), Tensor), view(kwargs, Tensor)
        half = func in WIDE and any(x.dtype == torch.float16 for x in tensors(own))
        positional, named = _widen(own) if half else own
        found = func(*positional, **named)
        found = found.half() if half else found
    name = getattr(func, "__name__", "")
    if isinstance(first, Tensor) and (name in AUGMENTED or (name.endswith("_") and not name.endswith("__"))):
        return first
    return view(found, CudaTensor) if cuda else found


def _widen(x):
    """`x` with every half-precision tensor in it in float32."""
    if isinstance(x, Tensor):
        return x.float() if x.dtype == torch.float16 else x
    if isinstance(x, dict):
        return {key: _widen(value) for key, value in x.items()}
    return type(x)(map(_widen, x)) if type(x) in (list, tuple) else x


def _device(target) -> torch.device:
    return CUDA if isinstance(target, int) else torch.device(target)


def _on_cpu(target) -> torch.device:
    return CPU if _device(target).type == "cuda" else _device(target)


def _to(x: Tensor, *args, **kwargs):
    """`x.to(...)`: a copy if it changes device, else what torch returns."""
    cuda, plain = is_cuda(x), []
    for value in (*args, *(kwargs.pop(name, None) for name in ("device", "other"))):
        if isinstance(value, Tensor):
            cuda, plain = is_cuda(value), [*plain, value.dtype]
        elif isinstance(value, (str, torch.device)) or type(value) is int:
            cuda, plain = _device(value).type == "cuda", [*plain, _on_cpu(value)]
        elif value is not None:
            plain.append(value)
    own = view(x, Tensor)
    dtypes = [value for value in plain if isinstance(value, torch.dtype)]
    devices = [value for value in plain if isinstance(value, torch.device)]
    flags = [value for value in plain if isinstance(value, bool)]
    options = {"dtype": kwargs.pop("dtype", None) or (dtypes[0] if dtypes else None), **kwargs}
    with torch._C.DisableTorchFunctionSubclass():
        found = own.to(*devices, **{name: value for name, value in options.items() if value is not None})
        if found is own and (cuda != is_cuda(x) or flags[1:] == [True]):
            found = own.clone()
    return x if found is own else view(found, CudaTensor if cuda else Tensor)


def _copy(x: Tensor) -> Tensor:
    """A deep copy, which is a parameter if `x` is."""
    copied = view(view(x, Tensor).detach().clone(), CudaTensor).requires_grad_(x.requires_grad)
    if getattr(x, "_is_param", False):
        copied._is_param = True
    return copied


@contextmanager
def virtual_cuda(dtype: str = "float16") -> Iterator[None]:
    """Within, torch has a GPU, a "virtual T4" of 16 GB, on which `load_backbone` takes `dtype` by default."""
    from emolib.diffusion import backbone

    answers = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: "virtual T4",
        "get_device_capability": lambda device=None: (7, 5),
        "is_bf16_supported": lambda including_emulation=True: False,
        "mem_get_info": lambda device=None: (BYTES, BYTES),
        "max_memory_allocated": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: None,
    }
    scaler, autocast, run = torch.amp.GradScaler, torch.autocast.__init__, threading.Thread.run
    pick_dtype = backbone.pick_dtype

    def run_in_mode(thread):
        with _Mode():
            run(thread)

    def autocast_on_cpu(self, device_type, *args, **kwargs):
        autocast(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    def pick(device, name="auto"):
        return pick_dtype(device, dtype if name == "auto" and device.type == "cuda" else name)

    converts = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(torch.autocast, "__init__", autocast_on_cpu))
        stack.enter_context(mock.patch.object(torch.amp, "GradScaler", lambda _, **how: scaler("cpu", **how)))
        stack.enter_context(mock.patch.object(threading.Thread, "run", run_in_mode))
        stack.enter_context(mock.patch.object(backbone, "pick_dtype", pick))
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, converts)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.enter_context(_Mode())
        yield


def forget_device() -> None:
    """Drop what libraries and `evaluate` remember of the device: after `virtual_cuda` there is none."""
    from accelerate.state import AcceleratorState, PartialState

    from emolib.evaluation import builders

    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    builders._load_backbone.cache_clear()
