"""Several data sets that one run trains on: classes matched by name, and a fixed share of every batch for each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

import datasets
import torch
from torch.utils.data import Dataset, Sampler

from mtcae_dfer.hub_dataset.votes import VOTES, read_votes
from mtcae_dfer.training.data.augmentation import ClipChange
from mtcae_dfer.training.data.clip_dataset import ClipDataset, class_names
from mtcae_dfer.training.data.sampling import draw_by_shuffles, seeded_generator


def match_classes(
    rows: datasets.DatasetDict, classes: Sequence[str], renames: dict[str, str], folder: str
) -> datasets.DatasetDict:
    """The rows with the class ids of `classes`, matched by name; votes of raters get the same names.

    Args:
        rows: splits of a further data set.
        classes: of the first data set, in the order of their ids.
        renames: names of the further data set's classes -> those of `classes`; "" leaves a class's clips out.
        folder: of the further data set, for messages.

    Raises:
        ValueError: the data set has a class of another name, or none in common, or a row's votes cannot be read.
    """
    own = class_names(next(iter(rows.values())))
    wanted = [renames.get(name, name) for name in own]
    unknown = [name for name, new in zip(own, wanted, strict=True) if new and new not in classes]
    if unknown:
        raise ValueError(
            f"{folder} has the classes {', '.join(unknown)}, which --dataset does not have ({', '.join(classes)}): "
            f"say which is which by --rename {unknown[0]}=NAME, or leave one out by --rename {unknown[0]}="
        )
    if not any(wanted):
        raise ValueError(f"{folder}: every class is left out by --rename")
    feature = datasets.ClassLabel(names=list(classes))
    matched = {}
    for split, clips in rows.items():
        kept = [place for place, label in enumerate(clips["expression"]) if wanted[label]]
        labels = [classes.index(wanted[label]) if wanted[label] else -1 for label in clips["expression"]]
        # New columns take the old ones' places before clips are left out: the videos are not read for it.
        told = clips.remove_columns("expression").add_column("expression", labels, feature=feature)
        if renames:
            attributes = rename_votes(list(clips["name"]), list(clips["attributes"]), [*own, *classes], renames)
            told = told.remove_columns("attributes").add_column("attributes", attributes)
        matched[split] = told.select(kept)
    return datasets.DatasetDict(matched)


def rename_votes(
    names: Sequence[str], attributes: Sequence[str], classes: Sequence[str], renames: dict[str, str]
) -> list[str]:
    """The column "attributes" with other names in its votes.

    Args:
        names: the column "name", for messages.
        attributes: JSON objects.
        classes: what raters could see, by the old names; votes for anything else do not count and go.
        renames: new names by old ones; two that get one name are added up, votes for "" go.

    Raises:
        DatasetError: a row's votes cannot be read; the message names it.
    """
    voted = list(dict.fromkeys([*classes, *renames]))
    renamed = []
    for told, row in zip(attributes, read_votes(names, attributes, voted), strict=True):
        values = json.loads(told)
        if VOTES in values:
            counts: Counter[str] = Counter()
            for name, count in zip(voted, row, strict=True):
                counts[renames.get(name, name)] += int(count)
            values[VOTES] = ", ".join(f"{name} {count}" for name, count in counts.items() if name and count)
        renamed.append(json.dumps(values, ensure_ascii=False))
    return renamed


class MixedClips(Dataset):
    """The training clips of several data sets, one after the other; stands where a `ClipDataset` stands.

    Args:
        parts: name and clips of each data set, the first data set first.
        shares: of every batch, of all parts but the first, which has the rest.
    """

    def __init__(self, parts: Sequence[tuple[str, ClipDataset]], shares: Sequence[float]) -> None:
        self.parts = [part for _, part in parts]
        self.shares = list(shares)
        first = self.parts[0]
        self.rows, self.crop, self.augmentation = first.rows, first.crop, first.augmentation
        self.affect_names = first.affect_names
        self.names = [f"{name}: {clip}" for name, part in parts for clip in part.names]
        self.subjects = [subject for part in self.parts for subject in part.subjects]
        # Flat: data sets may have different numbers of labelled frames a clip. Classes are (N,) all the same.
        self.labels = {name: torch.cat([part.labels[name].flatten() for part in self.parts]) for name in first.labels}
        sizes = torch.tensor([len(part) for part in self.parts])
        self.starts = (sizes.cumsum(0) - sizes).tolist()
        self.part_of = torch.repeat_interleave(torch.arange(len(sizes)), sizes)  # (N,) number of each clip's data set

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch's windows and changes."""
        for part in self.parts:
            part.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One clip, as `ClipDataset` gives it; its index counts over all data sets."""
        number = int(self.part_of[index])
        clip = self.parts[number][index - self.starts[number]]
        return clip | {"index": torch.tensor(index)}

    def changes(self, indices: Sequence[int]) -> list[ClipChange]:
        """The random changes of clips in the present epoch, as each one's data set draws them."""
        parts = self.part_of[list(indices)].tolist()
        return [
            self.parts[number].changes([index - self.starts[number]])[0]
            for number, index in zip(parts, indices, strict=True)
        ]


class MixtureSampler(Sampler[int]):
    """Positions of clips whose every batch holds each data set's share; a function of seed and epoch alone.

    An epoch ends when every clip of the first data set was seen once. Of the others it takes whole shuffles one after
    the other: of a small one clips come several times, of a large one every epoch sees others.

    Args:
        part_of: (N,) the number of each clip's data set.
        shares: of every batch, of all data sets but the first, which has the rest.
        batch_size: clips of one batch.
        seed: decides, with the epoch, the order.
        processes: each takes as many batches.

    Raises:
        ValueError: a share is less than one clip of a batch.
    """

    def __init__(
        self, part_of: torch.Tensor, shares: Sequence[float], batch_size: int, seed: int = 0, processes: int = 1
    ) -> None:
        self.part_of, self.seed, self.epoch, self.done = part_of, seed, 0, 0
        counts = [round(share * batch_size) for share in shares]
        self.counts = [batch_size - sum(counts), *counts]
        if min(self.counts) < 1:
            raise ValueError(
                f"--per_device_train_batch_size {batch_size}: too small for shares of {', '.join(map(str, shares))}: "
                "a data set would have no clip in a batch"
            )
        batches = -(-int((part_of == 0).sum()) // self.counts[0])
        self.batches = -(-batches // processes) * processes

    def begin(self, epoch: int, done: int = 0) -> None:
        """Chooses the epoch, and how many of its clips were already seen."""
        self.epoch, self.done = epoch, done

    def __len__(self) -> int:
        """Clips of a whole epoch, whatever was already seen."""
        return self.batches * sum(self.counts)

    def __iter__(self) -> Iterator[int]:
        generator = seeded_generator(self.seed, self.epoch)
        drawn = []
        for number, count in enumerate(self.counts):
            members = (self.part_of == number).nonzero().flatten()
            # (batches * count,) -> (batches, count)
            drawn.append(draw_by_shuffles(members, self.batches * count, generator).view(self.batches, count))
        # (batches, batch size) -> (all,)
        yield from torch.cat(drawn, dim=1).flatten()[self.done :].tolist()
