"""A worker imports its own main loop and what that stands on, and nothing of the consumer's side."""

from __future__ import annotations

import json
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ALLOWED = [
    "mploader",
    "mploader.errors",
    "mploader.platform",
    "mploader.platform.linux",
    "mploader.worker_info",
    "mploader.engine",
    "mploader.engine.launcher",
    "mploader.engine.outbox",
    "mploader.engine.work",
    "mploader.engine.worker",
    "mploader.pipeline",
    "mploader.pipeline.fetch",
    *(f"mploader.pipeline.{name}" for name in ("program", "node", "access", "elements", "sources", "collate")),
    *(f"mploader.pipeline.{name}" for name in ("rng", "seeds", "reach", "permutation", "choice", "interleave")),
    "mploader.stats",
    "mploader.stats.block",
    "mploader.transport",
    "mploader.transport.*",
]
NEEDED = {"mploader.engine.worker", "mploader.stats.block", "mploader.transport.codec"}
CONSUMERS = {"mploader.loader", "mploader.options", "mploader.engine.stream", "mploader.engine.process"}

# Not from this module: a worker would import it, and all that it imports, to find the function.
SCRIPT = """
import json, sys
from mploader import Loader

def loaded(_):
    return sorted(name for name in sys.modules if name.partition(".")[0] == "mploader")

with Loader(range(1), loaded, num_workers=1, start_method=sys.argv[1]) as loader:
    print(json.dumps(list(loader)))
"""


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_worker_imports_its_own_side_only(start_method: str) -> None:
    """Every module more makes each start and restart of a worker slower, and is a way back to the consumer's side."""
    command = [sys.executable, "-c", SCRIPT, start_method]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    (loaded,) = json.loads(done.stdout)
    assert not CONSUMERS.intersection(loaded)
    assert [name for name in loaded if not any(fnmatchcase(name, pattern) for pattern in ALLOWED)] == []
    assert set(loaded) >= NEEDED
