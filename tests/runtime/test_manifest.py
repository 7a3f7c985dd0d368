"""Manifests are read with types, and name what is wrong with them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pycat.errors import OutputError, PycatError
from pycat.runtime.manifest import damage, list_files, load_manifest, read_manifest
from pycat.runtime.numbers import check_number
from pycat.runtime.output import write_manifest

WHOLE: dict[str, Any] = {
    "format": "pycat.scores",
    "version": 1,
    "complete": True,
    "recipe": {"corpus": "hash", "checkpoints": ["a", "b"]},
    "corpus": "hash",
    "corpus_path": "../corpus",
    "num_pairs": 3,
    "num_parts": 1,
    "steps": [1, 2],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None}, "steps is missing"),
        ({"steps": [1, "2"]}, 'steps[1] is "2", expected a whole number from 0'),
        ({"steps": 5}, "steps is 5, expected a list"),
        ({"num_pairs": -3}, "num_pairs is -3, expected a whole number from 0"),
        ({"num_pairs": True}, "num_pairs is true, expected a whole number from 0"),
        ({"num_pairs": 1e999}, "num_pairs is Infinity, expected a whole number from 0"),
        ({"num_parts": 2**63}, "num_parts is 9223372036854775808, expected a whole number from 0"),
        ({"corpus_path": ["a"]}, 'corpus_path is ["a"], expected a string'),
        ({"recipe": "none"}, 'recipe is "none", expected an object'),
        ({"recipe": {"checkpoints": {}}}, "recipe.checkpoints is {}, expected a list"),
        ({"elapsed_s": float("nan")}, "elapsed_s is NaN, expected a number"),
        ({"files": ["a"]}, 'files is ["a"], expected an object'),
        ({"files": {"a": {"bytes": 1}}}, "files.a.sha256 is missing"),
    ],
)
def test_what_readers_rely_on_is_checked(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = tmp_path / "scores.json"
    write_manifest(file, WHOLE)
    assert read_manifest(tmp_path, "scores") == WHOLE
    write_manifest(file, {**WHOLE, **change})
    with pytest.raises(OutputError) as caught:
        read_manifest(tmp_path, "scores")
    assert str(caught.value) == (
        f"{file}: {message}; the manifest was edited, is damaged or of an older pycat: delete "
        f"{tmp_path} and run 'pycat score' again"
    )


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "\x00", '{"a": 1', "1e"])
def test_what_is_no_json_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "scores.json"
    file.write_text(content)
    with pytest.raises(OutputError) as caught:
        read_manifest(tmp_path, "scores")
    assert str(caught.value).startswith(f"{file}: cannot be read (")
    assert str(caught.value).endswith(f"delete {tmp_path} and make it again with 'pycat score'")


def test_what_is_no_file_or_too_large_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    os.mkfifo(file)  # would be waited for
    with pytest.raises(OutputError, match=r"cannot be read \(it is no regular file\)"):
        load_manifest(file)
    file.unlink()
    file.symlink_to("/dev/zero")  # has no end
    with pytest.raises(OutputError, match=r"cannot be read \(it is no regular file\)"):
        load_manifest(file)
    file.unlink()
    with file.open("wb") as sparse:
        sparse.truncate((1 << 28) + 1)
    with pytest.raises(
        OutputError, match=r"it has 268,435,457 bytes, expected at most 268,435,456"
    ):
        load_manifest(file)


def test_an_entry_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    write_manifest(file, WHOLE)
    # The last one counts here, so that the hash over all is right; to others the first may count.
    file.write_text(file.read_text().replace('"num_pairs": 3', '"num_pairs": 4, "num_pairs": 3'))
    with pytest.raises(OutputError, match=r"cannot be read \(it names 'num_pairs' twice\)"):
        read_manifest(tmp_path, "scores")


def test_an_edited_manifest_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    write_manifest(file, WHOLE)
    file.write_text(file.read_text().replace('"num_pairs": 3', '"num_pairs": 4'))
    with pytest.raises(OutputError, match=r"its content has SHA-256 .*; it was edited or is damag"):
        read_manifest(tmp_path, "scores")
    # Another layout of the same JSON says the same, and a manifest without hashes is an old one.
    write_manifest(file, WHOLE)
    file.write_text(json.dumps(json.loads(file.read_text()), sort_keys=True))
    assert read_manifest(tmp_path, "scores") == WHOLE
    file.write_text(json.dumps(WHOLE))
    assert read_manifest(tmp_path, "scores") == WHOLE
    file.write_text(json.dumps({**WHOLE, "files": {}}))
    with pytest.raises(OutputError, match="its content has SHA-256"):
        read_manifest(tmp_path, "scores")


def test_damage_names_each_file_and_what_it_is(tmp_path: Path) -> None:
    for name in ("cut", "gone", "changed", "whole"):
        (tmp_path / name).write_text("content")
    manifest = {"files": list_files(tmp_path, ["cut", "gone", "changed", "whole"])}
    assert manifest["files"]["whole"] == {
        "bytes": 7,
        "sha256": "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73",
    }
    assert list(damage(tmp_path, manifest)) == []
    (tmp_path / "cut").write_text("conten")
    (tmp_path / "gone").unlink()
    (tmp_path / "changed").write_text("contend")
    found = dict(damage(tmp_path, manifest))
    assert found.pop("changed").startswith("is not as it was written: its SHA-256 is ")
    assert found == {"cut": "has 6 bytes, expected 7", "gone": "is missing"}


@pytest.mark.parametrize(
    ("value", "bounds", "expected"),
    [
        (0, {"low": 1}, "at least 1"),
        (-1, {"low": 1}, "at least 1"),
        (float("nan"), {"low": 0, "whole": False}, "at least 0"),
        (float("inf"), {"low": 0, "whole": False}, "at least 0"),
        (1.0, {"low": 0, "high": 1, "below": True, "whole": False}, "at least 0 and below 1"),
        (0, {"low": 0, "above": True, "whole": False}, "above 0"),
        (2.5, {"low": 1}, "a whole number, at least 1"),
        ("3", {"low": 1}, "a whole number, at least 1"),
        (True, {"low": 1}, "at least 1"),
        (None, {}, "a whole number"),
    ],
)
def test_numbers_out_of_range_are_refused(
    value: Any, bounds: dict[str, Any], expected: str
) -> None:
    with pytest.raises(PycatError) as caught:
        check_number("option", value, **bounds)
    assert str(caught.value) == f"option is {value!r}; expected {expected}"
    check_number("option", 1, low=1, high=1)
