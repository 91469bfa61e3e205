"""A headless Chromium on pages of this machine, and the TensorBoard that it looks at. Needs the extra `test`."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import UserError

_TENSORBOARD = Path(__file__).resolve().parents[2] / "scripts" / "tensorboard.sh"

# Nothing that calls home or asks for a first choice; software rendering draws the same everywhere.
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip


def missing() -> str | None:
    """What a browser needs that is not here, None if all is."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    try:
        import selenium  # noqa: F401
    except ImportError:
        absent.append("selenium (the extra test)")
    return ", ".join(absent) or None


@contextmanager
def chromium(profile: Path, width: int, height: int) -> Iterator[Any]:
    """A selenium driver with a fresh profile in the folder `profile` and a window of so many pixels.

    Raises:
        UserError: when Chromium, chromedriver or selenium is missing.
    """
    if (absent := missing()) is not None:
        raise UserError(f"no browser: {absent} is missing; on Debian: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """The address of a TensorBoard on `folder`, started by scripts/tensorboard.sh on a free port."""
    command = ["bash", str(_TENSORBOARD), str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        address = None
        while address is None:
            line = process.stderr.readline()
            if not line:
                raise UserError(f"{folder}: TensorBoard ended before it served")
            if found := re.search(r"http://\S+", line):
                address = found.group().rstrip("/")
        yield address
    finally:
        process.kill()
        process.wait()
