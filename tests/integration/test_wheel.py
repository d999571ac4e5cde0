"""What an installed package has, without a checkout."""

import subprocess
import sys
import zipfile

import pytest

from tests.support import REPOSITORY


@pytest.mark.slow
def test_the_wheel_has_configs_presets_and_models(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", str(REPOSITORY), str(source)], check=True)
    done = subprocess.run(
        [*build, "-w", str(tmp_path), str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("extract", "train", "sweeps"):
        for file in (REPOSITORY / "configs" / folder).glob("*.yaml"):
            assert f"lens_cache/config/shipped/{folder}/{file.name}" in names
    assert "lens_cache/config/presets/train/paper.yaml" in names
    assert "lens_cache/assets/shapes_models/sam.pth" in names
    assert not [name for name in names if name.startswith(("tests/", "configs/"))]
