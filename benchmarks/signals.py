"""Opposing signals of real data at the edge of stability: found, by losses and gradients alike, and read as a feature.

Rules. CIFAR-10 (an MLP, a small VGG-11) and the embedded text (a GPT on characters; an example is a token in its
context). Settings, and nothing else, were chosen on seeds >= 100; the seeds reported are 0 to 4. Per-example losses are
searched with `find_signals` in windows of 50 steps, every 25, level 0.01, for pairs that alternate, whether their
members are outliers or not, as `opposing signals` does. The strongest signal (largest norm of the weights at its peak)
is then looked at in the window of its peak:

- two detections: members, signs and ranks of its weights against those of the gradients' projections on the top
  eigenvector at the middle of the window. Beside it: chance, and projections on a random direction, which favour the
  same large gradients;
- the pure feature: an image of one colour, the mean ground of the 20 examples with the largest weights, and their mean
  image; for text the context alone that these share (the longest suffix that half of them have; else their most
  frequent last character). Two classes are read off: those whose examples have the largest and the least sum of
  weights. Where the losses of the first are high its probability on the feature should be low, and that of the second
  high: each correlation is 1 where it goes as expected. Beside it: 99 images of a random colour, 99 of the ground of
  one random other image (text: 99 random contexts as long), and the same probe with its steps shuffled. The size of an
  alternation is half the sum over classes of its amplitudes;
- complexity: mean spatial frequency of the difference of the groups' mean images, for every signal of the run, beside
  that of random groups of the same sizes.

python benchmarks/signals.py --work DIR             all settings; a folder that holds some of the seeds is gone on with
python benchmarks/signals.py --work DIR --only text --seeds 100
"""

import argparse
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import row, write

from analysis.curvature import attribute
from analysis.detection import OpposingPair, detect_in_projections
from analysis.opposition import gradient_opposition, overlap, sharpness_share
from analysis.oscillation import onset_step
from analysis.probe import FeatureProbe, ProbeAlternation, constant_image, mean_background, probe_alternation
from analysis.projection import example_losses, project_losses
from analysis.scoring import rank_correlation
from analysis.signals import complexity, describe_images, describe_tokens
from analysis.timeline import RunSignal, find_signals
from nets.config import TrainConfig
from nets.data import Dataset
from nets.data.images import CIFAR_MEAN, CIFAR_STD
from nets.device import numerics
from nets.files import read_json, write_json
from nets.forecasting import record_arrays
from nets.run import Run, create_run

WINDOW, HOP, LEVEL = 50, 25, 0.01
DRAWS = 99  # random probes of a kind, and random groups
STRONGEST = 20
CIFAR = {"data": "cifar10", "loss": "cross_entropy"}
SETTINGS: dict[str, dict[str, Any]] = {
    "cifar-mlp": {**CIFAR, "n_examples": 1000, "widths": (50, 50), "activation": "relu", "lr": 0.07, "steps": 250},
    "cifar-vgg": {**CIFAR, "n_examples": 300, "model": "he_vgg:he_vgg11",
                  "model_options": ("width=0.125", "activation='tanh'", "pool='average'"), "lr": 0.1, "steps": 150},
    "text": {"data": "text", "data_options": ("context=16",), "n_examples": 100, "model": "gpt",
             "model_options": ("width=32",), "loss": "cross_entropy", "lr": 0.05, "steps": 400},
}  # fmt: skip
COMMON = {"eig_every": 5, "eig_tol": 0.05, "snapshot_every": HOP, "threads": 1}
Measured = dict[str, dict[str, Any]]


def one_seed(setting: str, seed: int, work: Path) -> Measured:
    """What is measured of one run, by name; kept beside the run, which is gone on with where it was left."""
    config = TrainConfig(**SETTINGS[setting], **COMMON, seed=seed)
    folder = work / setting / f"seed_{seed}"
    kept = folder / "measured.json"
    if kept.exists() and (known := read_json(kept))["config_hash"] == config.config_hash:
        return known["measured"]
    if not (folder / "run" / "config.json").exists():
        create_run(folder / "run", config)
    run = Run.open(folder / "run")
    if run.config.config_hash != config.config_hash:
        raise SystemExit(f"--work must hold runs of these settings, {folder} holds another; choose another folder")
    run.advance()
    with numerics(run.config, run.threads):
        measured = measure(run)
    write_json(kept, {"config_hash": config.config_hash, "measured": measured})
    return measured


def measure(run: Run) -> Measured:
    """Every number of one run: name -> value, unit, and the baseline where there is one."""
    out: Measured = {}

    def add(name: str, value: Any, unit: str = "1", baseline: str = "", baseline_value: Any = None) -> None:
        numbers = (None if v is None or not np.isfinite(v) else float(v) for v in (value, baseline_value))
        out[name] = dict(zip(("value", "baseline_value"), numbers, strict=True)) | {"unit": unit, "baseline": baseline}

    record = record_arrays(run)
    timeline = find_signals(record["example_loss"], window=WINDOW, hop=HOP, level=LEVEL, outliers=False)
    add("steps recorded", len(record["loss"]), "step")
    add("onset", onset_step(record["sharpness"], run.config.lr), "step")
    add("windows of all signals, summed", sum(s.windows for s in timeline.signals), "1", "windows", timeline.windows)
    add("signals", len(timeline.signals))
    add("signals with outliers (p <= 0.01)", sum(s.pair.p_outliers <= LEVEL for s in timeline.signals))
    if not timeline.signals:
        return out
    signal = max(timeline.signals, key=lambda s: float(np.linalg.norm(s.pair.weights)))
    rng = np.random.default_rng([run.config.seed, 7])
    _appearance(add, run, timeline.signals, signal)
    _agreement(add, run, signal, rng)
    _feature(add, run, record["example_loss"], signal.pair, start_of(signal), rng)
    if run.dataset.image_shape is not None:
        _complexities(add, run.dataset, timeline.signals, rng)
    return out


def start_of(signal: RunSignal) -> int:
    """First step of the window of a signal's peak, which is its middle step; a state was kept there."""
    return signal.peak - (WINDOW - 2) // 2


def _appearance(add: Any, run: Run, signals: tuple[RunSignal, ...], signal: RunSignal) -> None:
    pair = signal.pair
    add("first step of the first window with a pair", min(s.begin for s in signals), "step")
    add("pair: middle of the window of its peak", signal.peak, "step")
    add("pair: windows that show it", signal.windows)
    first, second = pair.groups
    for name, group in (("first", first), ("second", second)):
        add(f"pair: members of the {name} group", len(group), "1", "examples", len(pair.weights))
    add("pair: p, of an alternation of one phase", pair.p_signs)
    add("pair: p, of outliers", pair.p_outliers)
    add("pair: tail index", pair.tail.index)
    add("pair: amplitude", pair.amplitude, "loss")
    add("pair: part of the window's alternation", pair.energy_share)


def _agreement(add: Any, run: Run, signal: RunSignal, rng: np.random.Generator) -> None:
    """The pair of the losses beside that of the gradients, at the middle of the window."""
    pair, step = signal.pair, start_of(signal) + HOP
    problem, state = run.problem, run.state(step)
    logged, _ = problem.measure(state)
    module = problem.module_at(state.parameters)
    losses = example_losses(module, problem.loss, problem.inputs, problem.targets)
    params = [p.detach() for p in module.parameters()]
    add("pair: sharpness of its middle step over 2/lr", logged.sharpness * run.config.lr / 2)
    n, sizes = len(pair.weights), [len(g) for g in pair.groups]
    drawn = [rng.permutation(n)[: sum(sizes)] for _ in range(8)]
    opposed = [gradient_opposition(losses, params, d, np.repeat([1, -1], sizes)) for d in drawn]
    add("pair: opposition of the groups' gradients", gradient_opposition(losses, params, pair.members, pair.signs), "1",
        "random groups", np.mean(opposed))  # fmt: skip
    along = attribute(losses, params, state.eigenvector)
    curvatures, slopes = (v.double().numpy() for v in (along.curvatures, along.slopes))
    add("pair: share of the sharpness", sharpness_share(curvatures, pair.members), "1", "share of the examples",
        len(pair.members) / n)  # fmt: skip
    other = detect_in_projections(slopes, step, curvatures).pairs[0]
    direction = torch.from_numpy(rng.standard_normal(len(state.parameters))).to(state.parameters)
    random = project_losses(losses, params, direction).double().numpy()
    found, by_chance = overlap(pair.weights, other.weights), overlap(pair.weights, random)
    few, many = sorted((len(pair.members), len(other.members)))
    common = len(set(pair.members) & set(other.members))
    add("two detections: members by projections", len(other.members), "1", "by losses", len(pair.members))
    add(
        "two detections: common members over those of the smaller",
        common / few if few else None,
        "1",
        "chance",
        many / n,
    )
    about = "random direction"
    add("two detections: common members over all members", found.jaccard, "1", about, by_chance.jaccard)
    add("two detections: p, of so many common members", found.p_value, "1", about, by_chance.p_value)
    add("two detections: equal signs among common members", found.signs, "1", about, by_chance.signs)
    add("two detections: |cosine| of weights", found.cosine, "1", about, by_chance.cosine)
    ranks = [abs(rank_correlation(pair.weights, w)) for w in (other.weights, random)]
    add("two detections: |rank correlation| of weights", ranks[0], "1", about, ranks[1])


# --- the pure feature --------------------------------------------------------------------------------------


def leaders(pair: OpposingPair) -> list[int]:
    """The examples with the largest weights, members of the pair or not."""
    return np.argsort(-np.abs(pair.weights), kind="stable")[:STRONGEST].tolist()


def image_probes(data: Dataset, pair: OpposingPair, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Images by what they are, one or more, shape (m, pixels), standardised as the data are; features first."""
    assert data.image_shape is not None
    images = data.inputs.reshape(len(data.inputs), *data.image_shape)
    strongest = leaders(pair)
    others = np.setdiff1d(np.arange(len(images)), strongest)
    colours = (rng.random((DRAWS, 3)) - CIFAR_MEAN) / CIFAR_STD
    made = {
        "mean ground": [mean_background(images, strongest)],
        "mean image": [images[strongest].mean(axis=0)],
        "random colours": [constant_image(c, *data.image_shape[:2]) for c in colours],
        "random images' grounds": [mean_background(images, [i]) for i in rng.choice(others, DRAWS, replace=False)],
    }
    return {name: np.stack(rows).reshape(len(rows), -1).astype(np.float32) for name, rows in made.items()}


def text_probes(data: Dataset, pair: OpposingPair, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Contexts by what they are, one or more, shape (m, length); the feature first."""
    length = data.inputs.shape[1]
    places = [divmod(i, length) for i in leaders(pair)]
    contexts = [tuple(data.inputs[r, : p + 1].tolist()) for r, p in places]
    shared = describe_tokens(contexts, [int(data.targets[r, p]) for r, p in places]).prefix
    shared = shared or Counter(c[-1:] for c in contexts).most_common(1)[0][0]
    size = len(shared)
    windows = np.lib.stride_tricks.sliding_window_view(data.inputs, size, axis=1).reshape(-1, size)
    windows = windows[(windows != np.array(shared)).any(axis=1)]
    print("shared context", repr("".join(data.class_names[k] for k in shared)), flush=True)
    return {
        "shared context": np.array([shared]),
        "random contexts": windows[rng.choice(len(windows), DRAWS, replace=False)],
    }


def replay(run: Run, losses: np.ndarray, start: int, inputs: np.ndarray) -> FeatureProbe:
    """Probabilities of the inputs while the run goes through a window again, the same to the bit."""
    problem, state = run.problem, run.state(start)
    module = problem.module_at(state.parameters)
    probe = FeatureProbe(module, torch.from_numpy(inputs))
    for step in range(start, start + WINDOW - 1):
        if not np.array_equal(problem.measure(state)[1], losses[step]):
            raise RuntimeError(f"step {step} of {run.directory} must be as it was recorded, it is not; train it anew")
        torch.nn.utils.vector_to_parameters(state.parameters, module.parameters())
        probe.step(step)
        problem.update(state)
    return probe


def _feature(add: Any, run: Run, losses: np.ndarray, pair: OpposingPair, start: int, rng: np.random.Generator) -> None:
    data = run.dataset
    make = text_probes if data.kind == "tokens" else image_probes
    probes = make(data, pair, rng)
    probe = replay(run, losses, start, np.concatenate(list(probes.values())))
    seen = probe.alternation(start, start + WINDOW - 2, pair.series)
    size = 0.5 * np.abs(seen.amplitude).sum(axis=1)
    sums = np.bincount(data.targets.ravel(), pair.weights, data.n_classes)
    read = {"first": (int(sums.argmax()), -1.0), "second": (int(sums.argmin()), 1.0)}
    expected = np.stack([sign * seen.correlation[:, k] for k, sign in read.values()])
    ends = np.cumsum([len(rows) for rows in probes.values()])
    features = [name for name, rows in probes.items() if len(rows) == 1]
    for at, feature in enumerate(features):
        shuffled = _shuffled(probe.probabilities[:, at], rng, start, pair)
        for (name, (k, _)), correlation in zip(read.items(), expected[:, at], strict=True):
            add(f"{feature}: p, alternation of the {name} class", seen.p_value[at, k], "1", "shuffled steps, median",
                np.median(shuffled.p_value[:, k]))  # fmt: skip
            add(f"{feature}: correlation of the {name} class with the pair", correlation, "1",
                "shuffled steps, median of |.|", np.median(np.abs(shuffled.correlation[:, k])))  # fmt: skip
            add(f"{feature}, shuffled steps: share of p <= 0.05, {name} class", (shuffled.p_value[:, k] <= 0.05).mean(),
                "1", "nominal", 0.05)  # fmt: skip
        for null, end in list(zip(probes, ends, strict=True))[len(features) :]:
            others = size[end - DRAWS : end]
            add(f"{feature}: size of its alternation, beside {null}", size[at], "probability", f"{null}, median",
                np.median(others))  # fmt: skip
            add(f"{feature}: p, of its size among {null}", (1 + (others >= size[at]).sum()) / (1 + DRAWS))
    for null, end in list(zip(probes, ends, strict=True))[len(features) :]:
        rows = slice(end - DRAWS, end)
        add(
            f"{null}: share whose first class alternates, p <= 0.01",
            (seen.p_value[rows, read["first"][0]] <= LEVEL).mean(),
        )
        add(f"{null}: share with both correlations > 0.9", (expected[:, rows] > 0.9).all(axis=0).mean())


def _shuffled(p: np.ndarray, rng: np.random.Generator, start: int, pair: OpposingPair) -> ProbeAlternation:
    """Alternation of one probe, shape (steps, classes), with its steps in random order: as one probe for each order."""
    orders = np.stack([rng.permutation(len(p)) for _ in range(DRAWS)], axis=1)
    return probe_alternation(p[orders], start, pair.series)


def _complexities(add: Any, data: Dataset, signals: tuple[RunSignal, ...], rng: np.random.Generator) -> None:
    assert data.image_shape is not None
    images = data.inputs.reshape(len(data.inputs), *data.image_shape)
    for k, signal in enumerate(sorted(signals, key=lambda s: s.peak)):
        first, second = signal.pair.groups
        if not first or not second:
            continue
        null = []
        for _ in range(DRAWS):
            drawn = images[rng.permutation(len(images))[: len(first) + len(second)]]
            null.append(complexity(drawn[: len(first)].mean(axis=0) - drawn[len(first) :].mean(axis=0)))
        add(f"complexity of signal {k}, peak at step {signal.peak}", describe_images(images, first, second).complexity,
            "cycles per pixel", "random groups, median", np.median(null))  # fmt: skip


# --- rows --------------------------------------------------------------------------------------------------


def rows_of(setting: str, seeds: dict[int, Measured]) -> list[dict[str, Any]]:
    """Rows of one setting: every seed's numbers, then their least, median and most over the seeds."""
    case = f"{setting}, {len(seeds)} seeds"
    rows = []

    def add(metric: str, value: Any, unit: str, **more: Any) -> None:
        rows.append(row("signals", case, metric, value, unit, packages=("torch", "numpy", "scipy"), **more))

    for seed, measured in seeds.items():
        for name, held in measured.items():
            add(f"seed {seed}, {name}", held["value"], held["unit"], baseline=held["baseline"],
                baseline_value=held["baseline_value"])  # fmt: skip
    add("over seeds, runs with a pair", sum(m["signals"]["value"] > 0 for m in seeds.values()), "1")
    names = dict.fromkeys(n for m in seeds.values() for n in m if not n.startswith("complexity"))
    for name in names:
        held = [m[name] for m in seeds.values() if name in m and m[name]["value"] is not None]
        base = [h["baseline_value"] for h in held if h["baseline_value"] is not None]
        for what, of in (("least", np.min), ("median", np.median), ("most", np.max)):
            if held:
                add(f"over seeds, {what}, {name}", float(of([h["value"] for h in held])), held[0]["unit"],
                    baseline=held[0]["baseline"], baseline_value=float(of(base)) if base else None)  # fmt: skip
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows."""
    for line in rows:
        value = "none" if line["value"] is None else f"{line['value']:.4g}"
        base = "" if line["baseline_value"] is None else f"   ({line['baseline']}: {line['baseline_value']:.4g})"
        print(f"{line['case']:<22}{line['metric']:<96}{value}{base}", flush=True)


def main() -> None:
    """Run what is asked for; rows are written where all five seeds were run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the runs and what was measured")
    parser.add_argument("--only", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="others than 0-4 write no rows")
    args = parser.parse_args()
    for setting in args.only:
        if SETTINGS[setting]["data"] == "cifar10" and "OPPOSING_DATA" not in os.environ:
            print(f"{setting} needs OPPOSING_DATA, the folder that holds cifar10/: left out")
            continue
        made = {}
        for seed in args.seeds:
            made[seed] = one_seed(setting, seed, args.work)
            print(
                f"{setting} seed {seed}: " + json.dumps({k: made[seed][k]["value"] for k in ("onset", "signals")}),
                flush=True,
            )
        rows = rows_of(setting, made)
        show(rows)
        if args.seeds == [0, 1, 2, 3, 4]:
            write("signals", rows, part=f"{setting},")


if __name__ == "__main__":
    main()
