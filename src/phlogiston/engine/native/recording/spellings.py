"""The ways in which programs spell torch's operations, each with the one name under which ``operations`` knows it."""

from __future__ import annotations

from typing import Any

import torch

# aten operations by which a value reaches Python.
DECISIONS = {"_local_scalar_dense", "is_nonzero", "equal"}

# aten operations that change the shape of a tensor, and not its contents, in place.
RESHAPES = {"squeeze_", "unsqueeze_", "t_", "transpose_", "swapaxes_", "swapdims_", "as_strided_", "detach_"}

_HOLDERS: tuple[Any, ...] = (torch, torch.Tensor, torch.special, torch.nn.functional, torch._C._nn)

# Names that mean the same wherever they stand, and take the arguments of the aten operation of that name.
_SAME = [
    "abs",
    "acos",
    "acosh",
    "add",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "ceil",
    "clamp",
    "clamp_max",
    "clamp_min",
    "clone",
    "cos",
    "cosh",
    "digamma",
    "div",
    "eq",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "fmod",
    "ge",
    "gt",
    "le",
    "lgamma",
    "log",
    "log10",
    "log1p",
    "log2",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "log_sigmoid",
    "logsumexp",
    "lt",
    "masked_fill",
    "maximum",
    "minimum",
    "mul",
    "ne",
    "neg",
    "pow",
    "reciprocal",
    "remainder",
    "round",
    "rsqrt",
    "sigmoid",
    "sign",
    "sin",
    "sinh",
    "softplus",
    "sqrt",
    "square",
    "stack",
    "sub",
    "sum",
    "tan",
    "tanh",
    "trunc",
    "where",
    "xlogy",
    "zeros_like",
    "ones_like",
    "isnan",
    "isinf",
    "isfinite",
    "cumsum",
    "cat",
    "mean",
    "nan_to_num",
    "full_like",
    "empty_like",
    "logit",
    "addcmul",
]

_OTHER = {
    "special_i0e": (torch.special.i0e,),
    "special_i1e": (torch.special.i1e,),
    "special_ndtr": (torch.special.ndtr,),
    "special_log_ndtr": (torch.special.log_ndtr,),
    "special_ndtri": (torch.special.ndtri,),
    "log_sigmoid": (torch.nn.functional.logsigmoid,),
    "lgamma": (torch.special.gammaln,),
    "sigmoid": (torch.special.expit,),
    "digamma": (torch.special.psi,),
    "div": (torch.true_divide, torch.Tensor.true_divide, torch.Tensor.__truediv__, torch.divide, torch.Tensor.divide),
    "add": (torch.Tensor.__add__, torch.Tensor.__radd__),
    "sub": (torch.Tensor.__sub__, torch.subtract, torch.Tensor.subtract),
    "rsub": (torch.Tensor.__rsub__, torch.rsub),
    "rdiv": (torch.Tensor.__rtruediv__, torch.Tensor.__rdiv__),
    "mul": (torch.Tensor.__mul__, torch.Tensor.__rmul__, torch.multiply, torch.Tensor.multiply),
    "neg": (torch.Tensor.__neg__, torch.negative, torch.Tensor.negative),
    "abs": (torch.absolute, torch.Tensor.absolute, torch.Tensor.__abs__),
    "pow": (torch.Tensor.__pow__,),
    "rpow": (torch.Tensor.__rpow__,),
    "lt": (torch.Tensor.__lt__, torch.less, torch.Tensor.less),
    "le": (torch.Tensor.__le__, torch.less_equal, torch.Tensor.less_equal),
    "gt": (torch.Tensor.__gt__, torch.greater, torch.Tensor.greater),
    "ge": (torch.Tensor.__ge__, torch.greater_equal, torch.Tensor.greater_equal),
    "eq": (torch.Tensor.__eq__,),
    "ne": (torch.Tensor.__ne__, torch.not_equal, torch.Tensor.not_equal),
    "logical_and": (torch.Tensor.__and__,),
    "logical_or": (torch.Tensor.__or__,),
    "logical_not": (torch.Tensor.__invert__,),
    "clip": (torch.clip, torch.Tensor.clip),
}

# Attributes and methods that compute nothing.
_PASSED = [
    "dim",
    "size",
    "ndimension",
    "numel",
    "nelement",
    "stride",
    "storage_offset",
    "is_contiguous",
    "is_floating_point",
    "is_complex",
    "element_size",
    "untyped_storage",
    "data_ptr",
    "get_device",
    "is_inference",
    "requires_grad_",
    "is_signed",
    "__len__",
    "__hash__",
    "is_same_size",
    "detach",
    "expand",
    "expand_as",
    "view",
    "view_as",
    "unsqueeze",
    "transpose",
    "permute",
    "squeeze",
    "t",
    "diagonal",
    "select",
    "narrow",
    "unbind",
    "swapaxes",
    "movedim",
    "moveaxis",
    "unflatten",
    "as_strided",
    "swapdims",
    "split",
    "chunk",
    "tensor_split",
    "unfold",
]
_PROPERTIES = [
    "shape",
    "dtype",
    "device",
    "layout",
    "ndim",
    "requires_grad",
    "grad",
    "is_leaf",
    "is_sparse",
    "is_quantized",
    "is_meta",
    "is_cuda",
    "is_nested",
    "grad_fn",
    "names",
    "T",
    "mT",
    "H",
    "mH",
    "data",
    "is_mkldnn",
    "is_cpu",
    "itemsize",
    "nbytes",
    "real",
]
_ASKED = [
    "__bool__",
    "__float__",
    "__int__",
    "__index__",
    "item",
    "tolist",
    "numpy",
    "__array__",
    "__format__",
    "__complex__",
    "__contains__",
    "__repr__",
    "__str__",
]


def _direct() -> dict[Any, str]:
    found: dict[Any, str] = {}
    for name in _SAME:
        for holder in _HOLDERS:
            function = getattr(holder, name, None)
            if function is not None and callable(function):
                found.setdefault(function, name)
    for name, functions in _OTHER.items():
        found.update(dict.fromkeys(functions, name))
    for name in _PASSED:
        for holder in (torch.Tensor, torch):
            function = getattr(holder, name, None)
            if function is not None:
                found[function] = "view"
    for name in _PROPERTIES:
        attribute = getattr(torch.Tensor, name, None)
        if attribute is not None and hasattr(attribute, "__get__"):
            found[attribute.__get__] = "pass"
    for name in _ASKED:
        function = getattr(torch.Tensor, name, None)
        if function is not None:
            found[function] = "decision"
    found[torch.Tensor.__getitem__] = "getitem"
    found[torch.Tensor.__setitem__] = "setitem"
    found[torch._is_all_true] = "validation"
    return found


DIRECT = _direct()
WATCHED = {"decision", "getitem", "setitem", "validation", "view"}
