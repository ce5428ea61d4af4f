"""transformers' Trainer on a built data set: the cascade learns boxes, points and expressions together.

    python examples/train_with_trainer.py                                  # draws twelve people, 84 clips
    python examples/train_with_trainer.py --dataset OUT --num-train-epochs 40

Trainer sees an ordinary transformers model: it gives a loss where it is given labels. `training/run.py` does the same
with the recipe of the paper, augmentation, validation and a report.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction, Trainer, TrainingArguments

from mtcae_dfer import MTCAEConfig, MTCAEForMultiTaskVideo, MTCAEVideoProcessor
from mtcae_dfer.commands.command_line import main as mtcae
from mtcae_dfer.hub_dataset.loading.load import load_multitask_dataset
from mtcae_dfer.training.data.clip_dataset import ClipDataset

SIDE = 64  # pixels of the model's frames
LABELS = ["labels", "face_boxes", "face_landmarks", "face_found"]


def make_model(class_names: list[str]) -> MTCAEForMultiTaskVideo:
    """A cascade of the paper's three tasks over a small VideoMAE, from scratch."""
    encoder = {
        "model_type": "videomae",
        "image_size": SIDE,
        "patch_size": 8,
        "num_frames": 16,
        "tubelet_size": 16,
        "hidden_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 384,
        "use_mean_pooling": False,
    }
    config = MTCAEConfig(
        encoder_config=encoder,
        decoder_hidden_size=96,
        decoder_num_layers=1,
        decoder_num_attention_heads=3,
        decoder_head_dim=32,
        pooling="time_and_place",
        id2label=dict(enumerate(class_names)),
        label2id={name: index for index, name in enumerate(class_names)},
    )
    return MTCAEForMultiTaskVideo(config)


def make_collator(processor: MTCAEVideoProcessor) -> Any:
    """A function from clips to a batch: pixels normalised as the processor will do it when the model predicts."""

    def collate(clips: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        frames = [clip["frames"] for clip in clips]  # uint8 (T, 3, H, W) each
        pixels = processor(frames, do_sample_frames=False, input_data_format="channels_first")["pixel_values"]
        return {"pixel_values": pixels} | {name: torch.stack([clip[name] for clip in clips]) for name in LABELS}

    return collate


def unweighted_average_recall(prediction: EvalPrediction) -> dict[str, float]:
    """Mean over the classes of the share of their clips that is recognised."""
    logits, truth = prediction.predictions[0], prediction.label_ids[LABELS.index("labels")]
    recalls = [float((logits[truth == index].argmax(axis=1) == index).mean()) for index in np.unique(truth)]
    return {"uar": float(np.mean(recalls))}


def main() -> None:
    """Draws clips where there is no data set, trains, tests and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, help="folder of a built data set (default: drawn faces)")
    parser.add_argument("--num-train-epochs", type=float, default=12)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/example-trainer"))
    options = parser.parse_args()
    dataset = options.dataset or options.output_dir / "data"
    if options.dataset is None and not dataset.exists():
        options.output_dir.mkdir(parents=True, exist_ok=True)
        mtcae(["dataset", "build", "synthetic", str(dataset), "--subjects", "12", "--takes", "1"])

    rows = load_multitask_dataset(dataset)
    clips = {split: ClipDataset(rows[split], (SIDE, SIDE), keep_frames=True) for split in ("train", "test")}
    model = make_model(rows["train"].features["expression"].names)
    processor = MTCAEVideoProcessor(size={"height": SIDE, "width": SIDE}, num_frames=16)
    arguments = TrainingArguments(
        output_dir=str(options.output_dir),
        num_train_epochs=options.num_train_epochs,
        per_device_train_batch_size=8,
        learning_rate=5e-4,
        lr_scheduler_type="cosine",
        label_names=LABELS,  # what of a batch is a label
        remove_unused_columns=False,  # the collator makes the batch
        save_strategy="no",
        report_to="none",
        seed=0,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=clips["train"],
        eval_dataset=clips["test"],
        data_collator=make_collator(processor),
        compute_metrics=unweighted_average_recall,
    )
    trainer.train()
    figures = trainer.evaluate()
    print(f"UAR on unseen people: {figures['eval_uar']:.1%}; by chance {1 / len(model.config.id2label):.1%}")
    trainer.save_model(str(options.output_dir / "model"))
    processor.save_pretrained(options.output_dir / "model")
    print(f"mtcae predict clip.mp4 --model {options.output_dir / 'model'}")


if __name__ == "__main__":
    main()
