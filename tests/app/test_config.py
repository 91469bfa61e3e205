import pytest
import yaml
from support.small_runs import ROOT

from harness.app.compose import compose_config
from harness.errors import UserError
from harness.record import flatten
from harness.training.optim import preview_optimizer
from harness.training.schedule import make_plan

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_sets_what_its_file_says(name):
    said = yaml.safe_load((ROOT / "conf" / "experiment" / f"{name}.yaml").read_text())
    said = flatten({key: value for key, value in said.items() if key not in ("defaults", "hydra")})
    composed = flatten(compose_config([f"experiment={name}"])[0].plain())
    assert {key: composed[key] for key in said} == said
    assert compose_config([f"experiment={name}", "epochs=7"])[0].epochs == 7


@pytest.mark.parametrize(
    "asked",
    ["scheduler=onecycle", *(f"experiment={name}" for name in EXPERIMENTS if name.startswith("cifar10_"))],
)
def test_the_last_epoch_of_one_cycle_is_not_wasted(asked):
    config, _ = compose_config([asked])
    before, last = make_plan(config.scheduler, preview_optimizer(config.optimizer), config.epochs).rates[-2:]
    assert before[0] > last[0] > (before[0] - last[0]) / 3


def test_one_cycle_has_rates_for_every_number_of_epochs():
    config, _ = compose_config(["scheduler=onecycle"])
    for epochs in range(1, 41):
        scheduler = config.scheduler.model_copy(update={"total_steps": epochs})
        assert len(make_plan(scheduler, preview_optimizer(config.optimizer), epochs).rates) == epochs


def test_the_recipes_spare_norms_and_biases_and_smooth_labels():
    for name in ("short", "long", "fast"):
        config, _ = compose_config([f"experiment=cifar10_{name}"])
        assert config.optimizer.groups == {"no_weight_decay": {"match": "norms_and_biases", "weight_decay": 0.0}}
        assert config.label_smoothing > 0


def test_defaults_are_the_source_s():
    config, name = compose_config([])
    assert name == "multistep"
    assert config.scheduler.arguments == {"milestones": [30, 80], "gamma": 0.1, "last_epoch": -1}
    assert config.optimizer.target == "torch.optim.AdamW"
    assert config.optimizer.arguments["weight_decay"] == 0.01
    assert config.optimizer.arguments["amsgrad"] is False
    assert config.deterministic is True


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["foo=1"], "foo=1: unknown setting; known: data, model"),
        (["+foo=1"], "foo=1: unknown setting; known: data, model"),
        (["scheduler.milestone=[3]"], r"scheduler.milestone=\[3\]: unknown setting \(did you mean milestones\?\)"),
        (["+data.flop=true"], r"data.flop=True: unknown setting \(did you mean flip\?\); known: val_fraction"),
        (["model=nothing"], "model=nothing: must be one of resnet18, "),
        (["epochs=0"], "^epochs=0: must be greater than or equal to 1$"),
        (["epochs=abc"], "^epochs=abc: must be a whole number$"),
        (["epochs=2.5"], "^epochs=2.5: must be a whole number$"),
        (["epochs=true"], "^epochs=true: must be a whole number$"),
        (["seed=-1"], "^seed=-1: must be greater than or equal to 0$"),
        (["label_smoothing=1"], "^label_smoothing=1: must be less than 1$"),
        (["label_smoothing=-0.1"], "^label_smoothing=-0.1: must be greater than or equal to 0$"),
        (["label_smoothing=true"], "^label_smoothing=true: must be a number$"),
        (["optimizer.lr=0"], "^optimizer.lr=0: must be greater than 0$"),
        (["optimizer.lr=inf"], "^optimizer.lr=inf: must be a finite number$"),
        (["device=gpu"], "^device=gpu: must be auto, cpu, cuda or cuda:N$"),
        (["precision=fp8"], "^precision=fp8: must be auto, fp32, tf32, bf16, fp16$"),
        (["data.val_fraction=1.5"], "^data.val_fraction=1.5: must be less than 1$"),
        (["data.name=foo"], "^data.name=foo: must be one of 'digits', 'fashion_mnist'"),
        (["data=image_folder"], "^data.root: must be set"),
        (["model=resnet20", "model.depth=21"], r"^model.depth=21: must be 6n\+2"),
        (["model.channels=[8,0]"], "^model.channels.1=0: must be greater"),
        (["deterministic=maybe"], "^deterministic=maybe: must be true or false$"),
        (["scheduler.milestones=30,80"], r"a list is typed as scheduler\.milestones=\[30,80\]"),
        (["epochs=0", "seed=-1"], "(?s)epochs=0.*seed=-1"),
        (["optimizer.weight_decay=inf"], "^optimizer.weight_decay=inf: must be a finite number$"),
        (["+optimizer.groups.x={match: head, eps: 1e400}"], "^optimizer.groups.x.eps=inf: must be a finite number$"),
        (["scheduler.milestones=[3,1e400]"], r"^scheduler.milestones\[1\]=inf: must be a finite number$"),
        (
            ["scheduler.gamma=99999999999999999999"],
            "^scheduler.gamma=99999999999999999999: must be a whole number betw",
        ),
        (["batch_size=99999999999999999999"], "^batch_size=99999999999999999999: must be a whole number of images"),
        (["optimizer._target_=9.x"], "^optimizer._target_=9.x: must be the import path of a class"),
        (["epochs=1000001"], "^epochs=1000001: must be less than or equal to 1000000$"),
        (["threads=1000000"], "^threads=1000000: must be less than or equal to 1024$"),
        (["stages.limit_gb=1e300"], "^stages.limit_gb=1e[+]300: must be less than or equal to 1000000000$"),
        (["stages.memory_mb=1e400"], "^stages.memory_mb=inf: must be a finite number$"),
        (["model=resnet20", "model.depth=6000000002"], "^model.depth=6000000002: must be"),
        (["allow=numpy"], "^allow=numpy: must be a list$"),
    ],
)
def test_a_wrong_setting_is_refused_by_key_value_and_what_is_allowed(overrides, message):
    with pytest.raises(UserError, match=message):
        compose_config(overrides)


def test_sgd_with_momentum_is_one_override_away():
    config, _ = compose_config(["optimizer=sgd"])
    assert config.optimizer.target == "torch.optim.SGD"
    assert config.optimizer.arguments["momentum"] == 0.9


def test_augment_none_wins_over_an_experiment_and_gives_way_to_a_key():
    config, _ = compose_config(["experiment=cifar10_long", "augment=none", "data.flip=true"])
    assert (config.data.crop_padding, config.data.flip, config.data.cutout, config.augment) == (0, True, 0, {})


HOSTILE = """
import pathlib
pathlib.Path("imported").touch()

def call(**given):
    pathlib.Path("called").touch()
"""


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("scheduler._target_=%s", "scheduler"),
        ("scheduler.gamma={_target_: %s}", "scheduler.gamma"),
        ("+scheduler.schedulers=[{_target_: %s}]", r"scheduler.schedulers\[0\]"),
        ("optimizer._target_=%s", "optimizer"),
        ("optimizer.betas=[{_target_: %s}, 0.9]", r"optimizer.betas\[0\]"),
        ("+optimizer.groups.x={match: head, lr: {_target_: %s}}", "optimizer.groups.x.lr"),
        ("+augment.x={_target_: %s}", "augment.x"),
        ("+augment.x={_target_: harness.data.augment.Cutout, size: {_target_: %s}}", "augment.x.size"),
    ],
)
def test_code_that_is_not_allowed_is_not_even_imported(tmp_path, monkeypatch, place, key):
    (tmp_path / "hostile.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"^{key}._target_=hostile.call: must be .* allow=\[hostile\] on the command"):
        compose_config([place % "hostile.call"])
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.py"]


def test_packages_are_allowed_one_by_one():
    overrides = ["scheduler._target_=mine.Schedule", "allow=[yours]"]
    with pytest.raises(UserError, match=r"_target_=mine.Schedule: .* allow=\[yours,mine\]"):
        compose_config(overrides)
    config, _ = compose_config([*overrides[:1], "allow=[yours,mine]"])
    assert config.scheduler.target == "mine.Schedule"
