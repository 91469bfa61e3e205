import pytest
import torch

from harness.app.compose import compose_config
from harness.config import OptimizerConfig
from harness.errors import UserError
from harness.models.convnets import SmallCnn
from harness.training.optim import build_optimizer, preview_optimizer


def build(*overrides):
    config, _ = compose_config(list(overrides))
    torch.manual_seed(0)
    model = SmallCnn([4, 8], 0.0, (1, 8, 8), 10)
    return model, build_optimizer(config.optimizer, model)


def names(model, group):
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return {known[id(parameter)] for parameter in group["params"]}


def test_one_group_called_default_holds_every_parameter():
    model, optimizer = build()
    assert [group["name"] for group in optimizer.param_groups] == ["default"]
    assert names(model, optimizer.param_groups[0]) == {name for name, _ in model.named_parameters()}


def test_no_weight_decay_takes_norms_and_biases_and_nothing_else():
    model, optimizer = build("optimizer/groups=no_weight_decay")
    rest, undecayed = optimizer.param_groups
    assert (rest["weight_decay"], undecayed["weight_decay"]) == (0.01, 0.0)
    assert names(model, rest) == {"blocks.0.0.weight", "blocks.1.0.weight", "head.weight"}
    assert names(model, rest) | names(model, undecayed) == {name for name, _ in model.named_parameters()}
    assert not names(model, rest) & names(model, undecayed)


def test_groups_may_have_their_own_learning_rate():
    model, optimizer = build("+optimizer.groups.head={match: '^head', lr: 0.5}")
    assert [(group["name"], group["lr"]) for group in optimizer.param_groups] == [("default", 0.003), ("head", 0.5)]
    assert names(model, optimizer.param_groups[1]) == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+optimizer.groups.x={match: nothing, lr: 1.0}"], "groups.x.match=nothing: matches no parameter"),
        (["+optimizer.groups.x={lr: 1.0}"], "groups.x.match=None: must be norms_and_biases or a regular expression"),
        (["+optimizer.groups.x={match: head, lr: -1}"], "groups.x.lr=-1: must be a number above 0"),
        (["+optimizer.groups.x={match: head, momentun: 1}"], "groups.x.momentun=1: AdamW has no such setting"),
        (["+optimizer.groups.default={match: head}"], "groups.default: is the group of all other parameters"),
        (
            ["+optimizer.groups.x={match: head, weight_decay: -1}"],
            "^optimizer.groups.x.weight_decay=-1: must be .* Inv",
        ),
        (["+optimizer.groups.x={match: head, eps: -1}"], "^optimizer.groups.x.eps=-1: must be .* Invalid epsilon"),
        (
            ["+optimizer.groups.x={match: head, betas: [0.9, 5.0]}"],
            r"^optimizer.groups.x.betas=\[0.9, 5.0\]: must be what AdamW can work with, .* Invalid beta",
        ),
        (["optimizer=sgd", "+optimizer.groups.x={match: head, momentum: -1}"], "^optimizer.groups.x.momentum=-1: must"),
        (["optimizer.weight_decay=-1"], "Invalid weight_decay value: -1"),
        (["optimizer._target_=torch.optim.LBFGS", "~optimizer.betas"], "must be a one-pass optimizer"),
        (["optimizer._target_=torch.optim.SparseAdam"], "_target_=torch.optim.SparseAdam: needs sparse gradients"),
        (["+optimizer.maximize=no"], "^optimizer.maximize=no: must be true or false$"),
        (["optimizer=sgd", "optimizer.nesterov=off"], "^optimizer.nesterov=off: must be true or false$"),
        (["+optimizer.foreach=1"], "^optimizer.foreach=1: must be true, false or null$"),
        (["optimizer.weight_decay=true"], "^optimizer.weight_decay=true: must be a number$"),
        (["optimizer.eps='1e-8'"], "^optimizer.eps='1e-8': must be a number$"),
        (["optimizer.betas=[]"], r"^optimizer.betas=\[\]: must be a list of 2 values$"),
        (["+optimizer.groups.x={match: head, amsgrad: no}"], "^optimizer.groups.x.amsgrad=no: must be true or false$"),
        (
            ["optimizer.betas=[0.9,7]"],
            r"^optimizer.betas=\[0.9, 7\]: must be what AdamW can work with, .* Invalid beta",
        ),
        (
            ["optimizer._target_=torch.optim.NAdam", "~optimizer.amsgrad", "+optimizer.capturable=true"],
            "^optimizer.capturable=true: must be what NAdam can work with",
        ),
        (["+optimizer.fused=true", "+optimizer.foreach=true"], "fused=true, optimizer.foreach=true: must be what"),
    ],
)
def test_impossible_groups_and_settings_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        build(*overrides)


def test_a_group_may_go_without_the_momentum_that_the_others_nesterov_needs():
    _, optimizer = build("optimizer=sgd", "+optimizer.groups.x={match: head, momentum: 0}")
    assert [(group["momentum"], group["nesterov"]) for group in optimizer.param_groups] == [(0.9, True), (0, True)]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "Forgets",
            {},
            r"_target_=support.schedules.Forgets: has the parameter groups \[None\]; must keep \['default', 'x",
        ),
        ("Forgets", {"name": "y"}, "^optimizer.groups.x.name=y: Forgets has no such setting"),
        (
            "NeedsMore",
            {"more": 3},
            "^optimizer.groups.x.more=3: NeedsMore has one for all groups; must be given as opt",
        ),
    ],
)
def test_groups_that_an_optimizer_of_one_s_own_would_ignore_are_refused(name, settings, message):
    more = {"more": 2} if name == "NeedsMore" else {}
    values = {"_target_": f"support.schedules.{name}", "lr": 1.0, "groups": {"x": {"match": "h", **settings}}, **more}
    with pytest.raises(UserError, match=message):
        preview_optimizer(OptimizerConfig.model_validate(values))


@pytest.mark.parametrize(("in_group", "named"), [(False, "count"), (True, r"param_groups\[0\]\.k")])
def test_an_optimizer_that_keeps_what_no_checkpoint_has_is_refused(in_group, named):
    config = OptimizerConfig(_target_="support.schedules.Counts", lr=0.1, groups={}, in_group=in_group)
    with pytest.raises(UserError, match=rf"^optimizer\._target_=support\.schedules\.Counts: changes {named} in a step"):
        build_optimizer(config, torch.nn.Linear(2, 2))
