"""A work folder of `prune` whose tokenizer, proxy and scores another one takes over.

Where it is the very folder to make, what it holds is set aside into a folder within, which is
deleted once the new work is finished.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any

from pycat.data.corpus import Corpus
from pycat.data.opening import open_corpus
from pycat.data.tokenizing import tokenize
from pycat.errors import OutputError, PycatError
from pycat.proxy.run import Run
from pycat.proxy.training import train
from pycat.runtime.manifest import load_manifest, read_manifest
from pycat.runtime.output import changes, write_manifest
from pycat.scores.score_table import ScoreTable
from pycat.scoring.reuse import SET_ASIDE

# Options of `tokenize` that make the tokenizer; its others choose the pairs.
_TOKENIZER_OPTIONS = (
    *("tokenizer", "vocabs", "sentencepiece", "vocab_size", "model_type", "character_coverage"),
    *("src_lang", "tgt_lang", "prompt"),
)
# Of those, what an open tokenizer brings.
_IN_TOKENIZER = ("tokenizer", "vocabs", "sentencepiece", "src_lang", "tgt_lang", "prompt")

_MANIFEST = "prune.json"
# Folder within a work folder of what is set aside already.
_MOVING = f"{SET_ASIDE}.tmp"


@dataclass(frozen=True)
class EarlierWork:
    """A finished work folder.

    Attributes:
        path: the folder.
        corpus, run, scores: what its stages made.
        recipe: the options that they were made with, by stage.
    """

    path: Path
    corpus: Corpus
    run: Run
    scores: ScoreTable
    recipe: Mapping[str, Any]

    @classmethod
    def open(
        cls, path: str | PathLike[str], out: Path, folders: Mapping[str, str]
    ) -> "EarlierWork":
        """Open what `prune` made, for the work folder `out`.

        Args:
            path: the folder.
            out: the folder to make, which may be the same one. Of a run that was interrupted, what
                it set aside is opened.
            folders: the name of each stage's folder in it.

        Raises:
            OutputError: it is no finished folder of `prune`, or has no proxy.
        """
        work = Path(path)
        if work.resolve() == out.resolve() and not _is_finished(work):
            work = work / SET_ASIDE if (work / SET_ASIDE).is_dir() else work
        recipe = read_manifest(work, "prune")["recipe"]
        if "train" not in recipe:
            raise OutputError(
                f"{work}: was made without a proxy (--fast), so nothing of it can be taken over; "
                "leave --base out"
            )
        return cls(
            work,
            open_corpus(work / folders["tokenize"]),
            Run.open(work / folders["train"]),
            ScoreTable.open(work / folders["score"]),
            recipe,
        )

    def check(self, options: Mapping[str, Mapping[str, Any]], train_anew: bool) -> None:
        """Refuse options that would make another tokenizer, or another proxy than it holds.

        Args:
            options: recorded options by stage, as `recipe`.
            train_anew: whether the proxy is another one anyway.

        Raises:
            PycatError: names the options.
        """
        compared: list[tuple[str, Callable[..., object], tuple[str, ...] | None]] = [
            ("tokenize", tokenize, _TOKENIZER_OPTIONS)
        ]
        if not train_anew:
            compared.append(("train", train, None))
        for stage, verb, names in compared:
            before, now = (
                _completed(verb, recipe.get(stage) or {}, names)
                for recipe in (self.recipe, options)
            )
            if changed := changes(before, now):
                raise PycatError(
                    f"{self.path}: its {'tokenizer' if stage == 'tokenize' else 'proxy'} was made "
                    f"with other options of {stage} ({'; '.join(changed)}); give the same, or "
                    f"{'leave --base out' if stage == 'tokenize' else 'pass --train-anew'}"
                )

    def tokenize_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those options with its tokenizer in place of the one that they name."""
        others = {name: value for name, value in options.items() if name not in _IN_TOKENIZER}
        return {**others, "tokenizer": self.corpus.tokenizer}

    def set_aside(
        self, work: Path, recipe: Mapping[str, Any], folders: Mapping[str, str]
    ) -> "EarlierWork":
        """Make room for work of this recipe in the folder `work`, and open what was set aside.

        Nothing is done where it is aside already, or was made by that recipe. The caller holds the
        folder's lock.
        """
        is_aside = self.path.resolve() != work.resolve()
        if is_aside or {**self.recipe, **recipe} == self.recipe:
            return self
        delete_set_aside(work)  # of a run that was cut off when it had finished
        (work / _MOVING).mkdir()
        finish_setting_aside(work, folders)
        return EarlierWork.open(work, work, folders)

    def trusted_scores(self, name: str) -> ScoreTable | None:
        """The table that a column of trusted text was made of, if it has one of that name."""
        folder = self.path / "trusted" / name / "scores"
        return ScoreTable.open(folder) if (folder / "scores.json").is_file() else None


def finish_setting_aside(work: Path, folders: Mapping[str, str]) -> None:
    """Go on with what was begun and interrupted. The caller holds the folder's lock."""
    moving = work / _MOVING
    if not moving.is_dir():
        return
    # Files of others, such as the text, stay where they are.
    owned = [*work.glob("pruned.*"), *(work / name for name in (*folders.values(), "report.html"))]
    for path in owned:
        if path.exists():
            path.rename(moving / path.name)
    if not (moving / _MANIFEST).is_file():
        (work / _MANIFEST).rename(moving / _MANIFEST)
    # An unfinished manifest says whose folder it is.
    manifest = load_manifest(moving / _MANIFEST)
    write_manifest(work / _MANIFEST, {**manifest, "complete": False, "recipe": {}})
    moving.rename(work / SET_ASIDE)


def delete_set_aside(work: Path) -> None:
    """Delete the earlier work within a folder, whose work is finished."""
    if (work / SET_ASIDE).is_dir():
        shutil.rmtree(work / SET_ASIDE)


def _is_finished(work: Path) -> bool:
    file = work / _MANIFEST
    return file.is_file() and bool(load_manifest(file).get("complete"))


def _completed(
    verb: Callable[..., object], given: Mapping[str, Any], names: tuple[str, ...] | None
) -> dict[str, Any]:
    """The options `names` of a verb, or all that decide what it makes, with its defaults."""
    defaults = {
        name: parameter.default
        for name, parameter in signature(verb).parameters.items()
        if parameter.default is not parameter.empty
        and name not in ("device", "overwrite", "stage")
        and (names is None or name in names)
    }
    return {name: given.get(name, default) for name, default in defaults.items()}
