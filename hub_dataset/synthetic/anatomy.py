"""The drawn face as geometry: who it is, what facial action units do to it, and where its points end up.

Lengths are in face units: 1 is half the width of the face at the cheekbones (about 7 cm on a person), x grows to the
viewer's right, y downwards, and the origin lies midway between the eyes of the frontal face. Every function works on
all F frames of a clip at once; arrays of points are (F, N, 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

# Action units of the Facial Action Coding System (Ekman and Friesen 1978; Ekman, Friesen and Hager 2002).
ACTION_UNITS: tuple[int, ...] = (1, 2, 4, 5, 6, 7, 9, 12, 14, 15, 16, 20, 23, 25, 26, 45)
ACTION_UNIT_NAMES: dict[int, str] = {
    1: "inner brow raiser",
    2: "outer brow raiser",
    4: "brow lowerer",
    5: "upper lid raiser",
    6: "cheek raiser",
    7: "lid tightener",
    9: "nose wrinkler",
    12: "lip corner puller",
    14: "dimpler (one side)",
    15: "lip corner depressor",
    16: "lower lip depressor",
    20: "lip stretcher",
    23: "lip tightener",
    25: "lips part",
    26: "jaw drop",
    45: "blink",
}
HAIR_STYLES = ("short", "side_part", "fringe", "bob", "long", "bun", "curly", "buzz", "bald")

# Where the jaw hinges: skin above this height stays when the jaw drops, skin below is stretched down to the chin.
JAW_LINE = 0.62
# The face box of the ground truth is the tight box round the face contour from this share of the way
# from the eye line up to the top of the skull, down to the chin.
BOX_FOREHEAD_FRACTION = 0.68

SKIN_TONES = np.array(
    [(250, 222, 200), (238, 200, 172), (224, 180, 146), (198, 148, 112), (164, 114, 82), (124, 82, 58), (96, 62, 44)],
    dtype=np.float64,
)
HAIR_COLOURS = np.array(
    [
        (28, 22, 20),
        (46, 32, 26),
        (78, 52, 34),
        (112, 76, 46),
        (176, 134, 78),
        (208, 176, 120),
        (134, 62, 34),
        (150, 148, 146),
    ],
    dtype=np.float64,
)
EYE_COLOURS = np.array(
    [(58, 36, 22), (84, 54, 30), (110, 84, 46), (70, 100, 66), (66, 104, 140), (104, 124, 140)], dtype=np.float64
)


@dataclass(frozen=True)
class FaceIdentity:
    """What stays the same in every clip of one subject. Lengths in face units, colours in RGB 0..255."""

    chin: float  # y of the chin at rest
    skull: float  # distance from the eye line up to the top of the skull
    jaw_power: float  # 2 is an oval lower face, more is squarer
    jaw_taper: float  # how much the lower face narrows towards the chin
    eye_spacing: float  # distance of each eye's centre from the middle of the face
    eye_width: float  # half the distance between the corners of an eye
    eye_height: float  # height of the upper lid above the eye's axis
    eye_tilt: float  # y of the outer corner relative to the axis, negative is raised
    brow_height: float  # distance of the brow above the eye's axis
    brow_arch: float  # how far the arch rises above the line from inner to outer end
    brow_thickness: float  # thickness of the brow at its middle
    brow_slant: float  # y of the outer end relative to the inner end
    nose_length: float  # y of the nose tip
    nose_width: float  # half the width of the nose at its wings
    mouth_height: float  # y of the line between the lips
    mouth_width: float  # half the width of the mouth at rest
    lip_upper: float  # thickness of the upper lip
    lip_lower: float  # thickness of the lower lip
    mouth_curve: float  # y of the corners relative to the middle at rest
    wrinkles: float  # strength of the creases at rest, 0..1
    ear_size: float  # half the height of an ear
    skin_colour: tuple[float, float, float]
    hair_colour: tuple[float, float, float]
    brow_colour: tuple[float, float, float]
    eye_colour: tuple[float, float, float]
    lip_colour: tuple[float, float, float]
    hair_style: str  # one of HAIR_STYLES
    hair_volume: float  # how far the hair stands off the skull
    hair_line: float  # y shift of the hairline
    beard: float  # 0 none, otherwise how dark the beard is
    glasses: bool
    strand_seed: int  # seed of the hair's strands


@dataclass(frozen=True, eq=False)
class FacePose:
    """Where the head is in each frame. All arrays are (F,)."""

    centre_x: np.ndarray  # x of the face's origin, divided by the frame's width
    centre_y: np.ndarray  # y of the face's origin, divided by the frame's height
    half_width: np.ndarray  # one face unit, divided by the frame's width
    roll: np.ndarray  # rotation in the image plane in radians, positive is clockwise
    yaw: np.ndarray  # turn about the vertical axis in radians, positive is to the viewer's right
    pitch: np.ndarray  # nod in radians, positive is upwards


@dataclass(frozen=True, eq=False)
class Shape:
    """One primitive of the drawing through all frames of a clip, in painter's order."""

    kind: str  # "fill", "line", "crease" (fine dark line), "fold" (broad soft shadow), "glow" (broad light)
    paint: str  # name of the colour; unused by creases, folds and glows
    points: np.ndarray  # (F, N, 2) in face units, turned with the head
    width: float = 0.0  # line width in face units
    strength: np.ndarray | None = None  # (F,) 0..1; None draws at full strength

    def strength_at(self, index: int) -> float:
        """Strength in one frame, 0..1."""
        return 1.0 if self.strength is None else float(self.strength[index])


@dataclass(frozen=True, eq=False)
class FaceGeometry:
    """The turned face of one clip in face units."""

    shapes: list[Shape]
    landmarks: np.ndarray  # (F, 5, 2) in MTCNN's order
    contour: np.ndarray  # (F, N, 2) face contour from the forehead line to the chin
    jaw_drop: np.ndarray  # (F,) how far the chin has moved down


# ---------------------------------------------------------------------------------------------------------------
# Identity


def draw_identity(random: np.random.Generator, tone: float) -> FaceIdentity:
    """Draws a person. `tone` in 0..1 places the skin between light and dark; the rest comes from `random`."""
    uniform = random.uniform
    steps = np.linspace(0.0, 1.0, len(SKIN_TONES))
    skin = np.array([np.interp(tone, steps, channel) for channel in SKIN_TONES.T]) * uniform(0.95, 1.04)
    # Fair hair is drawn for lighter skin only; gray for one in ten of all.
    is_gray = random.random() < 0.1
    coloured = 3 if tone > 0.55 else len(HAIR_COLOURS) - 1
    hair = HAIR_COLOURS[-1 if is_gray else random.integers(coloured)] * uniform(0.8, 1.15)
    redness = np.array([uniform(0.84, 0.96), uniform(0.56, 0.70), uniform(0.56, 0.72)])
    bearded = random.random() < 0.2
    eye_colours = 3 if tone > 0.55 else len(EYE_COLOURS)
    return FaceIdentity(
        chin=uniform(1.30, 1.48),
        skull=uniform(1.32, 1.46),
        jaw_power=uniform(2.1, 3.0),
        jaw_taper=uniform(0.02, 0.18),
        eye_spacing=uniform(0.41, 0.46),
        eye_width=uniform(0.20, 0.235),
        eye_height=uniform(0.088, 0.115),
        eye_tilt=uniform(-0.035, 0.015),
        brow_height=uniform(0.265, 0.33),
        brow_arch=uniform(0.03, 0.08),
        brow_thickness=uniform(0.045, 0.085),
        brow_slant=uniform(-0.02, 0.03),
        nose_length=uniform(0.46, 0.55),
        nose_width=uniform(0.16, 0.215),
        mouth_height=uniform(0.83, 0.91),
        mouth_width=uniform(0.33, 0.41),
        lip_upper=uniform(0.050, 0.085),
        lip_lower=uniform(0.070, 0.110),
        mouth_curve=uniform(-0.012, 0.018),
        wrinkles=uniform(0.0, 0.35),
        ear_size=uniform(0.20, 0.28),
        skin_colour=tuple(np.clip(skin, 0, 250)),
        hair_colour=tuple(np.clip(hair, 0, 250)),
        brow_colour=tuple(np.clip(0.75 * hair + 0.12 * skin, 0, 250) * 0.85),
        eye_colour=tuple(EYE_COLOURS[random.integers(eye_colours)] * uniform(0.85, 1.15)),
        lip_colour=tuple(np.clip(skin * redness + np.array([14, 0, 4]), 0, 250)),
        hair_style=HAIR_STYLES[random.integers(len(HAIR_STYLES))],
        hair_volume=uniform(0.06, 0.15),
        hair_line=uniform(-0.05, 0.08),
        beard=uniform(0.25, 0.7) if bearded else 0.0,
        glasses=bool(random.random() < 0.15),
        strand_seed=int(random.integers(2**31)),
    )


# ---------------------------------------------------------------------------------------------------------------
# Contours that do not move with action units


def face_contour(identity: FaceIdentity, top: float, count: int = 40) -> np.ndarray:
    """Closed contour (2 * count, 2) of the resting face between height `top` and the chin."""
    angle = np.linspace(np.arcsin(np.clip(top / identity.skull, -1.0, 1.0)), np.pi / 2, count)
    y = np.where(angle < 0, np.sin(angle) * identity.skull, np.sin(angle) * identity.chin)
    # Half the width at height y: an ellipse above the eyes, a tapering superellipse below.
    upper = np.sqrt(np.clip(1.0 - (y / identity.skull) ** 2, 0.0, None))
    share = np.clip(y / identity.chin, 0.0, 1.0)
    lower = np.clip(1.0 - share**identity.jaw_power, 0.0, None) ** (1.0 / identity.jaw_power)
    x = np.where(y < 0, upper, lower * (1.0 - identity.jaw_taper * share**1.5))
    return np.concatenate([np.stack([x, y], axis=-1), np.stack([-x, y], axis=-1)[::-1]])


def stretch_jaw(identity: FaceIdentity, points: np.ndarray, jaw_drop: np.ndarray) -> np.ndarray:
    """Moves resting points (N, 2) with the jaw: (F, N, 2) for jaw drops (F,)."""
    below = np.clip(points[:, 1] - JAW_LINE, 0.0, None)
    moved = np.repeat(points[None], len(jaw_drop), axis=0)
    moved[..., 1] += below * jaw_drop[:, None] / (identity.chin - JAW_LINE)
    return moved


def smooth_curve(controls: Sequence[tuple[float, float]] | np.ndarray, count: int) -> np.ndarray:
    """Catmull-Rom curve (count, 2) through control points (K, 2)."""
    points = np.asarray(controls, dtype=np.float64)
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    position = np.linspace(0.0, len(points) - 1.0, count)
    segment = np.minimum(position.astype(int), len(points) - 2)
    u = (position - segment)[:, None]
    p0, p1, p2, p3 = (padded[segment + step] for step in range(4))
    return 0.5 * (2 * p1 + (p2 - p0) * u + (2 * p0 - 5 * p1 + 4 * p2 - p3) * u**2 + (3 * p1 - p0 - 3 * p2 + p3) * u**3)


# ---------------------------------------------------------------------------------------------------------------
# Action units to geometry


def build_face(
    identity: FaceIdentity, action_units: np.ndarray, pose: FacePose, gaze: np.ndarray, dimple_side: int
) -> FaceGeometry:
    """The whole face of a clip.

    Args:
        identity: who it is.
        action_units: intensities (F, len(ACTION_UNITS)) in 0..1.
        pose: where the head is; only yaw and pitch are used here.
        gaze: (F, 2) shift of the irises in face units.
        dimple_side: -1 or 1, the side of the mouth on which action unit 14 works.
    """
    units = {unit: action_units[:, column, None] for column, unit in enumerate(ACTION_UNITS)}  # each (F, 1)
    parts = [
        _forehead(identity, units),
        *(_eye(identity, units, gaze, side) for side in (-1, 1)),
        *(_brow(identity, units, side) for side in (-1, 1)),
        _nose(identity, units),
        _cheeks(identity, units, dimple_side),
        _mouth(identity, units, dimple_side),
        _glasses(identity, len(action_units)) if identity.glasses else [],
    ]
    shapes = [
        replace(shape, points=turn(identity, shape.points, pose, 0.2 if shape.paint == "nose" else 0.0))
        for part in parts
        for shape in part
    ]
    # The five points in MTCNN's order: eyes' centres, nose tip, corners of the mouth.
    zeros = np.zeros_like(units[1])
    eyes = _curve(np.array([-1, 1]) * identity.eye_spacing + zeros, zeros)
    nose = _curve(zeros, identity.nose_length - 0.03 * units[9])
    corners = np.concatenate([_mouth_corner(identity, units, side, dimple_side) for side in (-1, 1)], axis=1)
    on_face = turn(identity, np.concatenate([eyes, corners], axis=1), pose)
    tip = turn(identity, nose, pose, depth=0.2)
    jaw_drop = jaw_movement(units)[:, 0]
    top = -BOX_FOREHEAD_FRACTION * identity.skull
    return FaceGeometry(
        shapes=shapes,
        landmarks=np.concatenate([on_face[:, :2], tip, on_face[:, 2:]], axis=1),
        contour=stretch_jaw(identity, face_contour(identity, top), jaw_drop),
        jaw_drop=jaw_drop,
    )


def turn(identity: FaceIdentity, points: np.ndarray, pose: FacePose, depth: float = 0.0) -> np.ndarray:
    """Turns points (F, N, 2) lying on the front of the head by yaw and pitch.

    The head is taken as an ellipsoid; `depth` lets a point stand out of it (the tip of the nose). The contour of the
    head does not move, so a turn shows as a shift of the features over it.
    """
    x, y = points[..., 0], points[..., 1]
    radius = (x / 1.08) ** 2 + (y / (1.12 * identity.chin)) ** 2
    z = 0.8 * np.sqrt(np.clip(1.0 - radius, 0.0, 1.0)) + depth
    yaw, pitch = pose.yaw[:, None], pose.pitch[:, None]
    return np.stack([x * np.cos(yaw) + z * np.sin(yaw), y * np.cos(pitch) - z * np.sin(pitch)], axis=-1)


def _curve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Points (F, N, 2) from coordinates that broadcast to (F, N)."""
    x, y = np.broadcast_arrays(x, y)
    return np.stack([x, y], axis=-1)


def _forehead(identity: FaceIdentity, units: dict[int, np.ndarray]) -> list[Shape]:
    """Horizontal wrinkles that raised brows push up: the middle by unit 1, the sides by unit 2."""
    t = np.linspace(-1.0, 1.0, 9)
    shapes = []
    for row, above in enumerate((0.20, 0.31, 0.41)):
        y = -identity.brow_height - above - 0.05 * np.maximum(units[1], units[2]) + 0.03 * t**2
        fade = 0.9 - 0.22 * row
        wave = 0.012 * np.sin(3.0 * t + 2.0 * row + 10.0 * identity.hair_line)  # no two foreheads crease alike
        width = 0.24 + 0.05 * np.cos(2.0 * row + 20.0 * identity.hair_line)
        shapes.append(_crease(_curve(width * t, y + wave), (0.12 * identity.wrinkles + 0.36 * units[1]) * fade, 0.018))
        for side in (-1, 1):
            shapes.append(_crease(_curve(side * (0.45 + 0.17 * t), y - wave), 0.33 * units[2] * fade, 0.018))
    return shapes


def _crease(points: np.ndarray, strength: np.ndarray | float, width: float, paint: str = "") -> Shape:
    """A fine dark line; `strength` (F, 1) in 0..1."""
    return Shape("crease", paint, points, width, _per_frame(strength, len(points)))


def _fold(points: np.ndarray, strength: np.ndarray | float, width: float, paint: str = "") -> Shape:
    """A broad soft shadow along a line; `strength` (F, 1) in 0..1."""
    return Shape("fold", paint, points, width, _per_frame(strength, len(points)))


def _per_frame(strength: np.ndarray | float, frame_count: int) -> np.ndarray:
    return np.clip(np.broadcast_to(strength, (frame_count, 1))[:, 0], 0.0, 1.0)


def _brow(identity: FaceIdentity, units: dict[int, np.ndarray], side: int) -> list[Shape]:
    u = np.linspace(0.0, 1.0, 14)  # inner end to outer end
    middle = brow_line(identity, units, u)
    inner = 0.175 - 0.055 * units[4]
    x = side * (inner + u * (identity.eye_spacing + identity.eye_width + 0.10 - inner))
    thickness = 0.5 * identity.brow_thickness * np.minimum(1.0, 0.65 + 1.6 * u) * (1.0 - 0.85 * u**3)
    outline = np.concatenate([_curve(x, middle - thickness), _curve(x, middle + thickness)[:, ::-1]], axis=1)
    reach = np.linspace(-1.0, 1.0, 7)
    glabella_x = side * (0.085 - 0.025 * units[4] - 0.022 * reach**2)
    glabella_y = -identity.brow_height + 0.10 * units[4] - 0.01 + 0.095 * reach
    frown = 0.08 * identity.wrinkles + 0.48 * units[4] * (1 - 0.3 * units[1]) + 0.25 * units[9]
    return [
        _fold(_curve(x, middle + 0.07)[:, :10], 0.18 + 0.36 * units[4], 0.07),  # the ridge's shadow under the brow
        Shape("fill", "brow", outline),
        _crease(_curve(glabella_x, glabella_y), frown, 0.018),
        _fold(_curve(glabella_x, glabella_y), 0.5 * frown, 0.05),
    ]


def brow_line(identity: FaceIdentity, units: dict[int, np.ndarray], u: np.ndarray) -> np.ndarray:
    """Height (F, N) of the brow's middle line at u in 0 (inner end) .. 1 (outer end)."""
    arch = identity.brow_arch * np.sin(np.pi * np.clip(u, 0, 1) ** 1.3)
    rest = -identity.brow_height - arch + identity.brow_slant * u
    raised = 0.18 * units[1] * (1.0 - u) ** 1.2 + 0.15 * units[2] * np.sin(0.5 * np.pi * np.clip(1.25 * u, 0, 1))
    # At the inner end the raiser wins over the lowerer: 1+4 slants the brow, 1+2+4 raises and straightens it.
    lowered = units[4] * (0.12 - 0.06 * u) * (1.0 - 0.7 * units[1] * (1.0 - u)) + 0.045 * units[9] * (1.0 - u)
    return rest - raised + lowered


def _eye(identity: FaceIdentity, units: dict[int, np.ndarray], gaze: np.ndarray, side: int) -> list[Shape]:
    t = np.linspace(-1.0, 1.0, 17)  # inner corner to outer corner
    x = side * (identity.eye_spacing + t * identity.eye_width) + 0.0 * units[1]
    upper, lower = eye_lids(identity, units, t)
    white = np.concatenate([_curve(x, upper), _curve(x, lower)[:, ::-1]], axis=1)
    crease_gap = 0.055 + 0.02 * units[45] - 0.02 * units[5]
    open_upper = eye_lids(identity, {**units, 45: 0.55 * units[45]}, t)[0]
    raised_cheek = np.maximum(units[6], 0.5 * units[7])
    crows_feet = []
    reach = np.linspace(0.0, 1.0, 4)
    for slope in (-0.5, 0.05, 0.55):
        feet_x = side * (identity.eye_spacing + identity.eye_width + 0.05 + 0.15 * reach) + 0.0 * units[6]
        feet_y = identity.eye_tilt + slope * (0.06 + 0.14 * reach)
        crows_feet.append(_crease(_curve(feet_x, feet_y), 0.05 * identity.wrinkles + 0.38 * units[6], 0.018))
    return [
        Shape("fill", "eye_white", white),
        *_iris(identity, units, gaze, side),
        _crease(_curve(x, upper + 0.035), 0.45 * (1.0 - units[45]), 0.03),  # shadow of the lid on the eyeball
        Shape("line", "lash", _curve(x, upper), 0.034),
        Shape("line", "lower_lash", _curve(x, lower), 0.014),
        _crease(_curve(x[:, 1:-1], open_upper[:, 1:-1] - crease_gap), 0.42, 0.02),
        _fold(_curve(x, lower + 0.06 - 0.015 * units[6]), 0.12 + 0.25 * identity.wrinkles + 0.5 * raised_cheek, 0.045),
        *crows_feet,
    ]


def eye_lids(identity: FaceIdentity, units: dict[int, np.ndarray], t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Heights (F, N) of the upper and lower lid at t in -1 (inner corner) .. 1 (outer corner)."""
    axis = identity.eye_tilt * t
    tightened = np.maximum(0.85 * units[7], 0.75 * units[6])
    height = identity.eye_height * (1.0 + 0.55 * units[5] * (1 - 0.6 * units[7]) - 0.20 * tightened - 0.12 * units[4])
    bulge = np.clip(1.0 - t**2, 0.0, None)
    open_upper = axis - height * bulge**0.7 * (1.0 - 0.12 * t)
    droop = 0.04 * units[1] * units[4] * (t + 1.0) * bulge  # under the slanted brow the lid slants down outwards
    lower = axis + identity.eye_height * (0.62 - 0.62 * tightened + 0.12 * units[5] * (1 - units[7])) * bulge**0.85
    closed = lower - 0.004
    upper = np.minimum(open_upper + droop, closed)
    return upper + (closed - upper) * units[45], lower


def _iris(identity: FaceIdentity, units: dict[int, np.ndarray], gaze: np.ndarray, side: int) -> list[Shape]:
    """Iris, pupil and glint, cut by the lids."""
    angle = np.linspace(0.0, 2 * np.pi, 20, endpoint=False)
    circles = []
    for paint, radius, shift_x, shift_y in (
        ("iris_rim", 0.112, 0.0, 0.0),
        ("iris", 0.096, 0.0, 0.0),
        ("pupil", 0.046, 0.0, 0.0),
        ("glint", 0.022, -0.035, -0.035),
    ):
        x = gaze[:, :1] + shift_x + radius * np.cos(angle)
        y = gaze[:, 1:] - 0.012 + shift_y + radius * np.sin(angle)
        t = side * x / identity.eye_width
        upper, lower = eye_lids(identity, units, np.clip(t, -0.98, 0.98))
        circles.append(Shape("fill", paint, _curve(side * identity.eye_spacing + x, np.clip(y, upper, lower))))
    return circles


def _nose(identity: FaceIdentity, units: dict[int, np.ndarray]) -> list[Shape]:
    tip, width, lift = identity.nose_length, identity.nose_width, 0.055 * units[9]
    shapes: list[Shape] = []
    for side in (-1, 1):
        bridge = smooth_curve([(0.10, -0.20), (0.075, 0.0), (0.085, 0.22), (0.7 * width, tip - 0.10)], 10)
        shapes.append(_fold(_curve(side * bridge[:, 0], bridge[:, 1] + 0 * lift), 0.34, 0.07))
        angle = np.linspace(-0.65 * np.pi, 0.60 * np.pi, 10)
        wing_x = side * (width * (0.74 + 0.06 * units[9]) + 0.30 * width * np.cos(angle))
        shapes.append(_crease(_curve(wing_x, tip + 0.015 - lift + 0.085 * np.sin(angle)), 0.40, 0.024, "nose"))
        around = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        nostril_x = side * (0.46 * width + 0.26 * width * np.cos(around))
        nostril_y = tip + 0.085 - 0.6 * lift + 0.026 * np.sin(around) + 0.10 * side * (nostril_x - side * 0.46 * width)
        shapes.append(Shape("fill", "nostril", _curve(nostril_x, nostril_y)))
        for row in range(3):  # wrinkles of unit 9 run down both sides of the nose's root
            reach = np.linspace(0, 1, 5)
            x = side * (0.03 + (0.11 + 0.02 * row) * reach)
            y = -0.10 + 0.085 * row + 0.05 * reach - 0.3 * lift
            shapes.append(_crease(_curve(x, y), 0.5 * units[9], 0.02))
    t = np.linspace(-1, 1, 9)
    shapes.append(_fold(_curve(0.8 * width * t, tip + 0.135 - 0.03 * t**2 - 0.6 * lift), 0.45, 0.05))
    shapes.append(_glow(0 * lift, tip - 0.02 - 0.5 * lift, 0.07, 0.06, 0.38, "nose"))
    shapes.append(_glow(0 * lift, 0.2 + 0 * lift, 0.035, 0.24, 0.28, "nose"))
    return shapes


def _glow(
    x: np.ndarray, y: np.ndarray, radius_x: float, radius_y: float, strength: np.ndarray | float, paint: str = ""
) -> Shape:
    """A broad bright spot round (x, y), both (F, 1)."""
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    points = _curve(x + radius_x * np.cos(angle), y + radius_y * np.sin(angle))
    return Shape("glow", paint, points, 0.0, _per_frame(strength, len(points)))


def _cheeks(identity: FaceIdentity, units: dict[int, np.ndarray], dimple_side: int) -> list[Shape]:
    """Nasolabial folds, the raised cheek, the dimple and the line below a depressed corner."""
    shapes: list[Shape] = []
    lifted = np.maximum(units[6], 0.7 * units[12])
    for side in (-1, 1):
        corner = _mouth_corner(identity, units, side, dimple_side)[:, 0]  # (F, 2)
        start_x, start_y = identity.nose_width + 0.05, identity.nose_length - 0.03 - 0.06 * units[9]
        end_x = np.abs(corner[:, :1]) + 0.09
        end_y = corner[:, 1:] + 0.03
        bend_x = 0.62 * np.maximum(start_x, end_x) + 0.38 * start_x + 0.07 * units[12]
        bend_y = 0.55 * start_y + 0.45 * end_y - 0.02 * units[12]
        u = np.linspace(0, 1, 10)
        fold_x = side * ((1 - u) ** 2 * start_x + 2 * u * (1 - u) * bend_x + u**2 * end_x)
        fold_y = (1 - u) ** 2 * start_y + 2 * u * (1 - u) * bend_y + u**2 * end_y
        fold = (
            0.10 + 0.35 * identity.wrinkles + 0.60 * units[12] + 0.45 * units[9] + 0.12 * units[15] + 0.12 * units[20]
        )
        fold = np.minimum(fold, 0.75)
        shapes.append(_crease(_curve(fold_x, fold_y), 0.42 * fold, 0.022))
        shapes.append(_fold(_curve(fold_x + side * 0.01, fold_y), 0.85 * fold, 0.06))
        shapes.append(_glow(side * 0.56 + 0 * lifted, 0.42 - 0.09 * lifted, 0.20, 0.14, 0.08 + 0.34 * lifted))
        below = np.linspace(0, 1, 5)
        shapes.append(
            _crease(
                _curve(corner[:, :1] + side * (0.035 + 0.02 * below), corner[:, 1:] + 0.03 + 0.13 * below),
                0.08 * identity.wrinkles + 0.40 * units[15],
                0.024,
            )
        )
        if side == dimple_side:
            bow = np.linspace(-1, 1, 7)
            shapes.append(
                _crease(
                    _curve(corner[:, :1] + side * (0.07 - 0.03 * bow**2), corner[:, 1:] + 0.09 * bow),
                    0.6 * units[14],
                    0.026,
                )
            )
    return shapes


def _mouth_corner(identity: FaceIdentity, units: dict[int, np.ndarray], side: int, dimple_side: int) -> np.ndarray:
    """The corner of the mouth (F, 1, 2) on one side."""
    dimple = units[14] if side == dimple_side else 0.0 * units[14]
    out = 0.12 * units[12] + 0.13 * units[20] + 0.05 * dimple - 0.05 * units[23] - 0.085 * units[26] + 0.015 * units[15]
    down = 0.105 * units[15] + 0.03 * units[20] + 0.08 * units[26] - 0.15 * units[12] - 0.08 * dimple - 0.01 * units[9]
    return _curve(side * (identity.mouth_width + out), identity.mouth_height + identity.mouth_curve + down)


def jaw_movement(units: dict[int, np.ndarray]) -> np.ndarray:
    """How far the chin moves down, in face units."""
    return 0.28 * units[26] + 0.015 * units[25]


def mouth_curves(identity: FaceIdentity, units: dict[int, np.ndarray], dimple_side: int) -> dict[str, np.ndarray]:
    """The lips' four contours, each (F, N, 2) from the viewer's left corner to the right."""
    t = np.linspace(-1.0, 1.0, 27)
    left, right = (_mouth_corner(identity, units, side, dimple_side) for side in (-1, 1))
    x = np.where(t < 0, -t * left[..., 0], t * right[..., 0])
    middle = identity.mouth_height - 0.02 * units[12] - 0.012 * units[15]
    corner_y = np.where(t < 0, left[..., 1], right[..., 1])
    axis = middle + (corner_y - middle) * np.abs(t) ** 1.8
    bulge = np.clip(1.0 - t**2, 0.0, None)
    gap_upper = (0.015 * units[25] + 0.03 * units[26] + 0.05 * units[9]) * bulge**0.7
    drop = 0.27 * units[26] * (1.0 - 0.3 * units[20])
    gap_lower = (0.05 * units[25] + drop + 0.085 * units[16]) * bulge ** (0.7 - 0.12 * units[26])
    thin = 1.0 - 0.25 * units[12] - 0.5 * units[23] - 0.2 * units[20] - 0.1 * units[26]
    bow = 1.0 + 0.22 * np.exp(-(((np.abs(t) - 0.24) / 0.16) ** 2)) - 0.22 * np.exp(-((t / 0.11) ** 2))
    upper_inner, lower_inner = axis - gap_upper, axis + gap_lower
    return {
        "upper_outer": _curve(x, upper_inner - identity.lip_upper * thin * bulge**0.65 * bow - 0.004),
        "upper_inner": _curve(x, upper_inner),
        "lower_inner": _curve(x, lower_inner),
        "lower_outer": _curve(x, lower_inner + identity.lip_lower * thin * bulge**0.7 + 0.004),
    }


def _mouth(identity: FaceIdentity, units: dict[int, np.ndarray], dimple_side: int) -> list[Shape]:
    lips = mouth_curves(identity, units, dimple_side)
    inner_upper, inner_lower = lips["upper_inner"], lips["lower_inner"]
    x, top, bottom = inner_upper[..., 0], inner_upper[..., 1], inner_lower[..., 1]
    teeth_bottom = np.minimum(top + 0.075, top + 0.6 * (bottom - top))
    lower_teeth_top = np.maximum(bottom - 0.05 * np.maximum(units[16], 0.7 * units[20]), top)
    tongue_top = np.maximum(bottom - 0.4 * (bottom - top), top)
    middle = slice(6, -6)
    lower_mid = lips["lower_outer"][:, 13]
    return [
        Shape("fill", "mouth", _closed(inner_upper, inner_lower)),
        Shape("fill", "tongue", _closed(_curve(x, tongue_top)[:, middle], inner_lower[:, middle])),
        Shape("fill", "teeth", _closed(inner_upper[:, 3:-3], _curve(x, teeth_bottom)[:, 3:-3])),
        Shape("fill", "teeth", _closed(_curve(x, lower_teeth_top)[:, 5:-5], inner_lower[:, 5:-5])),
        Shape("fill", "lip_upper", _closed(lips["upper_outer"], inner_upper)),
        Shape("fill", "lip_lower", _closed(inner_lower, lips["lower_outer"])),
        Shape("line", "lip_line", inner_upper, 0.022),
        _crease(inner_upper, 0.22, 0.03),
        _fold(lips["lower_outer"][:, 8:-8] + (0.0, 0.055), 0.36, 0.05),
        _glow(lower_mid[:, :1], lower_mid[:, 1:] - 0.05, 0.10, 0.03, 0.30),
        _glow(0 * units[1], identity.chin - 0.17 + jaw_movement(units), 0.14, 0.09, 0.24),
    ]


def _closed(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """The region between two curves (F, N, 2) that run the same way."""
    return np.concatenate([upper, lower[:, ::-1]], axis=1)


def _glasses(identity: FaceIdentity, frame_count: int) -> list[Shape]:
    angle = np.linspace(0, 2 * np.pi, 28)
    shapes = []
    for side in (-1, 1):
        rim_x = side * (identity.eye_spacing + 0.01) + 0.30 * np.cos(angle) + np.zeros((frame_count, 1))
        shapes.append(Shape("line", "glasses", _curve(rim_x, 0.04 + 0.23 * np.sin(angle)), 0.034))
        arm = np.linspace(identity.eye_spacing + 0.31, 0.99, 4)
        shapes.append(
            Shape("line", "glasses", _curve(side * arm + np.zeros((frame_count, 1)), -0.03 + 0.0 * arm), 0.03)
        )
    bridge = np.linspace(-1, 1, 6)
    bridge_x = (identity.eye_spacing - 0.29) * bridge + np.zeros((frame_count, 1))
    shapes.append(Shape("line", "glasses", _curve(bridge_x, -0.03 + 0.03 * bridge**2), 0.034))
    return shapes


# ---------------------------------------------------------------------------------------------------------------
# Face units to the frame


def place_in_frame(points: np.ndarray, pose: FacePose) -> np.ndarray:
    """Points (F, N, 2) in face units to coordinates divided by the (square) frame's width and height."""
    cosine, sine = np.cos(pose.roll)[:, None], np.sin(pose.roll)[:, None]
    scale = pose.half_width[:, None]
    x = pose.centre_x[:, None] + scale * (cosine * points[..., 0] - sine * points[..., 1])
    y = pose.centre_y[:, None] + scale * (sine * points[..., 0] + cosine * points[..., 1])
    return np.stack([x, y], axis=-1)


def face_boxes(geometry: FaceGeometry, pose: FacePose) -> np.ndarray:
    """Tight boxes (F, 4) round the placed face contour, from the forehead line to the chin."""
    placed = place_in_frame(geometry.contour, pose)
    return np.concatenate([placed.min(axis=1), placed.max(axis=1)], axis=1)
