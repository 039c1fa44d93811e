"""Trains the small encoder: `python -m service.demo.small_encoder_training --real-data DIR --out DIR`."""

import argparse
import tempfile
from pathlib import Path

from service.demo.simulated_fleet import generate


def main() -> None:
    """Renders the simulated frames if they are not there yet, then trains and exports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--real-data", type=Path, required=True, help="folders with metadata.jsonl; permissive rows only"
    )
    parser.add_argument("--out", type=Path, required=True, help="receives the open_clip files")
    parser.add_argument("--minutes", type=float, default=45.0, help="stop by the clock")
    parser.add_argument("--steps", type=int, default=None, help="stop after so many steps instead (reproducible)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=6000, help="simulated frames to train on")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "mlpl_small_encoder")
    parser.add_argument("--simulated", type=Path, default=None, help="frames rendered before (default: in --work)")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    import torch

    from service.demo.small_encoder_training import store, training

    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    simulated = arguments.simulated or arguments.work / f"fleet-{arguments.frames}-{arguments.seed}"
    if not (simulated / "metadata.jsonl").exists():
        generate(simulated, frames=arguments.frames, seed=arguments.seed + 101, frames_per_drive=4)
    frames = store.load(simulated=simulated, real_data=arguments.real_data, seed=arguments.seed)
    print(f"{len(frames.images)} frames, {int(frames.real.sum())} of them not from the simulated fleet", flush=True)
    recipe = training.Recipe(
        steps=arguments.steps, minutes=None if arguments.steps else arguments.minutes, seed=arguments.seed
    )
    training.train(frames, recipe, work=arguments.work, out=arguments.out, log=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
