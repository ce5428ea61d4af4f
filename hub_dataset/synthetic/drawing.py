"""Paints the faces of `face_anatomy` into video frames with OpenCV's antialiased, sub-pixel primitives.

The head is painted on a canvas of its own, somewhat finer than the frame and aligned with the face, and then placed
into the frame by one affine warp. Flat colours come first; light, creases and bright spots are collected in a second
layer that multiplies them, so every skin tone is shaded alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mtcae_dfer.hub_dataset.synthetic.anatomy import (
    JAW_LINE,
    FaceGeometry,
    FaceIdentity,
    FacePose,
    face_contour,
    place_in_frame,
    smooth_curve,
)

SUPERSAMPLING = 1.8  # canvas pixels per frame pixel
CANVAS_LEFT, CANVAS_TOP, CANVAS_RIGHT, CANVAS_BOTTOM = -1.5, -1.95, 1.5, 1.95  # in face units
SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates
LIGHT_ONE = 128  # value of the light layer that leaves a colour as it is
LIGHT_COARSENESS = 4  # the smooth part of the light layer is kept at this fraction of the canvas
LONG_HAIR = {"bob": 0.85, "long": 1.65}  # y of the ends of the locks


@dataclass(frozen=True)
class Scene:
    """One recording session: what surrounds the face. Colours in RGB 0..255."""

    light_azimuth: float  # radians, positive is light from the viewer's right
    light_elevation: float  # radians, positive is light from above
    light_strength: float  # share of directed light, 0..1
    exposure: float  # overall brightness, 1 is neutral
    light_tint: tuple[float, float, float]  # gain of each colour channel
    background_from: tuple[float, float, float]
    background_to: tuple[float, float, float]
    background_angle: float  # direction of the gradient in radians
    background_shapes: int  # number of blurred shapes
    background_blur: float  # sigma of the blur as a share of the frame
    shirt_colour: tuple[float, float, float]
    noise: float  # standard deviation of the sensor noise in gray levels
    compression: int  # constant rate factor of the encoder
    paint_seed: int  # seed of the background's shapes and of the noise


def paint_frames(
    identity: FaceIdentity, geometry: FaceGeometry, pose: FacePose, scene: Scene, frame_size: int
) -> np.ndarray:
    """Frames (F, frame_size, frame_size, 3), uint8 RGB, of one clip."""
    painter = _FacePainter(identity, geometry, pose, scene, frame_size)
    return np.stack([painter.paint(index) for index in range(len(geometry.jaw_drop))])


class _FacePainter:
    """Holds what stays the same through a clip: base colours of the head, light, background, noise."""

    def __init__(
        self, identity: FaceIdentity, geometry: FaceGeometry, pose: FacePose, scene: Scene, frame_size: int
    ) -> None:
        self.identity, self.pose, self.scene, self.frame_size = identity, pose, scene, frame_size
        self.jaw_drop = geometry.jaw_drop
        self.scale = SUPERSAMPLING * float(pose.half_width.max()) * frame_size  # canvas pixels per face unit
        self.width = int(np.ceil((CANVAS_RIGHT - CANVAS_LEFT) * self.scale))
        self.height = int(np.ceil((CANVAS_BOTTOM - CANVAS_TOP) * self.scale))
        self.colours = _colours(identity)
        self.random = np.random.default_rng([scene.paint_seed, 1])
        self.base, self.base_mask = self._paint_head()
        locks = _hair_locks(identity)
        self.locks = [self._fixed(points) for points in locks]
        # Lines down each lock of hair (40, 2), between its inner and outer edge.
        edges = [(lock[2:17], lock[24:39][::-1]) for lock in locks]
        strands = [(1 - share) * inner + share * outer for inner, outer in edges for share in (0.25, 0.5, 0.75)]
        self.lock_strands = [self._fixed(strand) for strand in strands]
        self.light = self._coarse_light()
        self.background = self._paint_background()
        # Sensor noise, somewhat larger than the frame: each frame cuts its own window from it.
        field = self.random.standard_normal((frame_size + 48, frame_size + 48, 3), np.float32)
        self.noise = np.round(field * scene.noise).astype(np.int16)
        self.fills = [(shape, self._fixed(shape.points)) for shape in geometry.shapes if shape.kind in ("fill", "line")]
        self.creases = [(shape, self._fixed(shape.points)) for shape in geometry.shapes if shape.kind == "crease"]
        self.broad = [
            (shape, self._fixed(shape.points, LIGHT_COARSENESS))
            for shape in geometry.shapes
            if shape.kind in ("fold", "glow")
        ]

    def paint(self, index: int) -> np.ndarray:
        """One frame (H, W, 3), uint8 RGB."""
        canvas, mask = self._open_jaw(index)
        for points in self.locks:
            cv2.fillPoly(canvas, [points], self.colours["hair"], cv2.LINE_AA, SHIFT)
            cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, SHIFT)
        cv2.polylines(
            canvas, self.lock_strands, False, self.colours["strand"], self._line_width(0.015), cv2.LINE_AA, SHIFT
        )
        for shape, points in self.fills:
            colour = self.colours[shape.paint]
            if shape.kind == "fill":
                cv2.fillPoly(canvas, [points[index]], colour, cv2.LINE_AA, SHIFT)
            else:
                width = self._line_width(shape.width)
                cv2.polylines(canvas, [points[index]], False, colour, width, cv2.LINE_AA, SHIFT)
        lit = cv2.multiply(canvas, self._light_layer(index), scale=1.0 / LIGHT_ONE)
        # The head is warped from canvas pixels to frame pixels, both counted at pixel centres, over the background.
        pose, size = self.pose, (self.frame_size, self.frame_size)
        gain = float(pose.half_width[index]) * self.frame_size / self.scale
        cosine, sine = gain * np.cos(pose.roll[index]), gain * np.sin(pose.roll[index])
        rotation = np.array([[cosine, -sine], [sine, cosine]])
        origin = np.array([-CANVAS_LEFT, -CANVAS_TOP]) * self.scale - 0.5  # the face's origin on the canvas
        target = np.array([pose.centre_x[index], pose.centre_y[index]]) * self.frame_size - 0.5
        matrix = np.column_stack([rotation, target - rotation @ origin])
        head = cv2.warpAffine(lit, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        cover = cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_LINEAR).astype(np.float32) / 255.0
        placed = cv2.blendLinear(head, self.background, cover, 1.0 - cover)
        row, column = self.random.integers(0, self.noise.shape[0] - self.frame_size + 1, 2)
        noise = self.noise[row : row + self.frame_size, column : column + self.frame_size]
        return cv2.add(placed, np.ascontiguousarray(noise), dtype=cv2.CV_8U)

    # -- coordinates

    def _fixed(self, points: np.ndarray, coarseness: int = 1) -> np.ndarray:
        """Face units (..., 2) to OpenCV's fixed-point canvas coordinates (pixel centres are whole numbers)."""
        pixels = (points - (CANVAS_LEFT, CANVAS_TOP)) * (self.scale / coarseness) - 0.5
        return np.round(pixels * (1 << SHIFT)).astype(np.int32)

    def _line_width(self, width: float) -> int:
        return max(1, int(round(width * self.scale)))

    # -- per frame

    def _open_jaw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Base colours and mask with the skin below the jaw line stretched down by the jaw's movement."""
        stretch = 1.0 + self.jaw_drop[index] / (self.identity.chin - JAW_LINE)
        first = int((JAW_LINE - CANVAS_TOP) * self.scale)
        canvas, mask = self.base.copy(), self.base_mask.copy()
        if stretch > 1.001:
            matrix = np.array([[1.0, 0.0, 0.0], [0.0, 1.0 / stretch, 0.0]])  # from the stretched to the resting rows
            for layer, resting in ((canvas, self.base), (mask, self.base_mask)):
                size = (self.width, self.height - first)
                flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
                layer[first:] = cv2.warpAffine(
                    resting[first:], matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE
                )
        return canvas, mask

    def _light_layer(self, index: int) -> np.ndarray:
        """Light (height, width, 3): directed light and bright spots, dimmed by folds and creases."""
        glow, fold = np.zeros((2, *self.light.shape[:2]), np.uint8)
        for shape, points in self.broad:
            if shape.kind == "glow":
                cv2.fillPoly(glow, [points[index]], int(55 * shape.strength_at(index)), cv2.LINE_AA, SHIFT)
            else:
                width = self._line_width(shape.width / LIGHT_COARSENESS)
                strength = int(165 * shape.strength_at(index))
                cv2.polylines(fold, [points[index]], False, strength, width, cv2.LINE_AA, SHIFT)
        glow = cv2.GaussianBlur(glow, (0, 0), 0.045 * self.scale / LIGHT_COARSENESS)
        fold = cv2.GaussianBlur(fold, (0, 0), 0.028 * self.scale / LIGHT_COARSENESS)
        coarse = _darken(cv2.add(self.light, cv2.merge([glow] * 3)), fold)
        crease = np.zeros((self.height, self.width), np.uint8)
        for shape, points in self.creases:
            strength = int(210 * shape.strength_at(index))
            if strength > 2:
                cv2.polylines(
                    crease, [points[index]], False, strength, self._line_width(shape.width), cv2.LINE_AA, SHIFT
                )
        size = 2 * int(round(0.018 * self.scale)) + 1
        return _darken(cv2.resize(coarse, (self.width, self.height)), cv2.GaussianBlur(crease, (size, size), 0))

    # -- once per clip

    def _paint_head(self) -> tuple[np.ndarray, np.ndarray]:
        """Resting head without features: colours (height, width, 3) and coverage (height, width)."""
        identity = self.identity
        canvas = np.full((self.height, self.width, 3), self.colours["skin"], np.uint8)
        rows = int((-0.1 - CANVAS_TOP) * self.scale)
        if identity.hair_style not in ("bald", "buzz"):
            canvas[:rows] = self.colours["hair"]  # colour beyond the outline, seen through its soft edge
        mask = np.zeros((self.height, self.width), np.uint8)
        for paint, points in _head_outlines(identity):
            fixed = self._fixed(points)
            cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, SHIFT)
            if paint == "scalp":  # shaved hair ends softly
                self._blend(canvas, [points], paint, 0.95, 0.035)
                continue
            cv2.fillPoly(canvas, [fixed], self.colours[paint], cv2.LINE_AA, SHIFT)
            if paint == "skin":  # cheeks blush and the beard's place is darker, softly
                cheeks = [_ellipse(side * 0.55, 0.46, 0.26, 0.20) for side in (-1, 1)]
                sockets = [_ellipse(side * 0.45, 0.02, 0.27, 0.17) for side in (-1, 1)]
                self._blend(canvas, cheeks, "blush", 0.35, 0.10)
                self._blend(canvas, sockets, "eye_socket", 0.5, 0.07)
                if identity.beard:
                    self._blend(canvas, [_beard_outline(identity)], "hair", identity.beard, 0.05)
        random, hair = np.random.default_rng(identity.strand_seed), np.array(self.colours["hair"])
        for points in _hair_strands(identity, random):  # lighter and darker ones over the flat hair
            colour = np.clip(hair * random.uniform(0.72, 1.3), 0, 255).tolist()
            cv2.polylines(canvas, [self._fixed(points)], False, colour, self._line_width(0.012), cv2.LINE_AA, SHIFT)
        return canvas, mask

    def _blend(
        self, canvas: np.ndarray, outlines: list[np.ndarray], paint: str, opacity: float, softness: float
    ) -> None:
        cover = np.zeros(canvas.shape[:2], np.uint8)
        for outline in outlines:
            cv2.fillPoly(cover, [self._fixed(outline)], 255, cv2.LINE_AA, SHIFT)
        weight = cv2.GaussianBlur(cover, (0, 0), softness * self.scale).astype(np.float32) * (opacity / 255.0)
        flat = np.empty_like(canvas)
        flat[:] = self.colours[paint]
        canvas[:] = cv2.blendLinear(flat, canvas, weight, 1.0 - weight)

    def _coarse_light(self) -> np.ndarray:
        """Lambert's law on an ellipsoid, (height / 4, width / 4, 3) uint8 with 128 for one."""
        scene = self.scene
        rows, columns = -(-self.height // LIGHT_COARSENESS), -(-self.width // LIGHT_COARSENESS)
        y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
        x = (CANVAS_LEFT + (x + 0.5) * (CANVAS_RIGHT - CANVAS_LEFT) / columns) / 1.15
        y = (CANVAS_TOP + (y + 0.5) * (CANVAS_BOTTOM - CANVAS_TOP) / rows) / 1.6
        radius = x**2 + y**2
        z = np.sqrt(np.clip(1.0 - radius, 0.06, None))
        facing = (
            x * np.sin(scene.light_azimuth) * np.cos(scene.light_elevation)
            - y * np.sin(scene.light_elevation)
            + z * np.cos(scene.light_azimuth) * np.cos(scene.light_elevation)
        )
        directed = np.clip(facing, 0.0, None)
        light = (1.0 - scene.light_strength) + scene.light_strength * 1.15 * directed
        light *= scene.exposure * (1.0 - 0.16 * np.clip(radius, 0, 1.2) ** 2)
        return np.clip(light[..., None] * np.array(scene.light_tint) * LIGHT_ONE, 0, 255).astype(np.uint8)

    def _paint_background(self) -> np.ndarray:
        """The room; before it back hair, neck with the chin's shadow, and shoulders, at the head's mean place."""
        scene, size = self.scene, self.frame_size
        # A gradient with blurred shapes.
        y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
        along = x * np.cos(scene.background_angle) + y * np.sin(scene.background_angle)
        share = np.clip(0.5 + along * 0.8, 0, 1)[..., None]
        frame = (1 - share) * np.array(scene.background_from) + share * np.array(scene.background_to)
        frame = np.clip(frame, 0, 255).astype(np.uint8)
        random = np.random.default_rng([scene.paint_seed, 0])
        for _ in range(scene.background_shapes):
            colour = np.array(scene.background_from) + random.uniform(-55, 55) + random.uniform(-22, 22, 3)
            centre, radius = random.uniform(0, 1, 2), random.uniform(0.06, 0.3, 2)
            corners = 4 if random.random() < 0.6 else 24
            angle = np.linspace(0, 2 * np.pi, corners, endpoint=False) + random.uniform(0, np.pi)
            outline = (centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)) * size * (1 << SHIFT)
            points = np.round(outline).astype(np.int32)
            cv2.fillPoly(frame, [points], np.clip(colour, 0, 255).tolist(), cv2.LINE_AA, SHIFT)
        frame = cv2.GaussianBlur(frame, (0, 0), max(0.3, scene.background_blur * size))
        shade = 0.80 * scene.exposure * np.array(scene.light_tint)
        mean = FacePose(**{name: np.array([values.mean()]) for name, values in vars(self.pose).items()})
        for paint, outline in _body_outlines(self.identity):
            flat = scene.shirt_colour if paint == "shirt" else self.colours[paint]
            lit = np.clip(np.array(flat) * shade, 0, 255).tolist()
            pixels = place_in_frame(outline[None], mean)[0] * size - 0.5
            fixed = np.round(pixels * (1 << SHIFT)).astype(np.int32)
            cv2.fillPoly(frame, [fixed], lit, cv2.LINE_AA, SHIFT)
        return frame


def _darken(light: np.ndarray, shadow: np.ndarray) -> np.ndarray:
    """Dims a light layer (H, W, 3) by a shadow (H, W); skin in shadow loses less red than green and blue."""
    left = cv2.bitwise_not(shadow)
    return cv2.multiply(
        light, cv2.merge([cv2.bitwise_not(cv2.convertScaleAbs(shadow, alpha=0.8)), left, left]), scale=1 / 255
    )


# ---------------------------------------------------------------------------------------------------------------
# Colours and outlines of one identity


def _colours(identity: FaceIdentity) -> dict[str, tuple[float, float, float]]:
    skin, lip, hair = (np.array(c) for c in (identity.skin_colour, identity.lip_colour, identity.hair_colour))
    eye = np.array(identity.eye_colour)
    colours = {
        "skin": skin,
        "ear": skin * (0.93, 0.86, 0.84),
        "neck": skin * (0.86, 0.83, 0.82),
        "neck_shadow": skin * (0.62, 0.58, 0.58),
        "blush": skin * (1.02, 0.84, 0.82),
        "eye_socket": skin * (0.90, 0.84, 0.83),
        "hair": hair,
        "scalp": 0.55 * hair + 0.45 * skin * 0.8,
        "strand": hair * 0.78,
        "hair_shadow": hair * 0.6,
        "brow": np.array(identity.brow_colour),
        "eye_white": np.array([236, 232, 228]),
        "iris_rim": eye * 0.45,
        "iris": eye,
        "pupil": np.array([14, 12, 12]),
        "glint": np.array([250, 250, 250]),
        "lash": 0.25 * skin * 0.5 + np.array([14, 8, 6]),
        "lower_lash": skin * 0.48,
        "nostril": skin * (0.34, 0.24, 0.22),
        "mouth": np.array([62, 18, 20]),
        "tongue": np.array([158, 74, 76]),
        "teeth": np.array([240, 236, 226]),
        "lip_upper": lip * 0.90,
        "lip_lower": lip * 1.04,
        "lip_line": lip * (0.50, 0.40, 0.40),
        "glasses": np.array([34, 30, 32]),
    }
    clipped = {name: np.clip(colour, 0, 255).tolist() for name, colour in colours.items()}
    return {name: (red, green, blue) for name, (red, green, blue) in clipped.items()}


def _ellipse(x: float, y: float, radius_x: float, radius_y: float, count: int = 40) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([x + radius_x * np.cos(angle), y + radius_y * np.sin(angle)], axis=-1)


def _head_outlines(identity: FaceIdentity) -> list[tuple[str, np.ndarray]]:
    """Flat shapes of the resting head in painter's order: (name of the colour, (N, 2) in face units)."""
    outlines = []
    if identity.hair_style == "bun":
        outlines.append(("hair", _ellipse(0.0, -identity.skull - 0.16, 0.36, 0.28)))
    outlines += [("ear", _ellipse(side * 1.0, 0.14, 0.12, identity.ear_size)) for side in (-1, 1)]
    outlines.append(("skin", face_contour(identity, -identity.skull)))
    if identity.hair_style == "curly":
        radius = 0.17 + identity.hair_volume * 0.6
        for angle in np.linspace(1.06 * np.pi, -0.06 * np.pi, 15):
            centre = (np.cos(angle), -np.sin(angle) * (identity.skull - 0.02))
            outlines.append(("hair", _ellipse(*centre, radius, radius, 20)))
    if identity.hair_style != "bald":
        paint = "scalp" if identity.hair_style == "buzz" else "hair"
        outlines.append((paint, _hair_cap(identity)))
    return outlines


def _hair_cap(identity: FaceIdentity) -> np.ndarray:
    """Hair from the outer outline of the head in to the hairline."""
    volume = {"buzz": 0.02, "curly": 0.10}.get(identity.hair_style, identity.hair_volume)
    side = {"buzz": -0.12, "short": 0.02, "side_part": 0.02, "curly": 0.05, "bun": 0.0}.get(identity.hair_style, 0.15)
    angle = np.linspace(np.pi, 0.0, 40)
    outer = np.stack([np.cos(angle) * (1.0 + volume), -np.sin(angle) * (identity.skull + volume)], axis=-1)
    ends = np.array([[-1.0 - 0.8 * volume, side], [1.0 + 0.8 * volume, side]])
    # The edge of the hair on the forehead, from the viewer's left to the right.
    top = -0.66 * identity.skull + identity.hair_line
    left, right = [(-0.97, side), (-0.89, -0.34)], [(0.89, -0.34), (0.97, side)]
    middle = {
        "fringe": [(-0.66, -0.50), (-0.2, -0.56), (0.3, -0.55), (0.68, -0.48)],
        "side_part": [(-0.72, -0.62), (-0.40, top - 0.1), (0.2, -0.66), (0.66, -0.56)],
    }.get(
        identity.hair_style, [(-0.74, -0.70), (-0.36, top - 0.02), (0.0, top + 0.02), (0.36, top - 0.02), (0.74, -0.70)]
    )
    hair_line = smooth_curve([*left, *middle, *right], 40)
    return np.concatenate([ends[:1], outer, ends[1:], hair_line[::-1]])


def _hair_locks(identity: FaceIdentity) -> list[np.ndarray]:
    """Hair that hangs beside the face, in front of the ears; it does not move with the jaw."""
    end = LONG_HAIR.get(identity.hair_style)
    if end is None:
        return []
    wide = 1.0 + identity.hair_volume
    right = smooth_curve(
        [
            (0.90, -0.45),
            (0.96, 0.0),
            (0.93, 0.45),
            (0.98, end),
            (wide + 0.14, end - 0.05),
            (wide + 0.13, 0.4),
            (wide, -0.2),
        ],
        40,
    )
    return [right, right * (-1, 1)]


def _hair_strands(identity: FaceIdentity, random: np.random.Generator) -> list[np.ndarray]:
    """Lines along the hair of the cap, from the hairline back over the skull."""
    if identity.hair_style in ("bald", "buzz"):
        return []
    cap = _hair_cap(identity)
    outer, inner = cap[1:41], cap[42:][::-1]  # both from the viewer's left to the right, 40 points each
    strands = []
    for place in random.uniform(1.0, 38.0, 90):
        root, tip = (
            np.array([np.interp(place + aside, np.arange(len(line)), line[:, axis]) for axis in range(2)])
            for line, aside in ((inner, random.uniform(-1, 1)), (outer, random.uniform(-1, 1)))
        )
        start, end = np.sort(random.uniform(0.04, 0.96, 2))
        bend = 0.06 * np.sign(root[0]) * np.array([1.0, 0.0])
        reach = np.linspace(start, end, 6)[:, None]
        strands.append((1 - reach) * root + reach * tip + 4 * reach * (1 - reach) * bend)
    return strands


def _beard_outline(identity: FaceIdentity) -> np.ndarray:
    contour = face_contour(identity, 0.35)
    outer = contour[(contour[:, 1] >= 0.35)]
    inner = smooth_curve(
        [(-0.86, 0.40), (-0.62, 0.72), (-0.3, 0.70), (0.0, 0.66), (0.3, 0.70), (0.62, 0.72), (0.86, 0.40)], 30
    )
    right_down_left = outer[: len(outer) // 2], outer[len(outer) // 2 :]
    return np.concatenate([inner, *right_down_left])


def _body_outlines(identity: FaceIdentity) -> list[tuple[str, np.ndarray]]:
    """Shapes behind the head in painter's order: (colour, (N, 2) in face units)."""
    outlines = []
    end = LONG_HAIR.get(identity.hair_style)
    if end is not None:
        back = smooth_curve([(-1.0, -0.4), (-1.1, 0.4), (-1.08, end), (1.08, end), (1.1, 0.4), (1.0, -0.4)], 40)
        outlines.append(("hair_shadow", back))
    neck = smooth_curve([(-0.66, 0.5), (-0.60, 1.4), (-0.85, 1.98), (0.85, 1.98), (0.60, 1.4), (0.66, 0.5)], 40)
    shadow = smooth_curve([(-0.66, 0.5), (-0.58, 1.4), (0.0, identity.chin + 0.26), (0.58, 1.4), (0.66, 0.5)], 30)
    shoulder = smooth_curve([(-2.3, 6.0), (-2.2, 2.9), (-1.8, 2.3), (-1.15, 2.03), (-0.66, 1.80)], 24)
    neckline = smooth_curve([(-0.66, 1.80), (-0.42, 1.98), (0.0, 2.07), (0.42, 1.98), (0.66, 1.80)], 16)
    shirt = np.concatenate([shoulder, neckline, shoulder[::-1] * (-1, 1)])
    return [*outlines, ("neck", neck), ("neck_shadow", shadow), ("shirt", shirt)]
