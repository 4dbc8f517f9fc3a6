"""Options from a frozen dataclass, by tyro; a value that a configuration refuses is bad input, exit 2."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

__all__ = ["parser"]

C = TypeVar("C")


def parser(config: type[C], name: str, example: str, lists: Sequence[str] = ()) -> Callable[[Sequence[str]], C]:
    """The ``parse`` function of a command.

    Args:
        config: Dataclass whose fields are the options.
        name: Command name.
        example: A command line that works, shown by ``--help``.
        lists: Options that may be given several times, each time with more values.
    """

    def parse(args: Sequence[str]) -> C:
        description = f"{(config.__doc__ or '').strip().splitlines()[0]}\n\nexample: {example}"
        try:
            result: Any = tyro.cli(config, prog=f"opposing {name}", description=description, args=_joined(args, lists))
        except ValueError as error:
            print(f"opposing {name}: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(2) from None
        return result

    return parse


def _joined(args: Sequence[str], lists: Sequence[str]) -> list[str]:
    """The arguments with the values of a repeated option moved to its first place; else the last alone counts."""
    first: dict[str, list[str]] = {}
    current: list[str] = []
    parts = [current]
    for arg in args:
        flag, equals, value = arg.partition("=")
        if flag in lists:
            if flag not in first:
                first[flag] = [flag]
                parts.append(first[flag])
            current = first[flag]
            current += [value] if equals else []
            continue
        if arg.startswith("--"):
            current = []
            parts.append(current)
        current.append(arg)
    return [arg for part in parts for arg in part]
