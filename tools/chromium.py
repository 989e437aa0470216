"""A headless Chromium with a profile of its own, for the page's tests and screenshots."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
)


PATIENCE = 60.0
"""Seconds until a page that does not get ready is given up; how fast it is, it measures itself."""


def missing() -> str | None:
    """Return what is not installed of Chromium, its driver and selenium, or None."""
    if not any(map(shutil.which, _BROWSERS)):
        return "Chromium is not installed: apt-get install chromium chromium-driver"
    if not shutil.which("chromedriver"):
        return "Chromium's driver is not installed: apt-get install chromium-driver"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed: pip install selenium"
    return None


@contextmanager
def chromium(width: int = 1400, height: int = 900, *, dark: bool = False) -> Iterator[Any]:
    """Yield a driver of a window of this size; nothing is fetched from any network."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, _BROWSERS)))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(prefix="onnxq-chromium-", ignore_cleanup_errors=True) as profile:
        for switch in (*_SWITCHES, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(switch)
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            yield driver
        finally:
            driver.quit()


def wait(driver: Any, script: str) -> Any:
    """Return the first true result of ``script``."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := driver.execute_script(script):
            return found
        time.sleep(0.02)
    raise TimeoutError(script)


def opened(driver: Any, address: str) -> None:
    """Open a page and wait until it has drawn itself."""
    driver.get("about:blank")
    driver.get(address)
    wait(driver, "return document.documentElement.dataset.ready")
