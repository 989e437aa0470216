"""Fixtures shared by all tests."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ["PYTHONSAFEPATH"] = "1"  # processes that tests start import what is installed, not the checkout

# Shells let what runs behind them ignore Ctrl-C, and its processes with it; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A loaded machine is no reason to fail: time is not what these tests are about.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def assets() -> Path:
    """Return the folder with third-party models and data sets, or skip where there is none."""
    folder = Path(os.environ.get("ONNXQ_ASSETS", REPOSITORY.parent / "shared"))
    if not (folder / "models").is_dir():
        pytest.skip("no assets folder: set ONNXQ_ASSETS to a folder with models/ and data/")
    return folder


@pytest.fixture(scope="session")
def models() -> Path:
    """Return the repository's own small models."""
    return REPOSITORY / "models"


@pytest.fixture(scope="session", autouse=True)
def _cache_of_fixtures(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let no fixture that lives longer than a test read or write what the user's own runs remember."""
    os.environ.pop("ONNXQ_CACHE", None)
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let no test read or write what the user's own tuning remembers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def cuda() -> None:
    """Skip where there is no GPU, or no ONNX Runtime for it."""
    pytest.importorskip("onnxruntime")
    from onnxq.runtime.session import usable_provider

    if usable_provider("cuda") is None:
        pytest.skip("there is no NVIDIA GPU with a driver, or ONNX Runtime was not built for one")


@pytest.fixture(scope="session")
def kernels_of_the_processor() -> None:
    """Skip where models are compiled for another processor, and this one's kernels saturate on them."""
    from onnxq.processor import PRETENDED, at_hand, here

    if at_hand().saturates and not here().saturates:
        pytest.skip(f"{PRETENDED}={here().name}: the integer kernels of {at_hand().name} would saturate")
