"""How long does one item take from a worker's function to the training loop? `make bench-core` prints the answer.

Question
  Does `mploader.Loader` carry small, mid and big results several times faster than torch's DataLoader carries the same
  results of the same function, is it near the cost of one `memcpy` of the same bytes, does it start fast and idle free?

Method
  * Each measurement is a fresh process: make the source, start the loader, warm up (every item is checked against its
    index; mid and big sweep the whole source), then iterate for `--seconds`. Sides alternate, so that a drift of the
    machine hits all alike. A row is the median of `--rounds`; a ratio is of two medians of one run of this script.
  * Both sides: two workers, a window of eight, in order, else defaults: `num_workers=2, prefetch=8` against
    `num_workers=2, prefetch_factor=4, batch_size=None, collate_fn=identity`.
  * `fn` is one object for both, `Payload`. Its source is 256 MiB, far beyond the caches, and successive indices read
    successive slices, as with real data. torch's workers inherit it by fork; mploader publishes it to its own.
      small  a dict of plain values, 110 bytes pickled: the fixed cost of an item.
      mid    a dict with a (224, 224, 3) uint8 image, 150 kB: a fresh array, as a decoder makes. That copy is the
             function's own work, and in the figures of both sides.
      big    a dict with an (8, 224, 224, 3) float32 batch, 4.8 MB: a view of the source, so that the transport is
             timed and not the function. Every side reads it from outside the caches.
  * The consumer drops each item at the next one and does not read its bytes. Both sides give writable arrays.
  * torch gets NumPy arrays, for that is what the function returns. `--tensors` adds a row for information: the same
    arrays wrapped by `torch.from_numpy` in the worker, which torch sends through shared memory.
  * memcpy: one thread, nothing else running, `np.copyto` of the same slices into four buffers in turn (19 MB for big:
    they may stay in the last-level cache, as a hot ring may). Anything else on the cores hurts big's ratios first.
  * CPU an item: of the consumer and all its descendants over the timed part, by the kernel's clocks of each process,
    read before anything is closed. GB/s counts the array's bytes (small: the pickle's).
  * Life, with a function that costs nothing: `mploader` is imported, then the time from `Loader(...)` to its first
    item; that epoch is drained; the time of the next `iter()` and its first `next()`; then the consumer sleeps over a
    full window, and the CPU time that all processes use meanwhile is the cost of idling.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import itertools
import json
import os
import pickle
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

NUM_WORKERS = 2
PREFETCH = 8
ENDLESS = 10**9  # length of the range: more than any run takes
SOURCE_WORDS = 64 * 2**20  # uint32: 256 MiB
MEMCPY_BUFFERS = 4
IDLE_S = 2.0
RUN_TIMEOUT_S = 60  # one measurement takes 1 to 5 s; past this it hangs
ARRAYS: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
    "mid": ((224, 224, 3), np.dtype(np.uint8)),
    "big": ((8, 224, 224, 3), np.dtype(np.float32)),
}
WARM_UP = {"small": 4000, "mid": 3000, "big": 160}  # items; mid and big: more than one sweep of the source
BLOCK = {"small": 200, "mid": 20, "big": 2}  # items between two looks at the clock
GOALS = {("small", "torch"): 5.0, ("mid", "torch"): 8.0, ("big", "torch"): 12.0, ("big", "memcpy"): 0.9}  # at least
LIFE = {  # title, unit, goal: under
    "first_item": ("first item out, forkserver, 2 workers, module already imported", "ms", 500.0),
    "second_epoch": ("a second epoch's first item, a function that costs nothing", "ms", 2.0),
    "idle": ("idle: CPU time of all processes, window full, consumer away", "ms/s", 1.0),
}

Result = dict[str, float]  # what one measurement prints as JSON


class Payload:
    """The user's function: index in, dict out. Runs in: worker; for memcpy: consumer."""

    def __init__(self, name: str) -> None:
        self.name = name
        if name in ARRAYS:
            # Words that count up show where a slice came from, and fill real pages (zeros would all be one).
            words = np.arange(SOURCE_WORDS, dtype=np.uint32)
            shape, dtype = ARRAYS[name]
            self.nbytes = int(np.prod(shape)) * dtype.itemsize
            self.slots = words.nbytes // self.nbytes
            self.source = words[: self.slots * self.nbytes // 4].view(dtype).reshape(self.slots, *shape)
        else:
            self.nbytes = len(pickle.dumps(self(0), 5))

    def __call__(self, index: int) -> dict[str, Any]:
        if self.name == "mid":
            return {"image": self.source[index % self.slots].copy(), "index": index}
        if self.name == "big":
            return {"image": self.source[index % self.slots], "index": index}
        return {"index": index, "path": "train/n01440764_01.jpg", "label": 7, "score": 0.5, "xy": (0.25, 1.5)}

    def check(self, item: dict[str, Any], index: int) -> None:
        """Exit unless `item` is what `index` gives, by its number and its array's first and last words."""
        got, expected = [item["index"]], [index]
        if self.name in ARRAYS:
            got += np.asarray(item["image"]).reshape(-1).view(np.uint32)[[0, -1]].tolist()
            expected += [index % self.slots * self.nbytes // 4, (index % self.slots + 1) * self.nbytes // 4 - 1]
        if got != expected:
            raise SystemExit(f"{self.name}: wrong item at index {index}: {str(item)[:200]}")


class Indexed:
    """A torch map-style dataset over `fn`. Of the module and not local, for start methods that pickle it."""

    def __init__(self, fn: Payload, tensors: bool) -> None:
        self.fn, self.tensors = fn, tensors

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.fn(index)
        if self.tensors and "image" in item:
            item["image"] = sys.modules["torch"].from_numpy(item["image"])
        return item


def identity(item: Any) -> Any:
    """Collate nothing (torch); do nothing (the life measurement's function)."""
    return item


def family() -> list[int]:
    """Pids of this process and its descendants. Runs in, like all down to SIDES: a fresh process, the consumer."""
    return [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds used so far by these processes, all threads; takes about 1 us a process on Linux."""
    if sys.platform == "linux":  # clock_getcpuclockid(3): nanoseconds, where /proc/PID/stat counts 10 ms
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def timed(items: Iterator[Any], fn: Payload, seconds: float) -> Result:
    """Warm up, then iterate for `seconds`."""
    warm, block = WARM_UP[fn.name], BLOCK[fn.name]
    for index in range(warm):
        fn.check(next(items), index)
        if index == warm // 2:
            pids = family()  # takes milliseconds, in which workers get ahead: hence amid the warm-up
    cpu, start = cpu_s(pids), time.perf_counter()
    for n, item in enumerate(items, 1):
        if n % block == 0 and (elapsed := time.perf_counter() - start) >= seconds:
            us, cpu_us = elapsed / n * 1e6, (cpu_s(pids) - cpu) / n * 1e6
            fn.check(item, warm + n - 1)
            return {"us": us, "cpu_us": cpu_us, "gb_s": fn.nbytes / us / 1e3, "items": n, "processes": len(pids)}
    raise SystemExit(f"{fn.name}: the stream ended")


def measure_mploader(name: str, seconds: float) -> Result:
    """Our side."""
    from mploader import Loader

    fn = Payload(name)
    with Loader(range(ENDLESS), fn, num_workers=NUM_WORKERS, prefetch=PREFETCH) as loader:
        return timed(iter(loader), fn, seconds)


def measure_torch(name: str, seconds: float, tensors: bool = False) -> Result:
    """torch's side, arrays or tensors."""
    from torch.utils.data import DataLoader

    fn = Payload(name)
    dataset: Any = Indexed(fn, tensors)
    workers = {"num_workers": NUM_WORKERS, "prefetch_factor": PREFETCH // NUM_WORKERS}
    return timed(iter(DataLoader(dataset, batch_size=None, collate_fn=identity, **workers)), fn, seconds)


def measure_memcpy(name: str, seconds: float) -> Result:
    """The same bytes, copied once by this thread."""
    fn = Payload(name)
    buffers = [np.empty(*ARRAYS[name]) for _ in range(MEMCPY_BUFFERS)]

    def copy(index: int) -> dict[str, Any]:
        np.copyto(buffers[index % MEMCPY_BUFFERS], fn.source[index % fn.slots])
        return {"image": buffers[index % MEMCPY_BUFFERS], "index": index}

    return timed(map(copy, range(ENDLESS)), fn, seconds)


def measure_life(_name: str, _seconds: float) -> Result:
    """First item, next epoch's first item, idle."""
    from mploader import Loader

    start = time.perf_counter()
    with Loader(range(64), identity, start_method="forkserver", num_workers=NUM_WORKERS, prefetch=PREFETCH) as loader:
        items = iter(loader)
        got = [next(items)]
        first_item_s = time.perf_counter() - start
        got += items
        start = time.perf_counter()
        items = iter(loader)
        got.append(next(items))
        second_epoch_s = time.perf_counter() - start
        assert got == [*range(64), 0], got
        pids = family()
        time.sleep(0.3)  # the window fills
        cpu = cpu_s(pids)
        time.sleep(IDLE_S)
        idle_s = (cpu_s(pids) - cpu) / IDLE_S
    return {"first_item": first_item_s * 1e3, "second_epoch": second_epoch_s * 1e3, "idle": idle_s * 1e3}


SIDES: dict[str, Callable[[str, float], Result]] = {
    "mploader": measure_mploader,
    "torch": measure_torch,
    "torch tensors": functools.partial(measure_torch, tensors=True),
    "memcpy": measure_memcpy,
    "life": measure_life,
}


def fresh(side: str, name: str, seconds: float) -> Result:
    """Measure once, in a fresh process. Runs in, like all below: the script's own process, which starts no loader."""
    command = [sys.executable, os.path.abspath(__file__), "--one", side, name, "--seconds", str(seconds)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, timeout=RUN_TIMEOUT_S)
    if done.returncode:
        raise SystemExit(f"the measurement of {side} {name} failed: exit code {done.returncode}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def median(runs: list[Result]) -> Result:
    """The median of each figure by itself."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def facts() -> dict[str, Any]:
    """Machine, versions and the exact command."""
    cpu = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    versions = {str(package.name).lower(): package.version for package in importlib.metadata.distributions()}
    return {
        "command": shlex.join([os.path.basename(sys.executable), *sys.argv]),
        "machine": f"{cpu}, {cores} usable cores, {psutil.virtual_memory().total >> 30} GiB, {platform.platform()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        **{name: versions.get(name, "not installed") for name in ("mploader", "numpy", "cloudpickle", "torch")},
    }


def print_rates(name: str, rows: dict[str, Result]) -> None:
    """One payload's part of the table."""
    for side, row in rows.items():
        line = f"{name:8}{side:14}{row['us']:9.2f} {1e6 / row['us']:9,.0f} {row['gb_s']:7.3f} {row['cpu_us']:12.2f}"
        if side != "mploader":
            ratio, goal = row["us"] / rows["mploader"]["us"], GOALS.get((name, side))
            line += f" {ratio:12.2f}" + (f" {goal:6.1f}  {'met' if ratio >= goal else 'MISSED'}" if goal else "")
        print(line, flush=True)


def main() -> None:
    """Print the table, or with --one a single measurement."""
    parser = argparse.ArgumentParser(description="mploader against torch's DataLoader and memcpy")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each measurement, whose median is printed")
    parser.add_argument("--seconds", type=float, default=1.0, help="timed part of one measurement")
    parser.add_argument("--prefetch", type=int, default=PREFETCH, help="results ahead, of one measurement (--one)")
    parser.add_argument("--quick", action="store_true", help="one round of 0.4 s: a look, no result")
    parser.add_argument("--tensors", action="store_true", help="also torch with tensors in place of arrays")
    parser.add_argument("--json", metavar="PATH", help="write every single measurement there")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "PAYLOAD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        side, name = options.one
        globals()["PREFETCH"] = options.prefetch
        return print(json.dumps(SIDES[side](name, options.seconds)))
    rounds, seconds = (1, 0.4) if options.quick else (options.rounds, options.seconds)
    about = facts()
    print("\n".join(f"{key:13}{value}" for key, value in about.items()))
    print(f"\nmedian of {rounds}; ratio: mploader's rate over that row's; goal: the least it should be")
    print("payload side            us/item   items/s    GB/s  CPU us/item        ratio   goal")
    runs: dict[str, list[Result]] = {}
    for name in WARM_UP:
        torch = ["torch", "torch tensors"][: 1 + options.tensors] if about["torch"] != "not installed" else []
        sides = ["mploader", *torch, *(["memcpy"] if name in ARRAYS else [])]
        for _, side in itertools.product(range(rounds), sides):
            runs.setdefault(f"{name} {side}", []).append(fresh(side, name, seconds))
        print_rates(name, {side: median(runs[f"{name} {side}"]) for side in sides})
    runs["life"] = [fresh("life", "-", seconds) for _ in range(rounds)]
    print()
    for key, value in median(runs["life"]).items():
        title, unit, goal = LIFE[key]
        print(f"{title:64}{value:8.3f} {unit:4}  goal < {goal:g}  {'met' if value < goal else 'MISSED'}")
    if options.json:
        report = {**about, "rounds": rounds, "seconds": seconds, "runs": runs}
        Path(options.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
