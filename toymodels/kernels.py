r"""Kernels assembled from generated code: many runs at once, on CPU threads and vector units, or on a CUDA device.

Both are the same lines inside different loops. On the CPU a tile of lanes stays in the first cache and every step
is one vectorised pass over it; on a GPU each thread keeps one lane in registers. No fast-math: on a CPU every lane is
bit for bit what Python's own floats give, whatever the batch. (CUDA contracts a*b + c into one rounding.)

The source is written to a cache folder (``$OPPOSING_CACHE``, else ``~/.cache/opposing``) where it can be read, and
where numba keeps its compiled form.
"""

import hashlib
import importlib.util
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from toymodels.codegen import Program

__all__ = ["BLOCK", "RESULTS", "TILE", "cuda_source", "load", "numba_source", "run_tiles"]

TILE = 64  # lanes in a tile
BLOCK = 8  # steps between renormalisations: 1 - s is 0 or at least 2^-53, so a mantissa cannot underflow in a block
BLOWN = 1e100  # a weight beyond this is divergence
STILL = 64  # blocks between looks for a run that no longer moves

#: rows of ``result`` after the kernel, before the final variables, exponents and shrink factors
RESULTS = ("below", "onset", "begin", "peak", "peak_size", "peak_exponent", "last", "alive", "previous", "rest")

_EVENTS = """ok = {size} < {blown!r}
last = nf if alive > 0.0 else last
alive = alive if ok else 0.0
below = 1.0 if stability <= 2.0 else below
onset = nf if (onset < 0.0 and stability > 2.0 and below > 0.0 and alive > 0.0) else onset
begin = nf if (begin < 0.0 and onset >= 0.0 and excess >= 0.0 and alive > 0.0) else begin
size = abs({watch})
fell = peak < 0.0 and begin >= 0.0 and nf > onset and size < previous and alive > 0.0
peak = nf - 1.0 if fell else peak
peak_size = previous if fell else peak_size
peak_exponent = {exponent} if fell else peak_exponent
previous = size"""
_SURVIVAL = """ok = {size} < {blown!r}
last = nf if alive > 0.0 else last
alive = alive if ok else 0.0"""


def _events(program: Program, events: bool) -> list[str]:
    if not events or program.watch is None:
        return []
    exponent = next((g.exponent for g in program.groups if g.weight == program.watch), "0.0")
    text = _EVENTS.format(size=program.size, blown=BLOWN, watch=program.watch, exponent=exponent)
    return [*program.watched, *text.splitlines()]


def _renormalise(program: Program, events: bool) -> list[str]:
    """Two rounds of a factor 2^256 either way bring any mantissa of a block back; then W and E from the exponent."""
    lines: list[str] = []
    for g in program.groups:
        members = list(g.members) + (["previous"] if events and g.weight == program.watch else [])
        lines.append(f"big = max({', '.join(f'abs({m})' for m in g.members)}{', 0.0' if len(g.members) == 1 else ''})")
        for _ in range(2):
            lines.append("shift = 256.0 if (big > 0.0 and big < LOW) else (-256.0 if big > HIGH else 0.0)")
            lines.append("factor = HIGH if shift > 0.0 else (LOW if shift < 0.0 else 1.0)")
            lines += [f"{m} = {m} * factor" for m in members]
            lines.append("big = big * factor")
            lines.append(f"{g.exponent} = {g.exponent} - shift")
        lines.append(
            f"{g.square} = 1.0 if {g.exponent} == 0.0 else (LOW * LOW if {g.exponent} == -256.0 else"
            f" (0.0 if {g.exponent} < 0.0 else (HIGH * HIGH if {g.exponent} == 256.0 else math.inf)))"
        )
        lines.append(
            f"{g.unit} = 1.0 if {g.exponent} == 0.0 else (LOW if {g.exponent} == -256.0 else"
            f" (LOW * LOW if {g.exponent} == -512.0 else (0.0 if {g.exponent} < 0.0 else"
            f" (HIGH if {g.exponent} == 256.0 else math.inf))))"
        )
    return lines


def _floor(program: Program) -> list[str]:
    w = f"new_{program.watch}"
    return [f"{w} = ({w} if abs({w}) >= floor else (-floor if {w} < 0.0 else floor))"]


def _kernel_parts(program: Program, events: bool, floor: bool) -> tuple[list[str], list[str], list[str]]:
    """Names of a lane's rows, lines before the update, lines of the update."""
    units = [n for g in program.groups for n in (g.exponent, g.square, g.unit)]
    rows = [*program.variables, *program.constants, *units, *RESULTS]
    step = list(program.step) + (_floor(program) if floor else [])
    return rows, _events(program, events), [*step, *[f"{v} = new_{v}" for v in program.variables]]


def _used(rows: list[str], lines: list[str]) -> tuple[list[str], list[str]]:
    """Rows that ``lines`` read or write, and those they write."""
    words = {w for line in lines for w in re.findall(r"[A-Za-z_]\w*", line)}
    written = {line.split(" = ", 1)[0] for line in lines}
    return [r for r in rows if r in words], [r for r in rows if r in written]


def _pass(rows: list[str], lines: list[str], indent: int) -> str:
    """One vectorised pass over the tile."""
    used, written = _used(rows, lines)
    inner = [f"{r} = S[{rows.index(r)}, j]" for r in used]
    inner += lines + [f"S[{rows.index(r)}, j] = {r}" for r in written]
    pad = " " * indent
    return "\n".join([f"{pad}for j in range({TILE}):", *[f"{pad}    {line}" for line in inner]])


_HEADER = '''"""Generated: {title}. Do not edit."""

import math

import numba
import numpy as np
{more}
HIGH, LOW = 2.0**256, 2.0**-256

'''

_CPU = """
@numba.njit(nogil=True, cache=True, error_model="numpy")
def tiles(first, last, state, constants, result, out, steps, stride, keep, floor):
    for tile in range(first, last):
        S = np.empty(({n_rows}, {tile}))
        lo = tile * {tile}
        for j in range({tile}):
            for i in range({n_var}):
                S[i, j] = state[i, lo + j]
            for i in range({n_const}):
                S[{n_var} + i, j] = constants[i, lo + j]
            for i in range({n_groups}):
                S[{unit0} + 3 * i, j] = 0.0
                S[{unit0} + 3 * i + 1, j] = 1.0
                S[{unit0} + 3 * i + 2, j] = 1.0
            for i in range({n_results}):
                S[{result0} + i, j] = {start}[i]
        saved = np.empty(({result0}, {tile}))
        shrink = np.ones((max({n_groups}, 1), {tile}))
        done = 0
        blocks = 0
        looking = False
        while done < steps:
            stop = min(steps, done + {block})
            if keep:
                if done % stride == 0:
                    k = done // stride
                    for j in range({tile}):
                        for i in range({n_var}):
                            out[k, i, lo + j] = S[i, j]
                        for i in range({n_groups}):
                            out[k, {n_var} + i, lo + j] = S[{unit0} + 3 * i, j]
                stop = min(stop, done - done % stride + stride)
            else:
                looking = {still} and blocks % {still_every} == 0 and stop - done == {block}
                if looking:
                    saved[:, :] = S[:{result0}, :]
            for step in range(done, stop):
                nf = float(step)
                n = nf + 1.0
{step_pass}
{renorm_pass}
            done = stop
            blocks += 1
            if looking:
                over = True
                for j in range({tile}):
                    over = over and ({still_test})
                if over:
                    for j in range({tile}):
{still_lines}
                        S[{rest}, j] = steps - done
                    break
        nf = float(steps)
        n = nf + 1.0
{last_pass}
        if keep and done == steps and steps % stride == 0:
            k = steps // stride
            for j in range({tile}):
                for i in range({n_var}):
                    out[k, i, lo + j] = S[i, j]
                for i in range({n_groups}):
                    out[k, {n_var} + i, lo + j] = S[{unit0} + 3 * i, j]
        for j in range({tile}):
            for i in range({n_results}):
                result[i, lo + j] = S[{result0} + i, j]
            for i in range({n_var}):
                result[{n_results} + i, lo + j] = S[i, j]
            for i in range({n_groups}):
                result[{n_results} + {n_var} + i, lo + j] = S[{unit0} + 3 * i, j]
                result[{n_results} + {n_var} + {n_groups} + i, lo + j] = shrink[i, j]
"""


def run_tiles(kernel: Callable[..., None], lanes: int, *arguments: Any, threads: int | None = None) -> None:
    """Run a CPU kernel over all its tiles, on ``threads`` threads (default: all cores); it releases the GIL."""
    tiles = lanes // TILE
    workers = max(1, min(threads or os.cpu_count() or 1, tiles))
    if workers == 1:
        kernel(0, tiles, *arguments)
        return
    parts = min(tiles, 8 * workers)  # more parts than threads: runs end at different steps
    cuts = [tiles * i // parts for i in range(parts + 1)]
    kernel(0, 0, *arguments)  # compiles once, before the threads ask for it
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(kernel, a, b, *arguments) for a, b in itertools.pairwise(cuts)]:
            done.result()


#: below, onset, begin, peak, peak_size, peak_exponent, last, alive, previous, rest
_START = (0.0, -1.0, -1.0, -1.0, float("nan"), 0.0, 0.0, 1.0, float("inf"), 0.0)
_START_TEXT = "(0.0, -1.0, -1.0, -1.0, math.nan, 0.0, 0.0, 1.0, math.inf, 0.0)"


def numba_source(program: Program, *, events: bool = True, floor: bool = False, exits: bool = True) -> str:
    """Source of the CPU kernel ``tiles(first, last, state, constants, result, out, steps, stride, keep, floor)``.

    Arrays are (rows, lanes), lanes a multiple of ``TILE``; ``result`` has the rows of ``RESULTS``, then the final
    variables, exponents, and for runs that stopped moving the factor of each mantissa over the last ``BLOCK`` steps.

    Args:
        program: The generated code.
        events: Watch onset, spike and peak; else only divergence.
        floor: Keep the watched weight at or above ``floor`` in magnitude (plain form only).
        exits: Leave a tile whose runs have all stopped moving; a measurement of speed must not.
    """
    rows, before, step = _kernel_parts(program, events, floor)
    survival = _SURVIVAL.format(size=program.size, blown=BLOWN).splitlines()
    carried = [g.weight for g in program.groups]
    plain = [v for v in program.variables if v not in carried]
    # a run whose other weights did not move by one bit in a block, and whose carried weights shrank, moves no more
    test = [f"S[{rows.index(v)}, j] == saved[{rows.index(v)}, j]" for v in plain]
    test += [f"abs(S[{rows.index(v)}, j]) <= abs(saved[{rows.index(v)}, j])" for v in carried]
    test += [f"S[{rows.index(g.exponent)}, j] == saved[{rows.index(g.exponent)}, j]" for g in program.groups]
    still = exits and not program.aux and not program.counts and not floor
    shrinks = [
        f"shrink[{i}, j] = abs(S[{rows.index(v)}, j] / saved[{rows.index(v)}, j])"
        f" if saved[{rows.index(v)}, j] != 0.0 else 1.0"
        for i, v in enumerate(carried)
    ]
    # without events a run's end is seen at the end of a block only
    renorm = ([] if before else ["nf = float(stop)", *survival]) + _renormalise(program, events)
    body = {
        "n_rows": len(rows),
        "tile": TILE,
        "block": BLOCK,
        "n_var": len(program.variables),
        "n_const": len(program.constants),
        "n_groups": len(program.groups),
        "unit0": len(program.variables) + len(program.constants),
        "n_results": len(RESULTS),
        "result0": len(rows) - len(RESULTS),
        "start": "START",
        "step_pass": _pass(rows, [*before, *step], 16),
        "renorm_pass": _pass(rows, renorm, 12) if renorm else "",
        "last_pass": _pass(rows, before or survival, 8),
        "still": "True" if still else "False",
        "still_every": STILL,
        "still_test": "(" + " and ".join(test) + f") or S[{rows.index('alive')}, j] == 0.0",
        "still_lines": "\n".join(" " * 24 + line for line in shrinks) or " " * 24 + "pass",
        "rest": rows.index("rest"),
    }
    head = _HEADER.format(title="gradient steps on many lanes, CPU", more=f"\nSTART = {_START_TEXT}\n")
    return head + _CPU.format(**body)


_CUDA = """
@cuda.jit
def run(state, constants, result, out, steps, stride, keep, floor):
    lane = cuda.grid(1)
    if lane >= state.shape[1]:
        return
{load}
    for step in range(steps + 1):
        nf = float(step)
        n = nf + 1.0
        if keep and step % stride == 0:
            k = step // stride
{store}
{before}
        if step == steps:
            break
{update}
        if step % {block} == {block} - 1:
{renorm}
{save}
"""


def cuda_source(program: Program, *, events: bool = True, floor: bool = False) -> str:
    """Source of the CUDA kernel ``run``: same arguments but the tiles, same lines; one thread a lane, in registers."""
    _, before, step = _kernel_parts(program, events, floor)
    before = before or _SURVIVAL.format(size=program.size, blown=BLOWN).splitlines()
    n_var, n_groups = len(program.variables), len(program.groups)
    load = [f"{v} = state[{i}, lane]" for i, v in enumerate(program.variables)]
    load += [f"{c} = constants[{i}, lane]" for i, c in enumerate(program.constants)]
    for g in program.groups:
        load += [f"{g.exponent} = 0.0", f"{g.square} = 1.0", f"{g.unit} = 1.0"]
    names = ("0.0", "-1.0", "-1.0", "-1.0", "math.nan", "0.0", "0.0", "1.0", "math.inf", "0.0")
    load += [f"{r} = {v}" for r, v in zip(RESULTS, names, strict=True)]
    store = [f"out[k, {i}, lane] = {v}" for i, v in enumerate(program.variables)]
    store += [f"out[k, {n_var + i}, lane] = {g.exponent}" for i, g in enumerate(program.groups)]
    save = [f"result[{i}, lane] = {r}" for i, r in enumerate(RESULTS)]
    save += [f"result[{len(RESULTS) + i}, lane] = {v}" for i, v in enumerate(program.variables)]
    for i, g in enumerate(program.groups):
        save.append(f"result[{len(RESULTS) + n_var + i}, lane] = {g.exponent}")
        save.append(f"result[{len(RESULTS) + n_var + n_groups + i}, lane] = 1.0")

    def block(lines: list[str], indent: int) -> str:
        return "\n".join(" " * indent + line for line in lines or ["pass"])

    head = _HEADER.format(title="gradient steps on many lanes, CUDA", more="from numba import cuda\n")
    return head + _CUDA.format(
        load=block(load, 4),
        store=block(store, 12),
        before=block(before, 8),
        update=block(step, 8),
        renorm=block(_renormalise(program, events), 12),
        block=BLOCK,
        save=block(save, 4),
    )


def _folder() -> Path:
    """A writable folder for generated source, made if need be."""
    chosen = os.environ.get("OPPOSING_CACHE")
    for folder in ([Path(chosen)] if chosen else [Path.home() / ".cache" / "opposing"]) + [
        Path(tempfile.gettempdir()) / f"opposing-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    ]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
        except OSError:
            continue
    return Path(tempfile.mkdtemp(prefix="opposing-"))


@lru_cache(maxsize=64)
def load(source: str) -> Callable[..., Any]:
    """The kernel of generated source, compiled on its first call and cached on disk by numba."""
    name = "opposing_kernel_" + hashlib.sha256(source.encode()).hexdigest()[:16]
    path = _folder() / f"{name}.py"
    if not path.exists() or path.read_text() != source:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
            file.write(source)
        os.replace(file.name, path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module.run if hasattr(module, "run") else module.tiles
