"""Kill an experiment again and again with SIGKILL, then let it finish: `python ... FOLDER PRESET KILLS SEED`.

A process of its own that has imported everything once, see ``kill_harness`` beside the tests of runs. Each victim dies
just before or just after the k-th file it puts in place; results.json must be whole and modest after every kill. Prints
one JSON line.
"""

import json
import os
import random
import sys
from pathlib import Path

import torch
from kill_harness import die_at_rename, fork

from nets.presets import load_preset, run_preset

torch.set_num_threads(1)
LARGEST = 60  # files put in place; an uninterrupted run puts about 40


def carry_out(preset: str, folder: Path, rename: tuple[int, bool] | None = None) -> None:
    if rename:
        die_at_rename(*rename)
    run_preset(load_preset(preset), folder, "quick", (0, 1))


def main() -> None:
    folder, preset, kills, seed = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:5])
    whole, killed = folder / "whole", folder / "killed"
    if os.waitpid(fork(lambda: carry_out(preset, whole)), 0)[1]:
        raise SystemExit("the whole one failed; its traceback is above")
    rng, done, incomplete, runs = random.Random(seed), 0, 0, []
    while done < kills:  # or until a victim comes to the end
        rename = (rng.randrange(1, LARGEST), rng.random() < 0.5)
        _, status = os.waitpid(fork(lambda rename=rename: carry_out(preset, killed, rename)), 0)
        if not os.WIFSIGNALED(status):
            if status:
                raise SystemExit("a victim failed by itself; its traceback is above")
            break
        done += 1
        runs.append(len(list(killed.glob("seed_*/*/config.json"))))
        if (killed / "results.json").exists():
            result = json.loads((killed / "results.json").read_text())
            incomplete += not result["complete"]
    if os.waitpid(fork(lambda: carry_out(preset, killed)), 0)[1]:
        raise SystemExit("the last one failed; its traceback is above")
    results = [json.loads((place / "results.json").read_text()) for place in (whole, killed)]
    same = [results[0][key] == results[1][key] for key in ("claims", "runs", "seeds", "complete", "changes")]
    print(json.dumps({"kills": done, "incomplete": incomplete, "runs": runs, "same": same}))


if __name__ == "__main__":
    main()
