"""Entry point: finds the command, and only then imports what that command needs."""

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

__all__ = ["COMMANDS", "main"]

#: name -> one line of help; the code of a command is the module opposing.commands.<name>
COMMANDS = {
    "reproduce": "derive, simulate, train, forecast, verify and draw, in one run, with a table of claims",
    "derive": "print the closed forms with their proof status, or re-prove them",
    "simulate": "simulate the two-layer model beyond underflow, and compare with the closed form",
    "phase": "map out where the two-layer model settles, crosses the edge, spikes or diverges",
    "train": "train a network by full-batch gradient descent, recording sharpness and every example's loss",
    "fork": "branch a run off a step of another one, with another step size, optimizer or data subset",
    "forecast": "forecast the oscillation of a stopped run, before it goes on",
    "verify": "score a run's forecasts against what came after them",
    "signals": "list a run's opposing signals: when each appears, its pair of groups, when it ends",
    "intervene": "take a pair out of a run, or change it, and compare: is it the cause?",
    "presets": "list the experiments there are as presets, or print one to copy",
    "run": "carry out a preset: its claims, what was measured, the verdicts",
    "figures": "draw the figures of theory and experiment",
}

EXAMPLE = """example:
  opposing train --out runs/digits --until approach
  opposing forecast runs/digits
  opposing train --resume runs/digits
  opposing verify runs/digits"""


def usage() -> str:
    """Help text of the top level."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: opposing COMMAND [options]    (opposing COMMAND --help lists the options)",
            "",
            "Theory, simulation and scored forecasts of opposing signals in neural-network training.",
            "",
            "commands:",
            *lines,
            "",
            "  --debug  show the traceback of an error",
            "",
            EXAMPLE,
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 the run failed, 2 bad input."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name = args[0]
    together = "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1  # started by torchrun
    serves = together and os.environ["RANK"] != "0"
    if name not in COMMANDS and not serves:
        print(f"opposing: command must be one of {', '.join(COMMANDS)}; got {name!r}", file=sys.stderr)
        return 2
    try:
        if serves:
            return importlib.import_module("nets.serving").serve()
        command = importlib.import_module(f"opposing.commands.{name}")
        with importlib.import_module("nets.ranks").lead() if together else contextlib.nullcontext():
            return int(command.run(command.parse(args[1:])) or 0)
    except KeyboardInterrupt:
        print("opposing: interrupted; what was recorded is kept, the same command goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader (head, less) has left: nothing to say, and nothing more to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if debug:
            raise
        message = " ".join(str(error).split())
        print(f"opposing {name}: {message}", file=sys.stderr)
        return 2
    except Exception as error:
        if debug:
            raise
        message = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"opposing {name}: failed: {message} (--debug shows where)", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
