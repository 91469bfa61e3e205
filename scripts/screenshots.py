"""Pictures of TensorBoard and of the report for the README: python scripts/screenshots.py SWEEP [FOLDER]."""

import argparse
import io
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from harness.errors import UserError, run_script
from harness.files import write_atomic
from harness.views.browser import chromium, tensorboard

_TAGS = quote("mean/(lr/default|val/accuracy|val/loss)", safe="")
# TensorBoard draws its charts in shadow roots; all of the page is there once the last chart has lines.
_EVERYWHERE = """
    function* all(root) {
        for (const e of root.querySelectorAll('*')) { yield e; if (e.shadowRoot) yield* all(e.shadowRoot); }
    }
"""
_DRAWN = """
    const cards = [...all(document)].filter(e => e.tagName === 'TF-SCALAR-CARD').slice(0, 3);
    return cards.length === 3 && cards.every(card => [...all(card.shadowRoot)].some(
        e => e.tagName === 'path' && e.classList.contains('line') && e.getBoundingClientRect().width > 50));
"""
# TensorBoard shows the folder's path in pieces, between which a line may break.
_RENAME = """
    const found = [...all(document)].filter(e => e.tagName === 'TF-WBR-STRING' && e.value === arguments[0]);
    for (const e of found) e.value = arguments[1];
    return found.length;
"""
_REPORT_END = "return Math.ceil([...document.querySelectorAll('figure')].at(1).getBoundingClientRect().bottom)"


def main() -> None:
    """Take both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path, help="folder of a sweep with its report")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs"), help="where to (default: docs)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile), 1500, 760) as driver:
        with tensorboard(arguments.sweep) as address:
            _take_tensorboard(driver, address, arguments.sweep, arguments.folder / "tensorboard.png")
        report = arguments.sweep / "report" / "report.html"
        if not report.is_file():
            raise UserError(f"{report}: no such file; must be a sweep's folder with its report")
        driver.set_window_size(1320, 2450)
        driver.get(report.resolve().as_uri())
        chrome = driver.execute_script("return window.outerHeight - window.innerHeight")
        driver.set_window_size(1320, driver.execute_script(_REPORT_END) + chrome)
        _save(driver, arguments.folder / "report.png")


def _take_tensorboard(driver: Any, address: str, sweep: Path, path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(f"{address}/?darkMode=false#scalars&tagFilter={_TAGS}&regexInput=aggregated&_smoothingWeight=0")
    WebDriverWait(driver, 60).until(lambda _: driver.execute_script(_EVERYWHERE + _DRAWN))
    # The folder's place on this machine is nobody else's business.
    if not driver.execute_script(_EVERYWHERE + _RENAME, str(sweep.resolve()), sweep.name):
        raise UserError(f"{sweep}: TensorBoard does not show the folder where it did; no picture is taken")
    _save(driver, path)


def _save(driver: Any, path: Path) -> None:
    """Write what the window shows as a PNG of 256 colours, which is a quarter of the size."""
    from PIL import Image

    picture = io.BytesIO()
    Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB").quantize(256).save(picture, "png")
    write_atomic(path, picture.getvalue())
    print(f"written: {path} ({len(picture.getvalue()) / 1000:.0f} kB)")


if __name__ == "__main__":
    run_script(main)
