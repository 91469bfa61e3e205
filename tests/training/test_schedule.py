from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.schedules import AtWhatever, Fails, Mine, NeedsMore, WithoutGradient
from torch.optim.lr_scheduler import MultiStepLR, StepLR

from harness.app.compose import compose_config
from harness.config import ClassConfig, OptimizerConfig
from harness.errors import UserError
from harness.training.optim import preview_optimizer
from harness.training.plan import LrPlan, plan_text
from harness.training.schedule import build_scheduler, make_plan
from harness.training.schedule_rules import check_settings, plan_warnings

TORCH = "torch.optim.lr_scheduler."


def config(name, **arguments):
    return ClassConfig.model_validate({"_target_": TORCH + name, **arguments})


def optimizer(*rates):
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": lr, "name": f"g{i}"} for i, lr in enumerate(rates)]
    return torch.optim.AdamW(groups)


def rates_of(plan, group=0):
    return [epoch[group] for epoch in plan.rates]


def test_1000_with_gamma_one_half_becomes_500_at_the_milestone():
    plan = make_plan(config("MultiStepLR", milestones=[2], gamma=0.5), optimizer(1000.0), 4)
    assert rates_of(plan) == [1000.0, 1000.0, 500.0, 500.0]


def test_milestones_2_8_10_halve_before_epochs_2_8_and_10():
    plan = make_plan(config("MultiStepLR", milestones=[2, 8, 10], gamma=0.5), optimizer(8.0), 12)
    assert rates_of(plan) == [8.0] * 2 + [4.0] * 6 + [2.0] * 2 + [1.0] * 2
    assert [(c.epoch, c.before, c.after) for c in plan.changes] == [
        (2, (8.0,), (4.0,)),
        (8, (4.0,), (2.0,)),
        (10, (2.0,), (1.0,)),
    ]


@pytest.mark.parametrize(
    ("schedule", "rates", "text"),
    [
        (config("ConstantLR", factor=1.0), [0.003], "0.003"),
        (config("MultiStepLR", milestones=[30, 80]), [0.003], "0.003, 0.0003 from epoch 30, 3e-05 from epoch 80"),
        (config("StepLR", step_size=60), [1.0, 2.0], "g0=1 g1=2, g0=0.1 g1=0.2 from epoch 60"),
        (config("ExponentialLR", gamma=0.5), [1.0], "1, 1.578e-30 in epoch 99, 99 changes"),
        (
            config("OneCycleLR", max_lr=1.0, total_steps=101, pct_start=0.3, cycle_momentum=False),
            [1.0],
            "0.04, 0.9998 in epoch 30, 0.0004975 in epoch 99, 99 changes",
        ),
    ],
    ids=lambda value: None if isinstance(value, list | str) else value.target.rpartition(".")[2],
)
def test_a_plan_is_told_by_its_changes_where_they_are_few_and_else_by_its_ends_and_peak(schedule, rates, text):
    assert plan_text(make_plan(schedule, optimizer(*rates), 100)) == f"learning rate {text} (100 epochs)"


def test_every_parameter_group_decays_from_its_own_rate():
    plan = make_plan(config("MultiStepLR", milestones=[1, 3], gamma=0.5), optimizer(1000.0, 8.0), 4)
    assert plan.groups == ("g0", "g1")
    assert plan.rates == ((1000.0, 8.0), (500.0, 4.0), (500.0, 4.0), (250.0, 2.0))
    assert plan.by_group(3) == {"g0": 250.0, "g1": 2.0}


@given(
    milestones=st.lists(st.integers(1, 30), min_size=1, max_size=5, unique=True).map(sorted),
    gamma=st.floats(0.01, 0.99),
    lr=st.floats(1e-6, 1e3),
)
def test_plan_multiplies_by_gamma_exactly_when_the_epoch_count_reaches_a_milestone(milestones, gamma, lr):
    plan = make_plan(config("MultiStepLR", milestones=milestones, gamma=gamma), optimizer(lr), 32)
    factors = [gamma if epoch in milestones else 1.0 for epoch in range(1, 32)]
    assert rates_of(plan) == list(accumulate(factors, lambda rate, factor: rate * factor, initial=lr))


@pytest.mark.parametrize(
    "name", ["constant", "step", "multistep", "cosine", "exponential", "linear", "polynomial", "warmup_multistep"]
)
def test_plan_of_each_shipped_schedule_is_what_torch_gives_when_stepped_after_each_epoch(name):
    settings, _ = compose_config([f"scheduler={name}", "epochs=100"])
    real = preview_optimizer(settings.optimizer)
    scheduler = build_scheduler(settings.scheduler, real)
    stepped = []
    for _ in range(100):
        stepped.append(real.param_groups[0]["lr"])
        real.step()
        scheduler.step()
    plan = make_plan(settings.scheduler, preview_optimizer(settings.optimizer), 100)
    assert rates_of(plan) == stepped
    assert plan_warnings(settings.scheduler, plan) == []


def test_shipped_schedules_have_the_source_s_values():
    plans = {}
    for name in ("constant", "step", "multistep", "cosine", "warmup_multistep"):
        settings, _ = compose_config([f"scheduler={name}", "epochs=100", "optimizer.lr=1.0"])
        plans[name] = rates_of(make_plan(settings.scheduler, preview_optimizer(settings.optimizer), 100))
    assert set(plans["constant"]) == {1.0}
    assert plans["multistep"] == pytest.approx([1.0] * 30 + [0.1] * 50 + [0.01] * 20, rel=1e-12)
    assert plans["step"] == pytest.approx([1.0] * 30 + [0.1] * 30 + [0.01] * 30 + [0.001] * 10, rel=1e-12)
    assert plans["cosine"][50] == pytest.approx(0.5)
    warm_up = [0.2, 0.36, 0.52, 0.68, 0.84]
    assert plans["warmup_multistep"] == pytest.approx([*warm_up] + [1.0] * 25 + [0.1] * 50 + [0.01] * 20, rel=1e-9)


def test_a_plan_can_be_made_for_an_optimizer_whose_constructor_needs_more_than_rates():
    settings = {"_target_": f"{NeedsMore.__module__}.NeedsMore", "lr": 1.0, "groups": {}, "more": 2}
    preview = preview_optimizer(OptimizerConfig.model_validate(settings))
    assert rates_of(make_plan(config("StepLR", step_size=1, gamma=0.5), preview, 3)) == [1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("MultiStepLR", {"milestones": [80, 30]}, r"scheduler.milestones=\[80, 30\]: 30 comes after 80; must be"),
        ("MultiStepLR", {"milestones": [3, 3]}, r"milestones=\[3, 3\]: 3 is repeated"),
        ("MultiStepLR", {"milestones": [2.5]}, r"milestones=\[2.5\]: 2.5 is no whole number"),
        ("MultiStepLR", {"milestones": [True]}, "no whole number"),
        ("MultiStepLR", {"milestones": [0, 3]}, "0 is below 1"),
        ("MultiStepLR", {"milestones": [-1]}, "-1 is below 1"),
        ("MultiStepLR", {"milestones": []}, r"milestones=\[\]: must be a list"),
        ("MultiStepLR", {"milestones": 30}, "milestones=30: must be a list"),
        ("MultiStepLR", {}, "scheduler.milestones: missing"),
        ("MultiStepLR", {"milestones": [3], "gamma": 1.0}, "scheduler.gamma=1.0: must be a number above 0 and below 1"),
        ("MultiStepLR", {"milestones": [3], "gamma": 0}, "gamma=0: must be"),
        ("MultiStepLR", {"milestones": [3], "gamma": "x"}, "gamma=x: must be"),
        (
            "MultiStepLR",
            {"milestones": [3], "gama": 0.1},
            r"gama=0.1: MultiStepLR has no such setting \(did you mean gamma\?\)",
        ),
        ("MultiStepLR", {"milestones": [3], "last_epoch": 5}, "last_epoch=5: must be -1"),
        ("StepLR", {"step_size": 0}, "scheduler.step_size=0: must be a whole number of epochs, 1 or more"),
        ("StepLR", {"step_size": 2.5}, "step_size=2.5: must be"),
        ("StepLR", {"step_size": 3, "gamma": 2}, "gamma=2: must be"),
        ("ExponentialLR", {"gamma": 1.1}, "gamma=1.1: must be"),
        ("ReduceLROnPlateau", {}, "steps on a metric"),
        ("NoSuchLR", {}, "_target_=torch.optim.lr_scheduler.NoSuchLR: must be the import path of a subclass"),
        (
            "SequentialLR",
            {
                "milestones": [5],
                "schedulers": [
                    {"_target_": TORCH + "ConstantLR"},
                    {"_target_": TORCH + "MultiStepLR", "milestones": [4, 2]},
                ],
            },
            r"scheduler.schedulers\[1\].milestones=\[4, 2\]: 2 comes after 4",
        ),
        ("CosineAnnealingLR", {"T_max": 0}, "scheduler.T_max=0: must be a whole number of epochs, 1 or more"),
        ("CosineAnnealingLR", {"T_max": 2.5}, "scheduler.T_max=2.5: must be a whole number of epochs, 1 or more"),
        ("CosineAnnealingLR", {"T_max": 5, "eta_min": "x"}, "scheduler.eta_min=x: must be a number"),
        ("OneCycleLR", {"max_lr": 1, "three_phase": "no"}, "scheduler.three_phase=no: must be true or false"),
        ("OneCycleLR", {"max_lr": "0.1"}, "scheduler.max_lr='0.1': must be a number or a list, each a number"),
        ("OneCycleLR", {"max_lr": 1, "anneal_strategy": "cosine"}, "anneal_strategy=cosine: must be cos or linear"),
        ("LambdaLR", {"lr_lambda": "print"}, "scheduler.lr_lambda=print: must be a function, which no"),
        ("ConstantLR", {"factor": True}, "scheduler.factor=true: must be a number"),
        ("ConstantLR", {"total_iters": {"_target_": TORCH + "StepLR"}}, "total_iters={.*must be a plain value"),
        (
            "ConstantLR",
            {"factor": [1, [{"_target_": TORCH + "StepLR"}]]},
            r"scheduler.factor\[1\]\[0\]={.*: must be a plain value; only schedulers hold",
        ),
        (
            "SequentialLR",
            {"milestones": 5, "schedulers": [{"_target_": TORCH + "ConstantLR"}] * 2},
            "scheduler.milestones=5: must be a list of whole epochs",
        ),
        (
            "SequentialLR",
            {"milestones": ["5"], "schedulers": [{"_target_": TORCH + "ConstantLR"}] * 2},
            r"scheduler.milestones=\['5'\]: 5 is no whole number",
        ),
        ("ChainedScheduler", {"schedulers": [5]}, r"scheduler.schedulers\[0\]=5: must be a scheduler with a _target_"),
        (
            "ChainedScheduler",
            {"schedulers": [{"_target_": 5}]},
            r"schedulers\[0\]=.*: must be a scheduler with a _targ",
        ),
        ("SequentialLR", {"milestones": [5], "schedulers": []}, r"scheduler.schedulers=\[\]: must be a list of sched"),
        (
            "SequentialLR",
            {"milestones": [5], "schedulers": [{"_target_": TORCH + "LinearLR", "total_iters": "5"}] * 2},
            r"scheduler.schedulers\[0\].total_iters='5': must be a whole number",
        ),
        (
            "SequentialLR",
            {"milestones": [5], "schedulers": [{"_target_": "torch.hub.load"}] * 2},
            "_target_=torch.hub.l",
        ),
    ],
)
def test_impossible_settings_are_refused_with_key_value_and_what_is_allowed(name, arguments, message):
    with pytest.raises(UserError, match=message):
        check_settings(config(name, **arguments))


def test_what_torch_would_take_is_refused_when_a_schedule_is_planned_too():
    with pytest.raises(UserError, match="30 comes after 80"):
        make_plan(config("MultiStepLR", milestones=[80, 30]), optimizer(1.0), 2)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            config("LRScheduler"),
            "scheduler._target_=.*LRScheduler: must be what LRScheduler can work with.*NotImplementedError",
        ),
        (
            config("PolynomialLR", power=-1, total_iters=2),
            "scheduler.power=-1: must be what PolynomialLR.*after epoch 1",
        ),
        (config("LinearLR", start_factor=2.0), "scheduler.start_factor=2.0: must be what LinearLR can work with"),
        (
            config("SequentialLR", milestones=[2], schedulers=[{"_target_": TORCH + "ConstantLR"}]),
            "scheduler.*SequentialL",
        ),
        (
            config("SequentialLR", milestones=[2], schedulers=[{"_target_": TORCH + "ConstantLR"}] * 3),
            r"scheduler.milestones=\[2\].*SequentialLR can work with",
        ),
        (
            config("CyclicLR", base_lr=0.1, max_lr=0.2, step_size_up=0, cycle_momentum=False),
            "scheduler.*step_size_up=0",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else value.target.rpartition(".")[2],
)
def test_what_a_scheduler_s_own_arithmetic_cannot_do_is_told_by_its_settings(schedule, message):
    with pytest.raises(UserError, match=message):
        make_plan(schedule, optimizer(1.0), 5)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (config("CosineAnnealingLR", T_max=2, eta_min=-1.0), "gives epoch 2 the learning rate -1.0; must be 0 or more"),
        (
            config("OneCycleLR", max_lr=1e300, div_factor=1e-10, total_steps=9, cycle_momentum=False),
            "gives epoch 0 the learning rate inf; must be 0 or more",
        ),
    ],
    ids=["negative", "infinite"],
)
def test_a_rate_that_nothing_can_be_trained_with_is_refused_with_its_epoch(schedule, message):
    with pytest.raises(UserError, match=f"^scheduler: {schedule.target} {message}"):
        make_plan(schedule, optimizer(1.0), 4)


def test_a_schedule_that_also_turns_the_momentum_is_refused():
    one_cycle = config("OneCycleLR", max_lr=1.0, total_steps=10)
    with pytest.raises(UserError, match="changes the optimizer's betas"):
        make_plan(one_cycle, optimizer(0.1), 5)
    assert (
        len(make_plan(config("OneCycleLR", max_lr=1.0, total_steps=10, cycle_momentum=False), optimizer(0.1), 10).rates)
        == 10
    )


def test_milestones_30_and_80_in_20_epochs_are_warned_of_by_epoch():
    settings = config("MultiStepLR", milestones=[30, 80], gamma=0.1)
    warnings = plan_warnings(settings, make_plan(settings, optimizer(1.0), 20))
    assert warnings == [
        "milestone 30 never fires: the run's last epoch is 19 (epochs=20)",
        "milestone 80 never fires: the run's last epoch is 19 (epochs=20)",
    ]


@pytest.mark.parametrize(("milestone", "count"), [(19, 0), (20, 1)])
def test_a_milestone_equal_to_the_number_of_epochs_never_fires(milestone, count):
    settings = config("MultiStepLR", milestones=[milestone])
    plan = make_plan(settings, optimizer(1.0), 20)
    assert len(plan_warnings(settings, plan)) == count
    assert len(plan.changes) == 1 - count


def test_what_comes_after_another_schedule_counts_its_milestones_from_there():
    multistep = {"_target_": TORCH + "MultiStepLR", "gamma": 0.5}
    parts = [{**multistep, "milestones": milestones} for milestones in ([2, 3], [2, 3], [1, 3, 4])]
    settings = config("SequentialLR", milestones=[3, 6], schedulers=parts)
    plan = make_plan(settings, optimizer(1.0), 10)
    assert rates_of(plan) == [1.0, 1.0, 0.5, 1.0, 1.0, 0.5, 1.0, 0.5, 0.5, 0.25]
    assert plan_warnings(settings, plan) == [
        "milestone 3 never fires: the next schedule takes over (epochs=10)",
        "milestone 3 (epoch 6 of the run) never fires: the next schedule takes over (epochs=10)",
        "milestone 4 (epoch 10 of the run) never fires: the run's last epoch is 9 (epochs=10)",
    ]


def test_a_rate_that_never_changes_is_warned_of_where_there_is_a_second_epoch():
    settings = config("LinearLR", start_factor=1.0)
    warnings = [plan_warnings(settings, make_plan(settings, optimizer(1.0), epochs)) for epochs in (1, 2)]
    assert warnings == [[], ["the schedule never changes the learning rate in 2 epochs"]]


def test_an_epoch_in_which_every_rate_is_0_is_warned_of():
    settings = config("PolynomialLR", total_iters=2)
    for rates, told in (([1.0, 2.0], ["the learning rate is 0 in epoch 2, which trains nothing"]), ([0.0, 1.0], [])):
        assert plan_warnings(settings, make_plan(settings, optimizer(*rates), 2 + len(told))) == told


def test_a_decay_without_effect_is_warned_of_by_epoch_and_group():
    settings = config("MultiStepLR", milestones=[3, 4], gamma=0.1)
    warnings = plan_warnings(settings, make_plan(settings, optimizer(1.0, 5e-324), 6))
    assert warnings == ["the decay at epoch 4 does not change the learning rate of g1"]


def test_step_size_beyond_the_run_is_warned_of():
    for step_size, told in (
        (19, []),
        (20, ["step_size 20 never fires: the run's last epoch is 19 (epochs=20)"]),
    ):
        settings = config("StepLR", step_size=step_size)
        assert plan_warnings(settings, make_plan(settings, optimizer(1.0), 20)) == told


@pytest.mark.parametrize(("step_size", "count"), [(3, 0), (4, 1)])
def test_a_step_size_beyond_its_schedule_s_own_epochs_is_warned_of(step_size, count):
    parts = [{"_target_": TORCH + "ConstantLR"}, {"_target_": TORCH + "StepLR", "step_size": step_size}]
    settings = config("SequentialLR", milestones=[6], schedulers=parts)
    warnings = plan_warnings(settings, make_plan(settings, optimizer(1.0), 10))
    assert [warning.partition(":")[0] for warning in warnings] == [f"step_size {step_size} never fires"] * count
    settings = config("SequentialLR", milestones=[step_size], schedulers=parts[::-1])
    told = plan_warnings(settings, make_plan(settings, optimizer(1.0), 10))
    assert told[0] == f"step_size {step_size} never fires: the next schedule takes over (epochs=10)"


def own(cls, **arguments):
    return ClassConfig.model_validate({"_target_": f"{cls.__module__}.{cls.__name__}", **arguments})


def test_a_subclass_of_multisteplr_is_checked_and_warned_of_as_its_parent_is():
    settings = own(Mine, milestones=[3, 30])
    assert plan_warnings(settings, make_plan(settings, optimizer(1.0), 9)) == [
        "milestone 30 never fires: the run's last epoch is 8 (epochs=9)"
    ]
    with pytest.raises(UserError, match="3 comes after 30"):
        check_settings(own(Mine, milestones=[30, 3]))


@pytest.mark.parametrize("milestones", [5, {"first": 3}, [0.5, "x"]])
def test_milestones_of_a_schedule_of_one_s_own_may_be_anything(milestones):
    settings = own(AtWhatever, milestones=milestones)
    plan = make_plan(settings, optimizer(1.0), 6)
    assert rates_of(plan) == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5]
    assert plan_warnings(settings, plan) == []


def test_a_mistake_in_a_schedule_of_one_s_own_is_told_with_its_line():
    with pytest.raises(
        UserError, match=r"Fails can work with, which says: KeyError\('rate'\) \(.*schedules.py, line 2\d\)$"
    ):
        make_plan(own(Fails), optimizer(1.0), 2)


def test_a_mistake_in_an_optimizer_of_one_s_own_is_not_laid_on_the_schedule():
    settings = {"_target_": f"{WithoutGradient.__module__}.WithoutGradient", "lr": 1.0, "groups": {}}
    preview = preview_optimizer(OptimizerConfig.model_validate(settings))
    with pytest.raises(
        UserError, match=r"^optimizer._target_=.*WithoutGradient: must be .* \(.*schedules.py, line \d+"
    ):
        make_plan(config("StepLR", step_size=1), preview, 3)


def test_agreement_counts_the_epochs_trained_as_planned():
    plan = make_plan(config("MultiStepLR", milestones=[2]), optimizer(1.0), 5)
    other = make_plan(config("StepLR", step_size=3), optimizer(1.0), 5)
    assert plan.agreement([other.by_group(e) for e in range(5)]) == 2
    assert plan.agreement([plan.by_group(e) for e in range(3)]) == 3


def test_the_stock_torch_classes_are_what_is_built():
    settings, _ = compose_config(["scheduler=step"])
    assert type(build_scheduler(settings.scheduler, optimizer(1.0))) is StepLR
    settings, _ = compose_config(["scheduler=multistep"])
    scheduler = build_scheduler(settings.scheduler, optimizer(1.0))
    assert type(scheduler) is MultiStepLR
    assert (dict(scheduler.milestones), scheduler.gamma) == ({30: 1, 80: 1}, 0.1)


def test_five_changes_of_a_plan_are_told_one_by_one_and_six_are_not():
    settings = config("ExponentialLR", gamma=0.5)
    texts = [plan_text(make_plan(settings, optimizer(32.0), epochs)) for epochs in (6, 7)]
    assert texts[0].startswith(
        "learning rate 32, 16 from epoch 1, 8 from epoch 2, 4 from epoch 3, 2 from epoch 4, 1 from"
    )
    assert texts[1] == "learning rate 32, 0.5 in epoch 6, 6 changes (7 epochs)"


def test_a_plan_for_some_groups_has_their_rates_in_the_order_asked_for():
    plan = make_plan(config("StepLR", step_size=1, gamma=0.5), optimizer(1.0, 2.0, 4.0), 2)
    assert plan.of(["g2", "g0"]) == LrPlan(("g2", "g0"), ((4.0, 1.0), (2.0, 0.5)))


@pytest.mark.parametrize(
    ("rates", "text"),
    [
        ([1, 9, 2, 3, 4, 5, 6], "1, 9 in epoch 1, 6 in epoch 6, 6 changes (7 epochs)"),
        ([1, 2, 3, 4, 5, 9, 6], "1, 9 in epoch 5, 6 in epoch 6, 6 changes (7 epochs)"),
        ([1, 2, 3, 4, 5, 6, 9], "1, 9 in epoch 6, 6 changes (7 epochs)"),
        ([9, 2, 3, 4, 5, 6, 1], "9, 1 in epoch 6, 6 changes (7 epochs)"),
    ],
)
def test_a_peak_is_told_of_unless_it_is_the_first_or_the_last_rate(rates, text):
    assert plan_text(LrPlan(("g",), tuple((float(rate),) for rate in rates))) == f"learning rate {text}"


def test_a_plan_that_lacks_a_group_s_rate_is_an_error_and_no_shorter_plan():
    with pytest.raises(ValueError, match="shorter"):
        LrPlan(("a", "b"), ((1.0,),)).by_group(0)
