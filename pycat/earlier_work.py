"""A work folder of `prune` whose tokenizer, proxy and scores another one takes over."""

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
from pycat.runtime.manifest import read_manifest
from pycat.runtime.output import changes
from pycat.scores.score_table import ScoreTable

# Options of `tokenize` that make the tokenizer; its others choose the pairs.
_TOKENIZER_OPTIONS = (
    *("tokenizer", "vocabs", "sentencepiece", "vocab_size", "model_type", "character_coverage"),
    *("src_lang", "tgt_lang", "prompt"),
)
# Of those, what an open tokenizer brings.
_IN_TOKENIZER = ("tokenizer", "vocabs", "sentencepiece", "src_lang", "tgt_lang", "prompt")


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
            out: another folder.
            folders: the name of each stage's folder in it.

        Raises:
            OutputError: it is no finished folder of `prune`, has no proxy, or is `out`.
        """
        work = Path(path)
        if work.resolve() == out.resolve():
            raise OutputError(
                f"{work}: is the folder to make and --base too; name another folder to make"
            )
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

    def trusted_scores(self, name: str) -> ScoreTable | None:
        """The table that a column of trusted text was made of, if it has one of that name."""
        folder = self.path / "trusted" / name / "scores"
        return ScoreTable.open(folder) if (folder / "scores.json").is_file() else None


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
