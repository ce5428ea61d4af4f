"""Does loading keep up? The share of a training step's time that is spent waiting for its batch.

    python benchmarks/loading.py --dataset runs/synthetic/dataset

Every row trains the tiny preset for some batches: with frames kept in memory, and with clips decoded anew, by the
training process itself or by loading processes.
"""

import argparse
import time

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from results_file import keep_table

from mtcae_dfer.hub_dataset.loading.load import load_multitask_dataset
from mtcae_dfer.training.arguments import parse_run_arguments
from mtcae_dfer.training.data.augmentation import AugmentationConfig
from mtcae_dfer.training.data.clip_dataset import ClipDataset, class_names
from mtcae_dfer.training.initialisation import build_model
from mtcae_dfer.training.loop import TrainingState, prepare_training, take_step
from mtcae_dfer.training.running import make_processor


def measure(words: list[str], rows, keep_frames: bool, batches: int) -> tuple[float, float, float]:
    """Clips a second, seconds a batch, and the share of them spent waiting, after the first batch."""
    arguments = parse_run_arguments(words)
    set_seed(0)
    model = build_model(arguments.model, class_names(rows))
    clips = ClipDataset(rows, model.config.image_size, AugmentationConfig(), keep_frames=keep_frames)
    training = prepare_training(Accelerator(), model, make_processor(model.config), clips, arguments)
    training.sampler.begin(TrainingState().epoch)
    training.model.train()
    waited, iterator, start = 0.0, iter(training.loader), 0.0
    for number in range(batches + 1):
        asked = time.perf_counter()
        batch = next(iterator)
        if number == 0:  # starting the loading processes is no part of a step
            start = time.perf_counter()
        else:
            waited += time.perf_counter() - asked
        take_step(training, batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    clips_done = (batches + 1) * arguments.optimisation.per_device_train_batch_size
    return clips_done / seconds, seconds / batches, waited / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="folder of a built data set")
    parser.add_argument("--batches", type=int, default=20, help="measured batches a row (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="loading processes to try")
    arguments = parser.parse_args()
    rows = load_multitask_dataset(arguments.dataset)["train"]
    lines = ["| frames | loading processes | clips/s | step | waiting for data |", "|---|---|---|---|---|"]
    cases = [("kept in memory", True, 0), *(("decoded anew", False, workers) for workers in arguments.workers)]
    for frames, keep, workers in cases:
        words = ["--dataloader_num_workers", str(workers), "--dataset", arguments.dataset]
        rate, seconds, share = measure(words, rows, keep, arguments.batches)
        lines.append(f"| {frames} | {workers} | {rate:.1f} | {1000 * seconds:.0f} ms | {100 * share:.1f} % |")
    print("\n".join(lines))
    print(keep_table("loading", "Waiting for data, tiny preset, 8 clips a step", lines))


if __name__ == "__main__":
    main()
