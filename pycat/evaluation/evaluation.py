"""Evaluation of a selection: models retrained on it and on its alternatives, by BLEU and chrF."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

from pycat.data.corpus import Corpus
from pycat.data.hf_tokenizer import HuggingFaceTokenizer
from pycat.data.parallel_text import ParallelText, decode
from pycat.data.tokenizer import Tokenizer
from pycat.errors import PycatError
from pycat.evaluation.beam_search import translate
from pycat.proxy.checkpoint import load_model, read_info
from pycat.proxy.training import Run, train
from pycat.ranking import criteria
from pycat.ranking.top_k import highest
from pycat.runtime.device import choose_device
from pycat.runtime.output import OutputFolder, read_manifest, replacing
from pycat.selection.selection import Selection

BASELINES = ("full", "random")

TestSet = str | PathLike[str] | tuple[str | PathLike[str], str | PathLike[str]]


@dataclass(frozen=True)
class EvaluationRow:
    """Result of one arm on one test set.

    Attributes:
        arm: "full", "random", or the name of the selection's criterion; "selected" where that name
            does not say what was selected (rules or the noise filter were used, or it is a
            baseline's) or cannot be a folder's.
        num_pairs: pairs that the arm was trained on.
        num_tokens: target tokens of those pairs, EOS counted.
        updates: of its training.
        test: name of the test set.
        bleu, chrf: 0-100.
    """

    arm: str
    num_pairs: int
    num_tokens: int
    updates: int
    test: str
    bleu: float
    chrf: float


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        path: the folder.
        rows: one result for each arm and test set, ordered by arm.
        bleu_signature, chrf_signature: how sacreBLEU computed the metrics.
        manifest: the folder's manifest, with the options.
    """

    path: Path
    rows: list[EvaluationRow]
    bleu_signature: str
    chrf_signature: str
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | PathLike[str]) -> "Evaluation":
        """Open the folder of a finished evaluation."""
        folder = Path(path)
        manifest = read_manifest(folder, "evaluation")
        rows = [EvaluationRow(**row) for row in manifest["rows"]]
        return cls(folder, rows, manifest["bleu_signature"], manifest["chrf_signature"], manifest)


def evaluate(
    selection: Selection | str | PathLike[str],
    *,
    tests: Mapping[str, TestSet],
    out: str | PathLike[str],
    baselines: Sequence[str] = BASELINES,
    preset: str = "tiny",
    epochs: float = 10.0,
    updates: int | None = None,
    batch_tokens: int = 2048,
    learning_rate: float = 1e-3,
    beam: int = 5,
    length_penalty: float = 1.0,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
) -> Evaluation:
    """Train a model from scratch on each arm and score its translations of the test sets.

    Args:
        selection: an open Selection, or its path.
        tests: for each name, (source file, reference file) or one tab-separated file.
        out: the folder to make. An interrupted evaluation with the same options is resumed; a
            finished one is opened as it is.
        baselines: arms beside the selection: "full" (the whole corpus) and "random" (as many
            pairs as the selection, drawn with `seed`).
        preset, batch_tokens, learning_rate, dtype: of training, as in `train`. Translation
            computes in float32.
        epochs: passes over each arm's own pairs: an arm of half the pairs trains half as long.
        updates: the same number of updates for every arm, in place of `epochs`.
        beam: width of the beam search; 1 is greedy search.
        length_penalty: alpha in log p / length ** alpha.
        seed: of initial weights, batch order, dropout and the random arm.
        device: "cpu", "cuda" or "auto".
        overwrite: replace an evaluation made with other options.

    Returns:
        BLEU and chrF of each arm on each test set. The translations are in
        `out/<arm>/<test>.hyp.txt`.

    Raises:
        PycatError: no test set, an unknown baseline, or an option out of range.
        CorpusError: the corpus has no tokenizer to read the test sets with.
        TextError: a test set cannot be read.
        OutputError: `out` holds something else, or an evaluation made with other options.
    """
    selection = selection if isinstance(selection, Selection) else Selection.open(selection)
    _check(tests, baselines, beam)
    texts = {name: test_text(test) for name, test in tests.items()}
    sentences = {name: _read(text) for name, text in texts.items()}
    sources = {name: src for name, (src, _) in sentences.items()}
    references = {name: tgt for name, (_, tgt) in sentences.items()}
    corpus = selection.corpus()
    tokenizer = corpus.tokenizer
    arms = _arms(corpus, selection, baselines, seed)
    train_options: dict[str, Any] = {
        "preset": preset,
        "epochs": epochs,
        "updates": updates,
        "batch_tokens": batch_tokens,
        "learning_rate": learning_rate,
        "seed": seed,
        "device": device,
        "dtype": dtype,
    }
    recipe = {
        **train_options,
        "arms": {arm: view.id for arm, view in arms.items()},
        "tests": {
            name: [row["sha256"] for row in text.fingerprint()] for name, text in texts.items()
        },
        "beam": beam,
        "length_penalty": length_penalty,
    }
    folder = OutputFolder(Path(out), "evaluation", recipe, ("*/*.hyp.txt",), overwrite)
    if folder.manifest is not None:
        return Evaluation.open(folder.path)
    bleu, chrf = BLEU(), CHRF()
    rows = []
    for arm, view in arms.items():
        run = train(
            view, out=folder.path / arm, checkpoints=1, overwrite=overwrite, **train_options
        )
        translations = _translations(
            folder, arm, run, tokenizer, sources, device, beam=beam, length_penalty=length_penalty
        )
        for test, hypotheses in translations.items():
            row = EvaluationRow(
                arm=arm,
                num_pairs=len(view),
                num_tokens=int(view.num_tokens.sum()),
                updates=run.steps[-1],
                test=test,
                bleu=bleu.corpus_score(hypotheses, [references[test]]).score,
                chrf=chrf.corpus_score(hypotheses, [references[test]]).score,
            )
            rows.append(row)
    folder.finish(
        rows=[asdict(row) for row in rows],
        bleu_signature=str(bleu.get_signature()),
        chrf_signature=str(chrf.get_signature()),
    )
    return Evaluation.open(folder.path)


def _check(tests: Mapping[str, TestSet], baselines: Sequence[str], beam: int) -> None:
    """Refuse options that cannot be followed, before any file is read."""
    if not tests:
        raise PycatError(
            "evaluate: no test set given; pass held-out text, such as --test news=test.en,test.de"
        )
    unknown = set(baselines) - set(BASELINES)
    if unknown:
        raise PycatError(
            f"baselines name {sorted(unknown)}; expected some of {', '.join(BASELINES)}"
        )
    for name in tests:
        if not re.fullmatch(r"[\w.+-]+", name):
            raise PycatError(f"test set {name!r}: expected a name of letters, digits, . + - and _")
    if beam < 1:
        raise PycatError(f"beam is {beam}; expected at least 1")


def _translations(
    folder: OutputFolder,
    arm: str,
    run: Run,
    tokenizer: Tokenizer | HuggingFaceTokenizer,
    sources: Mapping[str, list[str]],
    device: str,
    **search: Any,
) -> dict[str, list[str]]:
    """Translations of each test set by an arm's model; those on disk are not made again."""
    paths = {test: folder.path / arm / f"{test}.hyp.txt" for test in sources}
    missing = [test for test, path in paths.items() if not path.is_file()]
    if missing:
        model = load_model(read_info(run.checkpoints[-1]), choose_device(device))
    for test in missing:
        hypotheses = translate(model, tokenizer, sources[test], **search)
        with replacing(paths[test]) as temporary:
            temporary.write_text("".join(line + "\n" for line in hypotheses), "utf-8")
        folder.record()
    return {test: path.read_text("utf-8").split("\n")[:-1] for test, path in paths.items()}


def test_text(test: TestSet) -> ParallelText:
    """The parallel text of a test set; TextError if a file is missing or empty."""
    if isinstance(test, tuple):
        return ParallelText.of(*test, None)
    return ParallelText.of(None, None, test)


def _arms(
    corpus: Corpus, selection: Selection, baselines: Sequence[str], seed: int
) -> dict[str, Corpus]:
    """Training data of each arm, baselines first."""
    arms = {}
    if "full" in baselines:
        arms["full"] = corpus
    if "random" in baselines:
        drawn = highest(criteria.random(corpus.pair_ids, seed), len(selection))
        arms["random"] = corpus.subset(corpus.pair_ids[drawn])
    recipe = selection.manifest["recipe"]
    name = recipe["criterion"]
    # The arm is named after the criterion only where that can name a folder, is no baseline's
    # name, and where neither rules nor the noise filter took part in the selection.
    by_criterion_alone = not recipe.keys() & {"rules", "guard"}
    can_name_arm = name.isidentifier() and name not in arms and by_criterion_alone
    arms[name if can_name_arm else "selected"] = corpus.subset(selection.pair_ids)
    return arms


def _read(text: ParallelText) -> tuple[list[str], list[str]]:
    """Sentences of the source and of the target side."""
    pairs = [
        (decode(src, text.paths[0], number), decode(tgt, text.paths[-1], number))
        for number, (src, tgt) in enumerate(text.pairs(), start=1)
    ]
    return [src for src, _ in pairs], [tgt for _, tgt in pairs]
