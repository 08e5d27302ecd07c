"""SciPy: sparse matrices and arrays of every format."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from tests.fidelity.kind import Kind

FORMATS = "csr csc coo bsr dia lil dok".split()


def filled(cls: str, n: int = 6, dtype: str = "f4") -> Any:
    dense = np.zeros((n, n + 2), dtype)
    dense[np.arange(n), np.arange(n)], dense[1, 4] = np.arange(1, n + 1), -3
    return getattr(scipy.sparse, cls)(dense)


def unsorted() -> Any:
    return scipy.sparse.csr_matrix((np.ones(3), np.array([2, 0, 1]), np.array([0, 2, 3])), shape=(2, 3))


KINDS = [
    *(
        Kind(f"sparse_{name}_{what}", lambda c=f"{name}_{what}": filled(c))
        for name in FORMATS
        for what in ("matrix", "array")
    ),
    Kind("sparse_csr_large", lambda: scipy.sparse.eye(20_000, format="csr")),
    Kind("sparse_bool_complex", lambda: [filled("csr_array", dtype="?"), filled("coo_array", dtype="c8")]),
    Kind("sparse_empty", lambda: [scipy.sparse.csr_matrix((0, 3)), scipy.sparse.coo_array((4, 4))]),
    Kind("sparse_unsorted_indices", unsorted),
]
