"""Wheels for Linux on x86-64 and 64-bit Arm, built on one machine and checked: `make wheels`.

zig's compiler links them against glibc 2.28, which torch needs too, and puts what they need of C++
into them. One wheel is built for each Python: pybind11 has no stable interface (abi3). Each gets an
environment of its own with what `requirements.txt` names.
"""

import argparse
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GLIBC = (2, 28)
# Machines of wheels, and of ELF files.
MACHINES = {"x86_64": 62, "aarch64": 183}
_ELF_MACHINE = 18  # place of the machine in an ELF header


class WheelError(Exception):
    """A wheel that is not as it should be; one line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Build and check the wheels; returns the exit status."""
    parser = argparse.ArgumentParser(prog="wheels/build.py", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "dist", help="folder of the wheels (default: dist)"
    )
    parser.add_argument(
        "--pythons",
        nargs="+",
        default=pythons(),
        metavar="PYTHON",
        help="build for these (default: this one, and those from 3.11 on that PATH has)",
    )
    parser.add_argument(
        "--machines",
        nargs="+",
        choices=MACHINES,
        default=list(MACHINES),
        help="build for these processors (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    try:
        for python in options.pythons:
            tools = environment(python)
            for machine in options.machines:
                wheel = build(tools, machine, options.out)
                check(tools, wheel, machine)
                print(f"{wheel}: built and checked", flush=True)
    except (WheelError, subprocess.CalledProcessError) as error:
        print(f"wheels: error: {error}", file=sys.stderr)
        return 1
    return 0


def pythons() -> list[str]:
    """This Python, and each other version on PATH that pycat supports and that has its headers."""
    found = {sys.version_info[1]: sys.executable}
    script = (
        "import os, sys, sysconfig; "
        "sys.exit(not os.path.isfile(sysconfig.get_path('include') + '/Python.h'))"
    )
    for minor in range(11, 20):
        python = shutil.which(f"python3.{minor}")
        if python and minor not in found:
            done = subprocess.run([python, "-c", script], capture_output=True)
            if done.returncode == 0:
                found[minor] = python
    return list(found.values())


def environment(python: str) -> Path:
    """The folder of programs of an environment of this Python with the tools; made when missing."""
    version = _output(
        python, "-c", "import sys; print(sys.version_info[0] * 100 + sys.version_info[1])"
    )
    folder = ROOT / "build" / "wheels" / f"tools-{version}"
    wanted = (ROOT / "wheels" / "requirements.txt").read_text("utf-8")
    done = folder / "requirements.txt"
    if not done.is_file() or done.read_text("utf-8") != wanted:
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        requirements = str(ROOT / "wheels" / "requirements.txt")
        subprocess.run([*pip, "install", "--quiet", "-r", requirements], check=True)
        done.write_text(wanted, "utf-8")
    return folder / "bin"


def platform_tag(machine: str) -> str:
    """The tag of wheels for this machine, such as `manylinux_2_28_aarch64`."""
    return f"manylinux_{GLIBC[0]}_{GLIBC[1]}_{machine}"


def cmake_options(tools: Path, machine: str) -> dict[str, str]:
    """What CMake needs to compile for this machine."""
    zig = _output(tools / "python", "-c", "import ziglang; print(ziglang.__path__[0])")
    return {
        "CMAKE_TOOLCHAIN_FILE": str(ROOT / "wheels" / "zig.cmake"),
        "WHEEL_ZIG": f"{zig}/zig",
        "WHEEL_ARCH": machine,
        "WHEEL_GLIBC": ".".join(map(str, GLIBC)),
    }


def build(tools: Path, machine: str, out: Path) -> Path:
    """Build a wheel for the Python of an environment, and return it."""
    suffix = _output(
        tools / "python", "-c", "import sysconfig; print(sysconfig.get_config_var('SOABI'))"
    ).replace("x86_64", machine)
    folder = ROOT / "build" / "wheels" / suffix
    options = {
        **cmake_options(tools, machine),
        # The name of the extension; pybind11 would take that of the Python that runs here.
        "PYTHON_MODULE_EXTENSION": f".{suffix}.so",
        "PYTHON_MODULE_DEBUG_POSTFIX": "",
    }
    settings = [f"--config-settings=cmake.define.{name}={value}" for name, value in options.items()]
    made = folder / "wheel"
    shutil.rmtree(made, ignore_errors=True)
    subprocess.run(
        [
            *(str(tools / "python"), "-m", "pip", "--disable-pip-version-check", "wheel"),
            *("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(made)),
            *(f"--config-settings=build-dir={folder / 'cmake'}", *settings, str(ROOT)),
        ],
        env={
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
        },
        check=True,
    )
    [wheel] = made.glob("*.whl")
    tag = ["-m", "wheel", "tags", "--remove", "--platform-tag", platform_tag(machine)]
    named = made / _output(tools / "python", *tag, wheel)
    out.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(named, out / named.name))


def check(tools: Path, wheel: Path, machine: str) -> None:
    """Check names, files and needs of a wheel; install and run it where that is possible.

    Raises:
        WheelError: says what is wrong.
    """
    check_files(wheel, machine)
    check_policy(_output(tools / "auditwheel", "show", wheel), wheel, machine)
    if machine == os.uname().machine:
        _run_installed(tools, wheel)
    else:
        _run_emulated(tools, machine)


def check_policy(shown: str, wheel: Path, machine: str) -> None:
    """Refuse a wheel that needs more than its tag promises, by what auditwheel shows of it.

    Raises:
        WheelError: says what auditwheel found.
    """
    found = re.search(rf'platform tag:\s+"manylinux_(\d+)_(\d+)_{machine}"', shown)
    if found is None or (int(found[1]), int(found[2])) > GLIBC:
        raise WheelError(
            f"{wheel}: needs more than {platform_tag(machine)} promises: {' '.join(shown.split())}"
        )


def check_files(wheel: Path, machine: str) -> None:
    """Refuse a wheel with another tag, or with files for another machine.

    Raises:
        WheelError: says which.
    """
    tag = platform_tag(machine)
    if not wheel.name.endswith(f"-{tag}.whl"):
        raise WheelError(f"{wheel}: expected a name that ends in -{tag}.whl")
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = (name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
        tags = [
            line.removeprefix("Tag: ")
            for line in archive.read(metadata).decode().splitlines()
            if line.startswith("Tag: ")
        ]
        expected = wheel.name.removesuffix(".whl").split("-", 2)[2]
        if tags != [expected]:
            raise WheelError(f"{wheel}: {metadata} says {', '.join(tags)}, expected {expected}")
        binaries = {}
        for name in archive.namelist():
            with archive.open(name) as file:
                head = file.read(20)
            if head.startswith(b"\x7fELF"):
                binaries[name] = struct.unpack_from("<H", head, _ELF_MACHINE)[0]
    for name, found in binaries.items():
        if found != MACHINES[machine]:
            raise WheelError(f"{wheel}: {name} is for ELF machine {found}, not for {machine}")
        if name.endswith(".so") and not name.endswith(f"-{machine}-linux-gnu.so"):
            raise WheelError(f"{wheel}: {name} does not end in -{machine}-linux-gnu.so")
    kinds = sorted(Path(name).name.split(".")[0] for name in binaries)
    if kinds != ["_core", "pycat"]:
        raise WheelError(f"{wheel}: found programs {', '.join(kinds)}, expected _core and pycat")


def _run_installed(tools: Path, wheel: Path) -> None:
    """Install a wheel into a new environment, and run it without a compiler on PATH.

    Where the Python that runs this has pycat's dependencies, a small corpus is scored.
    """
    folder = ROOT / "build" / "wheels" / "installed"
    subprocess.run([str(tools / "python"), "-m", "venv", "--clear", str(folder)], check=True)
    programs = folder / "bin"
    pip = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", str(wheel)], check=True)
    environment = {"PATH": str(programs), "HOME": os.environ.get("HOME", "/")}
    ours = _output(programs / "pycat", "--version", env=environment)
    if ours != f"pycat {wheel.name.split('-')[1]}":
        raise WheelError(f"{wheel}: pycat --version printed {ours!r}")
    script = "from pycat import _core; print(_core.cpu_isa())"
    # -P: not the sources of this folder.
    isa = _output(programs / "python", "-P", "-c", script, env=environment)
    flags = Path("/proc/cpuinfo").read_text("utf-8").split()
    if isa == "portable" and {"avx2", "fma", "f16c"} <= {*flags}:
        raise WheelError(f"{wheel}: runs the portable loops on a processor that has AVX2")
    print(f"{wheel.name}: runs with {isa}")
    if _output(tools / "python", "-c", "import sys; print(sys.version_info[:2])") != str(
        sys.version_info[:2]
    ):
        return
    purelib = _output(
        programs / "python", "-c", "import sysconfig as s; print(s.get_path('purelib'))"
    )
    ours = _output(sys.executable, "-c", "import sysconfig as s; print(s.get_path('purelib'))")
    Path(purelib, "dependencies.pth").write_text(f"{ours}\n", "utf-8")
    subprocess.run(
        [str(programs / "python"), str(ROOT / "wheels" / "try_installed.py")],
        env=environment,
        cwd=folder,
        check=True,
    )


def _run_emulated(tools: Path, machine: str) -> None:
    """Run the checks of the kernels, built as the wheel is, in an emulator; without one, say so."""
    emulator = shutil.which(f"qemu-{machine}")
    libraries = Path(f"/usr/{machine}-linux-gnu")
    if emulator is None or not libraries.is_dir():
        print(f"wheels: not run: qemu-{machine} or {libraries} is missing", file=sys.stderr)
        return
    folder = ROOT / "build" / "wheels" / f"checks-{machine}"
    defines = [f"-D{name}={value}" for name, value in cmake_options(tools, machine).items()]
    cmake = str(tools / "cmake")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}", "-DPYCAT_DRIVERS=ON"]
    subprocess.run([cmake, "-S", str(ROOT), "-B", str(folder), *generator, *defines], check=True)
    subprocess.run([cmake, "--build", str(folder), "--target", "check_kernels"], check=True)
    command = [emulator, "-L", str(libraries), "-cpu", "max", str(folder / "check_kernels")]
    subprocess.run(command, check=True)


def _output(program: str | Path, *words: str | Path, env: dict[str, str] | None = None) -> str:
    """What a program prints, without the line end.

    Raises:
        WheelError: it failed; says what it printed.
    """
    command = [str(program), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        printed = (done.stdout + done.stderr).strip()
        raise WheelError(f"{' '.join(command)}: status {done.returncode}: {printed[-500:]}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
