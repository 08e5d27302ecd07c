"""Random pipelines, and what each must give, by lists.

Imported in workers, as what functions there refer to. Must never know: how a pipeline works.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mploader import Pipeline


@dataclass(frozen=True)
class Case:
    """A pipeline, the list that it stands for (one pass of it), and how it was made."""

    pipe: Pipeline[Any]
    model: list[Any]
    story: str
    is_indexable: bool
    is_stream: bool

    def then(self, story: str, pipe: Pipeline[Any], model: Iterable[Any], *, is_indexable: bool | None = None) -> Case:
        """One operation further."""
        indexable = self.is_indexable if is_indexable is None else is_indexable
        return Case(pipe, list(model), f"{self.story}.{story}", indexable, self.is_stream)


def double(x: Any) -> Any:
    return x + x


def pair(x: Any) -> list[Any]:
    return [x, x]


def some(x: Any) -> list[Any]:
    """None, one or two elements."""
    return [x] * (len(str(x)) % 3)


def keep(x: Any) -> bool:
    return len(repr(x)) % 3 != 0


def length(x: Any) -> int:
    return len(repr(x)) % 7


def noisy(x: Any, rng: np.random.Generator) -> Any:
    return (x, int(rng.integers(1 << 30)), random.random(), float(np.random.random()))


class Jitter:
    """An augmentation with a generator of its own."""

    def __init__(self) -> None:
        self.random = random.Random(0)

    def __call__(self, x: Any) -> Any:
        return (x, self.random.randrange(1 << 30))


def fails(x: Any) -> Any:
    if len(repr(x)) % 4 == 0:
        raise ValueError(x)
    return x


def told(items: Iterable[Any], limit: int = 1 << 30) -> list[Any]:
    """What an iterator gives, up to ``limit`` items, with an error's type in its place."""
    iterator = iter(items)
    found: list[Any] = []
    while len(found) < limit:
        try:
            found.append(next(iterator))
        except StopIteration:
            break
        except Exception as error:  # noqa: BLE001  whatever it is
            found.append(type(error))
    return found


def batches(model: list[Any], size: int, *, drop_last: bool = False) -> list[list[Any]]:
    found = [model[i : i + size] for i in range(0, len(model), size)]
    return [batch for batch in found if len(batch) == size or not drop_last]


def buckets(model: list[Any], sizes: list[int], edge: int) -> list[list[Any]]:
    waiting: list[list[Any]] = [[], []]
    found = []
    for x in model:
        at = int(length(x) >= edge)
        waiting[at].append(x)
        if len(waiting[at]) == sizes[at]:
            found.append(waiting[at])
            waiting[at] = []
    return found + [rest for rest in waiting if rest]


@st.composite
def sources(draw: st.DrawFn, first: int = 0) -> Case:
    """A pipeline of up to 14 numbers."""
    n = draw(st.integers(0, 14))
    numbers = range(first, first + n)
    if draw(st.integers(0, 5)) == 0:
        endless = Pipeline.from_generator(lambda: itertools.count(first))
        return Case(endless.take(n), list(numbers), f"count().take({n})", False, True)
    if draw(st.booleans()):
        return Case(Pipeline.from_sequence(numbers), list(numbers), f"sequence({n})", True, False)
    return Case(Pipeline.from_generator(lambda: iter(numbers)), list(numbers), f"generator({n})", False, True)


def _step(case: Case, draw: st.DrawFn, *, is_sure: bool = True) -> Case:
    """One operation further; ``is_sure`` that the model is what the pipeline gives, so that it has an end."""
    pipe, model = case.pipe, case.model
    number = draw(st.integers(1, 5))
    options: dict[str, Callable[[], Case]] = {
        "map": lambda: case.then("map", pipe.map(double), [double(x) for x in model]),
        "filter": lambda: case.then("filter", pipe.filter(keep), filter(keep, model), is_indexable=False),
        "flat_map": lambda: case.then(
            "flat_map", pipe.flat_map(some), (y for x in model for y in some(x)), is_indexable=False
        ),
        "pairs": lambda: case.then(
            "pairs", pipe.flat_map(pair), (y for x in model for y in pair(x)), is_indexable=False
        ),
        "batch": lambda: case.then(f"batch({number})", pipe.batch(number, collate_fn=list), batches(model, number)),
        "batch_drop": lambda: case.then(
            f"batch({number}, drop_last)",
            pipe.batch(number, collate_fn=list, drop_last=True),
            batches(model, number, drop_last=True),
        ),
        "bucket": lambda: case.then(
            f"bucket({number})",
            pipe.bucket_by_length(length, [3], [number, 2], collate_fn=list),
            buckets(model, [number, 2], 3),
            is_indexable=False,
        ),
        "enumerate": lambda: case.then("enumerate", pipe.enumerate(number), list(enumerate(model, number))),
        "take": lambda: case.then(f"take({number})", pipe.take(number), model[:number]),
        "skip": lambda: case.then(f"skip({number})", pipe.skip(number), model[number:]),
        "repeat": lambda: case.then(f"repeat({number % 4})", pipe.repeat(number % 4), model * (number % 4)),
        "unended": lambda: case.then(f"take({number}).repeat(2)", pipe.take(number).repeat(2), model[:number] * 2),
    }
    if model and is_sure:
        end = 3 * number
        options["endless"] = lambda: case.then(f"repeat().take({end})", pipe.repeat().take(end), (model * end)[:end])
    if case.is_indexable:
        options["slice"] = lambda: case.then("[::-2]", pipe[::-2], model[::-2])
        options["shard"] = lambda: case.then("shard(1, 3)", pipe.shard(1, 3), model[1::3])
    return options[draw(st.sampled_from(sorted(options)))]()


@st.composite
def plain_pipelines(draw: st.DrawFn) -> Case:
    """Without randomness: the model is exact."""
    case = draw(sources())
    if draw(st.integers(0, 3)) == 0:
        other = draw(sources(first=100))
        both = case.is_indexable and other.is_indexable
        way = draw(st.sampled_from(["zip", "concat"]))
        if way == "zip":
            pipe, model = Pipeline.zip(case.pipe, other.pipe), list(zip(case.model, other.model, strict=False))
        else:
            pipe, model = Pipeline.concat(case.pipe, other.pipe), case.model + other.model
        case = Case(pipe, list(model), f"{way}({case.story}, {other.story})", both, not both)
    for _ in range(draw(st.integers(0, 5))):
        if len(case.model) > 200:
            break
        case = _step(case, draw)
    return case


@st.composite
def random_pipelines(draw: st.DrawFn) -> Case:
    """With shuffles, draws and mixtures: there is no model but the pipeline itself."""
    case = draw(plain_pipelines())
    for _ in range(draw(st.integers(1, 4))):
        if len(case.model) > 200:
            break
        ways = [
            "shuffle",
            "buffer",
            "noisy",
            "jitter",
            "fails",
            "unbatch",
            "split",
            "step",
            "mix",
            "interleave",
            "concat",
        ]
        way = draw(st.sampled_from(ways))
        pipe = case.pipe
        if way == "shuffle" and case.is_indexable:
            case = case.then("shuffle", pipe.shuffle(), case.model)
        elif way in ("shuffle", "buffer"):
            size = draw(st.integers(1, 6))
            case = case.then(f"shuffle(buffer={size})", pipe.shuffle(buffer=size), case.model, is_indexable=False)
        elif way == "noisy":
            case = case.then("noisy", pipe.map(noisy), case.model)
        elif way == "jitter":
            case = case.then("jitter", pipe.map(Jitter()), case.model)
        elif way == "fails":
            case = case.then("fails", pipe.map(fails), case.model)
        elif way == "unbatch":
            case = case.then("unbatch", pipe.batch(3, collate_fn=list).unbatch(), case.model, is_indexable=False)
        elif way == "split" and case.is_indexable:
            case = case.then("split", pipe.split([0.6, 0.4], seed=5)[draw(st.integers(0, 1))], case.model)
        elif way in ("mix", "interleave", "concat"):
            other = draw(sources(first=100))
            for _ in range(draw(st.integers(0, 2))):
                other = _step(other, draw)
            if draw(st.booleans()):
                other = other.then("jitter", other.pipe.map(Jitter()), other.model)
            both = case.is_indexable and other.is_indexable
            if way == "mix":
                made = Pipeline.sample_from([pipe, other.pipe], [0.6, 0.4])
            elif way == "concat":
                made = pipe.concat(other.pipe)
            else:
                made = Pipeline.interleave([pipe, other.pipe], 2, draw(st.integers(1, 3)))
            case = Case(made, case.model, f"{way}({case.story}, {other.story})", both, not both)
        else:
            case = _step(case, draw, is_sure=False)
    pipe = case.pipe.seed(draw(st.integers(0, 3)))
    return Case(pipe, case.model, case.story, case.is_indexable, case.is_stream)
