"""Classes named by their import path in the configuration, and their arguments checked by signature."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Collection, Mapping
from typing import Any

from harness.errors import UserError, closest


def resolve_class(key: str, target: str, base: type) -> type[Any]:
    """The class at the import path `target`.

    Raises:
        UserError: when nothing importable is there, or it is no subclass of `base`. `key` is named in the message.
    """
    allowed = f"must be the import path of a subclass of {base.__module__}.{base.__name__}"
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{key}._target_={target}: {allowed} ({error})") from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{key}._target_={target}: {allowed}")
    return found


def check_arguments(key: str, cls: type, arguments: Mapping[str, Any], given: Collection[str]) -> None:
    """Refuse arguments that the class's constructor does not have, and name required ones that are missing.

    `given` are the parameters that the caller fills in itself (`optimizer`, `params`).

    Raises:
        UserError: naming the setting and the ones that there are.
    """
    parameters = inspect.signature(cls).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    known = [name for name in parameters if name not in given]
    for name, value in arguments.items():
        if name not in known:
            raise UserError(
                f"{key}.{name}={value}: {cls.__name__} has no such setting{closest(name, known)}; "
                f"known: {', '.join(known)}"
            )
    for name in known:
        if parameters[name].default is inspect.Parameter.empty and name not in arguments:
            raise UserError(f"{key}.{name}: missing; {cls.__name__} needs it")
