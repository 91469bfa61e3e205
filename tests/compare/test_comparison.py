"""What a comparison says, every number recomputed from the files by independent code."""

from __future__ import annotations

import itertools
import json
import math
import struct
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from support.run_folders import compared, raw, write_pairs, write_run, write_sweep
from support.small_runs import undrawn

from harness.app.compose import compose_config
from harness.compare.load import load_runs
from harness.compare.metrics import FINAL_ACCURACY
from harness.compare.results import aggregate
from harness.data.sources import DEBIAN_FASHION_MNIST, read_idx
from harness.errors import UserError
from harness.report.exports import to_json
from harness.runs.request import Request
from harness.runs.run import run


@pytest.fixture(scope="module")
def trained_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three schedules and five seeds, really trained on a part of Fashion-MNIST."""
    if not (DEBIAN_FASHION_MNIST / "train-images-idx3-ubyte.gz").exists():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    top, files = tmp_path_factory.mktemp("trained"), tmp_path_factory.mktemp("files")
    for stem in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        array = read_idx(DEBIAN_FASHION_MNIST / f"{stem}.gz")[: 600 if stem.startswith("train") else 200]
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (files / stem).write_bytes(header + array.tobytes())
    common = ["data=fashion_mnist", f"data.root={files}", "data.val_fraction=0.5", "model.channels=[8]", "epochs=10"]
    schedules = {
        "constant": ["scheduler=constant"],
        "step": ["scheduler=step", "scheduler.step_size=4"],
        "multi": ["scheduler=multistep", "scheduler.milestones=[3,8]"],
    }
    for prefix, schedule in schedules.items():
        for seed in range(5):
            config, name = compose_config([*common, *schedule, f"seed={seed}", "device=cpu"])
            with nullcontext() if prefix == "step" and seed == 0 else undrawn():
                run(Request(config, name, top / f"{prefix}_{seed}", resume=False))
    return top


@pytest.fixture(params=["written", pytest.param("trained", marks=pytest.mark.slow)])
def sweep(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with the runs `constant_0` to `multi_4`."""
    if request.param == "written":
        return write_sweep(tmp_path)
    folder: Path = request.getfixturevalue("trained_sweep")
    return folder


def test_every_result_is_what_metrics_jsonl_says(sweep: Path) -> None:
    target = 0.5
    document = to_json(compared(sweep, target_accuracy=target))
    found = {entry["label"]: entry for entry in document["main"]["schedules"]}
    for label, prefix in (("constant", "constant"), ("step", "step"), ("multistep", "multi")):
        logs = [raw(sweep / f"{prefix}_{seed}") for seed in range(5)]
        summaries = [json.loads((sweep / f"{prefix}_{s}/summary.json").read_text()) for s in range(5)]
        accuracy = np.array([[line["val_accuracy"] for line in log] for log in logs])
        means = [np.convolve(row, np.ones(3) / 3, "valid") for row in accuracy]
        first = [int(np.argmax(row >= target)) + 3 for row in means if row.max() >= target]
        met = [log for log, row in zip(logs, means, strict=True) if row.max() >= target]
        seconds = [sum(x.get("wall_seconds", x["seconds"]) for x in log[:n]) for log, n in zip(met, first, strict=True)]
        expected = {
            "late_val_accuracy": accuracy[:, -2:].mean(axis=1),
            "flattery": accuracy.max(axis=1) - accuracy[:, -2:].mean(axis=1),
            "final_val_accuracy": accuracy[:, -1],
            "best_val_accuracy": accuracy.max(axis=1),
            "final_val_loss": [log[-1]["val_loss"] for log in logs],
            "late_val_loss": [(log[-2]["val_loss"] + log[-1]["val_loss"]) / 2 for log in logs],
            "test_accuracy": [summary["test_accuracy"] for summary in summaries],
            "test_loss": [summary["test_loss"] for summary in summaries],
            "best_epoch": accuracy.argmax(axis=1),
            "spread": np.ptp(accuracy[:, -2:], axis=1),
            "images_per_second": [
                np.median([line["images_per_second"] for line in log if not line["reused"]]) for log in logs
            ],
            "epochs_to_target": first,
            "seconds_to_target": seconds,
        }
        assert found[label]["reached"] == len(first)
        for name, values in expected.items():
            assert_estimate(found[label][name], values)
    assert [entry["label"] for entry in document["main"]["schedules"]] == sorted(
        found, key=lambda label: -found[label]["late_val_accuracy"]["mean"]
    )


def assert_estimate(found: dict[str, Any], values: Any) -> None:
    mean, error = np.mean(values), stats.sem(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error) if error else (mean, mean)
    assert found["n"] == len(values)
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((mean, low, high))


def test_every_difference_is_what_metrics_jsonl_says(sweep: Path) -> None:
    document = to_json(compared(sweep))
    found = {(entry["label"], entry["other"], entry["metric"]): entry for entry in document["differences"]}
    assert len(found) == document["claims"]["tests"] == 6
    prefixes, p_values = {"constant": "constant", "step": "step", "multistep": "multi"}, {}
    for (label, other, metric), entry in found.items():
        name = metric.partition("_")[2]
        mine, theirs = (
            np.array([np.mean([e[name] for e in raw(sweep / f"{prefixes[p]}_{seed}")[-2:]]) for seed in range(5)])
            for p in (label, other)
        )
        assert_estimate({"n": 5, **entry}, mine - theirs)
        p_values[label, other, metric] = stats.ttest_1samp(mine - theirs, 0.0).pvalue
        assert entry["p_t"] == pytest.approx(p_values[label, other, metric])
        share = 0.8 / 4 if other == "constant" else 0.2 / 2
        interval = stats.t.interval(1 - 0.0425 * share, 4, loc=np.mean(mine - theirs), scale=stats.sem(mine - theirs))
        assert entry["simultaneous"] == pytest.approx(interval)
        if other == "constant":
            signs = np.array(list(itertools.product((1, -1), repeat=5)))
            extreme = np.abs(signs @ (mine - theirs)) >= abs((mine - theirs).sum()) - 1e-12
            assert entry["p_permutation"] == pytest.approx(extreme.mean())
            assert entry["smallest_permutation_p"] == 2 / 2**5
        # At least what the pair's share of the chance gives by itself, and no more than without correction.
        least, most = (
            p_values[label, other, metric] * 0.05 / 0.0425,
            p_values[label, other, metric] / share * 0.05 / 0.0425,
        )
        assert min(1.0, least) <= entry["p_corrected"] <= min(1.0, most) + 1e-12
        good = (entry["mean"] > 0) == (name == "val_accuracy")
        agreeing = np.sum((mine - theirs) * entry["mean"] > 0)
        decided = entry["p_corrected"] < 0.05 and stats.binomtest(agreeing, 5, alternative="greater").pvalue <= 0.2
        assert entry["verdict"] == ("undecided" if not decided else "better" if good else "worse")
    assert {label for label, other, _ in found if other == "constant"} == {"step", "multistep"}


def test_every_decay_and_curve_is_what_metrics_jsonl_says(sweep: Path) -> None:
    document = to_json(compared(sweep))
    logs = {p: [raw(sweep / f"{p}_{s}") for s in range(5)] for p in ("constant", "step", "multi")}
    expected = {
        ("step", 4): ([2, 3], [6, 7]),
        ("step", 8): ([6, 7], [9, 9]),
        ("multistep", 3): ([2, 2], [6, 7]),
        ("multistep", 8): ([6, 7], [9, 9]),
    }
    assert {(e["label"], e["epoch"]): (e["before"], e["after"]) for e in document["decays"]} == expected
    really = logs["constant"][0][2]["train_loss"] == logs["multi"][0][2]["train_loss"]
    for entry in document["decays"]:
        mine = logs["step" if entry["label"] == "step" else "multi"]
        assert entry["factor"] == pytest.approx(0.1)
        assert entry["reference"] == "constant"
        assert entry["same_state"] == (really and entry["epoch"] in (3, 4))
        for name, metric in (("accuracy", "val_accuracy"), ("loss", "val_loss")):
            mean = {
                kind: [[np.mean([e[metric] for e in log[entry[kind][0] : entry[kind][1] + 1]]) for log in group]
                       for group in (mine, logs["constant"])]
                for kind in ("before", "after")
            }  # fmt: skip
            change, theirs = np.array(mean["after"]) - np.array(mean["before"])
            assert_estimate(entry[f"{name}_before"], mean["before"][0])
            assert_estimate(entry[f"{name}_after"], mean["after"][0])
            assert_estimate(entry[f"{name}_change"], change)
            assert_estimate(entry[f"{name}_effect"], change - theirs)
    for metric in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        band = document["curves"]["step"][metric]
        for epoch in range(10):
            point = {key: band[key][epoch] for key in ("n", "mean", "low", "high")}
            assert_estimate(point, [log[epoch][metric] for log in logs["step"]])


def test_a_mean_curve_uses_the_runs_that_have_the_epoch(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=0, epochs=3, val_loss=[3.0, 2.0, 1.0])
    write_run(tmp_path / "b", seed=1, epochs=3, val_loss=[5.0, float("nan"), 2.0])
    band = aggregate(load_runs([tmp_path]).runs, "val_loss")
    assert (band.epochs, band.n, band.mean) == ((0, 1, 2), (2, 1, 2), (4.0, 2.0, 1.5))
    assert band.low[1] is None
    assert band.low[0] is not None


def test_a_schedule_is_named_by_what_sets_it_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "multistep", 0, arguments={"milestones": [3, 8], "gamma": 0.1, "last_epoch": -1})
    write_run(tmp_path / "b", "multistep", 0, arguments={"milestones": [5, 8], "gamma": 0.1, "last_epoch": -1})
    write_run(tmp_path / "c", "step", 0, arguments={"step_size": 4})
    labels = {result.label for result in compared(tmp_path).results}
    assert labels == {"multistep milestones=[3, 8]", "multistep milestones=[5, 8]", "step"}


def test_nested_arguments_tell_schedules_apart_also_where_they_are_empty(tmp_path: Path) -> None:
    for index, second in enumerate(({"gamma": 0.1}, {"gamma": 0.5}, {"gamma": 0.5, "options": {}})):
        write_run(tmp_path / str(index), "chain", arguments={"schedulers": [{"factor": 1.0}, second]})
    assert [result.label for result in sorted(compared(tmp_path).results, key=lambda result: result.label)] == [
        "chain schedulers.1.gamma=0.1",
        "chain schedulers.1.gamma=0.5",
        "chain schedulers.1.gamma=0.5 schedulers.1.options={}",
    ]


def test_other_circumstances_are_kept_apart_and_named(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep", seeds=2)
    write_run(tmp_path / "other", "constant", 2, identity={"model.name": "resnet", "code": "def"})
    write_run(tmp_path / "longer", "constant", 3, epochs=12)
    found = compared(tmp_path)
    assert found.main is not None
    assert found.main.size == 6
    assert {tuple(group.differs.items()) for group, _ in found.apart} == {
        (("model.name", ("cnn", "resnet")), ("code", ("abc", "def"))),
        (("epochs", (10, 12)),),
    }
    constant = next(result for result in found.results if result.label == "constant")
    assert constant.variant.seeds == (0, 1)


def test_of_equally_large_groups_the_newest_is_compared(tmp_path: Path) -> None:
    write_run(tmp_path / "old", identity={"code": "old"}, finished=1e9)
    write_run(tmp_path / "new", identity={"code": "new"}, finished=1.1e9)
    main = compared(tmp_path).main
    assert main is not None
    assert main.identity["code"] == "new"


def test_a_swept_optimizer_setting_is_part_of_the_schedule(tmp_path: Path) -> None:
    for index, lr in enumerate((0.01, 0.1)):
        write_run(tmp_path / f"r{index}", identity={"optimizer.lr": lr}, overrides=[f"optimizer.lr={lr}"])
    found = compared(tmp_path)
    assert {result.label for result in found.results} == {
        "constant optimizer.lr=0.01",
        "constant optimizer.lr=0.1",
    }
    assert found.apart == ()


def test_a_swept_parameter_group_makes_variants_by_what_differs_in_it(tmp_path: Path) -> None:
    for index, lr in enumerate((0.1, 0.01)):
        identity = {"optimizer.groups.head.match": "^head", "optimizer.groups.head.lr": lr}
        override = f"+optimizer.groups.head={{match:^head,lr:{lr}}}"
        write_run(tmp_path / f"r{index}", identity=identity, overrides=[override])
    assert {result.label for result in compared(tmp_path).results} == {
        "constant optimizer.groups.head.lr=0.01",
        "constant optimizer.groups.head.lr=0.1",
    }


def test_a_setting_that_only_differs_between_days_keeps_runs_apart(tmp_path: Path) -> None:
    for day, lr in (("mon", 0.01), ("tue", 0.1)):
        write_run(tmp_path / day / "0", identity={"optimizer.lr": lr}, overrides=[f"optimizer.lr={lr}"])
    assert len(compared(tmp_path).apart) == 1


def test_a_swept_model_keeps_runs_apart(tmp_path: Path) -> None:
    for index, model in enumerate(("cnn", "resnet")):
        write_run(tmp_path / f"{index}", identity={"model.name": model}, overrides=[f"model.name={model}"])
    assert len(compared(tmp_path).apart) == 1


def test_runs_whose_seed_chose_their_validation_images_are_compared_seed_by_seed(tmp_path: Path) -> None:
    for seed in range(2):
        split = {"data.split_seed": None, "data.fingerprint": f"images {seed}"}
        write_run(tmp_path / f"constant{seed}", "constant", seed, identity=split)
        write_run(tmp_path / f"step{seed}", "step", seed, arguments={"step_size": 4}, identity=split)
    other = {"data.split_seed": None, "data.fingerprint": "newer images"}
    write_run(tmp_path / "late", "multistep", 1, arguments={"milestones": [3]}, identity=other, finished=2e9)
    found = compared(tmp_path)
    assert [(d.label, d.paired.seeds) for d in found.differences] == [("step", (0, 1))] * 2
    assert found.left_out == {"late": "other images than constant1, which has the same seed"}
    assert found.apart == ()


def test_a_repeated_run_counts_once_and_the_first_to_finish_counts(tmp_path: Path) -> None:
    write_run(tmp_path / "first", weights="same", val_accuracy=[0.5], epochs=1, finished=1e9)
    write_run(tmp_path / "again", weights="same", val_accuracy=[0.5], epochs=1, finished=2e9)
    write_run(tmp_path / "lucky", weights="other", val_accuracy=[0.9], epochs=1, finished=3e9)
    found = compared(tmp_path)
    assert found.results[0].of(FINAL_ACCURACY).mean == 0.5
    assert found.results[0].of(FINAL_ACCURACY).n == 1
    assert "counted once" in found.left_out["again"]
    assert "other weights" in found.left_out["lucky"]


def test_equal_plans_under_two_names_are_pointed_out_and_not_merged(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "constant")
    write_run(tmp_path / "b", "multistep", arguments={"milestones": [80]})
    found = compared(tmp_path)
    assert len(found.results) == 2
    assert [set(labels) for labels in found.equal_plans] == [{"constant", "multistep"}]


def test_ranking_never_looks_at_the_test_set(tmp_path: Path) -> None:
    for name, value, test in (("constant", 0.8, 0.1), ("step", 0.7, 0.99)):
        folder = write_run(tmp_path / name, name, 0, 1, {"step_size": 4}, val_accuracy=[value])
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps({**summary, "test_accuracy": test}))
    assert [result.label for result in compared(tmp_path).results] == ["constant", "step"]


def test_only_a_drop_to_half_or_less_is_a_decay(tmp_path: Path) -> None:
    write_run(tmp_path / "smooth", "smooth")  # falls by 0.4 decades an epoch
    write_run(tmp_path / "gentle", "smooth", arguments={"gamma": 0.5}, identity={"code": "other"})
    found = compared(tmp_path / "smooth")
    assert len(found.decays) == 9
    assert all((decay.before, decay.after) == ((e - 1, e - 1), (e, e)) for e, decay in enumerate(found.decays, 1))
    assert compared(tmp_path / "gentle").decays == ()


def test_constant_is_the_baseline_and_another_can_be_named(tmp_path: Path) -> None:
    write_sweep(tmp_path, seeds=2)
    assert compared(tmp_path).baseline == "constant"
    assert compared(tmp_path, baseline="step").baseline == "step"
    with pytest.raises(UserError, match=r"'stp'.*constant"):
        compared(tmp_path, baseline="stp")


def test_an_ambiguous_baseline_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "step", arguments={"step_size": 5})
    write_run(tmp_path / "b", "step", arguments={"step_size": 10})
    assert compared(tmp_path).baseline == "step step_size=5"
    assert compared(tmp_path, baseline="step step_size=10").baseline == "step step_size=10"
    with pytest.raises(UserError, match="several"):
        compared(tmp_path, baseline="step")


@pytest.mark.parametrize("target", [0.0, 1.5, float("nan"), 90])
def test_a_target_that_is_no_fraction_is_refused(tmp_path: Path, target: float) -> None:
    write_run(tmp_path / "a")
    with pytest.raises(UserError, match="fraction"):
        compared(tmp_path, target_accuracy=target)


def write_curves(top: Path, *curves: list[float], milestones: list[int], diverged: int | None = None) -> None:
    """A run a seed of constant or, with milestones, multistep; the one of seed `diverged` ends with no loss."""
    name = f"multistep{milestones}" if milestones else "constant"
    for seed, curve in enumerate(curves):
        losses = [1 - value for value in curve[:-1]] + [float("nan") if seed == diverged else 1 - curve[-1]]
        # Folders of equal names have equal training losses, as runs have that share their epochs.
        write_run(top / name / str(seed), name[:9].rstrip("["), seed, len(curve), {"milestones": milestones},
                  val_accuracy=curve, val_loss=losses)  # fmt: skip


def flat(*parts: tuple[float, int]) -> list[float]:
    return [value for value, epochs in parts for _ in range(epochs)]


def test_a_target_is_met_by_the_mean_of_three_epochs_and_who_never_does_is_counted(tmp_path: Path) -> None:
    write_curves(
        tmp_path, [0.7, 0.95, 0.7, 0.85, 0.95, 0.9, 0.6], flat((0.9, 2), (0.89, 5)), flat((0.7, 7)), milestones=[]
    )
    (result,) = compared(tmp_path, target_accuracy=0.9).results
    assert result.values["epochs_to_target"] == {0: 6}
    assert result.reached == 1
    (result,) = compared(tmp_path, target_accuracy=0.7).results  # which the mean of equal ones may miss by rounding
    assert result.values["epochs_to_target"] == {0: 3, 1: 3, 2: 3}


@pytest.mark.parametrize(
    ("decayed", "target", "words"),
    [
        ([0.973, 0.969], 0.96, "highest whole percent"),
        ([0.958, 0.957], 0.955, "highest half percent"),
        ([0.953, 0.9521], 0.952, "highest tenth of a percent"),
        ([0.94, 0.94], 0.951, "all meet it before any decay"),
    ],
)
def test_the_default_target_is_not_one_that_all_meet_before_a_decay(
    tmp_path: Path, decayed: list[float], target: float, words: str
) -> None:
    write_curves(tmp_path, flat((0.951, 20)), flat((0.951, 20)), milestones=[])
    write_curves(tmp_path, *(flat((0.951, 10), (value, 10)) for value in decayed), milestones=[10])
    found = compared(tmp_path)
    assert found.target_accuracy == pytest.approx(target)
    assert words in found.target_chosen


def test_runs_that_diverged_move_neither_target_nor_effects(tmp_path: Path) -> None:
    write_curves(tmp_path, *(flat((0.8, 10), (v, 10)) for v in (0.81, 0.82, 0.10)), milestones=[], diverged=2)
    write_curves(tmp_path, *(flat((0.8, 10), (v, 10)) for v in (0.92, 0.94, 0.96)), milestones=[10])
    write_curves(tmp_path, *(flat((0.8, 5), (0.99, 15)) for _ in range(3)), milestones=[5], diverged=0)
    found = compared(tmp_path)
    assert found.target_accuracy == 0.92
    decay = next(decay for decay in found.decays if decay.epoch == 10)
    assert (decay.reference, decay.same_state, decay.accuracy_change.n, decay.accuracy_effect.n) == (
        "constant", True, 3, 2,
    )  # fmt: skip
    assert decay.accuracy_effect.mean == pytest.approx((0.11 + 0.12) / 2)
    assert decay.loss_effect.mean == pytest.approx(-(0.11 + 0.12) / 2)


def test_a_decay_is_compared_with_the_run_that_shared_its_epochs_and_kept_its_rate(tmp_path: Path) -> None:
    write_curves(tmp_path, flat((0.70, 40)), flat((0.71, 40)), milestones=[])
    write_curves(tmp_path, *(flat((v, 10), (v + 0.1, 30)) for v in (0.70, 0.71)), milestones=[10])
    # The next two decay once more, which the run above does not; from 20 on the second is the first one's for 7 epochs.
    late = (flat((v, 10), (v + 0.1, 10), (v + 0.15, 20)) for v in (0.70, 0.71))
    write_curves(tmp_path, *late, milestones=[10, 20])
    write_curves(tmp_path, *(flat((v, 10), (v + 0.1, 17), (v + 0.3, 13)) for v in (0.70, 0.71)), milestones=[10, 27])
    # Another state, since its first epoch has other numbers, and a baseline that decays between the windows.
    write_curves(tmp_path, *(flat((0.5, 1), (v, 24), (v + 0.2, 15)) for v in (0.70, 0.71)), milestones=[25])
    found = {(d.label.partition("=")[2], d.epoch): d for d in compared(tmp_path).decays}
    assert {key: (d.reference and d.reference.partition("=")[2], d.same_state) for key, d in found.items()} == {
        ("[10]", 10): ("", True), ("[10, 20]", 10): ("", True), ("[10, 20]", 20): ("[10]", True),
        ("[10, 27]", 10): ("", True), ("[10, 27]", 27): ("[10]", True), ("[25]", 25): ("", False),
    }  # fmt: skip
    assert found["[10, 20]", 20].accuracy_effect.mean == pytest.approx(0.05)
    assert found["[25]", 25].accuracy_effect.mean == pytest.approx(0.2)
    # Against a baseline that itself decays around there nothing is said, and a neighbour serves as far as it goes.
    for seed in range(2):
        for folder in ("constant", "multistep[10]", "multistep[25]"):
            (tmp_path / folder / str(seed) / "metrics.jsonl").unlink()
    found = {(d.label.partition("=")[2], d.epoch): d for d in compared(tmp_path).decays}
    assert {key: (d.reference and d.reference.partition("=")[2], d.after) for key, d in found.items()} == {
        ("[10, 20]", 10): (None, (15, 19)), ("[10, 20]", 20): ("[10, 27]", (24, 26)),
        ("[10, 27]", 10): (None, (15, 19)), ("[10, 27]", 27): ("[10, 20]", (32, 36)),
    }  # fmt: skip


def test_with_one_seed_there_is_no_claim(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.5], [0.9])
    found = compared(tmp_path)
    assert {difference.verdict for difference in found.differences} == {"no claim"}
    assert found.tests == 0


def test_the_seeds_needed_are_those_for_the_next_look(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.70, 0.71, 0.72, 0.73], [0.72, 0.70, 0.75, 0.73])
    found = compared(tmp_path)
    effect = np.mean([0.02, -0.01, 0.03, 0.0]) / np.std([0.02, -0.01, 0.03, 0.0], ddof=1)
    alpha = 0.0075 * 6 / np.pi**2 / 2  # of what is left after the first look, the next one's part, for two tests
    power = {n: stats.nct.sf(stats.t.ppf(1 - alpha / 2, n - 1), n - 1, effect * np.sqrt(n)) for n in range(2, 100)}
    needed = found.differences[0].seeds_needed
    assert found.tests == 2
    assert needed is not None
    assert abs((needed.observed or 0) - min(n for n, each in power.items() if each >= 0.8)) <= 1


def test_who_may_be_best_is_who_is_claimed_to_be_worse_than_nobody(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for seed in range(6):
        for name, accuracy in (("constant", 0.7), ("step", 0.9), ("multistep", 0.902)):
            value = round(accuracy + rng.normal(0, 0.004), 4)
            write_run(tmp_path / f"{name}{seed}", name, seed, 1, {"step_size": 1, "milestones": [5]},
                      val_accuracy=[value], val_loss=[1.0 - value])  # fmt: skip
    found = compared(tmp_path)
    assert set(found.contenders["late_val_accuracy"]) == {"step", "multistep"}
    # Whichever baseline is taken afterwards: the same tests, the same p values.
    for other in ("step", "multistep"):
        p = {frozenset((d.label, d.other, d.metric.key)): d.p_corrected for d in found.pairs}
        assert {frozenset((d.label, d.other, d.metric.key)): d.p_corrected
                for d in compared(tmp_path, baseline=other).pairs} == p  # fmt: skip


def test_of_very_many_schedules_each_is_compared_with_the_baseline_and_the_best(tmp_path: Path) -> None:
    for number in range(45):
        for seed in range(3):
            value = 0.5 + number / 1000 + seed * (0.01 + number / 1e5)
            write_run(tmp_path / f"{number}_{seed}", "step", seed, 1, {"step_size": number + 1},
                      val_accuracy=[value], val_loss=[1.0 + number / 1000 + seed * (0.01 + number / 1e5)])  # fmt: skip
    found = compared(tmp_path)
    assert found.tests == 45 * 44
    assert len(found.pairs) == 2 * 44 + 43  # accuracy: with the first and with the last; loss: the first is the best
    least = min((d for d in found.pairs if d.metric.key == "late_val_accuracy"), key=lambda d: d.paired.p or 1.0)
    assert least.p_corrected == pytest.approx(min(1.0, (least.paired.p or 1.0) * 45 * 44 * 0.05 / 0.0425))


def test_without_a_constant_schedule_no_pair_is_favoured(tmp_path: Path) -> None:
    for seed in range(3):
        for size in (2, 3, 4):
            write_run(tmp_path / f"{size}_{seed}", "step", seed, arguments={"step_size": size})
    for each in compared(tmp_path).pairs:
        shape = each.paired.estimate
        half = stats.t.ppf(1 - 0.0425 / 6 / 2, 2) * (shape.sd or 0.0) / 3**0.5
        assert each.high == pytest.approx((shape.mean or 0.0) + half)


def test_within_a_margin_two_schedules_are_equivalent(tmp_path: Path) -> None:
    same = [0.900, 0.905, 0.910, 0.915, 0.920, 0.903]
    write_pairs(tmp_path, same, [value + (0.0005 if index % 2 else -0.0005) for index, value in enumerate(same)])
    assert {d.verdict for d in compared(tmp_path).differences if "accuracy" in d.metric.key} == {"undecided"}
    (accuracy,) = (d for d in compared(tmp_path, margin=0.3).differences if "accuracy" in d.metric.key)
    assert accuracy.verdict == "equivalent"
    with pytest.raises(UserError, match="margin 0: give percentage points"):
        compared(tmp_path, margin=0.0)


def test_a_run_that_ends_no_better_than_guessing_counts_as_one_that_guesses(tmp_path: Path) -> None:
    for seed, (loss, accuracy) in enumerate([(float("nan"), 0.1), (50.0, 0.12), (3.0, 0.9), (0.5, 0.9)]):
        folder = write_run(tmp_path / str(seed), "constant", seed, 1, val_accuracy=[accuracy], val_loss=[loss])
        started = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**started, "classes": [str(name) for name in range(10)]}))
    (result,) = compared(tmp_path).results
    assert result.values["late_val_loss"] == {0: math.log(10), 1: math.log(10), 2: 3.0, 3: 0.5}


def test_seeds_without_a_partner_are_named(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.5, 0.6, 0.7, 0.8], [0.9, 0.8])
    difference = compared(tmp_path).differences[0]
    assert difference.paired.seeds == (0, 1)
    assert difference.unpaired == (2, 3)
