"""A user's own function by import path, ``package.module:function``, with one clear line for each way it can fail."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["call_user", "import_function", "is_import_path"]


def is_import_path(name: str) -> bool:
    """Whether ``name`` has the form ``package.module:function``."""
    module, colon, function = name.partition(":")
    return bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def import_function(argument: str, path: str) -> Callable[..., Any]:
    """The function at ``package.module:function``; the working directory is searched first.

    Args:
        argument: Name of the option, for the message.
        path: Import path.
    Raises:
        ValueError: If the path has another form, the module cannot be imported, or lacks such a function.
    """
    if not is_import_path(path):
        raise ValueError(f"{argument} must have the form package.module:function, got {path!r}; pass e.g. my.nets:make")
    module_name, _, function_name = path.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module raises while it is imported
        raise ValueError(
            f"{argument} must name a module that can be imported, {module_name} failed with "
            f"{_one_line(error)}; run where it can be imported"
        ) from error
    finally:
        sys.path.remove(here)
    function = getattr(module, function_name, None)
    if not callable(function):
        found = "nothing of that name" if function is None else type(function).__name__
        raise ValueError(
            f"{argument} must name a function of {module_name}, got {found} for {function_name}; define it"
        )
    return function


def call_user(argument: str, path: str, *args: Any, **kwargs: Any) -> Any:
    """Import and call a user's function.

    Raises:
        ValueError: If it cannot be imported or raises; the message names the option and the first line of the error.
    """
    function = import_function(argument, path)
    try:
        return function(*args, **kwargs)
    except Exception as error:
        raise ValueError(f"{argument} {path} failed with {_one_line(error)}; correct it") from error


def _one_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
