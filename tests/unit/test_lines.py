"""Lines: what a line is, found by number or in order, over several files, in any process, never of a changed file."""

from __future__ import annotations

import gc
import gzip
import io
import os
import pickle
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mploader.pipeline import lines as module
from mploader.pipeline.lines import Lines, LineStream, open_lines


def naive(data: bytes) -> list[bytes]:
    """Lines of one file, by the rule."""
    parts = data.split(b"\n")
    if parts[-1] == b"":
        parts.pop()
    return [part[:-1] if part.endswith(b"\r") else part for part in parts]


def write(folder: Path | str, *contents: bytes, suffix: str = ".txt") -> list[str]:
    """Files with these contents."""
    paths = []
    for number, content in enumerate(contents):
        path = Path(folder, f"{number}{suffix}")
        path.write_bytes(gzip.compress(content) if suffix == ".gz" else content)
        paths.append(str(path))
    return paths


CONTENT = st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"a", b"\xc3\xa9", b"\xef\xbb\xbf", b"xyz", b"\x0b"])).map(
    b"".join
)


@given(st.lists(CONTENT, min_size=1, max_size=4), st.sampled_from([1, 2, 3, 7, 1 << 18]))
def test_lines_are_the_naive_model(contents: list[bytes], block_bytes: int) -> None:
    """Lines of any files, whatever block their ends fall into, are those of splitting at each newline; streams too."""
    expected = [line for content in contents for line in naive(content)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_BYTES", block_bytes)
        lines = Lines(write(folder, *contents), encoding=None)
        assert len(lines) == len(expected)
        assert list(lines) == expected
        assert [lines[i] for i in range(-len(expected), 0)] == expected
        assert list(pickle.loads(pickle.dumps(lines))) == expected
        assert list(LineStream(write(folder, *contents, suffix=".gz"), encoding=None)) == expected
        assert list(LineStream(write(folder, *contents), encoding=None)) == expected


@given(st.lists(CONTENT, min_size=1, max_size=3))
def test_byte_order_marks(contents: list[bytes]) -> None:
    """One at the start of a file is left out by utf-8-sig and kept by utf-8, in both ways of reading; others stay."""
    mark = b"\xef\xbb\xbf"
    bare = [line.decode() for content in contents for line in naive(content.removeprefix(mark))]
    kept = [line.decode() for content in contents for line in naive(content)]
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = write(folder, *contents), write(folder, *contents, suffix=".gz")
        for encoding, expected in (("utf-8-sig", bare), ("utf_8_sig", bare), ("utf-8", kept)):
            assert list(Lines(plain, encoding)) == expected
            assert list(LineStream(packed, encoding)) == expected


def test_text(tmp_path: Path) -> None:
    """Lines are str by the encoding; what splitlines takes for an end is none."""
    (path,) = write(tmp_path, "zwölf\u2028x\x0c\x85y\r\n\nend".encode())
    assert list(Lines(path)) == ["zwölf\u2028x\x0c\x85y", "", "end"]
    (latin,) = write(tmp_path, "zwölf\n".encode("latin-1"))
    assert Lines(latin, encoding="latin-1")[0] == "zwölf"


def test_index(tmp_path: Path) -> None:
    """Any integer is an index; beyond the ends is an IndexError, as of a list."""
    lines = Lines(write(tmp_path, b"a\nb\nc"))
    assert isinstance(lines, Sequence)
    assert (lines[np.int64(1)], lines[-1], lines[-3]) == ("b", "c", "a")
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"line {index} of 3 lines"):
            lines[index]
    with pytest.raises(TypeError):
        lines[0:1]
    assert repr(lines) == "<Lines: 3 of 1 files>"


def test_no_line_of_empty_files(tmp_path: Path) -> None:
    """Empty files, alone or between others, have no lines."""
    assert len(Lines(write(tmp_path, b""))) == 0
    assert list(Lines(write(tmp_path, b"", b"a", b"", b"", b"b\n", b""))) == ["a", "b"]


def test_table_is_small_and_an_array(tmp_path: Path) -> None:
    """4 bytes a line; pickled it is one buffer, without descriptors, as small after reading as before."""
    paths = write(tmp_path, b"line\n" * 100_000, b"more\n" * 100_000)
    lines = Lines(paths)
    size = len(pickle.dumps(lines, 5))
    assert lines[150_000] == "more"
    assert len(pickle.dumps(lines, 5)) == size < 4 * 200_000 + 1000
    buffers: list[pickle.PickleBuffer] = []
    assert len(pickle.dumps(lines, 5, buffer_callback=buffers.append)) < 1000
    assert [buffer.raw().nbytes for buffer in buffers] == [800_000]


def test_large_files_have_a_wider_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets that 32 bits cannot hold get 64."""
    paths = write(tmp_path, b"a\nb\n", b"c")
    for limit, width in ((4, 8), (5, 4)):
        monkeypatch.setattr(module, "NARROW_BYTES", limit)
        buffers: list[pickle.PickleBuffer] = []
        lines = pickle.loads(pickle.dumps(Lines(paths), 5, buffer_callback=buffers.append), buffers=buffers)
        assert buffers[0].raw().nbytes == 3 * width
        assert list(lines) == ["a", "b", "c"]


def test_pickled_lines_open_files_of_their_own(tmp_path: Path) -> None:
    """A copy reads where the original has descriptors, from any working directory."""
    paths = write(tmp_path, b"a\n", b"b\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        lines = Lines([os.path.basename(path) for path in paths])
    assert list(lines) == ["a", "b"]
    assert lines.files == paths
    copy = pickle.loads(pickle.dumps(lines))
    assert list(copy) == ["a", "b"]


def test_few_files_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files are read, few descriptors are held, and none by who has dropped the lines."""
    monkeypatch.setattr(module, "MAX_OPEN", 3)

    def held() -> int:
        return sum(str(tmp_path) in os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink())

    lines = Lines(write(tmp_path, *(b"%d\n" % i for i in range(10))))
    assert held() == 0
    for _ in range(2):
        assert list(lines) == list("0123456789")
        assert held() == 3
    del lines
    gc.collect()
    assert held() == 0


def test_threads_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread reads from a descriptor that another has closed meanwhile."""
    monkeypatch.setattr(module, "MAX_OPEN", 1)
    lines = Lines(write(tmp_path, *(b"%d\n" % i for i in range(5))))
    wrong: list[Any] = []

    def read(seed: int) -> None:
        try:
            for i in np.random.default_rng(seed).integers(0, 5, 2000).tolist():
                if lines[i] != str(i):
                    wrong.append((i, lines[i]))
        except Exception as error:  # noqa: BLE001  to be shown
            wrong.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.filterwarnings("ignore:This process")
def test_forked_child_reads_beside_its_parent(tmp_path: Path) -> None:
    """A child has the parent's descriptors, and reading moves no position that they share."""
    lines = Lines(write(tmp_path, b"".join(b"%d\n" % i for i in range(3000))))
    assert lines[0] == "0"
    pid = os.fork()
    if pid == 0:
        right = all(lines[i] == str(i) for i in reversed(range(3000)))
        os._exit(0 if right else 1)
    assert all(lines[i] == str(i) for i in range(3000))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_changed_file_is_an_error(tmp_path: Path) -> None:
    """A file that has another size or time of change when it is opened again is not read."""
    paths = write(tmp_path, b"a\nb\n", b"c\n")
    for change in (b"a\nb\nc\n", b"x\ny\n"):
        lines = Lines(paths)
        Path(paths[0]).write_bytes(change)
        os.utime(paths[0], ns=(1, 1))
        assert lines[-1] == "c"
        with pytest.raises(RuntimeError, match=r"0\.txt has changed since its lines were counted"):
            lines[0]
        os.utime(paths[0])


def test_file_cut_short_while_open_is_an_error(tmp_path: Path) -> None:
    """Bytes that are gone are missed, not made up."""
    (path,) = write(tmp_path, b"first\nsecond\n")
    lines = Lines(path)
    assert lines[0] == "first"
    os.truncate(path, 8)
    with pytest.raises(RuntimeError, match="has changed"):
        lines[1]


def test_file_that_changes_while_it_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that shrinks or grows between two looks is an error too."""
    (path,) = write(tmp_path, b"a\nb\n")
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with pytest.raises(RuntimeError, match="has changed"):
        Lines(path)
    monkeypatch.undo()
    monkeypatch.setattr(module, "_size", lambda _: 2)
    with pytest.raises(RuntimeError, match="has changed"):
        Lines(path)


def test_undecodable_line_is_named(tmp_path: Path) -> None:
    """The error tells file and line, in both ways of reading."""
    paths = write(tmp_path, b"fine\n", b"fine\nb\xff\n")
    lines = Lines(paths)
    for read in (lambda: lines[2], lambda: list(LineStream(paths))):
        with pytest.raises(UnicodeDecodeError) as caught:
            read()
        assert caught.value.__notes__ == [f"line 1 of {paths[1]}, counted from 0; encoding=None gives lines as bytes"]
    assert lines[1] == "fine"


def test_streams_start_anew(tmp_path: Path) -> None:
    """Each iter() is a pass of its own, also while another one runs; a stream travels by pickle."""
    stream = LineStream(write(tmp_path, b"a\nb\n", suffix=".gz"))
    first, second = iter(stream), iter(pickle.loads(pickle.dumps(stream)))
    assert [next(first), next(second), next(first), next(second)] == ["a", "a", "b", "b"]
    assert list(stream) == ["a", "b"]


def test_streams_of_several_members_and_kinds(tmp_path: Path) -> None:
    """A .gz of several members is one text; plain files may stand between."""
    packed = tmp_path / "x.GZ"
    packed.write_bytes(gzip.compress(b"a\nb") + gzip.compress(b"c\n"))
    (plain,) = write(tmp_path, b"d")
    assert list(LineStream([packed, plain])) == ["a", "bc", "d"]


def test_broken_gzip_is_named(tmp_path: Path) -> None:
    """A file that ends too early, or is no gzip, is named beside gzip's own words."""
    path = tmp_path / "x.gz"
    for content, error in ((gzip.compress(b"a\n" * 1000)[:-20], EOFError), (b"plain\n", gzip.BadGzipFile)):
        path.write_bytes(content)
        with pytest.raises(error) as caught:
            list(LineStream(path))
        assert caught.value.__notes__ == [f"while reading {path}"]


def test_open_lines_chooses(tmp_path: Path) -> None:
    """Plain files are read by number, and as soon as one is compressed all are a stream."""
    plain, packed = write(tmp_path, b"a\n", b"b\n"), write(tmp_path, b"c\n", suffix=".gz")
    assert isinstance(open_lines(plain), Lines)
    assert isinstance(open_lines(iter(plain), encoding=None), Lines)
    stream = open_lines([*plain, *packed])
    assert isinstance(stream, LineStream)
    assert list(stream) == ["a", "b", "c"]
    assert list(open_lines([*plain, *packed], None)) == [b"a", b"b", b"c"]
    assert repr(stream) == "<LineStream of 3 files>"


@pytest.mark.parametrize("kind", [Lines, LineStream, open_lines])
def test_bad_arguments(kind: Any, tmp_path: Path) -> None:
    """What cannot be read by lines is refused at once, with what to do."""
    (path,) = write(tmp_path, b"")
    for encoding in ("utf-16", "utf-16-le", "utf-32", "cp037"):
        with pytest.raises(ValueError, match=f"encoding='{encoding}' does not write the end of a line"):
            kind(path, encoding)
    with pytest.raises(ValueError, match="encoding='utf-9' is no encoding of text"):
        kind(path, "utf-9")
    with pytest.raises(ValueError, match="no files"):
        kind([])
    with pytest.raises(TypeError, match="not by b'x'"):
        kind([b"x"])
    with pytest.raises(TypeError):
        kind(io.BytesIO(b"x"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        kind([path, tmp_path / "nowhere"])
    with pytest.raises(FileNotFoundError) as caught:
        kind(tmp_path / "*.txt")
    assert caught.value.__notes__ == ["a glob is no path: list(Pipeline.from_files(pattern)) finds the files"]


def test_what_is_no_file(tmp_path: Path) -> None:
    """Folders and pipes have no lines by number."""
    with pytest.raises(ValueError, match="is no file but a folder"):
        Lines(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is no file but a pipe or device"):
        Lines(tmp_path / "pipe")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="a file of Linux")
def test_a_file_that_hides_its_size(tmp_path: Path) -> None:
    """What says that it is empty, and is not, is no file without lines."""
    (tmp_path / "some.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"/proc/self/status has lines and says .*from_generator"):
        open_lines([tmp_path / "some.txt", "/proc/self/status"])


def test_changed_while_it_is_open(tmp_path: Path) -> None:
    """A file that is written anew, while it is open for reading, is an error too, never another line."""
    path = tmp_path / "some.txt"
    path.write_text("a\nb\nc\n")
    lines = Lines(path)
    assert lines[0] == "a"
    path.write_text("first\nsecond\nthird\n")
    os.utime(path, ns=(0, 12345))  # the clock of a file system may be slow
    with pytest.raises(RuntimeError, match="changed"):
        lines[1]


def test_gzip_is_told_by_what_is_in_it(tmp_path: Path) -> None:
    """A compressed file without the name of one is a stream of its lines, not nonsense."""
    path = tmp_path / "lines.txt"
    path.write_bytes(gzip.compress(b"one\ntwo\n"))
    assert list(open_lines(path)) == ["one", "two"]


@pytest.mark.parametrize("files", [3, b"x"])
def test_files_are_given_by_their_paths(files: Any) -> None:
    """Neither a number nor bytes, which would be read as a list of numbers."""
    with pytest.raises(TypeError, match="files are given by their paths"):
        open_lines(files)
