"""What a person sees: TensorBoard's pages and the report of a real sweep, drawn by a real browser."""

import io
import re
from contextlib import suppress
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from support.run_folders import write_run, write_sweep
from support.small_runs import SMALL

from harness.app.compose import compose_config
from harness.compare.groups import make_groups
from harness.compare.load import load_runs
from harness.report.aggregates import write_aggregates
from harness.report.write import write_report
from harness.runs.request import Request
from harness.runs.run import run
from harness.views import browser
from harness.views.style import COLOURS
from harness.views.tensorboard import opening_lines

exceptions = pytest.importorskip("selenium.common.exceptions")
support = pytest.importorskip("selenium.webdriver.support.ui")
TimeoutException, WebDriverWait = exceptions.TimeoutException, support.WebDriverWait

pytestmark = pytest.mark.skipif(browser.missing() is not None, reason=f"not installed: {browser.missing()}")

EPOCHS = 6
TAGS = ("lr/default", "val/loss")
# All elements, also inside shadow roots, of which TensorBoard is made.
EVERYWHERE = """
    function* all(root) {
        for (const e of root.querySelectorAll('*')) { yield e; if (e.shadowRoot) yield* all(e.shadowRoot); }
    }
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Three schedules, one seed each, whose rates differ from the third epoch on."""
    top = tmp_path_factory.mktemp("browser") / "sweep"
    own = [o for o in SMALL if not o.startswith(("scheduler", "epochs"))]
    for schedule in (["constant"], ["step", "scheduler.step_size=2"], ["multistep", "scheduler.milestones=[3,5]"]):
        config, name = compose_config([*own, f"epochs={EPOCHS}", f"scheduler={schedule[0]}", *schedule[1:]])
        run(Request(config, name, top / name, resume=False))
    return top


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("profile"), 1400, 1000) as found:
        yield found


@pytest.fixture(scope="module")
def address(sweep):
    with browser.tensorboard(sweep) as found:
        yield found


def opened(driver, page, condition):
    """What `condition` returns once it is true of the page, opened anew until TensorBoard has loaded all data."""
    for _ in range(10):
        driver.get("about:blank")
        driver.get(page)
        with suppress(TimeoutException):
            return WebDriverWait(driver, 10, poll_frequency=0.2).until(lambda _: condition())
    raise AssertionError(f"never drawn: {page}; the console says {driver.get_log('browser')}")


def errors(driver):
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def svg_lines(driver):
    """By chart, each drawn line of the SCALARS page: its colour and its points in pixels."""
    found = driver.execute_script(
        EVERYWHERE
        + """
        const charts = [];
        for (const e of all(document)) if (e.tagName === 'TF-SCALAR-CARD') {
            const lines = [];
            for (const p of all(e.shadowRoot)) {
                const box = p.getBoundingClientRect();
                if (p.tagName === 'path' && p.classList.contains('line') && box.width > 50)
                    lines.push([getComputedStyle(p).stroke, p.getAttribute('d')]);
            }
            charts.push([e.tag, lines]);
        }
        return charts;"""
    )
    number = r"(-?[\d.]+),(-?[\d.]+)"
    return {
        tag: {colour: [(float(x), float(y)) for x, y in re.findall(number, path)] for colour, path in lines}
        for tag, lines in found
    }


def test_the_scalars_page_draws_the_curves_of_all_three_schedules(driver, address):
    filters = quote("|".join(f"^{tag}$" for tag in TAGS))
    page = f"{address}/?darkMode=false#scalars&tagFilter={filters}&_smoothingWeight=0"

    def complete():
        charts = svg_lines(driver)
        return all(len(charts.get(tag, ())) == 3 for tag in TAGS) and charts

    charts = opened(driver, page, complete)
    drops = set()
    for tag in TAGS:
        assert {len(points) for points in charts[tag].values()} == {EPOCHS}
    for points in charts["lr/default"].values():
        heights = [y for _, y in points]
        drops.add(tuple(epoch for epoch in range(1, EPOCHS) if heights[epoch] > heights[epoch - 1] + 0.5))
    assert drops == {(), (2, 4), (3, 5)}
    assert errors(driver) == []


def test_the_page_that_tensorboard_opens_with_draws_them_too(driver, address):
    def pixels():
        """How many pixels of the chart have the colour of each run."""
        swatches = driver.find_elements("css selector", "button.run-color-swatch")
        chart = driver.find_element("css selector", "line-chart")
        image = np.asarray(Image.open(io.BytesIO(chart.screenshot_as_png)).convert("RGB")).astype(int)
        colours = [re.findall(r"\d+", s.value_of_css_property("background-color"))[:3] for s in swatches]
        return [int((np.abs(image - np.array(colour, int)).max(axis=2) < 12).sum()) for colour in colours]

    page = f"{address}/?darkMode=false&tagFilter=%5Elr%2Fdefault%24&smoothing=0#timeseries"
    drawn = opened(driver, page, lambda: len(found := pixels()) == 3 and min(found) > 50 and found)
    assert len(drawn) == 3
    assert errors(driver) == []


def test_a_sweep_s_address_opens_charts_with_intervals_and_every_page_without_smoothing(driver, tmp_path):
    write_sweep(tmp_path / "runs", seeds=2)
    write_aggregates(make_groups(load_runs([tmp_path / "runs"]).runs), tmp_path / "aggregated")

    def drawn():
        """By margin chart how many intervals it has filled."""
        return driver.execute_script(
            EVERYWHERE
            + """
            const charts = {};
            for (const e of all(document)) if (e.tagName === 'TF-CUSTOM-SCALAR-MARGIN-CHART-CARD')
                charts[e.title] = [...all(e.shadowRoot)].filter(p => p.tagName === 'path' && p.getAttribute('d')
                    && p.getBoundingClientRect().width > 50 && getComputedStyle(p).fill !== 'none').length;
            return charts;"""
        )

    def elements(tag, attribute):
        script = f"return [...all(document)].filter(e => e.tagName === '{tag}').map(e => e.{attribute})"
        return driver.execute_script(EVERYWHERE + script)

    def categories():
        return elements("TF-CATEGORY-PAGINATED-VIEW", "category.name")

    titles = ["mean validation accuracy", "mean validation loss", "mean training loss"]
    page = opening_lines(tmp_path, "custom_scalars")[1].strip()
    with browser.tensorboard(tmp_path / "aggregated") as address:
        opened(driver, page.replace("http://localhost:6006", address), lambda: drawn() == dict.fromkeys(titles, 3))
        assert elements("TF-SMOOTHING-INPUT", "weight") == [0]
        driver.find_element("xpath", "//*[@role='tab'][contains(., 'Time Series')]").click()
        css = ".scalars-smoothing input[type=number]"
        boxes = WebDriverWait(driver, 10).until(lambda _: driver.find_elements("css selector", css))
        assert [box.get_attribute("value") for box in boxes] == ["0"]
        page = opening_lines(tmp_path, "scalars")[1].strip().replace("http://localhost:6006", address)
        names = opened(driver, page, lambda: "~band" in (names := categories()) and names)
        assert elements("TF-SMOOTHING-INPUT", "weight") == [0]
        assert names[-2:] == ["mean", "~band"]
        assert errors(driver) == []
        driver.get("about:blank")  # the page must not go on loading when its TensorBoard has ended


def test_the_report_opens_from_disk_with_its_tables_and_curves(driver, sweep):
    write_report([sweep], sweep / "report")
    driver.get((sweep / "report" / "report.html").as_uri())
    text = driver.find_element("tag name", "body").text
    for name in ("constant", "step", "multistep", "Differences"):
        assert name in text
    strokes = driver.execute_script(
        """return [...document.querySelectorAll('svg')].map(svg => [...svg.querySelectorAll('path')]
            .filter(p => p.getBoundingClientRect().width > 100 && p.checkVisibility())
            .map(p => getComputedStyle(p).stroke))"""
    )
    ink = driver.execute_script("return getComputedStyle(document.body).color")
    wanted = {ink, *(f"rgb({int(c[1:3], 16)}, {int(c[3:5], 16)}, {int(c[5:7], 16)})" for c in COLOURS[:2])}
    assert len(strokes) == 3
    for picture in strokes[:2]:
        assert wanted <= set(picture)
    assert errors(driver) == []


def test_a_name_of_210_letters_pushes_no_number_out_of_view_and_paper_cuts_no_column(driver, tmp_path):
    for name in ("constant", "a_name_" * 30):
        for seed in (0, 1):
            write_run(tmp_path / f"{name[:9]}{seed}", name, seed, 60, {"milestones": [20, 40]})
    write_report([tmp_path], tmp_path / "report")
    widths = """return [document.documentElement, ...document.querySelectorAll('.scroll')].map(
        e => [e.scrollWidth - e.clientWidth, e.querySelector('tbody th').offsetWidth])"""
    try:
        driver.get((tmp_path / "report" / "report.html").as_uri())
        page, *tables = driver.execute_script(widths)
        assert page[0] == 0
        assert max(name for _, name in tables) < 400
        driver.set_window_size(1000, 1000)  # A4 across, less its margins, at 96 pixels to the inch
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        assert [hidden for hidden, _ in driver.execute_script(widths) if hidden] == []
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        driver.set_window_size(1400, 1000)
