"""What `make wheels` checks of a wheel: its names, the processor of its programs, what it needs."""

import importlib.util
import struct
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[2] / "wheels" / "build.py"
NAME = "pycat_nmt-0.1.0-cp311-cp311-manylinux_2_28_aarch64.whl"
SHOWN = """
{wheel} is consistent with the following platform tag:
"manylinux_{version}_{machine}".
"""


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wheels_build", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _program(machine: int) -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, machine) + bytes(44)


def _wheel(
    folder: Path,
    name: str = NAME,
    tag: str = "cp311-cp311-manylinux_2_28_aarch64",
    core: str = "pycat/_core.cpython-311-aarch64-linux-gnu.so",
    machine: int = 183,
    command: bytes = _program(183),
) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(core, _program(machine))
        archive.writestr("pycat_nmt-0.1.0.data/scripts/pycat", command)
        archive.writestr("pycat/__init__.py", "")
        archive.writestr("pycat_nmt-0.1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
    return path


def test_a_wheel_as_it_should_be(build: ModuleType, tmp_path: Path) -> None:
    build.check_files(_wheel(tmp_path), "aarch64")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": NAME.replace("manylinux_2_28", "linux")}, r"ends in -manylinux_2_28_aarch64.whl"),
        ({"tag": "cp311-cp311-linux_x86_64"}, r"WHEEL says cp311-cp311-linux_x86_64, expected cp3"),
        ({"machine": 62}, r"_core.cpython-311-aarch64-linux-gnu.so is for ELF machine 62, not for"),
        ({"command": _program(62)}, r"data/scripts/pycat is for ELF machine 62, not for aarch64"),
        (
            {"core": "pycat/_core.cpython-311-x86_64-linux-gnu.so"},
            r"does not end in -aarch64-linux",
        ),
        ({"command": b"#!/bin/sh\n"}, r"found programs _core, expected _core and pycat"),
    ],
)
def test_what_is_wrong_is_named(
    build: ModuleType, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(build.WheelError, match=message):
        build.check_files(_wheel(tmp_path, **change), "aarch64")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "machine", "is_refused"),
    [
        ("2_28", "x86_64", False),
        ("2_5", "x86_64", False),
        ("2_17", "x86_64", False),
        ("2_34", "x86_64", True),
        ("3_1", "x86_64", True),
        ("2_28", "aarch64", True),
    ],
)
def test_what_it_needs_is_what_its_tag_promises(
    build: ModuleType, version: str, machine: str, is_refused: bool
) -> None:
    shown = SHOWN.format(wheel=NAME, version=version, machine=machine)
    if not is_refused:
        build.check_policy(shown, Path(NAME), "x86_64")
        return
    with pytest.raises(build.WheelError, match="needs more than manylinux_2_28_x86_64 promises"):
        build.check_policy(shown, Path(NAME), "x86_64")


def test_this_python_comes_first(build: ModuleType) -> None:
    assert build.pythons()[0] == sys.executable
