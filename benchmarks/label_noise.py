"""How exact are face labels? Those of a data set against what MTCNN says of the mirrored pictures.

    python benchmarks/label_noise.py --dataset FER2013 --split validation --clips 300

A picture and its mirror image show the same face, so that a detector without noise finds the same box and points. What
it finds differently bounds how closely any model can agree with its labels.
"""

import argparse

import numpy as np
import torch
from results_file import keep_table
from tqdm import tqdm

from mtcae_dfer.face_detection import TRACK_MIN_OVERLAP, FaceDetector
from mtcae_dfer.face_geometry import box_intersection_over_union, flip_horizontally
from mtcae_dfer.hub_dataset.loading.load import clip_bytes, load_multitask_dataset
from mtcae_dfer.hub_dataset.schema import labels_from_row
from mtcae_dfer.training.evaluation.metrics import landmark_nme
from mtcae_dfer.video_reading import read_clip


def compare_mirrored(rows, clips: int, seed: int, detector: FaceDetector) -> list[str]:
    """The table: agreement of labels and mirrored detections over the labelled frames of clips drawn at random."""
    chosen = np.random.default_rng(seed).permutation(len(rows))[:clips]
    overlaps, errors, labelled = [], [], 0
    for index in tqdm(chosen, desc="Detecting", unit="clip"):
        row = rows[int(index)]
        labels = labels_from_row(row)
        frames = read_clip(clip_bytes(row), frame_indices=row["frame_indices"]).frames
        height, width = frames.shape[-2:]
        for time, found in enumerate(detector.detect_all(frames.flip(-1))):
            if not labels.face_found[time]:
                continue
            labelled += 1
            boxes, points = flip_horizontally(found.boxes, found.landmarks)
            overlap = box_intersection_over_union(boxes, torch.as_tensor(labels.face_boxes[time]))
            if len(overlap) == 0 or float(overlap.max()) < TRACK_MIN_OVERLAP:  # another face, or none
                continue
            overlaps.append(float(overlap.max()))
            pair = (points[int(overlap.argmax())].numpy(), np.asarray(labels.face_landmarks[time]))
            errors.append(landmark_nme(*pair, np.array(True), width, height))
    return [
        "| frames with a label | found again | box IoU | landmark error, mean | median |",
        "|---:|---:|---:|---:|---:|",
        f"| {labelled} | {len(errors)} | {100 * np.mean(overlaps):.1f} % | {100 * np.mean(errors):.1f} % "
        f"| {100 * np.median(errors):.1f} % |",
    ]


def main() -> None:
    """Prints the table and keeps it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="folder of a built data set")
    parser.add_argument("--split", default="validation", help="(default: %(default)s)")
    parser.add_argument("--clips", type=int, default=300, help="drawn at random (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing (default: %(default)s)")
    parser.add_argument("--min_face", type=float, default=40.0, help="side of the smallest face, in pixels")
    parser.add_argument("--name", default="label_noise", help="of the kept table (default: %(default)s)")
    arguments = parser.parse_args()
    rows = load_multitask_dataset(arguments.dataset)[arguments.split]
    lines = compare_mirrored(rows, arguments.clips, arguments.seed, FaceDetector(min_face=arguments.min_face))
    print("\n".join(lines))
    print(f"kept in {keep_table(arguments.name, 'Face labels against MTCNN on the mirrored pictures', lines)}")


if __name__ == "__main__":
    main()
