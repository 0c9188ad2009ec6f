"""A folder and a bucket keep the same promises: every test here runs on both."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from mtlfleet.store import place as places
from mtlfleet.store.place import Place


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    root = request.getfixturevalue("s3_root") if request.param == "bucket" else tmp_path / "store"
    return places.at(root)


def test_of_sixteen_who_write_the_same_new_key_one_is_told_that_it_is_his(place: Place) -> None:
    for key in ("segments/a.json", "segments/b.json", "segments/c.json"):
        words = [f"writer {n}".encode() for n in range(16)]
        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(partial(place.put_new, key), words))
        assert won.count(True) == 1
        assert place.read(key) == words[won.index(True)]
        assert not place.put_new(key, b"later")


def test_files_are_replaced_whole_listed_in_order_and_deleted(place: Place, tmp_path: Path) -> None:
    for key in ("claims/study=s/b@2.json", "claims/study=s/a@1.json", "claims/x.json", "documents/d"):
        place.put(key, key.encode())
    place.put("claims/x.json", b"new")
    (tmp_path / "file").write_bytes(b"\x00" * 6_000_000)
    place.put_file("results.duckdb", tmp_path / "file")
    assert place.names("claims") == ["study=s/", "x.json"]
    assert list(place.walk("claims")) == ["claims/study=s/a@1.json", "claims/study=s/b@2.json", "claims/x.json"]
    assert set(place.names("")) >= {"claims/", "documents/", "results.duckdb"}
    assert place.names("nothing") == [] and list(place.walk("nothing")) == []
    assert place.read_all(["claims/x.json", "claims/none", "documents/d"]) == [b"new", b"", b"documents/d"]
    assert place.names_in(["claims", "nothing", "claims/study=s"]) == [
        place.names("claims"),
        [],
        ["a@1.json", "b@2.json"],
    ]
    assert len(place.read("results.duckdb")) == 6_000_000
    with pytest.raises(FileNotFoundError):
        place.read("claims/none")
    place.delete(["claims/x.json", "documents/d"])
    assert place.names("claims") == ["study=s/"] and place.names("documents") == []


def test_a_folder_appears_and_goes_as_a_whole(place: Place) -> None:
    key = "checkpoints/study=s/trial=t/step=000000010-attempt=1"
    for content in (b"first", b"second"):  # the second time over the first
        with place.staging(key) as staged:
            (staged / "weights").write_bytes(content)
            (staged / "state").write_bytes(b"")
            place.put_folder(key, staged)
        with place.open_folder(key) as here:
            assert (here / "weights").read_bytes() == content and (here / "state").read_bytes() == b""
    parent = key.rpartition("/")[0]
    assert place.folders(parent) == ["step=000000010-attempt=1"]
    assert place.size(key) >= len(b"second")
    place.delete_folder(key)
    place.delete_folder(key)
    assert place.folders(parent) == [] and list(place.walk(parent)) == []


def test_a_folder_that_was_never_finished_is_no_folder_and_can_be_found(place: Place) -> None:
    key = "checkpoints/study=s/trial=t/step=000000020-attempt=1"
    with place.staging(key) as staged:
        (staged / "weights").write_bytes(b"half")
        if isinstance(place.root, Path):
            staged.rename(staged.with_name(f"{staged.name}-killed"))
        else:
            place.put_file(f"{key}/weights", staged / "weights")
    assert place.folders(key.rpartition("/")[0]) == []
    assert place.leftovers(older_s=3600) == []
    (left,) = place.leftovers(older_s=-5)
    assert left.size_bytes == 4
    place.discard(left.key)
    assert place.leftovers(older_s=-5) == []
