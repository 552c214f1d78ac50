"""The project's own files: they parse, and agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.oldest import constraints
from tests.profiles import SHARES, scaled

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
YAML = [ROOT / ".pre-commit-config.yaml", *sorted((ROOT / ".github").rglob("*.yml"))]
WORKFLOW = ROOT / ".github" / "workflows" / "test.yml"


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_parses(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_the_workflow_runs_what_the_readme_says() -> None:
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert "make test" in commands
    assert "make test" in (ROOT / "README.md").read_text()
    for target in re.findall(r"make (\S+)", "\n".join(commands)):
        assert re.search(rf"^{re.escape(target)}:", MAKEFILE, re.M), target
    include = job["strategy"]["matrix"]["include"]
    cases = {(case["python"], case["dependencies"]) for case in include}
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert {(oldest, "oldest"), (oldest, "newest")} < cases


def test_hooks_run_the_tools_of_the_environment() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in local["hooks"]:
        assert hook["entry"].startswith(".venv/bin/")
        assert f"$(BIN)/{hook['id']}" in MAKEFILE


def test_every_dependency_has_a_lower_bound_and_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for package, pinned in constraints().items():
        bound = pinned.removeprefix("==").removesuffix(".*")
        (line,) = re.findall(rf'^    "{package}[\[>=].*$', text, re.M)
        assert re.search(rf"[>=]={re.escape(bound)}[,\"]", line)
        assert re.search(r",\s+# \S", line), f"{package} has no reason for its bounds"


@pytest.mark.parametrize("requirement, message", [
    ("numpy", "must look like"), ("numpy<3", "must look like"), ("numpy>=1.0", "not two"),
])
def test_bounds_that_are_refused(requirement: str, message: str, tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(f'[project]\ndependencies = ["numpy>=2.0,<3"]\n'
                       f'[project.optional-dependencies]\ndev = ["{requirement}"]\n')
    with pytest.raises(ValueError, match=message):
        constraints(project)


def test_targets_are_listed() -> None:
    listed = set(re.findall(r"^# make (\S+) ", MAKEFILE, re.M))
    targets = set(re.findall(r"^(\.?[a-z]+):", MAKEFILE, re.M)) - {".venv/stamp"}
    assert listed == targets


def test_quick_leaves_out_every_marker() -> None:
    markers = {m.partition(":")[0] for m in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    (left_out,) = re.findall(r"-m '(.*)'", MAKEFILE)
    assert set(re.findall(r"not (\w+)", left_out)) == markers
    assert set(re.findall(r"^\| `(\w+)` \|", CONTRIBUTING, re.M)) == markers


def test_coverage_is_measured_only_when_it_is_asked_for() -> None:
    assert "--cov" not in PROJECT["tool"]["pytest"]["ini_options"]["addopts"]
    recipes = dict(re.findall(r"^([a-z]+):.*\n((?:\t.*\n)+)", MAKEFILE, re.M))
    assert {name for name, recipe in recipes.items() if "--cov" in recipe} == {"coverage"}


@pytest.mark.parametrize("profile, count, expected", [
    ("quick", 100, 4), ("quick", 10, 2), ("ci", 30, 30), ("thorough", 30, 300),
])
def test_examples_by_profile(profile: str, count: int, expected: int) -> None:
    assert scaled(count, profile) == expected
    assert set(SHARES) == set(re.findall(r"`(quick|ci|thorough)`", CONTRIBUTING))
