"""A fourth task in the cascade: how far the head is tilted in every frame.

    python examples/add_a_task.py                     # draws twelve people, 84 clips
    python examples/add_a_task.py --dataset OUT --num-train-epochs 40

A task is an entry in the config's ordered list, not a branch in the model. It stands where it is to be read from: after
the landmarks, whose decoder it reads, and before the expression, which reads it. Its labels come under its name.
"""

import argparse
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from mtcae_dfer import MTCAEConfig, MTCAEForMultiTaskVideo, MTCAEVideoProcessor, TaskDescription, paper_tasks
from mtcae_dfer.commands.command_line import main as mtcae
from mtcae_dfer.hub_dataset.loading.load import load_multitask_dataset
from mtcae_dfer.training.data.clip_dataset import ClipDataset

SIDE = 64  # pixels of the model's frames
TILT = TaskDescription(
    name="head_tilt",
    kind="regression",
    per="frame",  # one answer a frame …
    output_shape=[1],  # … of one number, in radians
    loss="l1",
    mask_key="face_found",  # frames without a face teach nothing
)
ENCODER = {
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


def head_tilt(landmarks: torch.Tensor) -> torch.Tensor:
    """Angle of the line from the left to the right eye, in radians: (B, T, 5, 2) -> (B, T, 1); NaN stays NaN."""
    across = landmarks[..., 1, :] - landmarks[..., 0, :]  # the eyes are the first two points
    return torch.atan2(across[..., 1], across[..., 0])[..., None]


def make_model(class_names: list[str]) -> MTCAEForMultiTaskVideo:
    """Face boxes → five landmarks → head tilt → expression."""
    boxes, landmarks, expression = paper_tasks()
    config = MTCAEConfig(
        encoder_config=ENCODER,
        tasks=[boxes, landmarks, TILT, expression],
        decoder_hidden_size=96,
        decoder_num_layers=1,
        decoder_num_attention_heads=3,
        decoder_head_dim=32,
        id2label=dict(enumerate(class_names)),
        label2id={name: index for index, name in enumerate(class_names)},
    )
    return MTCAEForMultiTaskVideo(config)


def make_batch(clips: dict[str, torch.Tensor], processor: MTCAEVideoProcessor) -> dict[str, torch.Tensor]:
    """Pixels and the labels of all four tasks."""
    frames = list(clips["frames"])  # uint8 (T, 3, H, W) each
    pixels = processor(frames, do_sample_frames=False, input_data_format="channels_first")["pixel_values"]
    labels = {name: clips[name] for name in ("labels", "face_boxes", "face_landmarks", "face_found")}
    return {"pixel_values": pixels, TILT.name: head_tilt(clips["face_landmarks"]), **labels}


def train(model: MTCAEForMultiTaskVideo, loader: DataLoader, processor: MTCAEVideoProcessor, epochs: int) -> None:
    """Plain steps of AdamW; prints every epoch's losses, one a task."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05)
    for epoch in range(epochs):
        sums: dict[str, float] = {}
        for clips in loader:
            output = model(**make_batch(clips, processor))
            optimiser.zero_grad()
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            for name, loss in output.task_losses.items():
                sums[name] = sums.get(name, 0.0) + loss.item() / len(loader)
        print(f"epoch {epoch + 1}: " + ", ".join(f"{name} {value:.3f}" for name, value in sums.items()))


@torch.no_grad()
def mean_error(
    model: MTCAEForMultiTaskVideo, loader: DataLoader, processor: MTCAEVideoProcessor
) -> tuple[float, float]:
    """Mean error in degrees over the frames with a face: of the model, and of always answering "upright"."""
    errors, tilts = [], []
    for clips in loader:
        found, truth = clips["face_found"], head_tilt(clips["face_landmarks"])
        predicted = model(make_batch(clips, processor)["pixel_values"]).task_outputs[TILT.name]
        errors.append((predicted - truth)[found].abs())
        tilts.append(truth[found].abs())
    return torch.cat(errors).rad2deg().mean().item(), torch.cat(tilts).rad2deg().mean().item()


def main() -> None:
    """Draws clips where there is no data set, trains with four tasks, and tests the one that was added."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, help="folder of a built data set (default: drawn faces)")
    parser.add_argument("--num-train-epochs", type=int, default=12)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/example-task"))
    options = parser.parse_args()
    dataset = options.dataset or options.output_dir / "data"
    if options.dataset is None and not dataset.exists():
        options.output_dir.mkdir(parents=True, exist_ok=True)
        mtcae(["dataset", "build", "synthetic", str(dataset), "--subjects", "12", "--takes", "1"])

    torch.manual_seed(0)
    rows = load_multitask_dataset(dataset)
    clips = {split: ClipDataset(rows[split], (SIDE, SIDE), keep_frames=True) for split in ("train", "test")}
    model = make_model(rows["train"].features["expression"].names)
    processor = MTCAEVideoProcessor(size={"height": SIDE, "width": SIDE}, num_frames=16)
    train(model.train(), DataLoader(clips["train"], 8, shuffle=True), processor, options.num_train_epochs)
    error, upright = mean_error(model.eval(), DataLoader(clips["test"], 8), processor)
    print(f"head tilt of unseen people: off by {error:.1f}°; always upright: {upright:.1f}°")
    model.save_pretrained(options.output_dir / "model")
    processor.save_pretrained(options.output_dir / "model")


if __name__ == "__main__":
    main()
