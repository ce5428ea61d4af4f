"""Does loading keep up? The share of a training step's time that is spent waiting for its batch.

    python benchmarks/loading.py --dataset runs/synthetic/dataset

Every row of the first table trains the tiny preset for some batches: with frames kept in memory, with those of a cache,
and with clips decoded anew, by the training process itself or by loading processes. The second table is the loader
alone, a cache against decoding anew at 224 pixels; its last rows change the clips at random as a training step does.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from results_file import keep_table
from torch.utils.data import default_collate

from mtcae_dfer.hub_dataset.loading.load import load_multitask_dataset
from mtcae_dfer.training.arguments import parse_run_arguments
from mtcae_dfer.training.data.augmentation import AugmentationConfig
from mtcae_dfer.training.data.clip_dataset import ClipDataset, change_batch, class_names
from mtcae_dfer.training.data.frame_cache import FrameCacheConfig
from mtcae_dfer.training.initialisation import build_model
from mtcae_dfer.training.loop import TrainingState, prepare_training, take_step
from mtcae_dfer.training.running import make_processor

WAITING_GOAL = 10  # per cent of a step, at most
LOADER_GOAL = 10  # clips/s of a cache / those of decoding anew, at least
LOADER_SIZE = (224, 224)


def measure(words: list[str], rows, batches: int, **kept) -> tuple[float, float, float]:
    """Clips a second, seconds a batch, and the share of them spent waiting, after the first batch."""
    arguments = parse_run_arguments(words)
    set_seed(0)
    model = build_model(arguments.model, class_names(rows))
    clips = ClipDataset(rows, model.config.image_size, AugmentationConfig(), **kept)
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


def loading_rate(clips: ClipDataset, batches: int, batch_size: int = 8) -> float:
    """Clips a second of the loader, and of their changes, over the clips again and again, after one pass."""
    order = [index % len(clips) for index in range(batches * batch_size)]
    for index in range(len(clips)):
        clips[index]
    begin = time.perf_counter()
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        change_batch(default_collate([clips[index] for index in indices]), clips.changes(indices))
    return len(order) / (time.perf_counter() - begin)


def loader_table(rows, cache: FrameCacheConfig, batches: int) -> list[str]:
    """The loader alone: frames of a cache against clips decoded anew."""
    lines = ["| frames, 224 pixels | augmentation | clips/s | / decoded anew | goal |", "|---|---|---|---|---|"]
    chosen = rows.select(range(min(64, len(rows))))
    for told, augmentation in (("no", None), ("yes", AugmentationConfig())):
        anew = loading_rate(ClipDataset(chosen, LOADER_SIZE, augmentation), max(1, batches // 4))
        kept = loading_rate(ClipDataset(chosen, LOADER_SIZE, augmentation, cache=cache), batches)
        goal = LOADER_GOAL if augmentation is None else ""
        lines.append(f"| decoded anew | {told} | {anew:.1f} | 1.0 | |")
        lines.append(f"| of a cache | {told} | {kept:.1f} | {kept / anew:.1f} | {goal} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="folder of a built data set")
    parser.add_argument("--batches", type=int, default=20, help="measured batches a row (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="loading processes to try")
    arguments = parser.parse_args()
    rows = load_multitask_dataset(arguments.dataset)["train"]
    head = "| frames | loading processes | clips/s | step | waiting for data | goal |"
    lines = [head, "|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        cache = FrameCacheConfig(Path(folder), "measured")
        cases = [("kept in memory", {"keep_frames": True}, 0), ("of a cache", {"cache": cache}, 0)]
        cases += [("decoded anew", {}, workers) for workers in arguments.workers]
        for frames, kept, workers in cases:
            words = ["--dataloader_num_workers", str(workers), "--dataset", arguments.dataset]
            rate, seconds, share = measure(words, rows, arguments.batches, **kept)
            goal = f"{WAITING_GOAL} %" if kept else ""
            figures = f"{rate:.1f} | {1000 * seconds:.0f} ms | {100 * share:.1f} % | {goal}"
            lines.append(f"| {frames} | {workers} | {figures} |")
        lines += ["", *loader_table(rows, cache, arguments.batches)]
    print("\n".join(lines))
    print(keep_table("loading", "Waiting for data, tiny preset, 16 clips a step", lines))


if __name__ == "__main__":
    main()
