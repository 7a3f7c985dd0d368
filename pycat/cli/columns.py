"""The verbs `trusted`, `average`, `cld` and `clusters`, which add columns to a score table."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pycat
from pycat.cli.options import (
    TestFiles,
    device_option,
    num_workers_option,
    on_option,
    option,
    out_option,
    overwrite_option,
    test_set,
    trusted_option,
)


@dataclass(frozen=True, kw_only=True)
class Trusted:
    """Add a column that says how much tuning the proxy on trusted text makes a pair likelier."""

    scores: Path = option("Add to the table in this folder, made by score.", metavar="FOLDER")
    checkpoint: Path = option("Tune this checkpoint, the last one that the table was scored with.")
    trusted: Mapping[str, TestFiles] = trusted_option()
    out: Path = out_option("Make a folder in this folder for each trusted text.")
    overwrite: bool = overwrite_option()
    updates: int | None = option(
        "Make this many updates; without it, three passes over the text, but 10 to 300.", None
    )
    batch_tokens: int | None = option(
        "Put at most this many tokens into either side of a batch; without it, 2048, but at most a "
        "quarter of the text.",
        None,
    )
    learning_rate: float = option("Let Adam's rate rise to this.", 3.5e-4)
    seed: int = option("Seed batch order and dropout with this number.", 0)
    device: str = device_option()

    def run(self) -> None:
        """Tune, score, and print the columns."""
        for name, text in self.trusted.items():
            pycat.add_trusted(
                self.scores,
                text,
                checkpoint=self.checkpoint,
                out=self.out / name,
                name=name,
                updates=self.updates,
                batch_tokens=self.batch_tokens,
                learning_rate=self.learning_rate,
                seed=self.seed,
                device=self.device,
                overwrite=self.overwrite,
            )
            print(f"{self.scores}: column {name}; rank by it with --by {name}")


@dataclass(frozen=True, kw_only=True)
class Average:
    """Add a column of a criterion's ranks, averaged over the tables of several proxies."""

    scores: list[Path] = option(
        "Average over these tables of the same pairs, and add to the first.", metavar="FOLDER"
    )
    by: str = option("Rank by this criterion.", metavar="CRITERION")
    name: str = option("Give the column this name.", metavar="NAME")

    def run(self) -> None:
        """Add the column, and print its name."""
        first, *others = self.scores
        pycat.add_average(first, others, self.by, name=self.name)
        print(f"{first}: column {self.name}; rank by it with --by {self.name}")


@dataclass(frozen=True, kw_only=True)
class Cld:
    """Add a column of correlations of a pair's changes of loss with those of a dev set.

    With K checkpoints they are of K - 1 points: take ten or more.
    """

    scores: Path = option("Add to the table in this folder, made by score.", metavar="FOLDER")
    checkpoints: list[Path] = option(
        "Score the dev set with these checkpoints, which the table was scored with.",
        metavar="FILE",
    )
    dev: tuple[str, TestFiles] = option(
        "Take this dev set: a source and a target file, or one file as for --test of evaluate.",
        type=test_set,
        metavar="[NAME=]SRC,TGT|FILE[:COLUMNS]",
    )
    name: str = option("Give the column this name.", "cld", metavar="NAME")
    out: Path = out_option("Make this folder, of the dev set.")
    overwrite: bool = overwrite_option()
    device: str = device_option()

    def run(self) -> None:
        """Add the column, and print its name."""
        pycat.add_cld(
            self.scores,
            self.dev[1],
            checkpoints=self.checkpoints,
            out=self.out,
            name=self.name,
            device=self.device,
            overwrite=self.overwrite,
        )
        print(f"{self.scores}: column {self.name}; rank by it with --by {self.name}")


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Add a column of clusters of sources, which stand for domains where there are no labels."""

    scores: Path = option("Add to the table in this folder, made by score.", metavar="FOLDER")
    checkpoint: Path = option("Take the states of this checkpoint's encoder.")
    num_clusters: int | None = option(
        "Make so many clusters; by default 16, fewer where they would hold less than 100 pairs.",
        None,
    )
    name: str = option("Give the column this name.", "cluster", metavar="NAME")
    seed: int = option("Draw the sample and the first centres with this number.", 0)
    device: str = device_option()
    on: str = on_option()
    num_workers: int | None = num_workers_option()

    def run(self) -> None:
        """Add the column, and print its name."""
        pycat.add_clusters(
            self.scores,
            self.checkpoint,
            num_clusters=self.num_clusters,
            name=self.name,
            seed=self.seed,
            device=self.device,
            on=self.on,
            num_workers=self.num_workers,
        )
        print(f"{self.scores}: column {self.name}; the same share of each by --strata {self.name}")
