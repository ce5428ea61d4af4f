"""The order in which a run sees its clips, and which of their frames.

Both are functions of seed, epoch and clip alone, so that a run can be taken up anywhere; so is all that a step draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Sampler


def seeded_generator(*numbers: int) -> torch.Generator:
    """The source of all randomness that belongs to these numbers, such as seed, epoch and clip, in whatever process."""
    # A hash of the numbers, so that neighbouring seeds, epochs and clips share nothing.
    entropy = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(entropy))


def draw_seed(*numbers: int) -> int:
    """The seed that belongs to these numbers, for what takes a seed and no generator."""
    return int(torch.randint(2**31, (), generator=seeded_generator(*numbers)))


class EpochSampler(Sampler[int]):
    """Positions of clips in a new order every epoch.

    Args:
        labels: (N,) class ids of the clips.
        seed: decides, with the epoch, the order.
        balanced: every epoch draws as many clips of one class as of the other (up to one), N altogether: of small
            classes some clips come several times, of large ones some not at all.
        round_to: the order is filled up from its beginning to a multiple of this, so that several processes get
            equally many batches.
    """

    def __init__(self, labels: torch.Tensor, seed: int = 0, balanced: bool = False, round_to: int = 1) -> None:
        self.labels = labels
        self.seed = seed
        self.balanced = balanced
        self.round_to = round_to
        self.epoch = 0
        self.done = 0

    def begin(self, epoch: int, done: int = 0) -> None:
        """Chooses the epoch, and how many of its clips were already seen."""
        self.epoch, self.done = epoch, done

    def __len__(self) -> int:
        """Clips of a whole epoch, whatever was already seen."""
        return -(-len(self.labels) // self.round_to) * self.round_to

    def __iter__(self) -> Iterator[int]:
        return iter(self.order()[self.done :])

    def order(self) -> list[int]:
        """The epoch's positions, all of them."""
        generator = seeded_generator(self.seed, self.epoch)
        if self.balanced:
            members = [(self.labels == label).nonzero().flatten() for label in self.labels.unique()]
            share = -(-len(self.labels) // len(members))
            drawn = torch.stack([draw_by_shuffles(of_class, share, generator) for of_class in members])
            # (classes, share) -> (share * classes): one of each class after the other, then the surplus falls off
            positions = drawn.T.flatten()[: len(self.labels)]
            positions = positions[torch.randperm(len(positions), generator=generator)]
        else:
            positions = torch.randperm(len(self.labels), generator=generator)
        repeats = -(-len(self) // len(positions))
        return positions.repeat(repeats)[: len(self)].tolist()


def draw_by_shuffles(members: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` of the members (N,): whole shuffles one after the other."""
    shuffles = [members[torch.randperm(len(members), generator=generator)] for _ in range(-(-count // len(members)))]
    return torch.cat(shuffles)[:count]


@dataclass(frozen=True)
class FrameWindow:
    """Every `stride`-th of a clip's labelled frames, `num_frames` of them: a window that has a place in the clip."""

    num_frames: int
    stride: int

    @property
    def length(self) -> int:
        """Labelled frames from the window's first to its last."""
        return (self.num_frames - 1) * self.stride + 1

    def draw(self, labelled: int, generator: torch.Generator) -> list[int]:
        """Positions among so many labelled frames, at a random place."""
        return self._from(int(torch.randint(labelled - self.length + 1, (), generator=generator)))

    def spread(self, labelled: int, windows: int = 1) -> list[int]:
        """Positions of several windows one after the other, from the clip's start to its end; of one in its middle."""
        room = labelled - self.length
        starts = [room // 2] if windows == 1 else [round(room * number / (windows - 1)) for number in range(windows)]
        return [position for start in starts for position in self._from(start)]

    def _from(self, start: int) -> list[int]:
        return list(range(start, start + self.length, self.stride))
