"""Where CIFAR-10 lies, or a loud skip."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def cifar_folder() -> Path:
    base = os.environ.get("OPPOSING_DATA")
    if not base:
        pytest.skip("OPPOSING_DATA is unset: CIFAR-10 is NOT tested; set it to the folder that holds cifar10/")
    return Path(base) / "cifar10"
