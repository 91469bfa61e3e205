"""The typed configuration of one run: what keys there are, what they may hold, and how a wrong one is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from harness.errors import UserError, closest, shown


class Role(Enum):
    """What a setting has to do with a run's bits, where it does not simply decide them by its value."""

    NO_BITS = "changes none"
    SCHEDULE = "decides the learning rates, which have keys of their own"
    MACHINE = "decides them by what it is resolved to on this machine"
    PLACE = "decides them by the content that lies there"


LARGEST = 2**63 - 1  # what whole numbers of 64 bits hold
# A plan of so many takes half a minute and 150 MB, and a run of them weeks; of ten times as many neither is of use.
MOST_EPOCHS = 1_000_000
# More cores has no machine, and torch does not survive so many threads that the system refuses to start them.
Threads = Annotated[int, Field(ge=1, le=1024)]
Seed = Annotated[int, Field(ge=0, le=LARGEST)]
PositiveInt = Annotated[int, Field(ge=1, le=LARGEST)]
Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]


class _Settings(BaseModel):
    """Frozen; refuses unknown keys, wrong types (no silent conversion) and infinite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def plain(self, *without: Role) -> dict[str, Any]:
        """As nested plain values, under the names that the user writes, but for the settings with these roles."""
        return self.model_dump(by_alias=True, exclude=_having(self, without))


class _Data(_Settings):
    """The validation images are chosen by `split_seed`; null stands for the run's own seed."""

    val_fraction: Fraction
    split_seed: Seed | None
    train_size: PositiveInt | None
    crop_padding: Annotated[int, Field(ge=0, le=64)]
    flip: bool
    cutout: Annotated[int, Field(ge=0, le=1024)]


class _InMemoryData(_Data):
    storage: Annotated[Literal["auto", "device", "host"], Role.NO_BITS]


class DigitsData(_InMemoryData):
    """The UCI digits of scikit-learn."""

    name: Literal["digits"]


class TorchvisionData(_InMemoryData):
    """A torchvision data set; `root` is the folder searched first and downloaded into."""

    name: Literal["fashion_mnist", "mnist", "cifar10", "cifar100"]
    root: Annotated[str, Role.PLACE]
    download: Annotated[bool, Role.NO_BITS]


class ImageFolderData(_Data):
    """`root/train/<class>/*` and `root/test/<class>/*`; `image_size` in pixels; `workers` threads decode files.

    A file of more than `max_pixels` is refused undecoded.
    """

    name: Literal["image_folder"]
    root: Annotated[str, Role.PLACE]
    image_size: Annotated[int, Field(ge=1, le=1024)]
    channels: Literal[1, 3]
    storage: Annotated[Literal["auto", "device", "host", "disk"], Role.NO_BITS]
    workers: Annotated[Threads | None, Role.NO_BITS]
    max_pixels: Annotated[PositiveInt, Role.NO_BITS]


class SyntheticData(_InMemoryData):
    """Class patterns in noise, made from `split_seed`."""

    name: Literal["synthetic"]
    images: Annotated[int, Field(ge=10)]
    classes: Annotated[int, Field(ge=2)]
    image_size: Annotated[int, Field(ge=1, le=1024)]
    channels: PositiveInt


DataConfig = Annotated[DigitsData | TorchvisionData | ImageFolderData | SyntheticData, Field(discriminator="name")]


class SmallCnnModel(_Settings):
    """One block of convolution, batch norm, pooling and ReLU for each entry of `channels`."""

    name: Literal["small_cnn"]
    channels: Annotated[list[PositiveInt], Field(min_length=1)]
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]


class CifarResNetModel(_Settings):
    """The ResNet of He et al. (2016), section 4.2; `depth` = 6n + 2, up to the deepest of theirs."""

    name: Literal["cifar_resnet"]
    depth: Annotated[int, Field(le=1202)]

    @field_validator("depth")
    @classmethod
    def _is_6n_plus_2(cls, depth: int) -> int:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError("must be 6n+2 with n of at least 1: 8, 14, 20, 32, 44, 56, 110, ...")
        return depth


class ResNet18Model(_Settings):
    """ResNet-18 with a stem for small images."""

    name: Literal["resnet18"]


class ResNet9Model(_Settings):
    """The ResNet-9 of Page's cifar10-fast (2018)."""

    name: Literal["resnet9"]


class TorchvisionModel(_Settings):
    """A classification network that torchvision knows by the name `architecture`."""

    name: Literal["torchvision"]
    architecture: str


ModelConfig = Annotated[
    SmallCnnModel | CifarResNetModel | ResNet18Model | ResNet9Model | TorchvisionModel, Field(discriminator="name")
]


_IMPORT_PATH = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$"


class ClassConfig(BaseModel):
    """A class by its import path, `_target_`, and the arguments that it is called with.

    Which arguments there are is the class's own affair: `schedule` and `optim` check them against its signature.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    target: Annotated[str, Field(alias="_target_", pattern=_IMPORT_PATH)]

    @property
    def arguments(self) -> dict[str, Any]:
        """All keys but `_target_`, as plain Python values."""
        return dict(self.model_extra or {})

    def plain(self) -> dict[str, Any]:
        """As nested plain values, under the names that the user writes."""
        return self.model_dump(by_alias=True)


class OptimizerConfig(ClassConfig):
    """A torch optimizer; `groups` maps a group's name to `match` and the settings that differ in it."""

    lr: Annotated[float, Field(gt=0.0, strict=True, allow_inf_nan=False)]
    groups: dict[Annotated[str, Field(pattern=r"^\w+$")], dict[str, Any]]

    @property
    def arguments(self) -> dict[str, Any]:
        """The optimizer's keyword arguments, `lr` among them."""
        return {"lr": self.lr, **(self.model_extra or {})}


def _every(value: object) -> object:
    if value == "auto" or (type(value) is int and 1 <= value <= LARGEST):
        return value
    raise ValueError("must be a whole number of epochs, 1 or more, or auto")


class CheckpointConfig(_Settings):
    """How often a checkpoint is written, in epochs (`auto`: by its cost), and how many of the latest are kept."""

    every: Annotated[int | Literal["auto"], BeforeValidator(_every)]
    keep: PositiveInt


class StagesConfig(_Settings):
    """The stage store: its folder (null: this process's memory alone), how many epochs lie between the states that a
    run leaves there, its limits, and for how many minutes without progress another process is waited for (null: for as
    long as it lives)."""

    dir: str | None
    every: PositiveInt
    limit_gb: Annotated[float, Field(gt=0.0, le=1e9)]  # an exabyte
    memory_mb: Annotated[float, Field(ge=0.0, le=1e9)]
    overtake_after: Annotated[float, Field(gt=0.0)] | None = None


Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]


AUTO = 0


def _batch_size(value: object) -> object:
    if value == "auto":
        return AUTO
    if value == AUTO:
        raise ValueError
    return value


class Config(_Settings):
    """Everything that one run is made from."""

    data: DataConfig
    model: ModelConfig
    optimizer: OptimizerConfig
    augment: dict[str, ClassConfig] = Field(default_factory=dict)
    scheduler: Annotated[ClassConfig, Role.SCHEDULE]
    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS), Role.SCHEDULE]
    batch_size: Annotated[int, Field(ge=0, le=LARGEST), BeforeValidator(_batch_size)]  # may be AUTO
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    seed: Seed
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$"), Role.MACHINE]
    precision: Annotated[Precision, Role.MACHINE]
    deterministic: bool
    compile: bool
    cuda_graphs: bool
    profile: Annotated[bool, Role.NO_BITS]
    threads: Annotated[Threads | None, Role.MACHINE]
    resume: Annotated[str | None, Role.NO_BITS]
    checkpoint: Annotated[CheckpointConfig, Role.NO_BITS]
    stages: Annotated[StagesConfig, Role.NO_BITS]
    plan_only: Annotated[bool, Role.NO_BITS] = False
    stop_on_nan: Annotated[bool, Role.NO_BITS] = False
    allow: Annotated[list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]], Role.NO_BITS] = Field(default_factory=list)

    @property
    def images(self) -> DataConfig:
        """The data with the seed that chooses the validation images."""
        if self.data.split_seed is not None:
            return self.data
        return self.data.model_copy(update={"split_seed": self.seed})

    @model_validator(mode="after")
    def _names_only_code_that_may_run(self) -> Config:
        """Before any of it is imported, since that already runs it."""
        settings = [("scheduler", self.scheduler, "torch"), ("optimizer", self.optimizer, "torch")]
        settings += [(f"augment.{name}", each, "harness") for name, each in self.augment.items()]
        wrong = [line for key, each, own in settings for line in _wrong_settings(key, each.plain(), (own, *self.allow))]
        if wrong:
            raise ValueError("\n".join(wrong))
        return self


_ALLOWED_TEXT = {
    "batch_size": "a whole number of images, 1 or more, or auto",
    "device": "auto, cpu, cuda or cuda:N",
    "precision": ", ".join(get_args(Precision)),
    "storage": "auto, device or host, or disk with data=image_folder",
    "_target_": "the import path of a class, such as torch.optim.lr_scheduler.MultiStepLR",
}
_TYPE_TEXT = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
}


def parse_config(values: Mapping[str, Any]) -> Config:
    """Check a nested mapping of plain values and make it a `Config`.

    Raises:
        UserError: with one line for each wrong setting: key, value and what is allowed.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = [_describe(details, values) for details in error.errors()]
        raise UserError("\n".join(lines)) from None


def _wrong_settings(key: str, node: Any, packages: Sequence[str]) -> Iterator[str]:
    """A line for each setting of a class, nested ones too, that names code that may not run, or is no usable number."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield from _wrong_target(key, node["_target_"], packages)
        for name, value in node.items():
            yield from _wrong_settings(f"{key}.{name}", value, packages)
    elif isinstance(node, list | tuple):
        for position, value in enumerate(node):
            yield from _wrong_settings(f"{key}[{position}]", value, packages)
    elif isinstance(node, float) and not math.isfinite(node):
        yield f"{key}={node}: must be a finite number"
    elif isinstance(node, int) and not -LARGEST <= node <= LARGEST:
        yield f"{key}={shown(node)}: must be a whole number between -{LARGEST} and {LARGEST}"


def _wrong_target(key: str, target: object, packages: Sequence[str]) -> Iterator[str]:
    if not isinstance(target, str) or not re.match(_IMPORT_PATH, target):
        yield f"{key}._target_={shown(target)}: must be {_ALLOWED_TEXT['_target_']}"
    elif (package := target.partition(".")[0]) not in packages:
        more = ",".join([*packages[1:], package])
        yield (
            f"{key}._target_={target}: must be a class of {packages[0]}, or of a package whose code you allow to run: "
            f"allow=[{more}] on the command line, or in conf/config.yaml"
        )


def _having(settings: BaseModel, roles: Collection[Role]) -> dict[str, Any]:
    """The names of the settings with one of these roles, nested as pydantic wants them for what it is to leave out."""
    named: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        if any(role in field.metadata for role in roles):
            named[name] = True
        elif isinstance(value := getattr(settings, name), BaseModel) and (inner := _having(value, roles)):
            named[name] = inner
    return named


def _describe(details: ErrorDetails, values: Mapping[str, Any]) -> str:
    if not details["loc"]:  # of several settings, each with its key
        return details["msg"].removeprefix("Value error, ")
    path = _path_in(details["loc"], values)
    key = ".".join(path)
    if details["type"] == "missing":
        return f"{key}: missing"
    if details["type"] == "extra_forbidden":
        fields = _fields_beside(details["loc"])
        return f"{key}={details['input']}: unknown setting{closest(path[-1], fields)}; known: {', '.join(fields)}"
    if details["type"] == "union_tag_invalid":
        key, value = f"{key}.name", details["ctx"]["tag"]
        return f"{key}={value}: must be one of {details['ctx']['expected_tags']}"
    if details["type"] == "union_tag_not_found":
        return f"{key}.name: missing"
    allowed = _ALLOWED_TEXT.get(path[-1]) or _TYPE_TEXT.get(details["type"])
    message = re.sub("^Input should be ", "must be ", details["msg"].removeprefix("Value error, "))
    text = f"must be {allowed}" if allowed else message
    return f"{key}={shown(details['input'])}: {text}"


def _path_in(location: tuple[int | str, ...], values: Mapping[str, Any]) -> list[str]:
    """Leave out of pydantic's location what is not in the user's configuration: the name of a union's member."""
    path: list[str] = []
    node: Any = values
    for position, part in enumerate(location):
        is_member = position == 1 and location[0] in ("data", "model") and isinstance(node, Mapping)
        if is_member and node.get("name") == part:
            continue
        path.append(str(part))
        if isinstance(node, Mapping):
            node = node.get(part)
    return path


def _fields_beside(location: tuple[int | str, ...]) -> list[str]:
    """The names that the settings class at this place of the configuration has."""
    group = location[0] if len(location) > 1 else None
    sections: dict[int | str | None, type[BaseModel]] = {"checkpoint": CheckpointConfig, "stages": StagesConfig}
    if group in sections:
        return list(sections[group].model_fields)
    unions: dict[int | str | None, Any] = {"data": DataConfig, "model": ModelConfig}
    if group in unions:
        for member in get_args(get_args(unions[group])[0]):
            if location[1] in get_args(member.model_fields["name"].annotation):
                return list(member.model_fields)
    return list(Config.model_fields)
