"""Reducers: how instances of classes that have no importable name travel.

A class of ``__main__``, of a notebook or of a function body reaches the workers by value, inside the
payload, and cloudpickle remembers it by an id in both processes. Its instances come back by that id: as
instances of the user's own class, at the price of a plain pickle. By name would be wrong: after a notebook
cell was run again, the name means another class.
"""

from __future__ import annotations

import copyreg
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from cloudpickle import cloudpickle

from mploader.transport import tensors


def tracked_classes() -> list[type]:
    """The classes that cloudpickle sent or received by value in this process."""
    return list(cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS.keys())


def dispatch_table() -> dict[type, Callable[[Any], Any]]:
    """Reducers for arrays and for instances of `tracked_classes`, beside those of `copyreg`.

    Runs in: worker, after the payload was loaded: every class it tracks then is known to the consumer too.
    """
    table = {cls: reduce_tracked for cls in tracked_classes() if cls not in copyreg.dispatch_table}
    return {np.ndarray: reduce_array, **tensors.reducers(), **copyreg.dispatch_table, **table}


def count_tracked() -> int:
    """How many classes `tracked_classes` would give; cheap."""
    return len(cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS)


def learn(table: dict[type, Callable[[Any], Any]], known: int) -> dict[type, Callable[[Any], Any]]:
    """Add the classes that were tracked since `count_tracked` gave ``known``; returns the new table.

    Runs in: worker, after an element of a stream was read, which may have brought classes of its own. Classes
    that the worker itself sent first are not in there: the consumer may not have heard of them yet.
    """
    new = {cls: reduce_tracked for cls in tracked_classes()[known:] if cls not in copyreg.dispatch_table}
    return {**copyreg.dispatch_table, **table, **new} if new else table


def reduce_array(array: np.ndarray[Any, Any]) -> Any:
    """A shorter way for the arrays that are usual: 2.6 us to pickle instead of 4.2, 1.3 to load instead of 2.8."""
    if array.flags.c_contiguous and array.dtype.kind in "biufc" and array.dtype.metadata is None:
        return np.ndarray, (array.shape, array.dtype.str, pickle.PickleBuffer(array))  # type: ignore[arg-type]
    return array.__reduce_ex__(5)


def reduce_tracked(obj: object) -> Any:
    """What ``obj.__reduce_ex__(5)`` says, with tracked classes named by their id."""
    reduced = obj.__reduce_ex__(5)
    if isinstance(reduced, str):
        return reduced
    function, args, *rest = reduced
    if function is copyreg.__newobj__:  # type: ignore[attr-defined]
        return (_new, (reference(args[0]), *args[1:]), *rest)
    if function is copyreg.__newobj_ex__:  # type: ignore[attr-defined]
        return (_new_ex, (reference(args[0]), *args[1:]), *rest)
    args = tuple(reference(arg) if isinstance(arg, type) else arg for arg in args)
    if isinstance(function, type):
        return (_call, (reference(function), *args), *rest)
    return (function, args, *rest)


class _ClassRef:
    """Stands for a tracked class in a pickle; unpickles to the class itself."""

    __slots__ = ("tracker_id",)

    def __init__(self, tracker_id: str) -> None:
        self.tracker_id = tracker_id

    def __reduce__(self) -> Any:
        return (_lookup, (self.tracker_id,))


_refs: dict[str, _ClassRef] = {}  # one object an id, so that a pickle holds each id once


def reference(cls: type) -> Any:
    """What stands for a class in a pickle: its tracker id, or itself where it is not tracked."""
    tracker_id = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(cls)
    if tracker_id is None:
        return cls
    ref = _refs.get(tracker_id)
    if ref is None:
        ref = _refs[tracker_id] = _ClassRef(tracker_id)
    return ref


def _lookup(tracker_id: str) -> type:
    found: type = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID[tracker_id]
    return found


def _new(cls: type, *args: Any) -> Any:
    return cls.__new__(cls, *args)


def _new_ex(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return cls.__new__(cls, *args, **kwargs)


def _call(cls: Any, *args: Any) -> Any:
    return cls(*args)
