"""The wheel, installed where nothing else of the project is, and run from another directory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import hwgen
from hwgen.build import main
from hwgen.extras import EXTRAS, named

ROOT = Path(__file__).parent.parent
PACKAGES = ("hwgen", "models", "dse", "sim", "boards")
BASE = ("amaranth", "numpy", "pyvcd", "vcd", "jschon", "rfc3986", "markupsafe", "jinja2")
"""hwgen's dependencies and theirs."""
DATA = {".toml", ".j2", ".v", ".vlt", ".hpp"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tracked tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "driver", *PACKAGES):
        (source / name).symlink_to(ROOT / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--no-index", "--wheel-dir", str(folder), str(source)],
        check=True, capture_output=True,
    )
    (found,) = folder.glob("*.whl")
    return found


def installed(wheel: Path, folder: Path, needs: tuple[str, ...] | None) -> Path:
    """The ``bin`` of an empty environment with the wheel in it.

    It sees all packages of this environment but hwgen's own, or only ``needs``.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install",
         "--quiet", "--no-deps", "--no-index", str(wheel)],
        check=True, capture_output=True,
    )
    ours = Path(sysconfig.get_path("purelib"))
    for entry in ours.iterdir():
        stem = entry.name.partition("-")[0].partition(".")[0]
        wanted = needs is None or stem in needs
        # A .pth file would bring the editable install of the checkout along.
        ours_only = entry.suffix == ".pth" or "hwgen" in entry.name
        if wanted and not ours_only and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    return folder / "bin"


def run(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True,
                          check=False)


@pytest.mark.slow
def test_wheel_has_all_packages_and_their_data(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.suffix in DATA | {".py"}:
                place = path.relative_to(ROOT)
                assert str(place if package == "hwgen" else "hwgen" / place) in held
    # Nothing that could collide with what others have.
    assert {name.partition("/")[0].partition("-")[0] for name in held} == {"hwgen"}


def colliding(folder: Path) -> None:
    """Put packages into a folder that are called as folders of this checkout."""
    for name in ("models", "sim", "dse", "boards"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise ImportError('not hwgen')")


@pytest.mark.slow
def test_the_checkout_runs_among_packages_of_the_same_names(tmp_path: Path) -> None:
    colliding(tmp_path)
    built = run([sys.executable, "-m", "hwgen.build", "resnet8", "--board", "zedboard",
                 "--report-only", "--target-fps", "100"], tmp_path)
    assert built.returncode == 0, built.stderr


@pytest.mark.slow
def test_wheel_builds_a_network_elsewhere(wheel: Path, tmp_path: Path) -> None:
    bin = installed(wheel, tmp_path / "env", None)
    code = ("import hwgen, hwgen.boards; "
            "print(hwgen.__file__, hwgen.boards.__file__, hwgen.__version__)")
    where = run([bin / "python", "-c", code], tmp_path)
    files = where.stdout.split()
    assert all(Path(f).is_relative_to(tmp_path / "env") for f in files[:2])
    assert files[2] == hwgen.__version__
    colliding(tmp_path)
    built = run([bin / "hwgen", "resnet8", "--board", "zedboard", "--size", "32",
                 "--target-fps", "100"], tmp_path)
    assert built.returncode == 0, built.stderr
    out = tmp_path / "build" / "resnet8-zedboard"
    assert json.loads((out / "report.json").read_text())["fps"] >= 100
    assert (out / "report.html").exists()
    assert (out / "rtl" / "hwgen_ram.v").exists()


@pytest.mark.slow
def test_without_extras_one_line_names_what_is_missing(wheel: Path, tmp_path: Path) -> None:
    bin = installed(wheel, tmp_path / "env", BASE)
    for command in ([bin / "hwgen"], [bin / "python", "-m", "hwgen.build"]):
        failed = run([*command, "resnet8", "--board", "zedboard"], tmp_path)
        assert failed.returncode == 2
        assert failed.stderr == "hwgen: rich is not installed: pip install 'hwgen[network]'\n"
    works = run([bin / "python", "-c", "import hwgen.blocks, hwgen.boards as b; b.load('zcu102')"],
                tmp_path)
    assert works.returncode == 0, works.stderr


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    distributions = metadata.packages_distributions()
    for extra, packages in EXTRAS.items():
        asked = {re.split("[<>=]", line)[0] for line in project["optional-dependencies"][extra]}
        known = {name.lower() for p in packages for name in distributions[p]}
        assert asked - known == set()
    assert hwgen.__version__ == project["version"]


@pytest.mark.parametrize("extra,package", [(e, p) for e, all in EXTRAS.items() for p in all])
def test_package_that_is_missing_is_one_line(
    extra: str, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(*_) -> None:
        with named():
            raise ModuleNotFoundError(name=f"{package}.part")

    monkeypatch.setattr("hwgen.build._build", build)
    assert main(["resnet8", "--board", "zedboard"]) == 2
    expected = f"hwgen: {package} is not installed: pip install 'hwgen[{extra}]'\n"
    assert capsys.readouterr().err == expected


def test_version_and_boards(capsys: pytest.CaptureFixture[str]) -> None:
    for argument, first in (("--version", f"hwgen {hwgen.__version__}"), ("--list", "kv260")):
        with pytest.raises(SystemExit) as stopped:
            main([argument, *(["boards"] if argument == "--list" else [])])
        assert stopped.value.code == 0
        assert capsys.readouterr().out.splitlines()[0] == first
