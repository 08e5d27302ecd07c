"""Draws by weight: exact proportions all along, any position at any time, ranks without a gap."""

from __future__ import annotations

import pickle
from collections import Counter
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from mploader.pipeline.choice import BLOCK_LENGTH, Choice

WEIGHTS = st.lists(
    st.one_of(st.just(0), st.integers(1, 20), st.floats(1e-6, 1), st.fractions(0, 5)), min_size=1, max_size=9
).filter(any)


@given(WEIGHTS, st.integers())
@settings(max_examples=50)
def test_ranks_count_the_draws_of_each_source(weights: list[float], key: int) -> None:
    """From the first position on, each source's ranks are 0, 1, 2, ..., and counts() agrees everywhere."""
    choice = Choice(weights, key)
    drawn: Counter[int] = Counter()
    for position in range(3 * BLOCK_LENGTH):
        if position % 61 == 0:
            assert choice.counts(position) == tuple(drawn[which] for which in range(len(weights)))
        which, rank = choice[position]
        assert rank == drawn[which]
        drawn[which] += 1
    assert all(weights[which] for which in drawn)


@given(WEIGHTS, st.integers(0, 10**12))
def test_counts_stay_in_proportion(weights: list[float], number: int) -> None:
    """At the end of any block no source is off its share by more than half a draw for each halving; none shrinks."""
    choice = Choice(weights, 1)
    before, after = (choice.counts(n * BLOCK_LENGTH) for n in (number, number + 1))
    assert sum(after) == (number + 1) * BLOCK_LENGTH
    exact = [Fraction(weight) for weight in weights]
    for count, weight in zip(after, exact, strict=True):
        share = (number + 1) * BLOCK_LENGTH * weight / sum(exact)
        assert abs(count - share) <= Fraction(len(weights).bit_length(), 2)
    assert all(more - count >= 0 for count, more in zip(before, after, strict=True))


@given(WEIGHTS, st.integers(0, 2000), st.integers(0, 600))
@settings(max_examples=50)
def test_blocks_and_scalars_agree(weights: list[float], start: int, count: int) -> None:
    """Arrays hold what single positions give, across the borders of blocks, in any order of access."""
    choice = Choice(weights, 5)
    which, rank = choice.block(start, start + count)
    assert which.dtype == rank.dtype == np.int64
    pairs = list(zip(which.tolist(), rank.tolist(), strict=True))
    assert [choice[position] for position in range(start, start + count)] == pairs
    assert [choice[cast(int, np.int64(start + at))] for at in range(count)][::-1] == pairs[::-1]


@given(WEIGHTS, st.lists(st.one_of(st.none(), st.integers(0, 300)), min_size=9, max_size=9))
@settings(max_examples=50)
def test_available_is_where_the_first_source_ends(weights: list[float], sizes: list[int | None]) -> None:
    """All draws before it find an element, the one at it does not; None if no source that is drawn from ends."""
    lengths = sizes[: len(weights)]
    choice = Choice(weights, 2)
    available = choice.available(lengths)
    if available is None:
        assert all(length is None for weight, length in zip(weights, lengths, strict=True) if weight)
        return
    counts = choice.counts(available)
    assert all(length is None or count <= length for count, length in zip(counts, lengths, strict=True))
    which, rank = choice[available]
    assert rank == lengths[which]


def test_available_costs_the_same_for_lengths_of_any_size() -> None:
    """A hundred sources, or 10**15 elements of the rarest, are found by bisection."""
    rare = Choice([10**6, 1], 1).available([None, 10**15])
    assert rare is not None
    assert abs(rare - (10**6 + 1) * 10**15) < 10**6
    available = Choice([1] * 100, 1).available([10**9] * 100)
    assert available is not None
    assert abs(available - 10**11) < 10**4


def test_far_positions_cost_the_same() -> None:
    """Position 2**60 is one block away."""
    which, rank = Choice([2, 1], 1)[2**60]
    assert abs(rank - 2**60 * (2, 1)[which] // 3) < BLOCK_LENGTH


def test_the_order_within_a_block_is_random() -> None:
    """Of equal weights each source comes at each place equally often, and the pairs that follow each other too."""
    which = np.array([Choice([1, 1, 1, 1], key).block(0, BLOCK_LENGTH)[0] for key in range(400)])
    places = np.array([np.bincount(column, minlength=4) for column in which.T])
    # Each row of 256 holds 64 of each: drawn without replacement, hence the factor.
    chi_square = ((places - 100) ** 2 / 100).sum() * (BLOCK_LENGTH - 1) / BLOCK_LENGTH
    assert special.chdtrc(3 * (BLOCK_LENGTH - 1), chi_square) > 1e-3
    pairs = np.bincount((which[:, 1:] * 4 + which[:, :-1]).ravel(), minlength=16)
    expected = 400 * 255 * np.where(np.eye(4).ravel() == 1, 64 * 63, 64 * 64) / (256 * 255)
    assert special.chdtrc(15, ((pairs - expected) ** 2 / expected).sum()) > 1e-3


def test_blocks_have_orders_of_their_own() -> None:
    """Neither the next block nor another key repeats an order."""
    choice = Choice([1, 1], 1)
    orders = [choice.block(n * BLOCK_LENGTH, (n + 1) * BLOCK_LENGTH)[0] for n in range(4)]
    orders.append(Choice([1, 1], 2).block(0, BLOCK_LENGTH)[0])
    assert len({order.tobytes() for order in orders}) == 5


def test_golden_values() -> None:
    """The draws are those of every other version: a user's seed means the same order for ever."""
    choice = Choice([0.7, 0.2, 0.1], 1)
    assert [choice[i] for i in range(95, 101)] == [(0, 74), (0, 75), (0, 76), (2, 6), (0, 77), (0, 78)]
    assert choice.counts(BLOCK_LENGTH * 1000) == (179200, 51200, 25600)
    assert Choice([1, 3], -(2**70))[10**12] == (1, 750000000000)


def test_only_proportions_count() -> None:
    """Weights in another scale, and of another type, give the same draws."""
    weights: list[Any] = [
        [1, 3],
        [0.25, 0.75],
        [10, 30],
        [Fraction(1, 4), Fraction(3, 4)],
        np.array([0.5, 1.5], np.float32),
    ]
    drawn = [Choice(each, 9).block(0, 500) for each in weights]
    assert all(np.array_equal(drawn[0], other) for other in drawn)


def test_a_pickle_holds_weights_and_key() -> None:
    """A travelled choice is the same one, and small, whatever was read before."""
    choice = Choice([0.7, 0.3], 4)
    first = [choice[i] for i in range(2000)]
    data = pickle.dumps(choice)
    assert len(data) < 150
    travelled = pickle.loads(data)
    assert [travelled[i] for i in range(2000)] == first


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([], ValueError, "at least one"),
        ([0, 0.0], ValueError, "at least one"),
        ([1, -2], ValueError, "weight 1 is -2: must be 0 or more"),
        ([1, float("nan")], ValueError, "weight 1 is nan: must be finite"),
        ([float("inf")], ValueError, "weight 0 is inf: must be finite"),
        (["0.5", 1], TypeError, "weight 0 is '0.5': must be a number"),
    ],
)
def test_bad_weights_are_refused(weights: list[float], error: type[Exception], message: str) -> None:
    """The error says which weight, and what it may be."""
    with pytest.raises(error, match=message):
        Choice(weights, 1)


def test_bad_positions_and_lengths_are_refused() -> None:
    """A choice has no end, but a beginning."""
    choice = Choice([1, 2], 1)
    for position in (-1, -BLOCK_LENGTH * 8):
        with pytest.raises(IndexError, match=f"position {position} "):
            choice[position]
    with pytest.raises(IndexError, match="positions 5 to 4"):
        choice.block(5, 4)
    with pytest.raises(ValueError, match="1 lengths for 2 weights"):
        choice.available([3])
