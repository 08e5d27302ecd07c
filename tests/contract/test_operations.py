"""Sources and caches of pipelines in a Loader: the same as in this process, whoever runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mploader import Loader, Pipeline
from tests.contract.engines import Engine

DATA = Path(__file__).parents[1] / "data"


def test_files_and_columns(quick: Engine, tmp_path: Path) -> None:
    """Lines, paths, records, rows: each source gives in a loader what it gives here, twice."""
    pytest.importorskip("google_crc32c")
    pandas = pytest.importorskip("pandas")
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"{name}0\n{name}1\n")
    frame = pandas.DataFrame({"n": [1, 2], "s": ["x", "y"]})
    pipes: list[Pipeline[Any]] = [
        Pipeline.from_files(tmp_path / "*.txt"),
        Pipeline.from_lines([tmp_path / "a.txt", tmp_path / "b.txt"]),
        Pipeline.from_tfrecords(DATA / "examples.tfrecord"),
        Pipeline.from_slices({"x": np.arange(4).tolist(), "y": list("abcd")}),
        Pipeline.from_dataframe(frame, "s", "n"),
        Pipeline.concat(Pipeline.from_lines(tmp_path / "a.txt"), Pipeline.from_generator(lambda: iter("xy"))),
    ]
    for pipe in pipes:
        with quick.loader(pipe) as loader:
            assert [list(loader), list(loader)] == [list(pipe)] * 2
            assert list(pipe), repr(pipe)


def test_workers_share_a_cache(processes: Engine, tmp_path: Path) -> None:
    """What one worker has computed no other computes, in this run or a later one; values are those without a cache."""
    pytest.importorskip("google_crc32c")
    (tmp_path / "calls").mkdir()

    def costly(x: int, folder: str = str(tmp_path / "calls")) -> dict[str, Any]:
        Path(folder, f"{x}-{len(list(Path(folder).glob(f'{x}-*')))}").touch()
        return {"x": x, "array": np.full(10_000, x)}

    pipe = Pipeline.from_sequence(range(12)).map(costly).cache(tmp_path / "cache", version=1)
    for run in range(2):
        with processes.loader(pipe.shuffle(), seed=run) as loader:
            epochs = [list(loader), list(loader)]
        for epoch in epochs:
            assert sorted(item["x"] for item in epoch) == list(range(12))
            assert all((item["array"] == item["x"]).all() for item in epoch)
    assert len(list((tmp_path / "calls").iterdir())) == 12


def test_endless_repeat_has_no_seam(quick: Engine) -> None:
    """In an endless repeat the next pass's elements are drawn while this one ends: a batch may hold both."""
    pipe = Pipeline.from_sequence(range(5)).shuffle(seed=1).repeat().batch(3, collate_fn=list)
    with quick.loader(pipe) as loader:
        items = iter(loader)
        drawn = [x for _ in range(5) for x in next(items)]
    passes = [drawn[0:5], drawn[5:10], drawn[10:15]]
    assert [sorted(one) for one in passes] == [list(range(5))] * 3
    assert passes[0] != passes[1]


def test_short_way_is_the_pipeline(quick: Engine) -> None:
    """``Loader(source, fn, shuffle=, batch_size=)`` delivers what the pipeline of the same operations does."""
    pipe = Pipeline.from_sequence(range(10)).shuffle().map(float).batch(3, drop_last=True)
    with quick.loader(range(10), float, shuffle=True, batch_size=3, drop_last=True, seed=7) as loader:
        short = [batch.tolist() for batch in loader]
        assert len(loader) == 3
    assert short == [batch.tolist() for batch in pipe.seed(7)]
    with Loader(pipe, seed=7, num_workers=0) as loader:
        assert [batch.tolist() for batch in loader] == short
    flags: Any = {"shuffle": np.True_, "drop_last": np.True_}  # as a comparison of NumPy's gives them
    with Loader(range(20), batch_size=8, seed=7, num_workers=0, **flags) as loader:
        assert [batch.tolist() for batch in loader] == [
            batch.tolist() for batch in Pipeline.from_sequence(range(20)).shuffle().batch(8, drop_last=True).seed(7)
        ]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"drop_last": True}, ValueError, "drop_last does nothing without batch_size"),
        ({"collate_fn": list}, ValueError, "collate_fn does nothing without batch_size"),
        ({"shuffle": 5}, TypeError, "shuffle must be True or False"),
        ({"seed": "x"}, TypeError, "seed must be an int"),
        ({"batch_size": 0}, ValueError, "batch's size must be at least 1"),
    ],
)
def test_refusals_of_the_short_way(options: dict[str, Any], error: type[Exception], says: str) -> None:
    """In the constructor, with what would be right."""
    with pytest.raises(error, match=says):
        Loader(range(4), str, num_workers=0, **options)


def test_two_seeds_are_refused() -> None:
    """The pipeline's own and the loader's, unless they are the same; a pipeline without one takes the loader's."""
    pipe = Pipeline.from_sequence(range(4)).shuffle()
    with pytest.raises(ValueError, match="give one of the two"):
        Loader(pipe.seed(1), seed=2, num_workers=0)
    assert Loader(pipe.seed(1), seed=1, num_workers=0).seed == 1
    with Loader(pipe, seed=3, num_workers=0) as loader:
        assert list(loader) == list(pipe.seed(3))


def test_a_length_that_the_seed_decides() -> None:
    """``len()`` is that of the loader's seed, where a mixture ends by it."""
    pipe = Pipeline.sample_from([range(12), range(100, 112)], [0.5, 0.5])
    lengths = set()
    for seed in range(6):
        with Loader(pipe, seed=seed, num_workers=0) as loader:
            assert len(loader) == len(pipe.seed(seed)) == len(list(loader))
            lengths.add(len(loader))
    assert len(lengths) > 1


def test_keras_batches_are_not_batched_again() -> None:
    """``batch_size`` for a Keras dataset, whose items are batches, is a ValueError."""

    class PyDataset:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> list[int]:
            return [i, i]

    PyDataset.__module__ = "keras.src.trainers.data_adapters.py_dataset_adapter"
    with pytest.raises(ValueError, match="items are batches already"):
        Loader(type("Mine", (PyDataset,), {})(), batch_size=2, num_workers=0)


def test_what_cannot_stand_above_a_batch_of_judged_samples() -> None:
    """With ``on_error="skip"`` batches are filled up in this process; what needs their numbers is refused."""
    pipe = Pipeline.from_sequence(range(10)).batch(2, collate_fn=list)
    for above in (pipe.shuffle(), pipe[::-1]):
        Loader(above, num_workers=0)
        with pytest.raises(TypeError, match="cannot be above a batch with on_error"):
            Loader(above, num_workers=0, on_error="skip")


def test_the_last_epoch_number(quick: Engine) -> None:
    """The largest number that is taken has an epoch."""
    pipe = Pipeline.from_sequence(range(20)).shuffle(seed=1).at_epoch(2**32 - 1)
    with quick.loader(pipe) as loader:
        assert list(loader) == list(pipe)


def test_epoch_numbers_are_checked() -> None:
    """``set_epoch`` says which epoch comes next; what is no number of an epoch is refused."""
    pipe = Pipeline.from_sequence(range(20)).shuffle(seed=1)
    with Loader(pipe, num_workers=0) as loader:
        loader.set_epoch(4)
        assert list(loader) == list(pipe.at_epoch(4))
        assert loader.epoch == 4
        for wrong, error in ((-1, ValueError), (2**32, ValueError), (1.5, TypeError)):
            with pytest.raises(error):
                loader.set_epoch(wrong)  # type: ignore[arg-type]
    with Loader(pipe.at_epoch(2), num_workers=0) as loader:
        assert list(loader) == list(pipe.at_epoch(2))


def test_behind_a_filter_results_keep_their_order(forkserver: Engine) -> None:
    """``in_order=False`` is for pipelines whose items are single tasks: what is put together here is in order."""

    def slow(x: int) -> int:
        sum(range(100_000 * (x % 3 == 0)))
        return x

    pipe = Pipeline.from_sequence(range(40)).map(slow).filter(lambda x: x % 2).batch(3, collate_fn=list)
    with forkserver.loader(pipe, in_order=False) as loader:
        assert list(loader) == list(pipe)
