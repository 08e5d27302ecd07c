"""``mploader.integrations.torch.DataLoader`` beside torch's own: same batches, same errors; workers may die."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
data = pytest.importorskip("torch.utils.data")
loaders = pytest.importorskip("mploader.integrations.torch")

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create .* worker processes:UserWarning")

METHODS = ["fork", "forkserver", "spawn"]


class Images(data.Dataset):  # type: ignore[misc, name-defined]
    """A map-style dataset; each item draws from the three generators that torch seeds in a worker."""

    def __init__(self, n: int = 37) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> dict[str, Any]:
        drawn = [random.random(), np.random.random(), torch.rand(()).item()]
        return {"image": torch.full((3, 8, 8), float(i)), "i": i, "name": f"{i}.jpg", "drawn": drawn}


class Bulk(Images):
    """One that fetches a whole batch at once."""

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [{"i": i, "together": len(indices)} for i in indices]


class Lines(data.IterableDataset):  # type: ignore[misc, name-defined]
    """An iterable dataset of which each worker has a replica: it takes its share, of differing length."""

    def __init__(self, n: int = 40) -> None:
        self.n = n

    def __iter__(self) -> Iterator[Any]:
        info = data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for i in range(first, self.n - 3 * first, step):
            yield torch.tensor([i, random.randrange(1000)])


class Bad(Images):
    """Raises at some indices."""

    def __getitem__(self, i: int) -> Any:
        if i % 10 == 3:
            raise KeyError(i)
        return i


class Dies(Images):
    """Kills its worker at one index, once."""

    def __init__(self, flag: str, at: int) -> None:
        super().__init__()
        self.flag, self.at = flag, at

    def __getitem__(self, i: int) -> Any:
        if i == self.at and os.path.exists(self.flag):
            os.remove(self.flag)
            os.kill(os.getpid(), signal.SIGKILL)
        return i


class DyingLines(Lines):
    """The iterable one whose worker 1 dies once, after some items."""

    def __init__(self, flag: str) -> None:
        super().__init__()
        self.flag = flag

    def __iter__(self) -> Iterator[Any]:
        for number, item in enumerate(super().__iter__()):
            if number == 7 and data.get_worker_info().id == 1 and os.path.exists(self.flag):
                os.remove(self.flag)
                os.kill(os.getpid(), signal.SIGKILL)
            yield item


def first_of(batch: list[Any]) -> Any:
    return batch[0]


def init(worker_id: int) -> None:
    info = data.get_worker_info()
    assert info.id == worker_id
    info.dataset.n += 0
    random.seed(worker_id)


def plain(item: Any) -> Any:
    """Something that can be compared."""
    if isinstance(item, torch.Tensor):
        return str(item.dtype), item.tolist()
    if isinstance(item, dict):
        return {key: plain(part) for key, part in item.items()}
    if isinstance(item, list | tuple):
        return [plain(part) for part in item]
    return item


def epochs(kind: Callable[..., Any], dataset: Any, options: dict[str, Any], n: int = 2) -> list[Any]:
    """What ``n`` epochs of a loader give, all generators of this process being seeded before."""
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    loader = kind(
        dataset, **{key: value() if callable(value) and key in MADE else value for key, value in options.items()}
    )
    found = [plain(list(loader)) for _ in range(n)]
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()
    return found


MADE = {"sampler", "batch_sampler", "generator"}  # made anew for each loader
CASES: list[tuple[Callable[[], Any], dict[str, Any]]] = [
    (Images, {"batch_size": 4, "num_workers": 2}),
    (Images, {"batch_size": 5, "num_workers": 3, "shuffle": True, "drop_last": True}),
    (Images, {"batch_size": None, "num_workers": 2}),
    (Images, {"num_workers": 1, "collate_fn": first_of, "prefetch_factor": 5}),
    (Images, {"batch_size": 6, "num_workers": 0, "shuffle": True}),
    (Images, {"batch_size": 4, "num_workers": 2, "persistent_workers": True, "worker_init_fn": init}),
    (
        Images,
        {"batch_size": 4, "num_workers": 2, "generator": lambda: torch.Generator().manual_seed(3), "shuffle": True},
    ),
    (Images, {"num_workers": 2, "sampler": lambda: data.SubsetRandomSampler(range(3, 30))}),
    (
        Images,
        {"num_workers": 2, "batch_sampler": lambda: data.BatchSampler(data.SequentialSampler(range(20)), 6, False)},
    ),
    (
        Images,
        {
            "num_workers": 2,
            "sampler": lambda: data.DistributedSampler(Images(), num_replicas=3, rank=1),
            "batch_size": 2,
        },
    ),
    (Bulk, {"batch_size": 4, "num_workers": 2}),
    (Lines, {"batch_size": 3, "num_workers": 3}),
    (Lines, {"batch_size": None, "num_workers": 2, "persistent_workers": True}),
    (lambda: data.TensorDataset(torch.arange(30).reshape(10, 3)), {"batch_size": 3, "num_workers": 2}),
    (lambda: data.ChainDataset([Lines(10), Lines(6)]), {"batch_size": 4, "num_workers": 2}),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_same_batches_as_torch(case: int) -> None:
    """In two epochs, random draws of the datasets in their workers included."""
    make, options = CASES[case]
    assert epochs(loaders.DataLoader, make(), options) == epochs(data.DataLoader, make(), options)


@pytest.mark.parametrize("method", METHODS)
def test_start_methods(method: str) -> None:
    """However the processes are made."""
    options = {"batch_size": 4, "num_workers": 2, "multiprocessing_context": method}
    assert epochs(loaders.DataLoader, Images(), options, 1) == epochs(data.DataLoader, Images(), options, 1)


def test_it_is_a_dataloader_of_torch() -> None:
    """For those that ask; and its workers' figures can be seen."""
    loader = loaders.DataLoader(Images(), batch_size=4, num_workers=2, persistent_workers=True)
    assert isinstance(loader, data.DataLoader)
    assert len(loader) == 10
    assert loader.stats() is None
    assert len(list(loader)) == 10
    stats = loader.stats()
    assert stats.delivered == 10
    assert sum(worker.items for worker in stats.workers) >= 10
    first = {worker.pid for worker in stats.workers}
    list(loader)
    assert {worker.pid for worker in loader.stats().workers} == first, "they persist"
    loader.close()


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": -1},
        {"timeout": -1},
        {"num_workers": 0, "prefetch_factor": 3},
        {"num_workers": 1, "prefetch_factor": -1},
        {"num_workers": 0, "persistent_workers": True},
        {"sampler": range(3), "shuffle": True},
        {"batch_sampler": [[0]], "batch_size": 3},
        {"batch_size": None, "drop_last": True},
        {"batch_size": 0},
        {"num_workers": 1, "multiprocessing_context": "no such"},
        {"num_workers": 0, "multiprocessing_context": "fork"},
    ],
)
def test_bad_arguments_are_refused_as_torch_does(options: dict[str, Any]) -> None:
    """With its own words."""
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        data.DataLoader(Images(), **options)
    with pytest.raises(type(theirs.value)) as ours:
        loaders.DataLoader(Images(), **options)
    assert str(ours.value) == str(theirs.value)


def test_an_error_is_raised_at_its_batch_and_the_loop_may_go_on() -> None:
    """Its type is the dataset's; what the worker was doing is in its notes."""
    iterator = iter(loaders.DataLoader(Bad(), batch_size=5, num_workers=2))
    found: list[Any] = []
    while True:
        try:
            found.append(next(iterator).tolist())
        except StopIteration:
            break
        except KeyError as error:
            found.append(error)
    assert [type(item) for item in found] == [KeyError, list] * 3 + [KeyError, list]
    assert found[1] == [5, 6, 7, 8, 9]
    assert any("worker" in note for note in found[0].__notes__)


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_worker_costs_nothing(tmp_path: Any, method: str) -> None:
    """torch's own DataLoader ends the training there."""
    flag = tmp_path / "flag"
    flag.touch()
    loader = loaders.DataLoader(Dies(str(flag), 11), batch_size=4, num_workers=2, multiprocessing_context=method)
    assert [i for batch in loader for i in batch.tolist()] == list(range(37))
    assert not flag.exists()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_killed_worker_begins_its_replica_anew(tmp_path: Any, method: str) -> None:
    """Of an iterable dataset, and passes over what was delivered: the batches are those of an undisturbed run."""
    flag = tmp_path / "flag"
    options = {"batch_size": 2, "num_workers": 2, "multiprocessing_context": method}
    expected = epochs(loaders.DataLoader, DyingLines(str(flag)), options, 1)
    flag.touch()
    assert epochs(loaders.DataLoader, DyingLines(str(flag)), options, 1) == expected
    assert not flag.exists()


def test_timeout() -> None:
    """As torch says it."""
    loader = loaders.DataLoader(Sleeps(), num_workers=1, timeout=0.2)
    with pytest.raises(RuntimeError, match=r"DataLoader timed out after 0\.2 seconds"):
        next(iter(loader))


class Sleeps(Images):
    """Takes for ever."""

    def __getitem__(self, i: int) -> Any:
        signal.pause()


def test_training_on_real_digits() -> None:
    """A small network learns scikit-learn's handwritten digits from batches that augmenting workers make."""
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32) / 16
    labels = torch.tensor(labels)
    train = data.TensorDataset(images[:1400], labels[:1400])
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    loader = loaders.DataLoader(train, batch_size=32, shuffle=True, num_workers=2, persistent_workers=True)
    for _ in range(12):
        for x, y in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    loader.close()
    accuracy = (model(images[1400:]).argmax(1) == labels[1400:]).float().mean().item()
    assert accuracy > 0.9
