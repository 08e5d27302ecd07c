"""What is asked of a feature: ``int``, ``(float, (-1, 4))``, ``(bytes, (), b"")``, in plain Python.

tf.io has FixedLenFeature, FixedLenSequenceFeature and VarLenFeature for these; here a shape without -1 is the first,
one with -1 the second, and ``(-1,)`` with a default of ``()`` the third, as an array where that gives a sparse tensor.

Must never know: protobuf. Runs in: worker.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from mploader.pipeline.fetch import short_repr

LISTS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int"}
REQUIRED = object()


class Spec(NamedTuple):
    """What is asked of one feature.

    Attributes:
      asked: as the user wrote it, for messages.
      field: which of the lists it must be.
      dtype: of the array; None for bytes and str.
      shape: of the array; () is one value.
      number: how many values that are; None if one dimension is open.
      default: what a missing one is; `REQUIRED` if that is an error.
    """

    asked: object
    field: str
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...]
    number: int | None
    default: Any

    def make_default(self) -> Any:
        """What a missing feature is; the caller's own."""
        if self.default is None or not self.shape:
            return self.default if self.dtype is None or self.default is None else self.dtype.type(self.default)
        if self.dtype is None:
            return list(self.default)
        if self.number is None:
            return np.array(self.default, self.dtype).reshape(self.shape)
        return np.array(np.broadcast_to(np.array(self.default, self.dtype), self.shape))

    @property
    def is_text(self) -> bool:
        """Whether bytes are to be decoded."""
        return (self.asked[0] if isinstance(self.asked, tuple) else self.asked) is str


def compile_specs(features: Mapping[str, object]) -> dict[str, Spec]:
    """Read what is asked of each feature. Cheap for what was asked before, unless a default is a list or an array.

    Raises:
      TypeError: names the feature, and what is wrong with what is asked.
    """
    if not isinstance(features, Mapping):
        raise TypeError(f"features are given by name, {{'label': int}}, not as {short_repr(features)}")
    items = tuple(features.items())
    try:
        return _compile_once(items)
    except TypeError:  # not hashable, or wrong: that is told by the next line
        return _compile(items)


def _compile(items: tuple[tuple[str, object], ...]) -> dict[str, Spec]:
    return {name: _compile_spec(name, asked) for name, asked in items}


_compile_once = functools.lru_cache(maxsize=64)(_compile)


def _compile_spec(name: str, asked: object) -> Spec:
    kind, shape, default = asked, (), REQUIRED
    if isinstance(asked, tuple):
        if not 2 <= len(asked) <= 3:
            raise TypeError(f"feature {name!r}: {asked!r:.100} must be a type, (type, shape) or (type, shape, default)")
        kind, shape, default = (*asked, REQUIRED)[:3]
    field, dtype = _field(name, kind)
    sizes = _sizes(shape)
    if sizes is None or sizes.count(-1) > 1:
        raise TypeError(
            f"feature {name!r}: the shape {shape!r:.100} must be a tuple of ints, one of which may be -1: (-1, 4)"
        )
    if dtype is None and len(sizes) > 1:
        raise TypeError(f"feature {name!r}: bytes and str come as a list, of shape (-1,) or (n,), not {sizes}")
    count = None if -1 in sizes else int(np.prod(sizes, dtype=np.int64))
    spec = Spec(asked, field, dtype, sizes, count, default)
    if default is not REQUIRED:
        try:
            is_right = _is_default(spec, kind)
        except (TypeError, ValueError, OverflowError):
            is_right = False
        if not is_right:
            raise TypeError(f"feature {name!r}: the default {default!r:.100} does not fit {show((kind, shape))}")
    return spec


def _is_default(spec: Spec, kind: object) -> bool:
    """Whether a default is what a feature could be; raises if it is not even near."""
    made = spec.make_default()
    if made is None:
        return True
    if spec.dtype is not None:
        given = np.array(spec.default)
        given = given.reshape(spec.shape) if spec.number is None else np.broadcast_to(given, spec.shape)
        return spec.dtype.kind == "f" or np.array_equal(made, given)  # floats may lose digits, ints may not
    values = made if spec.shape else [made]
    is_list = isinstance(spec.default, list | tuple) or not spec.shape
    return is_list and len(values) == (spec.number or len(values)) and all(type(value) is kind for value in values)


def _field(name: str, kind: object) -> tuple[str, np.dtype[Any] | None]:
    if kind is bytes or kind is str:
        return "bytes_list", None
    try:
        dtype = np.dtype(cast(Any, np.float32 if kind is float else kind))
    except TypeError:
        dtype = np.dtype(object)
    if kind is None or dtype.kind not in "biuf":
        raise TypeError(
            f"feature {name!r}: {kind!r:.100} is no type for it: give int, float, bool, bytes, str, or a NumPy type"
        )
    return "float_list" if dtype.kind == "f" else "int64_list", dtype


def _sizes(shape: object) -> tuple[int, ...] | None:
    if isinstance(shape, tuple) and all(type(size) is int and size >= -1 for size in shape):
        return shape
    return None


def show(asked: object) -> str:
    """What is asked, as it was written."""
    if isinstance(asked, tuple):
        return f"({', '.join(show(part) for part in asked)}{',' * (len(asked) == 1)})"
    return asked.__name__ if isinstance(asked, type) else f"{asked!r:.60}"
