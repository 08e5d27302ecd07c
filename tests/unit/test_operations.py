"""What users of tf.data, Grain and Keras look for is there, or is one line: the tests behind docs/pipelines.md."""

from __future__ import annotations

import csv
import gzip
import itertools
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mploader
from mploader import Loader, Pipeline
from mploader.pipeline.images import open_image_folder

DATA = Path(__file__).parents[1] / "data"
NUMBERS: Pipeline[int] = Pipeline.from_sequence(range(10))


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    """Three files of two lines, whose names are in an order of their own."""
    for name in "bca":
        (tmp_path / f"{name}.txt").write_text(f"{name}0\n{name}1\n")
    return [str(tmp_path / f"{name}.txt") for name in "abc"]


# -- sources -------------------------------------------------------------------------------------------------------


def test_from_slices() -> None:
    """Rows of columns, of nests of them too; the length is that of a column."""
    pipe = Pipeline.from_slices({"x": np.arange(6).reshape(3, 2), "y": {"name": ["a", "b", "c"]}})
    assert len(pipe) == 3
    assert pipe[2]["x"].tolist() == [4, 5]
    assert pipe[2]["y"] == {"name": "c"}
    assert [int(y) for _, y in Pipeline.from_slices((np.ones((4, 2)), np.arange(4)))] == [0, 1, 2, 3]


def test_from_generator() -> None:
    """A function is called for each pass; its elements may be anything."""
    calls = itertools.count()
    pipe = Pipeline.from_generator(lambda: ((next(calls), name) for name in ("a", None)))
    assert list(pipe) == [(0, "a"), (1, None)]
    assert list(pipe.repeat(2)) == [(2, "a"), (3, None), (4, "a"), (5, None)]


def test_from_files(texts: list[str], tmp_path: Path) -> None:
    """Paths of a glob, sorted; a shuffle of them is an operation like any other."""
    files = Pipeline.from_files(tmp_path / "*.txt")
    assert list(files) == texts
    assert sorted(files.shuffle(seed=1)) == texts


def test_from_lines(texts: list[str], tmp_path: Path) -> None:
    """Lines of several files by number; of compressed ones in sequence."""
    lines = Pipeline.from_lines(texts)
    assert [lines[3], lines[-1], len(lines)] == ["b1", "c1", 6]
    with gzip.open(tmp_path / "a.gz", "wt") as file:
        file.write("x\ny\n")
    assert list(Pipeline.from_lines(tmp_path / "a.gz")) == ["x", "y"]


def test_from_tfrecords() -> None:
    """Records that TensorFlow wrote, by number, parsed by a function of the pipeline."""
    pytest.importorskip("google_crc32c")
    pytest.importorskip("google.protobuf")
    files = sorted(DATA.glob("*example*.tfrecord"))
    assert files
    records: Pipeline[bytes] = Pipeline.from_tfrecords(files)
    assert len(records) > 0
    assert isinstance(records[-1], bytes)
    assert isinstance(records.map(mploader.parse_example)[0], dict)


def test_from_image_folder(tmp_path: Path) -> None:
    """Class folders to images and labels; the two parts of a split are disjoint."""
    image = pytest.importorskip("PIL.Image")
    for number, name in enumerate(["cat", "dog"]):
        (tmp_path / name).mkdir()
        for grey in range(5):
            image.new("RGB", (6, 4), (grey, number, 0)).save(tmp_path / name / f"{grey}.png")
    images, labels = Pipeline.from_image_folder(tmp_path, image_size=(4, 6)).batch(10)[0]
    assert images.shape == (10, 4, 6, 3)
    assert sorted(labels.tolist()) == [0] * 5 + [1] * 5
    folder = Pipeline.from_image_folder(tmp_path)
    assert folder.class_names == folder.shuffle(seed=1).map(str).batch(2).class_names == ["cat", "dog"]
    assert not hasattr(NUMBERS, "class_names")
    parts = Pipeline.from_image_folder(tmp_path, image_size=(4, 6), validation_split=0.2, subset="both", seed=1)
    pixels = [{tuple(x[0, 0, :2].tolist()) for x, _ in part} for part in parts]
    assert [len(part) for part in pixels] == [8, 2]
    assert len(pixels[0] | pixels[1]) == 10


def test_names_of_an_image_folder(tmp_path: Path) -> None:
    """The folder that a pipeline of images begins with has the classes' names and the files."""
    image = pytest.importorskip("PIL.Image")
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    folder: Any = open_image_folder(tmp_path, image_size=(4, 4), seed=1)
    assert folder.class_names == ["cat", "dog"]
    assert [Path(file).parent.name for file in folder.file_paths] == [
        folder.class_names[label] for _, label in Pipeline.from_sequence(folder)
    ]


def test_from_dataframe() -> None:
    """Columns of several kinds at once, loaded by a function each."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"path": ["a.png", "b.png"], "title": ["A", "B"], "price": [1.5, 2.5]})
    pipe = Pipeline.from_dataframe(
        frame, ["path", "title"], "price", directory={"path": "/x"}, load={"path": lambda path: f"<{path}>"}
    )
    assert list(pipe) == [
        {"path": "</x/a.png>", "title": "A", "price": 1.5},
        {"path": "</x/b.png>", "title": "B", "price": 2.5},
    ]


def test_counter_and_one_element() -> None:
    """An endless counter is a range, with random access; one element is a list of one."""
    assert Pipeline.from_sequence(range(5, 2**62, 2))[10**12] == 5 + 2 * 10**12
    assert list(Pipeline.from_sequence([{"x": 1}])) == [{"x": 1}]


def test_random_numbers() -> None:
    """A source of random numbers is a map with ``rng``: any of them at once."""
    pipe = Pipeline.from_sequence(range(5)).map(lambda _, rng: int(rng.integers(1 << 60))).seed(1)
    assert len(set(pipe)) == 5
    assert [pipe[i] for i in range(5)] == list(pipe)


def test_records_of_fixed_length(tmp_path: Path) -> None:
    """A mapped file, behind its header."""
    (tmp_path / "file").write_bytes(b"head" + bytes(range(12)))
    records = np.memmap(tmp_path / "file", np.uint8, "r", offset=4).reshape(-1, 4)
    assert Pipeline.from_sequence(records).map(bytes)[2] == bytes([8, 9, 10, 11])


def test_rows_of_csv_and_sql(tmp_path: Path) -> None:
    """By Python's own readers, as lines or as a stream."""
    (tmp_path / "a.csv").write_text("name,n\nx,1\ny,2\n")
    rows = Pipeline.from_lines(tmp_path / "a.csv").skip(1).map(lambda line: next(csv.reader([line])))
    assert rows[1] == ["y", "2"]
    database = str(tmp_path / "a.db")
    connection = sqlite3.connect(database)
    connection.execute("create table t (name text, n int)")
    connection.executemany("insert into t values (?, ?)", [("x", 1), ("y", 2)])
    connection.commit()
    connection.close()

    def read() -> Iterator[Any]:
        connection = sqlite3.connect(database)
        yield from connection.execute("select * from t")
        connection.close()

    assert list(Pipeline.from_generator(read).repeat(2)) == [("x", 1), ("y", 2)] * 2


# -- elements and batches ------------------------------------------------------------------------------------------


def test_a_pipeline_inside_flat_map(texts: list[str]) -> None:
    """A function may give a pipeline for an element."""
    files = Pipeline.from_sequence(texts)
    assert list(files.flat_map(Pipeline.from_lines)) == ["a0", "a1", "b0", "b1", "c0", "c1"]


def test_apply() -> None:
    """Several operations under one name, in the chain."""

    def doubled(pipe: Pipeline[int]) -> Pipeline[Any]:
        return pipe.map(lambda x: 2 * x).batch(5, collate_fn=list)

    assert list(NUMBERS.apply(doubled)) == [[0, 2, 4, 6, 8], [10, 12, 14, 16, 18]]


def test_unbatch_and_rebatch() -> None:
    """Rows of dicts of arrays; other batches of the same rows are unbatch and batch."""
    batches = Pipeline.from_slices({"x": np.arange(5), "name": list("abcde")}).batch(2)
    rows = list(batches.unbatch())
    assert [(int(row["x"]), row["name"]) for row in rows] == list(zip(range(5), "abcde", strict=True))
    assert [batch["x"].tolist() for batch in batches.unbatch().batch(3)] == [[0, 1, 2], [3, 4]]


def test_unbatch_undoes_a_batch_of_lists() -> None:
    """Lists are walked by position as ``batch`` walks them; behind anything else a list is one column."""
    samples: list[Any] = [
        {"boxes": [{"x": 1}, {"x": 2}], "words": ["a", "b", "c"], "n": i, "pair": ("p", [None, {4}])} for i in range(5)
    ]
    pipe = Pipeline.from_sequence(samples)
    batches = pipe.batch(2)
    for made in (batches, batches.shuffle(seed=1).repeat(1), pipe.filter(bool).batch(3).take(9), pipe.padded_batch(2)):
        rows = sorted(made.unbatch(), key=lambda row: int(row["n"]))
        assert rows == samples
    assert list(Pipeline.from_sequence([["a", "b", "c"], ["d", "e", "f"]]).batch(2).unbatch()) == [
        ["a", "b", "c"],
        ["d", "e", "f"],
    ]
    assert [row.tolist() for row in Pipeline.from_sequence([[1, 2], [3, 4]]).batch(2).unbatch()] == [[1, 2], [3, 4]]
    assert list(Pipeline.from_sequence(["a", "b", "c"]).batch(2).unbatch()) == ["a", "b", "c"]
    lists = [["a", "b"], ["c", "d"], ["e", "f"]]
    assert list(Pipeline.from_sequence(lists).batch(2, collate_fn=list).unbatch()) == lists


def test_padded_batch() -> None:
    """Arrays of different shapes are filled up to the largest, or to a given shape, with a given value."""
    ragged = Pipeline.from_sequence([np.array([1]), np.array([2, 3])])
    assert ragged.padded_batch(2)[0].tolist() == [[1, 0], [2, 3]]
    assert ragged.padded_batch(2, value=-1, pad_to=(3,))[0].tolist() == [[1, -1, -1], [2, 3, -1]]
    assert [x.tolist() for x in ragged.batch(2, collate_fn=list)[0]] == [[1], [2, 3]]


def test_bucket_by_length() -> None:
    """Each batch is padded to its own longest; the buckets are flushed at the end, or dropped."""
    sizes = [1, 7, 2, 8, 3]
    pipe = Pipeline.from_sequence([np.ones(n) for n in sizes])
    shapes = [batch.shape for batch in pipe.bucket_by_length(len, [5], [2, 2])]
    assert shapes == [(2, 2), (2, 8), (1, 3)]
    sizes_of_all: list[Any] = [2, np.int64(2)]
    for size in sizes_of_all:
        assert len(list(pipe.bucket_by_length(len, [5], size, drop_last=True))) == 2


def test_group_by_key() -> None:
    """A bucket for each key, each of its own size: group_by_window."""
    groups = NUMBERS.bucket_by_length(lambda x: x % 3, [1, 2], [2, 3, 4], collate_fn=list)
    assert list(groups) == [[0, 3], [1, 4, 7], [6, 9], [2, 5, 8]]


def test_windows() -> None:
    """Of a pipeline as tuples; of any stride and shift as slices, each of which is a pipeline."""
    assert list(Pipeline.zip(NUMBERS, NUMBERS.skip(1), NUMBERS.skip(2)))[:2] == [(0, 1, 2), (1, 2, 3)]
    windows = Pipeline.from_sequence(range(0, 10 - 4, 3)).map(lambda i: list(NUMBERS[i : i + 5 : 2]))
    assert list(windows) == [[0, 2, 4], [3, 5, 7]]
    assert sorted(windows.shuffle(seed=1)) == [[0, 2, 4], [3, 5, 7]]


def test_time_series() -> None:
    """Windows of an array and their targets, by where each begins: with stride, rate, shuffle and random access."""
    data, targets = np.arange(20.0), np.arange(20) * 10
    pipe = Pipeline.from_sequence(range(0, 20 - 6 + 1, 4)).map(lambda i: (data[i : i + 6 : 2], targets[i]))
    x, y = pipe.batch(2)[1]
    assert x.tolist() == [[8, 10, 12], [12, 14, 16]]
    assert y.tolist() == [80, 120]


def test_enumerate_in_map() -> None:
    """map_with_index is enumerate and map."""
    assert list(NUMBERS.enumerate().map(lambda pair: pair[0] * pair[1]))[:4] == [0, 1, 4, 9]


# -- order and choice ----------------------------------------------------------------------------------------------


def test_shuffle() -> None:
    """All elements, in another order each epoch, or the same; within a buffer where there are no positions."""
    epochs = [list(NUMBERS.shuffle(seed=1).at_epoch(epoch)) for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    fixed = NUMBERS.shuffle(seed=1, reshuffle=False)
    assert list(fixed) == list(fixed.at_epoch(1))
    stream = Pipeline.from_generator(lambda: iter(range(10))).shuffle(seed=1, buffer=4)
    assert sorted(stream) == list(range(10)) != list(stream)


def test_slices() -> None:
    """``pipe[a:b:c]`` is a pipeline, as of a list; negative steps too."""
    assert [list(NUMBERS[2:8:3]), list(NUMBERS[::-4]), NUMBERS[3:][0], len(NUMBERS[-2:])] == [[2, 5], [9, 5, 1], 3, 2]


def test_interleave_as_tf_data_does(texts: list[str]) -> None:
    """Blocks in turn; a pipeline that ends makes room for the next, whether they have lengths or not."""
    kinds: list[Callable[[str], Pipeline[Any]]] = [
        Pipeline.from_lines,
        lambda file: Pipeline.from_generator(lambda: Path(file).read_text().split()),
    ]
    for kind in kinds:
        mixed = Pipeline.interleave([kind(file) for file in texts], cycle_length=2, block_length=1)
        assert list(mixed) == ["a0", "b0", "a1", "b1", "c0", "c1"]


def test_sample_from() -> None:
    """Shares are exact over a block of draws; it ends where the one to draw from is empty."""
    parts = [Pipeline.from_sequence(["a"]).repeat(), Pipeline.from_sequence(["b"]).repeat()]
    drawn = Pipeline.sample_from(parts, [0.25, 0.75]).seed(1).take(1024)
    assert Counter(drawn) == {"a": 256, "b": 768}
    assert Counter(Pipeline.sample_from([parts[0], ["b"] * 3], [0.5, 0.5], seed=1))["b"] == 3


def test_choice_by_a_list() -> None:
    """choose_from_datasets and select_from_datasets: a list of which part and which element of it."""
    parts: list[Pipeline[Any]] = [NUMBERS, NUMBERS.map(str)]
    chosen = [(0, 0), (1, 0), (1, 1), (0, 1)]
    assert list(Pipeline.from_sequence(chosen).map(lambda at: parts[at[0]][at[1]])) == [0, "0", "1", 1]


def test_resampling_by_class() -> None:
    """Each class by its indices, repeated, mixed by the wanted shares: rejection_resample without rejecting."""
    labels = np.array([0] * 90 + [1] * 10)
    by_class = [Pipeline.from_sequence(np.flatnonzero(labels == k)).shuffle().repeat() for k in (0, 1)]
    drawn = Pipeline.sample_from(by_class, [0.5, 0.5]).seed(1).take(512)
    assert Counter(int(labels[i]) for i in drawn) == {0: 256, 1: 256}


def test_padding_to_a_length() -> None:
    """pad_to_cardinality: a mask, and what stands for nothing."""
    padded = Pipeline.concat(NUMBERS.map(lambda x: (x, True)), Pipeline.from_sequence([(0, False)]).repeat(2))
    assert [len(padded), padded[9], padded[11]] == [12, (9, True), (0, False)]


def test_filtered_indices_have_a_length() -> None:
    """What is filtered once, as indices, has random access again: assert_cardinality, and Grain's sparse filter."""
    chosen = Pipeline.from_sequence([i for i in range(10) if i % 3 == 0])
    assert [len(chosen), chosen.batch(2, collate_fn=list)[1]] == [4, [6, 9]]


def test_an_index_that_flattens() -> None:
    """index_flat_map: several elements of each, with random access, by concat, or by a list of pairs."""
    files = [["a0", "a1"], ["b0"]]
    assert Pipeline.concat(*files)[2] == "b0"
    pairs = [(file, row) for file, rows in enumerate(files) for row in range(len(rows))]
    assert Pipeline.from_sequence(pairs).map(lambda at: files[at[0]][at[1]])[-1] == "b0"


# -- the end of a pipeline -----------------------------------------------------------------------------------------


def test_plain_python_over_a_loader() -> None:
    """A loader is an iterable: reduce, scan, take_while, unique and get_single_element are Python's own."""
    with Loader(NUMBERS, num_workers=0) as loader:
        assert reduce(lambda total, x: total + x, loader, 0) == 45
        assert list(itertools.accumulate(loader))[-1] == 45
        assert list(itertools.takewhile(lambda x: x < 3, loader)) == [0, 1, 2]
        assert list(dict.fromkeys(x % 3 for x in loader)) == [0, 1, 2]
        assert next(iter(loader), None) == 0


def test_streams_may_read_pipelines() -> None:
    """A generator over a pipeline goes on as a pipeline: scan, take_while, unique, packing."""
    running = Pipeline.from_generator(lambda: itertools.accumulate(NUMBERS))
    assert list(running.batch(5, collate_fn=list)) == [[0, 1, 3, 6, 10], [15, 21, 28, 36, 45]]
    small: Pipeline[int] = Pipeline.from_generator(partial(itertools.takewhile, lambda x: x < 3, NUMBERS))
    assert list(small) == [0, 1, 2]


def test_cache_is_filled_once(tmp_path: Path) -> None:
    """An element is computed once, in whatever order it is asked for, also by a pipeline that is made anew."""
    pytest.importorskip("google_crc32c")
    counted = tmp_path / "calls"
    counted.mkdir()

    def costly(x: int, folder: str = str(counted)) -> int:
        Path(folder, f"{x}-{len(list(Path(folder).iterdir()))}").touch()
        return x * x

    def make() -> Pipeline[int]:
        return NUMBERS.map(costly).cache(tmp_path / "cache", version=1)

    pipe = make()
    assert [pipe[7], pipe[2], pipe[7]] == [49, 4, 49]
    assert sorted(pipe.shuffle(seed=1)) == [x * x for x in range(10)]
    assert list(make()) == [x * x for x in range(10)]
    assert len(list(counted.iterdir())) == 10


def test_frozen_draws(tmp_path: Path) -> None:
    """What is random below a cache is refused, or frozen: the first draws for all epochs."""
    pytest.importorskip("google_crc32c")
    drawn = NUMBERS.map(lambda x, rng: (x, int(rng.integers(1 << 60)))).seed(1)
    with pytest.raises(ValueError, match="is random"):
        drawn.cache(tmp_path)
    frozen = drawn.cache(tmp_path, version=1, freeze=True)
    assert list(frozen) == list(frozen.at_epoch(1)) == list(drawn)


def test_frozen_draws_of_each_seed(tmp_path: Path) -> None:
    """Two seeds share no frozen draws: the stream of each is what it would be without a cache."""
    pytest.importorskip("google_crc32c")
    drawn = NUMBERS.map(lambda x, rng: (x, int(rng.integers(1 << 60))))
    for frozen in (drawn.cache(freeze=True), drawn.cache(tmp_path, version=1, freeze=True)):
        for seed in (7, 8, 7):
            with Loader(frozen, seed=seed, num_workers=0) as loader, Loader(drawn, seed=seed, num_workers=0) as plain:
                assert list(loader) == list(plain)
                assert list(loader) == list(frozen.seed(seed))


def drawn(x: Any, rng: np.random.Generator) -> tuple[Any, int]:
    return x, int(rng.integers(1 << 60))


@pytest.mark.parametrize(
    "part",
    [
        lambda p: p.shard(1, 3),
        lambda p: p.skip(4),
        lambda p: p.take(4),
        lambda p: p[::-1],
        lambda p: p[1::3],
        lambda p: p.shard(0, 2).shard(1, 2),
    ],
)
@pytest.mark.parametrize("below", [lambda p: p, lambda p: p.shuffle(), lambda p: p.map(str)])
@pytest.mark.filterwarnings("ignore:.* behind shuffle")
def test_a_part_draws_what_the_whole_draws_there(part: Callable[..., Any], below: Callable[..., Any]) -> None:
    """A function draws the same before and behind a shard or slice: ranks are parts of one stream."""
    pipe = below(NUMBERS.seed(3))
    for epoch in (0, 1):
        assert list(part(pipe).map(drawn).at_epoch(epoch)) == list(part(pipe.map(drawn)).at_epoch(epoch))


def globally_drawn(x: Any) -> tuple[Any, int]:
    return x, random.getrandbits(60)


def collated(batch: list[int]) -> list[tuple[Any, int]]:
    return [(tuple(batch), random.getrandbits(60))]


@pytest.mark.parametrize(
    "tail",
    [
        lambda p: p.map(drawn),
        lambda p: p.map(globally_drawn),
        lambda p: p.batch(3, collate_fn=collated).unbatch(),
        lambda p: p.batch(3, collate_fn=tuple).map(drawn),
        lambda p: p.filter(lambda x: True).map(drawn),
        lambda p: p.flat_map(lambda x, rng: [drawn(x, rng)]),
        lambda p: p.filter(lambda x: True).batch(3, collate_fn=tuple).map(drawn),
        lambda p: p.filter(lambda x: True).batch(3, collate_fn=tuple).map(globally_drawn),
        lambda p: p.shuffle(buffer=4).map(drawn),
        lambda p: Pipeline.zip(p, p).map(drawn),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.filterwarnings("ignore:shard of a stream")
def test_ranks_share_no_draws(tail: Callable[..., Any], is_stream: bool) -> None:
    """Whatever stands above a shard, two ranks draw other numbers."""
    whole: Pipeline[Any] = Pipeline.from_generator(lambda: iter(range(20))) if is_stream else NUMBERS
    ranks = [dict(list(tail(whole.seed(3).shard(rank, 2)))) for rank in (0, 1)]
    assert ranks[0]
    assert not set(ranks[0].values()) & set(ranks[1].values())


@pytest.mark.parametrize(
    "tail",
    [
        lambda p: p.repeat(3).map(drawn),
        lambda p: p.map(drawn).repeat(3),
        lambda p: p.map(drawn).batch(4, collate_fn=list).repeat(3).unbatch(),
        lambda p: p.repeat(3).batch(4, collate_fn=tuple).map(drawn),
        lambda p: p.shuffle().repeat(3).map(globally_drawn),
        lambda p: p.map(drawn).shuffle(buffer=3).batch(8, collate_fn=list).unbatch(),
        lambda p: p.take(3).repeat().take(7).repeat(2).map(drawn),
    ],
)
@pytest.mark.filterwarnings("ignore:.* behind shuffle")
def test_parts_share_no_draws(tail: Callable[..., Any]) -> None:
    """Where they are repeated neither, and no element draws twice the same."""
    whole = NUMBERS.seed(3)
    a, b = whole.split([0.6, 0.4], seed=1)
    for parts in ((a, b), (whole.take(6), whole.skip(6)), (whole[:4], whole[6::2], whole[-1:3:-2])):
        draws = [draw for part in parts for _, draw in tail(part)]
        assert len(set(draws)) == len(draws) > 5


@pytest.mark.filterwarnings("ignore:.* behind shuffle", "ignore:shard of a stream")
def test_parts_of_a_buffered_shuffle_share_no_draws() -> None:
    """Nor of the generators of Python and NumPy, where the elements below have random access."""
    mixed = NUMBERS.shuffle(buffer=3).skip(1)
    for parts in ([mixed.shard(rank, 2) for rank in (0, 1)], [mixed.take(4), mixed.skip(4)]):
        draws = [draw for part in parts for _, draw in part.map(globally_drawn).seed(4)]
        assert len(set(draws)) == len(draws) > 5


def test_a_cache_above_a_source_that_changes_is_refused() -> None:
    """It would serve the first epoch for ever; frozen, it is meant to."""

    class Reversing:
        def __init__(self) -> None:
            self.items = [0, 1, 2]

        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> int:
            return self.items[i]

        def on_epoch_end(self) -> None:
            self.items.reverse()

    pipe = Pipeline.from_sequence(Reversing())
    with pytest.raises(ValueError, match="changes with the epoch"):
        pipe.cache()
    with Loader(pipe.cache(freeze=True), num_workers=0) as loader:
        assert [list(loader), list(loader)] == [[0, 1, 2]] * 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_passes_that_are_known_to_be_empty_end(num_workers: int) -> None:
    """A set smaller than its batch, dropped, and repeated: nothing, for every on_error."""
    for pipe in (
        Pipeline.from_sequence(range(5)).batch(32, drop_last=True).repeat().take(3),
        Pipeline.from_sequence(range(1)).batch(2).skip(1).repeat(),
    ):
        for on_error in ("raise", "skip"):
            options: dict[str, Any] = {"on_error": on_error, "start_method": "fork"}
            with Loader(pipe, num_workers=num_workers, **options) as loader:
                assert list(loader) == []


def test_unbatch_behind_what_leaves_batches_as_they_are() -> None:
    """A filter, and merges of batches: lists in samples are no columns."""
    samples = [["a", "b"], ["c", "d"]]
    batches = Pipeline.from_sequence(samples).batch(2)
    assert list(batches.filter(lambda batch: True).unbatch()) == samples
    assert list(Pipeline.concat(batches, batches).unbatch()) == samples * 2
    assert list(Pipeline.interleave([batches, batches], 2).unbatch()) == samples * 2


def test_flat_map_takes_all_of_an_element_first() -> None:
    """An element's outputs are a list: one that never ends would be asked for ever."""
    seen = []

    def many(x: int) -> Iterator[int]:
        for k in range(3):
            seen.append((x, k))
            yield k

    assert next(iter(NUMBERS.flat_map(many))) == 0
    assert seen == [(0, 0), (0, 1), (0, 2)]


class Epochal(list[int]):
    """A source that changes with the epoch."""

    epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, i: Any) -> Any:
        return super().__getitem__(i), self.epoch


def test_sources_are_told_the_epoch_without_a_loader_too() -> None:
    """``pipe[i]`` and a loop over it give what a Loader gives in that epoch."""
    pipe = Pipeline.from_sequence(Epochal(range(3)))
    with Loader(pipe, num_workers=0) as loader:
        epochs = [list(loader), list(loader)]
        for epoch in (1, 0):
            at = pipe.at_epoch(epoch)
            assert [at[i] for i in range(3)] == list(at) == epochs[epoch]


class Sampler:
    """A stream that changes with the epoch."""

    epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter([self.epoch] * 2)


@pytest.mark.parametrize("around", [lambda pipe: pipe, lambda pipe: pipe.map(str), lambda pipe: pipe.concat([9])])
def test_streams_are_told_the_epoch_without_a_loader_too(around: Callable[..., Any]) -> None:
    """Also one inside a merge."""
    pipe = around(Pipeline.from_indices(Sampler()))
    with Loader(pipe, num_workers=0) as loader:
        loader.set_epoch(3)
        assert list(pipe.at_epoch(3)) == list(loader)
    assert list(pipe.at_epoch(4)) == list(around(Pipeline.from_sequence([4, 4])))


def test_zip_and_concat_are_methods_too() -> None:
    """``a.concat(b)`` and ``a.zip(b)`` begin with a, as written."""
    a, b = Pipeline.from_sequence([1, 2, 3]), Pipeline.from_sequence([4, 5])
    assert list(a.concat(b)) == list(Pipeline.concat(a, b)) == [1, 2, 3, 4, 5]
    assert list(a.zip(b)) == list(Pipeline.zip(a, b)) == [(1, 4), (2, 5)]


def test_a_last_batch_filled_up() -> None:
    """Blank samples behind the last one make all batches of one size."""
    pipe = Pipeline.from_sequence([7, 8, 9])
    assert [batch.tolist() for batch in pipe.concat([0] * (-len(pipe) % 2)).batch(2)] == [[7, 8], [9, 0]]


def test_unbatch_of_what_is_no_batch() -> None:
    """Names the operation and the element."""
    with pytest.raises(TypeError, match="unbatch takes a batch apart, and 3 is none"):
        list(Pipeline.from_sequence([3]).unbatch())
