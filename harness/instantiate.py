"""Classes named by their import path in the configuration, and their arguments checked by signature."""

from __future__ import annotations

import collections.abc
import importlib.util
import inspect
import re
import traceback
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, reduce
from pathlib import Path
from typing import Any, Literal, Union

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from harness.errors import UserError, closest, error_text, shown


def resolve_class(key: str, target: str, base: type) -> type[Any]:
    """The class at the import path `target`.

    Importing runs code: `Config` holds no target outside torch, this package and what its user allowed.

    Raises:
        UserError: when nothing importable is there, or it is no subclass of `base`. `key` is named in the message.
    """
    allowed = f"must be the import path of a subclass of {base.__module__}.{base.__name__}"
    try:
        found = _imported(target)
    except (Exception, SystemExit) as error:  # whatever a module's own code may raise
        _let_signals_through(error)
        raise UserError(f"{key}._target_={target}: {allowed} ({_reason(error)})") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{key}._target_={target}: {allowed}")
    return found


def _imported(target: str) -> Any:
    """As `pkgutil.resolve_name`, which tells of a submodule that fails on import that there is none."""
    path, *names = target.split(".")
    found: Any = importlib.import_module(path)
    while names and hasattr(found, "__path__") and importlib.util.find_spec(f"{path}.{names[0]}"):
        path = f"{path}.{names.pop(0)}"
        found = importlib.import_module(path)
    return reduce(getattr, names, found)


def _let_signals_through(error: BaseException) -> None:
    """A signal's own kind of `SystemExit` is nothing that a class has raised."""
    if isinstance(error, SystemExit) and type(error) is not SystemExit:
        raise error


def _reason(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg}, {error.filename}, line {error.lineno}"
    return f"{error_text(error)}{_place(error)}"


def check_arguments(
    key: str, cls: type, arguments: Mapping[str, Any], given: Collection[str], parts: Collection[str] = ()
) -> None:
    """Refuse arguments that the class's constructor does not have or that are of another type, and missing ones.

    `given` are the parameters that the caller fills in itself (`optimizer`, `params`), `parts` those whose values it
    makes of the arguments of these names.

    Raises:
        UserError: naming the setting, its value, and the settings or types that there are.
    """
    parameters = inspect.signature(cls).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = {name: p for name, p in parameters.items() if p.kind in named and name not in given}
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for name, value in arguments.items():
        if name in given or not (name in known or takes_any):
            raise UserError(
                f"{key}.{name}={shown(value)}: {cls.__name__} has no such setting{closest(name, list(known))}; "
                f"known: {', '.join(known)}"
            )
        if name in known and name not in parts:
            _check_type(f"{key}.{name}", value, _hints(cls).get(name, Any))
    for name, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and name not in arguments:
            raise UserError(f"{key}.{name}: missing; {cls.__name__} needs it")


@contextmanager
def refusing(key: str, cls: type, arguments: Mapping[str, Any], when: str = "") -> Iterator[None]:
    """Whatever a class raises in here is told as `refusal` tells it, with `when` at its end."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever its arithmetic, or code of the user's own, may raise
        _let_signals_through(error)
        raise UserError(f"{refusal(key, cls, arguments, error)}{when}") from error


def refusal(key: str, cls: type, arguments: Mapping[str, Any], error: BaseException) -> UserError:
    """What a class itself has against its settings, as a user's mistake; those that it speaks of are named."""
    stems = {name: re.escape(name.removesuffix("s")) for name in arguments}  # torch says beta of betas
    spoken_of = [name for name, stem in stems.items() if re.search(rf"\b{stem}s?\b", str(error))] or list(arguments)
    settings = ", ".join(f"{key}.{name}={shown(arguments[name])}" for name in spoken_of)
    text = str(error) if isinstance(error, TypeError | ValueError | RuntimeError) and str(error) else repr(error)
    settings = settings or f"{key}._target_={cls.__module__}.{cls.__qualname__}"
    place = "" if cls.__module__.partition(".")[0] in ("torch", "harness") else _place(error)
    return UserError(f"{settings}: must be what {cls.__name__} can work with, which says: {text}{place}")


def _place(error: BaseException) -> str:
    """The line at which code of the user's own failed, for who has to mend it."""
    others = (str(Path(__file__).parent), str(importlib.__file__), "<frozen ")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(others)]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


@cache
def _hints(cls: type) -> dict[str, Any]:
    """By parameter the type that it is annotated with, or that its default has; other parameters take anything."""
    constructor = inspect.unwrap(cls.__init__)  # type: ignore[misc]
    # Names that a module may import for type checkers alone, as torch does.
    names = {**vars(collections.abc), **vars(typing), **getattr(constructor, "__globals__", {})}
    try:
        hints = typing.get_type_hints(constructor, names)
    except (NameError, TypeError, AttributeError, SyntaxError):
        hints = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        default = parameter.default
        if name in hints:
            hints[name] = hints[name] | None if default is None else hints[name]
        elif isinstance(default, bool | int | float | str):
            hints[name] = float if type(default) is int else type(default)  # 0 may stand for 0.0
    return hints


def _check_type(label: str, value: Any, hint: Any) -> None:
    # An adapter wants a tuple where that is annotated, and YAML has lists.
    values = (value, tuple(value)) if isinstance(value, list) else (value,)
    if not any(_fits(each, hint) for each in values):
        raise UserError(f"{label}={shown(value)}: must be {_either(hint)}")


def _fits(value: Any, hint: Any) -> bool:
    settings = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
    try:
        TypeAdapter(hint, config=settings).validate_python(value)
    except ValidationError:
        return False
    except PydanticUserError:  # an annotation that is not for checking
        return True
    return True


def _either(*hints: Any) -> str:
    words = list(dict.fromkeys(word for hint in hints for word in _words(hint)))
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


_WORDS = {int: "a whole number", float: "a number", str: "text", types.NoneType: "null"}


def _words(hint: Any) -> Iterator[str]:
    """What a type allows, of what can be written in a configuration."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        for part in parts:
            yield from _words(part)
    elif origin is Literal:
        yield from map(str, parts)
    elif origin is tuple and ... not in parts:
        yield f"a list of {len(parts)} values"
    elif isinstance(origin or hint, type) and issubclass(origin or hint, str | collections.abc.Mapping):
        yield "text" if (origin or hint) is str else "a mapping"
    elif isinstance(origin, type) and issubclass(origin, collections.abc.Iterable):
        yield f"a list, each {_either(*parts)}"
    elif hint is bool:
        yield from ("true", "false")
    elif (origin or hint) in _WORDS:
        yield _WORDS[origin or hint]
    elif (origin or hint) is collections.abc.Callable:
        yield "a function, which no configuration can hold"
