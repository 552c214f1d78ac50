"""The site is built without a warning, and has every module."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("hwgen", "boards", "dse", "models", "sim")


@pytest.mark.slow
def test_the_site_is_built_and_has_every_module(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--builder", "html", "--nitpicky", "--fail-on-warning",
         "--keep-going", "--quiet", "--doctree-dir", str(tmp_path / "doctrees"),
         str(ROOT / "docs"), str(tmp_path / "site")],
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = "".join(page.read_text() for page in (tmp_path / "site" / "api").glob("*.html"))
    for path in (ROOT / "driver" / "hwgen_driver").glob("[!_]*.py"):
        assert f'id="module-hwgen.driver.{path.stem}"' in shown, path
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if folder == "hwgen" else ("hwgen", *parts)
            name = ".".join(part for part in parts if part != "__init__")
            assert name in ("hwgen", "hwgen.__main__") or f'id="module-{name}"' in shown, name
