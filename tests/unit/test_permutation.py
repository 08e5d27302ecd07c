"""The permutation is a bijection that a statistician cannot tell from a true shuffle, at any length and any place."""

from __future__ import annotations

import itertools
import pickle
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special

from mploader.pipeline.permutation import MAX_LENGTH, TABLE_LENGTH, Permutation

# Fixed keys: the verdicts below are the same in every run. Far under 1e-3 for what is worse than a true shuffle.
LEAST_P = 1e-3


def orders(length: int, keys: int) -> NDArray[np.int64]:
    """Whole permutations, one a row."""
    return np.array([Permutation(length, key).block(0, length) for key in range(keys)])


def assert_uniform(counts: NDArray[np.int64], lost: int = 0) -> None:
    """Chi-square of equal counts; ``lost`` degrees of freedom beyond the usual one."""
    expected = counts.sum() / counts.size
    assert expected >= 5
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert special.chdtrc(counts.size - 1 - lost, chi_square) > LEAST_P


@given(st.integers(0, 3000), st.integers())
@settings(max_examples=40)
def test_it_is_a_bijection(length: int, key: int) -> None:
    """Every index comes exactly once, by position and by block, for any length and any key."""
    permutation = Permutation(length, key)
    block = permutation.block(0, length)
    assert np.array_equal(np.sort(block), np.arange(length))
    assert block.dtype == np.int64
    assert [permutation[position] for position in range(length)] == block.tolist()


@given(
    st.one_of(st.integers(TABLE_LENGTH - 3, TABLE_LENGTH + 9), st.integers(TABLE_LENGTH, MAX_LENGTH)),
    st.integers(0, 2**70),
    st.data(),
)
def test_scalars_and_blocks_agree(length: int, key: int, data: st.DataObject) -> None:
    """One position computed with Python's integers is what NumPy computes, near 2**62 too."""
    start = data.draw(st.integers(0, length))
    stop = min(length, start + data.draw(st.integers(0, 40)))
    block = Permutation(length, key).block(start, stop).tolist()
    assert [Permutation(length, key)[position] for position in range(start, stop)] == block
    assert all(0 <= index < length for index in block)


@given(st.integers(1, 20_000), st.lists(st.tuples(st.integers(0, 2**40), st.integers(-1500, 1500)), max_size=40))
def test_cached_blocks_change_nothing(length: int, jumps: list[tuple[int, int]]) -> None:
    """Any order of access gives what a fresh permutation gives: forward, back, and far away."""
    permutation, truth = Permutation(length, 3), Permutation(length, 3).block(0, length)
    position = 0
    for far, near in jumps:
        position = (far if near % 7 == 0 else position + near) % length
        assert permutation[position] == permutation[cast(int, np.int64(position))] == truth[position]


def test_blocks_are_computed_in_sequence_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """In sequence one position of each block is computed by itself, far apart every one, and no block is."""
    compute, alone = Permutation._shuffle_one, []

    def count(permutation: Permutation, position: int) -> int:
        alone.append(position)
        return compute(permutation, position)

    monkeypatch.setattr(Permutation, "_shuffle_one", count)
    permutation = Permutation(10**12, 1)
    for position in range(4096):
        permutation[position]
        permutation[max(0, position - 3000)]
    assert len(alone) == 4
    monkeypatch.setattr(Permutation, "block", None)
    for position in range(0, 10**12, 10**9):
        permutation[position]
    assert len(alone) == 4 + 999


@pytest.mark.parametrize("length", [0, 1, 10, 1024, 1025, 5000])
def test_positions_outside_are_refused(length: int) -> None:
    """An IndexError with the numbers, also next to a cached block."""
    permutation = Permutation(length, 1)
    for position in range(length):
        permutation[position]
    for position in (-1, -length - 1, length, length + 5000):
        with pytest.raises(IndexError, match=f"position {position} of a permutation of {length}"):
            permutation[position]
    with pytest.raises(IndexError, match=f"positions 0 to {length + 1}"):
        permutation.block(0, length + 1)


@pytest.mark.parametrize("length", [-1, MAX_LENGTH + 1])
def test_lengths_out_of_range_are_refused(length: int) -> None:
    """A ValueError says which length."""
    with pytest.raises(ValueError, match=f"permutation of {length} positions"):
        Permutation(length, 1)


def test_golden_values() -> None:
    """The integers are those of every other version: a user's seed means the same order for ever."""
    assert [Permutation(10, 1)[i] for i in range(10)] == [6, 1, 9, 4, 3, 5, 0, 8, 2, 7]
    assert Permutation(10**6, -5).block(999_996, 10**6).tolist() == [986697, 920589, 133209, 893192]
    assert Permutation(10**12, 2**64)[10**11] == 515108799291
    assert Permutation(MAX_LENGTH, 7)[MAX_LENGTH - 1] == 3634318073467517755


def test_a_pickle_holds_length_and_key() -> None:
    """A travelled permutation is the same one, and small, whatever was read before."""
    permutation = Permutation(10**12, 5)
    first = [permutation[i] for i in range(3000)]
    data = pickle.dumps(permutation)
    assert len(data) < 100
    assert pickle.loads(data).block(0, 3000).tolist() == first


@pytest.mark.parametrize("length", [2, 3, 4])
def test_every_permutation_of_few_is_equally_likely(length: int) -> None:
    """Over 3,000 keys all orders of 2, 3 and 4 elements come up equally often."""
    names = {order: number for number, order in enumerate(itertools.permutations(range(length)))}
    drawn = [names[tuple(order)] for order in orders(length, 3000).tolist()]
    assert_uniform(np.bincount(drawn, minlength=len(names)))


@pytest.mark.parametrize("length", [3, 5, 10, 16, 17, 100])
def test_each_index_comes_anywhere(length: int) -> None:
    """Counts of (position, index), and of the indices at two neighbouring positions, are those of a true shuffle."""
    rows = orders(length, 4000 if length < 50 else 1500)
    counts = np.array([np.bincount(rows[:, position], minlength=length) for position in range(length)])
    expected = len(rows) / length
    # Rows and columns have fixed sums; (n - 1) / n is the correction for drawing without replacement.
    chi_square = ((counts - expected) ** 2 / expected).sum() * (length - 1) / length
    assert special.chdtrc((length - 1) ** 2, chi_square) > LEAST_P
    if length < 20:
        for position in (0, length // 2):
            pairs = np.bincount(rows[:, position] * length + rows[:, position + 1], minlength=length**2)
            assert_uniform(np.delete(pairs, np.arange(length) * (length + 1)))


@pytest.mark.parametrize("length", [1000, 1025, 4099])
def test_regions_and_distances_are_those_of_a_true_shuffle(length: int) -> None:
    """Where tenths of the epoch go, how far two neighbours and two a row apart end up, and how many stay in place."""
    rows = orders(length, 400)
    tenths = np.arange(length) * 8 // length
    cells = np.bincount((tenths * 8 + rows * 8 // length).ravel(), minlength=64)
    sizes = np.bincount(tenths, minlength=8)
    expected = np.outer(sizes, sizes).ravel() / length * len(rows)
    assert special.chdtrc(49, ((cells - expected) ** 2 / expected).sum()) > LEAST_P
    for apart in (1, int(np.ceil(np.sqrt(length)))):
        distances = (rows[:, apart:] - rows[:, :-apart]) % length
        assert_uniform(np.bincount(distances.ravel(), minlength=length)[1:])
    in_place = (rows == np.arange(length)).sum()
    assert special.pdtrc(in_place - 1, len(rows)) > LEAST_P
    assert special.pdtr(in_place, len(rows)) > LEAST_P


@pytest.mark.parametrize("key", [0, 1, 2**63])
def test_a_long_order_has_no_pattern(key: int) -> None:
    """Of 10**5: as many runs up and down as chance makes, no correlation with the next ones, none with the position."""
    length = 10**5
    order = Permutation(length, key).block(0, length)
    rising = np.diff(order) > 0
    runs = 1 + np.count_nonzero(rising[1:] != rising[:-1])
    # Runs up and down: mean (2n - 1) / 3, variance (16n - 29) / 90 (Wald and Wolfowitz).
    assert abs(runs - (2 * length - 1) / 3) < 4 * ((16 * length - 29) / 90) ** 0.5
    for lag in (1, 2, 3, 7, 316, 317, 1000, 1024):
        assert abs(np.corrcoef(order[lag:], order[:-lag])[0, 1]) < 4 / length**0.5
    assert abs(np.corrcoef(order, np.arange(length))[0, 1]) < 4 / length**0.5
    assert_uniform(np.bincount(order[: length // 10] // 1000, minlength=100))


def test_neighbouring_keys_have_unrelated_orders() -> None:
    """Epoch after epoch, an index comes at unrelated positions, also for keys that differ by one bit."""
    length = 4099
    rows = np.array([Permutation(length, key).block(0, length) for key in (0, 1, 2, 4, 2**40, 2**64, -1)])
    for one, other in itertools.combinations(rows, 2):
        assert np.count_nonzero(one == other) < 10
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / length**0.5
