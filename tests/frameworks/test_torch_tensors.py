"""Tensors arrive as tensors: equal, of their type, shape and strides, over the ring, and without what they view."""

from __future__ import annotations

from typing import Any

import pytest

from mploader import Loader

torch = pytest.importorskip("torch")

BASE = torch.arange(96, dtype=torch.float32).reshape(4, 4, 6)
TENSORS: dict[str, Any] = {
    **{
        name: torch.arange(24).reshape(2, 3, 4).to(getattr(torch, name))
        for name in (
            "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64 complex128 float8_e4m3fn "
            "uint16 uint32 uint64"
        ).split()
    },
    "scalar": torch.tensor(3.5),
    "empty": torch.empty((0, 3)),
    "transposed": BASE.permute(2, 0, 1),
    "channels last": torch.arange(120.0).reshape(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "row": BASE[1],
    "with gaps": BASE[:, ::2],
    "with large gaps": BASE[:, :, 0],
    "column": torch.arange(2000.0).reshape(500, 4)[:, 1],
    "expanded": torch.tensor([1.0, 2.0]).expand(5, 2),
    "ones in the shape": BASE[:1, :, :].permute(1, 0, 2),
    "leaf": torch.tensor([1.0, 2.0], requires_grad=True),
    "parameter": torch.nn.Parameter(torch.ones(2, 2)),
    "sparse": torch.eye(4).to_sparse(),
    "conjugate": torch.tensor([1 + 2j]).conj(),
    "large": torch.arange(100_000).reshape(250, 400),
    "large, transposed": torch.arange(100_000).reshape(250, 400).t(),
    "large bfloat16": torch.arange(50_000).to(torch.bfloat16),
}
STRIDED = [name for name in TENSORS if name not in ("with large gaps", "sparse", "conjugate")]


def pick(name: str) -> Any:
    return {"tensor": TENSORS[name], "name": name}


@pytest.fixture(scope="module")
def arrived() -> dict[str, Any]:
    """Each of them, through a worker, twice: the first item may take another way."""
    with Loader([*TENSORS, *TENSORS], pick, num_workers=1) as loader:
        return {item["name"]: item["tensor"] for item in loader}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_comes_back(arrived: dict[str, Any], name: str) -> None:
    """Equal, of the same type, kind, shape and need of gradients; of the same strides, but for large gaps."""
    expected, found = TENSORS[name], arrived[name]
    assert type(found) is type(expected)
    assert (found.dtype, found.shape, found.layout) == (expected.dtype, expected.shape, expected.layout)
    assert found.requires_grad == expected.requires_grad
    same = found.to_dense(), expected.to_dense()
    if "float8" in name:
        same = found.float(), expected.float()
    assert torch.equal(*same)
    if name in STRIDED:
        assert found.stride() == expected.stride()


def test_large_ones_are_views_of_the_ring_and_writable() -> None:
    """No copy is made, and what the user does with one is nobody else's."""
    with Loader(range(6), lambda i: torch.full((20_000,), float(i)), num_workers=1) as loader:
        held = list(loader)
        assert loader.stats().leased_bytes > 4 * 80_000
        held[2] += 1
        assert [tensor[0].item() for tensor in held] == [0, 1, 3, 3, 4, 5]


def test_a_view_leaves_the_rest_behind() -> None:
    """A row of a large tensor takes a row's room, which with torch's own pickle takes the whole."""
    whole = torch.zeros(1000, 10_000)
    with Loader(range(20), lambda i: whole[i], num_workers=1) as loader:
        assert all(len(row) == 10_000 for row in loader)
        assert loader.stats().workers[0].nbytes < 20 * 100_000


def test_where_torch_is_imported_by_the_function() -> None:
    """Not before, and though the item before was none."""

    def fn(i: int) -> Any:
        import torch as late

        return late.full((3,), i) if i % 2 else i

    with Loader(range(10), fn, num_workers=1, start_method="spawn") as loader:
        for i, item in enumerate(loader):
            assert item.tolist() == [i] * 3 if i % 2 else item == i
