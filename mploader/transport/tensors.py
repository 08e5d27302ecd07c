"""Tensors: how torch's CPU tensors travel: their bytes out of band, rebuilt as tensors over the ring.

torch's own pickle copies the whole storage of a view, and a small tensor costs it ten times a small array. Imports
torch only where a tensor is at hand. Must never know: rings, leases.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Callable
from typing import Any

MAX_EXTENT = 4  # a view that has more gaps than that is copied without them
TOLD_BY = b"_rebuild_tensor"  # is in each stream that torch's own reducer has written to


def reducers() -> dict[type, Callable[[Any], Any]]:
    """Of torch's types, if this process has imported torch."""
    torch = sys.modules.get("torch")
    tensor = getattr(torch, "Tensor", None)  # not there while torch is being imported
    return {} if tensor is None else {tensor: reduce_tensor}


def reduce_tensor(tensor: Any) -> Any:
    """A tensor as bytes, type, shape and strides; a view with large gaps as a contiguous one; others torch's way."""
    torch = sys.modules["torch"]
    if (
        tensor.layout is not torch.strided
        or tensor.device.type != "cpu"
        or not (tensor.is_leaf or not tensor.requires_grad)
        or tensor.__dict__
        or tensor._backward_hooks
        or tensor.is_conj()
        or tensor.is_neg()
        or tensor.is_quantized
    ):
        return tensor.__reduce_ex__(5)
    plain = tensor.detach()
    shape, strides = tuple(plain.shape), plain.stride()
    if not plain.is_contiguous():
        # all that lies between its first and its last element goes too, and so its strides are kept
        extent = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if extent > MAX_EXTENT * plain.numel():
            plain = plain.contiguous()
            strides = plain.stride()
        else:
            plain = plain.as_strided((extent,), (1,))
    raw = plain.reshape(-1).view(torch.uint8) if tensor.numel() else None
    buffer = None if raw is None else pickle.PickleBuffer(raw.numpy())
    return _tensor, (str(tensor.dtype).removeprefix("torch."), shape, strides, tensor.requires_grad, buffer)


def _tensor(dtype: str, shape: tuple[int, ...], strides: tuple[int, ...], requires_grad: bool, buffer: Any) -> Any:
    torch = importlib.import_module("torch")
    kind = getattr(torch, dtype)
    if buffer is None:
        tensor = torch.empty_strided(shape, strides, dtype=kind)
    else:
        tensor = torch.frombuffer(buffer, dtype=kind).as_strided(shape, strides)
    return tensor.requires_grad_() if requires_grad else tensor
