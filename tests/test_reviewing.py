"""What a reviewer takes home."""

import io
import zipfile

import pytest

from panorama.reviewing import bundle


@pytest.mark.parametrize("name", ["changes.csv", "Changes.csv"])
def test_a_csv_called_like_the_change_log_is_not_lost_in_the_zip(name: str) -> None:
    with zipfile.ZipFile(io.BytesIO(bundle({name: b"corrected"}, b"log"))) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    assert files[name] == b"corrected"
    assert sorted(files.values()) == [b"corrected", b"log"]
    assert len({entry.casefold() for entry in files}) == 2, "many systems take names that differ in case for one"


def test_the_same_corrections_give_the_same_zip() -> None:
    assert bundle({"labels.csv": b"a"}, b"log") == bundle({"labels.csv": b"a"}, b"log")
