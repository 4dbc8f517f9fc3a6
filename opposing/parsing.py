"""Options from a frozen dataclass, by tyro; a value that a configuration refuses is bad input, exit 2."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

__all__ = ["parser"]

C = TypeVar("C")


def parser(config: type[C], name: str, example: str) -> Callable[[Sequence[str]], C]:
    """The ``parse`` function of a command.

    Args:
        config: Dataclass whose fields are the options.
        name: Command name.
        example: A command line that works, shown by ``--help``.
    """

    def parse(args: Sequence[str]) -> C:
        description = f"{(config.__doc__ or '').strip().splitlines()[0]}\n\nexample: {example}"
        try:
            result: Any = tyro.cli(config, prog=f"opposing {name}", description=description, args=list(args))
        except ValueError as error:
            print(f"opposing {name}: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(2) from None
        return result

    return parse
