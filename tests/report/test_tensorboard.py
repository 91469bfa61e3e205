"""What a real TensorBoard shows of a real small sweep, asked over its HTTP interface."""

import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request

import pytest
from scipy import stats
from support.small_runs import read_rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from harness.compare.groups import make_groups
from harness.compare.load import load_runs
from harness.report.aggregates import write_aggregates

SCHEDULES = {
    "constant": ["scheduler=constant"],
    "step": ["scheduler=step", "scheduler.step_size=2"],
    "multistep": ["scheduler=multistep", "scheduler.milestones=[1,3]"],
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    from support.small_runs import SMALL

    from harness.app.compose import compose_config
    from harness.runs.request import Request
    from harness.runs.run import run

    top = tmp_path_factory.mktemp("sweep")
    base = [override for override in SMALL if not override.startswith("scheduler.")]
    for name, overrides in SCHEDULES.items():
        for seed in (0, 1):
            config, _ = compose_config([*base, *overrides, f"seed={seed}"])
            run(Request(config, name, top / f"{name}_{seed}", resume=False))
    write_aggregates(make_groups(load_runs([top]).runs), top / "aggregated")
    return top


@pytest.fixture(scope="module")
def tensorboard(sweep):
    """A function that gets a path of a running TensorBoard as JSON; data is loaded before it serves."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(sweep), "--port", "0", "--load_fast", "false"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        address = None
        while address is None:
            line = process.stderr.readline()
            assert line, "TensorBoard ended before it served"
            if found := re.search(r"http://\S+", line):
                address = found.group().rstrip("/")

        def get(path, body=None, **query):
            url = f"{address}/{path}?{urllib.parse.urlencode(query)}"
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request) as answer:
                return json.loads(answer.read())

        def runs_loaded():
            loaded = get("data/plugin/scalars/tags")
            return len(loaded) == 9 and all("test/accuracy" in loaded[f"{name}_1"] for name in SCHEDULES)

        for _ in range(10_000):
            if runs_loaded():
                break
        else:
            raise AssertionError(f"TensorBoard has not loaded the sweep: {sorted(get('data/plugin/scalars/tags'))}")
        yield get
    finally:
        process.kill()
        process.wait()


def test_every_epoch_of_every_run_is_served(sweep, tensorboard):
    for name in SCHEDULES:
        rows = read_rows(sweep / f"{name}_1")
        served = tensorboard("data/plugin/scalars/scalars", run=f"{name}_1", tag="val/accuracy")
        assert [(step, value) for _, step, value in served] == [
            (row["epoch"], pytest.approx(row["val_accuracy"])) for row in rows
        ]
        rates = tensorboard("data/plugin/scalars/scalars", run=f"{name}_1", tag="lr/default")
        assert [value for *_, value in rates] == pytest.approx([row["lr"]["default"] for row in rows])


def test_hparams_has_one_row_a_run_with_its_schedule_and_results(sweep, tensorboard):
    tensorboard("data/plugin/hparams/experiment", body={"experimentName": ""})
    request = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": [{"metric": {"group": "", "tag": "val/accuracy"}}],
        "startIndex": 0,
        "sliceSize": 100,
    }
    groups = tensorboard("data/plugin/hparams/session_groups", body=request)["sessionGroups"]
    rows = {(group["hparams"]["scheduler"], group["hparams"]["seed"]): group for group in groups}
    assert set(rows) == {(name, seed) for name in SCHEDULES for seed in (0.0, 1.0)}
    assert rows["multistep", 0.0]["hparams"]["milestones"] == "[1, 3]"
    assert rows["step", 0.0]["hparams"]["step_size"] == 2.0
    assert "milestones" not in rows["constant", 0.0]["hparams"]
    for (name, seed), group in rows.items():
        summary = json.loads((sweep / f"{name}_{int(seed)}" / "summary.json").read_text())
        values = {metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]}
        assert values["val/accuracy"] == pytest.approx(summary["final_val_accuracy"])


def test_one_aggregated_run_a_schedule_has_the_mean_and_the_band(sweep, tensorboard):
    for name in SCHEDULES:
        logs = [read_rows(sweep / f"{name}_{seed}") for seed in (0, 1)]
        means = [(a["val_loss"] + b["val_loss"]) / 2 for a, b in zip(*logs, strict=True)]
        served = tensorboard("data/plugin/scalars/scalars", run=f"aggregated/{name}", tag="mean/val/loss")
        assert [value for *_, value in served] == pytest.approx(means)
        halves = [stats.t.ppf(0.975, 1) * abs(a["val_loss"] - b["val_loss"]) / 2 for a, b in zip(*logs, strict=True)]
        for end, sign in (("low", -1), ("high", 1)):
            band = tensorboard("data/plugin/scalars/scalars", run=f"aggregated/{name}", tag=f"~band/val/loss/{end}")
            wanted = [mean + sign * half for mean, half in zip(means, halves, strict=True)]
            assert [value for *_, value in band] == pytest.approx(wanted, abs=1e-5)


def test_custom_scalars_lay_the_schedules_over_each_other(tensorboard):
    layout = tensorboard("data/plugin/custom_scalars/layout")
    charts = {chart["title"]: chart for category in layout["category"] for chart in category["chart"]}
    assert charts["learning rate"]["multiline"]["tag"]
    assert charts["validation loss"]["multiline"]["tag"] == ["val/loss$"]
    assert charts["mean validation loss"]["margin"]["series"][0] == {
        "value": "mean/val/loss",
        "lower": "~band/val/loss/low",
        "upper": "~band/val/loss/high",
    }


def test_pictures_of_each_run_are_served(tensorboard):
    tags = tensorboard("data/plugin/images/tags")["multistep_0"]
    assert {"pictures/learning_curve", "pictures/confusion_matrix", "pictures/worst_mistakes"} <= set(tags)


def test_writing_aggregates_again_leaves_every_point_once_and_no_stale_schedule(sweep, tmp_path):
    groups = make_groups(load_runs([sweep]).runs)
    write_aggregates(groups, tmp_path)
    write_aggregates(make_groups([run for run in load_runs([sweep]).runs if run.scheduler != "step"]), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["constant", "multistep"]
    reader = EventAccumulator(str(tmp_path / "multistep"))
    reader.Reload()
    assert [event.step for event in reader.Scalars("mean/val/loss")] == [0, 1, 2, 3]
