"""Random settings on the command line: a run that completes, or one message that names what was typed."""

import inspect
import json
import random
import resource
from collections.abc import Iterator
from pathlib import Path

from torch import optim
from torch.optim import lr_scheduler

from .campaign import Campaign
from .trainer import train

_BASE = {
    "data": "digits", "data.train_size": "64", "model.channels": "[4]", "epochs": "2", "device": "cpu", "threads": "1",
    "stages.dir": "null", "hydra.run.dir": "run",
}  # fmt: skip
_SENTINEL = "executed"
# Beyond what the process has from its start on; a case that wants more would be felt by the whole machine.
_MEMORY = 8 << 30

# By key, values that are right for some run.
_KEYS = {
    "data.val_fraction": ["0.1", "0.5"], "data.split_seed": ["1"], "data.train_size": ["1", "100", "null"],
    "data.crop_padding": ["0", "64"], "data.flip": ["true"], "data.cutout": ["2", "8"],
    "data.storage": ["host", "disk"],
    "data.name": ["mnist", "synthetic"], "model.name": ["resnet18"], "model.channels": ["[8,8]", "[1,1,1,1]"],
    "model.dropout": ["0.5"], "optimizer.lr": ["1", "1e-9", "1e300"], "optimizer.betas": ["[0,0]", "[0.5,0.5]"],
    "optimizer.eps": ["0", "1"], "optimizer.weight_decay": ["0", "1e200"], "optimizer.amsgrad": ["true"],
    "optimizer.groups": ["{}", "{x: {match: head, lr: 1}}", "{x: {match: nothing}}", "{x: {match: '('}}"],
    "scheduler.milestones": ["[1]", "[1,2,3]", "[3,1]"], "scheduler.gamma": ["0.5", "0"], "scheduler.last_epoch": ["3"],
    "augment": ["none", "standard"], "epochs": ["1", "3"], "batch_size": ["1", "64", "auto"], "seed": ["7"],
    "label_smoothing": ["0.1"],
    "device": ["auto", "cuda", "cuda:99"], "precision": ["bf16", "fp16", "tf32"], "deterministic": ["false"],
    "compile": ["false"], "cuda_graphs": ["true"], "profile": ["false"], "stop_on_nan": ["true"],
    "threads": ["2", "null"],
    "resume": ["auto", "never", "nowhere"], "plan_only": ["true"], "allow": ["[]", "[mine]"],
    "checkpoint.every": ["1", "9"],
    "checkpoint.keep": ["9"], "stages.dir": ["store", "/proc/none"], "stages.every": ["1"], "stages.limit_gb": ["1e-9"],
    "stages.memory_mb": ["0"], "stages.overtake_after": ["1"], "checkpoint": [], "stages": [],
}  # fmt: skip
_GROUPS = {
    "data": ["synthetic", "image_folder", "[digits,synthetic]"],
    "model": ["resnet20", "small_cnn", "[small_cnn,resnet20]"],
    "optimizer": ["sgd", "adamw", "[sgd,adamw]"],
    "optimizer/groups": ["no_weight_decay", "single"],
    "scheduler": ["constant", "cosine", "exponential", "late_decay", "linear", "onecycle", "polynomial", "step",
                  "warmup_multistep", "multistp", "[step,multistep]"],
    "augment": ["none", "standard"],
    "experiment": ["nothing", "null"],
}  # fmt: skip
_TYPOS = (
    "lr",
    "milestones",
    "optimizer.learning_rate",
    "scheduler.milestone",
    "data.rot",
    "epoch",
    "schedulr",
    "a.b.c",
)
_ODD = (
    "nan", "inf", "-inf", "1e400", "1e300", "1e-300", "-1", "0", "1", "2.5", "9223372036854775807", str(10**19),
    "1" + "0" * 400, "true", "false", "null", "no", "", "[]", "[[]]", "{}", "{a: 1}", "[1,2]", "[nan]", "[null]", "''",
    "'1'", "text", "ä", "'\x1b[2J'", "'a\nb'", "${epochs}", "${nothing}", "${oc.env:NOTHING}", "???", "a" * 300, "[",
    "'",
    "/", "..", "\\", "1,2", "%s", "[1000000000]",
)  # fmt: skip
_HOSTILE = (
    f"{{_target_: os.system, command: 'touch {_SENTINEL}'}}",
    f"{{_target_: subprocess.run, args: [touch, {_SENTINEL}]}}",
    f"{{_target_: pathlib.Path.touch, self: {_SENTINEL}}}",
    f"{{_target_: builtins.open, file: {_SENTINEL}, mode: w}}",
    f"{{_target_: torch.save, obj: 1, f: {_SENTINEL}}}",
    f"{{_target_: torch.utils.data.os.mkdir, path: {_SENTINEL}}}",
    "os.system",
    "torch.save",
    "antigravity.fly",
)
_OPTIMIZERS = [getattr(optim, name) for name in sorted(optim.__all__) if isinstance(getattr(optim, name), type)]
_SCHEDULERS = [getattr(lr_scheduler, name) for name in sorted(lr_scheduler.__all__)]


def _value(rng: random.Random, right: list[str]) -> str:
    return rng.choice(right) if right and rng.random() < 0.6 else rng.choice(_ODD)


def _key(rng: random.Random) -> list[str]:
    key = rng.choice(sorted(_KEYS))
    return [f"{rng.choice(['', '', '', '+', '++'])}{key}={_value(rng, _KEYS[key])}"]


def _group(rng: random.Random) -> list[str]:
    group = rng.choice(sorted(_GROUPS))
    return [f"{group}={_value(rng, _GROUPS[group])}"]


def _typo(rng: random.Random) -> list[str]:
    return [f"{rng.choice(['', '+', '++'])}{rng.choice(_TYPOS)}={_value(rng, ['0.1', '[3]'])}"]


def _gone(rng: random.Random) -> list[str]:
    return [f"~{rng.choice([*_KEYS, *_GROUPS, *_TYPOS])}"]


def _hostile(rng: random.Random) -> list[str]:
    keys = ("scheduler._target_", "optimizer._target_", "scheduler.gamma", "optimizer.betas", "optimizer.lr", "epochs",
            "+augment.x", "+optimizer.groups.x", "scheduler", "scheduler.milestones", "model", "data",
            "+scheduler.schedulers", "+scheduler.eta_min", "+optimizer.maximize")  # fmt: skip
    bare = rng.choice(_HOSTILE)
    return [f"{rng.choice(keys)}={rng.choice([bare, f'[{bare}]', f'{{x: {bare}}}'])}"]


def _optimizer(rng: random.Random) -> list[str]:
    cls = rng.choice(_OPTIMIZERS)
    own = [f"~optimizer.{name}" for name in ("betas", "eps", "weight_decay", "amsgrad")]
    return [
        f"optimizer._target_={cls.__module__}.{cls.__name__}",
        *own,
        *_arguments(rng, "optimizer", cls, ("params", "lr")),
    ]


def _scheduler(rng: random.Random) -> list[str]:
    cls = rng.choice(_SCHEDULERS)
    own = [f"~scheduler.{name}" for name in ("milestones", "gamma", "last_epoch")]
    target = f"scheduler._target_=torch.optim.lr_scheduler.{cls.__name__}"
    return [target, *own, *_arguments(rng, "scheduler", cls, ("optimizer",))]


def _arguments(rng: random.Random, key: str, cls: type, given: tuple[str, ...]) -> Iterator[str]:
    part = "{_target_: torch.optim.lr_scheduler.%s, %s}"
    parts = [part % ("ConstantLR", "factor: 1"), part % ("StepLR", "step_size: 1"), part % ("LambdaLR", "lr_lambda: 1")]
    for name, parameter in inspect.signature(cls).parameters.items():
        needed = parameter.default is inspect.Parameter.empty
        if name in given or not (needed or rng.random() < 0.3):
            continue
        right = ["1", "2", "0.5", "[0.5,0.5]", "true", "null", "-1", "0"]
        if name == "schedulers":
            right = [f"[{rng.choice(parts)},{rng.choice(parts)}]"]
        elif name == "milestones":
            right = ["[1]"]
        yield f"+{key}.{name}={_value(rng, right)}"


_WAYS = {
    "a setting": _key, "a group": _group, "a typo": _typo, "one taken out": _gone, "hostile": _hostile,
    "an optimizer": _optimizer, "a schedule": _scheduler,
}  # fmt: skip


def _overrides(rng: random.Random) -> tuple[str, list[str]]:
    kinds = rng.choices(list(_WAYS), [6, 2, 1, 1, 2, 3, 4], k=rng.choice([1, 1, 2, 3]))
    return kinds[0], [text for kind in kinds for text in _WAYS[kind](rng)]


def _attempt(rng: random.Random, shared: Path, folder: Path) -> str:
    kind, typed = _overrides(rng)
    keys = {text.lstrip("+~").partition("=")[0] for text in typed}
    base = {key: value for key, value in _BASE.items() if key not in keys}
    if "model" in keys:
        base.pop("model.channels", None)
    ended = train(*(f"{key}={value}" for key, value in base.items()), *typed, prelude=_limit_memory)
    said = f"{typed}: {ended.text[-3000:]}"
    assert not Path(_SENTINEL).exists(), f"code of the command line was run: {said}"
    assert ended.status in (0, 2), f"status {ended.status}: {said}"
    assert "Traceback" not in ended.text, said
    if ended.status == 0:
        assert json.loads(Path("run/summary.json").read_text())["status"] == "completed", said
        return f"{kind}: completed"
    errors = [line for line in ended.text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, f"{len(errors)} messages: {said}"
    message = ended.text.partition("error: ")[2]
    keys |= {key.replace("/", ".") for key in keys}
    words = {word for key in keys for word in (key, key.rpartition(".")[2], key.split(".")[0])}
    assert any(word in message for word in words), f"nothing typed is named: {said}"
    left = [path.name for path in folder.iterdir()]
    assert not left, f"a refused command leaves {left}: {said}"
    return f"{kind}: refused"


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


CAMPAIGN = Campaign(
    what="random settings; a completed run, or one message that names what was typed, and nothing left or executed",
    cases=2000,
    few=8,
    attempt=_attempt,
    seconds=60,
)
