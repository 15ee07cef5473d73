"""A file is the old one or the new one, whatever happens while it is written."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from panorama.files import write_atomically

WRITE = """
import resource, signal, sys
from pathlib import Path
from panorama.files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as on a full disk: an error in the middle of the write
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    write_atomically(Path(sys.argv[1]), b"new" * 100_000)
except OSError as error:
    print(error)
"""


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [one.name for one in tmp_path.iterdir()] == ["labels.csv"]


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="limits the size of a file, which this system cannot")
@pytest.mark.parametrize(("limit", "expected"), [(100_000, b"old"), (1_000_000, b"new" * 100_000)])
def test_what_cannot_be_written_whole_leaves_the_old_file(tmp_path: Path, limit: int, expected: bytes) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(b"old")
    told = subprocess.run(
        [sys.executable, "-c", WRITE, str(path), str(limit)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert bool(told.stdout) == (expected == b"old"), "the control: with room enough nothing is said"
    assert path.read_bytes() == expected
