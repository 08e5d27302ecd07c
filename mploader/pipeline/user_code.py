"""Whose code is it: a library's, which changes with its version only, or the user's, which is looked into.

Must never know: what is done with the answer. Runs in: consumer.
"""

from __future__ import annotations

import dis
import functools
import os
import sys
import sysconfig
import types
from typing import Any

_PLACES = ("stdlib", "platstdlib", "purelib", "platlib")
_LOADS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_LIBRARIES = tuple({os.path.join(path, "") for name in _PLACES if (path := sysconfig.get_path(name))})


def is_library(filename: str) -> bool:
    """Whether code of this file is of Python or of an installed package; not of one installed as editable."""
    return filename.startswith((*_LIBRARIES, "<frozen "))


@functools.cache
def is_library_module(name: str) -> bool:
    """The same by a module's name; one that is not loaded is the user's."""
    module = sys.modules.get(name)
    if name == "__main__" or module is None:
        return False
    filename = getattr(module, "__file__", None)
    return filename is None or is_library(filename)  # without a file: built in


@functools.cache
def version(module: str) -> str:
    """Name and version of the package that a module is of; Python's version where it says none."""
    package = module.partition(".")[0]
    found = getattr(sys.modules.get(package), "__version__", None)
    return f"{package} {found if isinstance(found, str) else sys.version_info[:2]}"


def globals_read(function: types.FunctionType) -> list[tuple[str, Any]]:
    """The globals that a function's code, and that of functions inside it, reads; of the user's modules, their members.

    Members by their names alone, so one may be found that is none of the function's. That costs a look, no more.
    """
    names: dict[str, None] = {}
    attributes: dict[str, None] = {}
    waiting = [function.__code__]
    for code in waiting:
        loads = (read.argval for read in dis.get_instructions(code) if read.opname in _LOADS)
        names.update(dict.fromkeys(loads))
        attributes.update(dict.fromkeys(code.co_names))
        waiting += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    found = [(name, function.__globals__[name]) for name in names if name in function.__globals__]
    seen = set()
    for path, value in found:
        is_own = isinstance(value, types.ModuleType) and not is_library_module(value.__name__)
        if is_own and id(value) not in seen:
            seen.add(id(value))
            found += [(f"{path}.{name}", vars(value)[name]) for name in attributes if name in vars(value)]
    return found
