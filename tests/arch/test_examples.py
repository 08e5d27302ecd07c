"""The examples run as a newcomer runs them: from a folder of their own, by one command."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = {
    "examples/exotic_types.py": ["PIL"],
    "examples/image_folder.py": ["PIL"],
    "examples/lazy_lists.py": [],
    "examples/multimodal_dataframe.py": ["PIL", "pandas"],
    "examples/photos.py": ["skimage", "PIL", "scipy"],
    "examples/resume.py": [],
}
LAST_WORDS = {
    "examples/exotic_types.py": "every exercise once in each, in another order each time.",
    "examples/image_folder.py": "of the validation images are told right",
    "examples/lazy_lists.py": "records of an endless repeat, 2.0 passes",
    "examples/multimodal_dataframe.py": "by title: ",
    "examples/photos.py": "photos.png",
    "examples/resume.py": "Equal to the last bit.",
}
SMALLER = {"examples/image_folder.py": ["--images", "2000"]}  # memory that grew with them would still show
EXAMPLE_TIMEOUT_S = 55


def test_every_example_is_run_here() -> None:
    """A new example is put into the table above, or is a module that one of those imports."""
    scripts = {path for path in (ROOT / "examples").glob("*.py") if "\nmain()\n" in path.read_text()}
    assert {str(path.relative_to(ROOT)) for path in scripts} == set(NEEDED)


def run(example: str, folder: Path, *arguments: str) -> str:
    """What it prints; it must end well, and say nothing on stderr."""
    missing = [name for name in NEEDED[example] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    done = subprocess.run(
        [sys.executable, str(ROOT / example), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=EXAMPLE_TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("example", sorted(NEEDED.keys() - {"examples/photos.py"}))
def test_example_holds_what_it_claims(example: str, tmp_path: Path) -> None:
    """It asserts each of its claims while it runs, gets to its last line, and leaves nothing behind."""
    assert LAST_WORDS[example] in run(example, tmp_path, *SMALLER.get(example, [])).splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_photos(tmp_path: Path) -> None:
    """The tutorial gives the same samples serially and with workers, and draws its sheet."""
    printed = run("examples/photos.py", tmp_path, "--items", "35", "--workers", "2")
    assert "All 35 samples, twice: in order, and equal to the serial ones to the last bit." in printed
    assert LAST_WORDS["examples/photos.py"] in printed.splitlines()[-1]
    assert (tmp_path / "build" / "photos.png").read_bytes().startswith(b"\x89PNG")
