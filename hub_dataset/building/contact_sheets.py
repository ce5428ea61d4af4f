"""Contact sheets: pictures of labelled clips, for a person to look at before a data set is used or published.

One sheet per expression with clips spread evenly over the corpus, and one of the clips whose labels deserve a look
first: those with the fewest frames with a face. Sheets show people: they may be passed on only where the videos may.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from mtcae_dfer.face_geometry import boxes_to_pixels, points_to_pixels
from mtcae_dfer.hub_dataset.clips import BuiltClip, Clip, ClipLabels

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

SHEETS_FOLDER = "contact_sheets"
DOUBTFUL_SHEET = "fewest-faces.png"
CLIPS_PER_SHEET = 8
FRAMES_PER_CLIP = 8
TILE_HEIGHT = 128  # pixels
TITLE_HEIGHT = 18
GAP = 2
LONGEST_TITLE = 140  # characters
FOUND, INTERPOLATED, MISSING = "#2ec4f1", "#ff9f1c", "#e0505a"  # told apart without red and green, and by words
BACKGROUND, INK = "#16191d", "#e8eaed"


def draw_contact_sheets(
    built: Sequence[BuiltClip], class_names: Sequence[str], folder: Path, progress: bool = True
) -> list[Path]:
    """Draws the sheets of a data set; the same clips and labels give the same bytes.

    Args:
        built: clips of the data set.
        class_names: one sheet for each class that has clips.
        folder: is made.
        progress: whether to show a progress bar.

    Returns:
        The pictures.
    """
    pairs = [(each.clip, each.labels) for each in built]
    sheets = {}
    for number, name in enumerate(class_names):
        members = [pair for pair in pairs if pair[0].expression == name]
        file_stem = re.sub(r"[^\w-]+", "_", name)
        sheets[f"{number}-{file_stem}.png"] = spread_evenly(members, CLIPS_PER_SHEET)
    incomplete = [pair for pair in pairs if not pair[1].face_found.all() or pair[1].face_interpolated.any()]
    incomplete.sort(key=lambda pair: int((pair[1].face_found & ~pair[1].face_interpolated).sum()))
    sheets[DOUBTFUL_SHEET] = incomplete[:CLIPS_PER_SHEET]
    folder.mkdir(parents=True)
    files = []
    for name, members in tqdm(sheets.items(), desc="Drawing contact sheets", unit="sheet", disable=not progress):
        if members:
            files.append(folder / name)
            draw_sheet(members).save(files[-1], format="PNG")
    return files


def draw_sheet(pairs: Sequence[tuple[Clip, ClipLabels]]) -> Image:
    """One row per clip: its name, then frames with box and points, as wide as the video's proportions want it."""
    from PIL import Image

    strips = [_draw_clip(clip, labels) for clip, labels in pairs]
    height = sum(strip.height for strip in strips)
    sheet = Image.new("RGB", (max(strip.width for strip in strips), height), BACKGROUND)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def spread_evenly(items: Sequence, count: int) -> list:
    """At most `count` items, evenly spread, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(position)] for position in np.linspace(0, len(items) - 1, count)]


def _draw_clip(clip: Clip, labels: ClipLabels) -> Image:
    from PIL import Image, ImageDraw, ImageFont

    from mtcae_dfer.video_reading import read_clip

    positions = spread_evenly(range(len(labels.frame_indices)), FRAMES_PER_CLIP)
    # Labelled frames are squashed; a person judges faces better in their own proportions.
    wanted = [int(labels.frame_indices[position]) for position in positions]
    reading = read_clip(clip.path, frame_indices=wanted)
    width = max(1, round(TILE_HEIGHT * reading.info.width / reading.info.height))
    strip = Image.new("RGB", (len(positions) * (width + GAP), TITLE_HEIGHT + TILE_HEIGHT + GAP), BACKGROUND)
    found = int((labels.face_found & ~labels.face_interpolated).sum())
    title = f"{clip.name}   {clip.expression}, {clip.subject}: a face in {found} of {len(labels.face_found)} frames"
    if labels.face_interpolated.any():
        title += f", {int(labels.face_interpolated.sum())} interpolated"
    if labels.face_count.max(initial=0) > 1:
        title += f", up to {int(labels.face_count.max())} faces"
    title = title if len(title) <= LONGEST_TITLE else f"…{title[1 - LONGEST_TITLE :]}"
    ImageDraw.Draw(strip).text((4, 2), title, fill=INK, font=ImageFont.load_default(12))
    for number, (position, frame) in enumerate(zip(positions, reading.frames, strict=True)):
        picture = Image.fromarray(frame.permute(1, 2, 0).numpy()).resize((width, TILE_HEIGHT))
        _draw_face(ImageDraw.Draw(picture), labels, position, picture.size)
        strip.paste(picture, (number * (width + GAP), TITLE_HEIGHT))
    return strip


def _draw_face(pen: ImageDraw, labels: ClipLabels, position: int, size: tuple[int, int]) -> None:
    """Box, points and confidence of one frame."""
    from PIL import ImageFont

    if not labels.face_found[position]:
        colour, told = MISSING, "no face"
        pen.rectangle((0, 0, size[0] - 1, size[1] - 1), outline=colour, width=2)
    else:
        interpolated = bool(labels.face_interpolated[position])
        colour = INTERPOLATED if interpolated else FOUND
        told = "interpolated" if interpolated else f"{labels.face_confidence[position]:.2f}"
        pen.rectangle(tuple(boxes_to_pixels(labels.face_boxes[position], *size).tolist()), outline=colour, width=2)
        for x, y in points_to_pixels(labels.face_landmarks[position], *size).tolist():
            pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    # A dark rim makes words readable on every picture.
    font = ImageFont.load_default(11)
    pen.text((4, size[1] - 16), told, fill=colour, font=font, stroke_width=1, stroke_fill=BACKGROUND)
