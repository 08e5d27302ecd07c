"""A Loader delivers what the pipeline gives in this process, in any number of processes, from any place on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from mploader import Loader
from tests.pipelines import Case, random_pipelines, told

pytestmark = pytest.mark.filterwarnings("ignore:.*behind shuffle")


def resumed(case: Case, place: int, before: int, after: int) -> list[Any]:
    """An epoch in two loaders: the first delivers ``place`` items."""
    with Loader(case.pipe, num_workers=before, start_method="fork") as loader:
        head = told(loader, place)
        state = json.loads(json.dumps(loader.state_dict()))
    with Loader(case.pipe, num_workers=after, start_method="fork") as loader:
        loader.load_state_dict(state)
        return head + told(loader)


@settings(max_examples=20)
@given(random_pipelines(), st.floats(0, 1), st.sampled_from([(0, 2), (2, 0), (2, 1)]))
def test_loader_inline_and_resume_agree(case: Case, share: float, workers: tuple[int, int]) -> None:
    """Two epochs of a loader with two workers, and an epoch that was interrupted anywhere, are the pipeline's own."""
    note(case.story)
    epochs = [told(case.pipe), told(case.pipe.at_epoch(1))]
    with Loader(case.pipe, num_workers=2, start_method="fork") as loader:
        assert [told(loader), told(loader)] == epochs
    assert resumed(case, round(share * len(epochs[0])), *workers) == epochs[0]


@settings(max_examples=100)
@given(random_pipelines(), st.floats(0, 1))
def test_resume_inline(case: Case, share: float) -> None:
    """The same without processes, for many more pipelines."""
    note(case.story)
    epoch = told(case.pipe)
    assert resumed(case, round(share * len(epoch)), 0, 0) == epoch
