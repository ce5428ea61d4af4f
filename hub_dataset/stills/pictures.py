"""One picture file of any kind: read, turned upright, as RGB or grey, in a size that the labeller and a model can use.

The rule, applied once: a picture whose shorter side is below 160 pixels is enlarged to that (bicubic), one whose longer
side is above 640 is reduced to that (area average). A JPEG or PNG file that needs no change is kept as it is; any other
picture is stored as PNG, which reads back to the same pixels.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mtcae_dfer.git_lfs import GIT_LFS_HEAD

if TYPE_CHECKING:
    from PIL.Image import Image

KEPT_FORMATS = {"JPEG": ".jpg", "PNG": ".png"}
SMALLEST_SIDE = 16  # pixels; in less than that nobody sees an expression
FINGERPRINT_SIDE = 16  # a fingerprint has 16 × 16 bits
BACKGROUND = (255, 255, 255)  # behind transparent parts


class PictureError(ValueError):
    """A picture cannot be used. The message is the reason, in one line."""


@dataclass(frozen=True)
class PictureOptions:
    """In which sizes pictures are stored."""

    shortest_side: int = field(default=160, metadata={"help": "Shorter side to which smaller ones are enlarged."})
    longest_side: int = field(default=640, metadata={"help": "Longer side to which larger ones are reduced."})


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that is ready to be stored."""

    image: Image  # RGB or grey (mode L), upright
    content: bytes  # its file
    suffix: str  # ".jpg" or ".png"
    fingerprint: np.ndarray  # (256,) bool, see `fingerprint`


def prepare_picture(content: bytes, options: PictureOptions) -> Picture:
    """Reads a picture file.

    Transparent parts become white, colours of print (CMYK) those of a screen, 16 bits 8; Exif's orientation is applied.

    Raises:
        PictureError: the file is no readable picture, holds several (an animation), or is too small or too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if content.startswith(GIT_LFS_HEAD):
        raise PictureError("is a Git LFS pointer, not a picture: run `git lfs pull` in its folder")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as stored:
                frames, (width, height) = getattr(stored, "n_frames", 1), stored.size
                if frames > 1 and stored.format != "MPO":  # a camera's MPO file counts as its first picture
                    raise PictureError(
                        f"holds {frames} pictures (an animation or several pages), not one: give it as a video"
                    )
                if min(width, height) < SMALLEST_SIDE:
                    raise PictureError(f"has {width}x{height} pixels: too small to show a face")
                stored.load()
                picture = _screen_colours(ImageOps.exif_transpose(stored))
    except PictureError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise PictureError(f"has more than {Image.MAX_IMAGE_PIXELS} pixels: reduce it") from error
    except UnidentifiedImageError as error:  # whose message tells an address in memory
        raise PictureError("cannot be read as a picture (of no known format)") from error
    except Exception as error:  # whatever a file makes the decoder raise is this file's fault
        reason = str(error).splitlines() or [type(error).__name__]
        raise PictureError(f"cannot be read as a picture ({reason[0]})") from error
    # In its own proportions: a strip may stay below the shorter side.
    width, height = picture.size
    enlarging = options.shortest_side / min(width, height)
    scale = min(max(1.0, enlarging), options.longest_side / max(width, height))
    sized = picture
    if scale != 1:
        size = (max(1, round(scale * width)), max(1, round(scale * height)))
        sized = picture.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX)
    # Readers differ in what they make of Exif data, so that a file with any is written anew.
    is_plain = stored.mode in ("RGB", "L") and not {"transparency", "exif"} & stored.info.keys()
    if is_plain and stored.format in KEPT_FORMATS and sized.size == stored.size:
        return Picture(sized, content, KEPT_FORMATS[stored.format], fingerprint(picture))
    file = io.BytesIO()
    sized.save(file, format="PNG")
    return Picture(sized, file.getvalue(), ".png", fingerprint(picture))


def fingerprint(picture: Image) -> np.ndarray:
    """Difference hash of a picture, bool (256,): whether each of 16 × 16 grey areas is darker than its right neighbour.

    Source: N. Krawetz, "Kind of Like That" (2013). Fingerprints of the same photograph, enlarged, compressed again or
    with other brightness, differ in few bits.
    """
    from PIL.Image import Resampling

    small = picture.convert("L").resize((FINGERPRINT_SIDE + 1, FINGERPRINT_SIDE), Resampling.BOX)
    grey = np.asarray(small, dtype=np.int16)
    return (grey[:, 1:] > grey[:, :-1]).ravel()  # (16, 16) -> (256,)


def _screen_colours(picture: Image) -> Image:
    """The picture as RGB, or as grey (mode L) where it has no colours."""
    from PIL import Image

    if picture.mode in ("1", "L") and "transparency" not in picture.info:
        return picture.convert("L")
    if picture.mode.startswith("I"):  # 16 bits, some of them stored as 32
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise PictureError("has grey values outside of 16 bits: store it with 8 bits")
        return Image.fromarray((values >> 8 if values.max() > 0xFF else values).astype(np.uint8))
    if picture.mode == "F":
        raise PictureError("has grey values of no fixed range (floating point): store it with 8 bits")
    if "transparency" in picture.info or picture.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        seen = picture.convert("RGBA")
        behind = Image.new("RGBA", seen.size, (*BACKGROUND, 255))
        return Image.alpha_composite(behind, seen).convert("RGB")
    return picture.convert("RGB")
