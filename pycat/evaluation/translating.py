"""Translations of the test sets by models of the arms, by BLEU and chrF."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from sacrebleu.metrics import CHRF

from pycat.data.corpus import Corpus
from pycat.data.parallel_text import ParallelText, decode
from pycat.data.vocabularies import AnyTokenizer
from pycat.evaluation.beam_search import translate
from pycat.evaluation.bleu import bleu_of
from pycat.evaluation.ctranslate2_search import ctranslate2_search, has_ctranslate2
from pycat.evaluation.results import Translated
from pycat.proxy.checkpoint import load_model, read_info
from pycat.proxy.run import Run
from pycat.runtime.device import choose_device
from pycat.runtime.output import OutputFolder, replacing


def translate_arms(
    runs: Mapping[str, Run],
    texts: Mapping[str, ParallelText],
    corpus: Corpus,
    folder: OutputFolder,
    device: str,
    **search: Any,
) -> list[Translated]:
    """Translate each test set by each arm's last checkpoint.

    CTranslate2 searches where it is installed, else `beam_search`. The translations stay in
    `<arm>/<test>.hyp.txt`; those that are there are not made again.
    """
    if not runs:
        return []
    sentences = {name: read_sentences(text) for name, text in texts.items()}
    references = chain.from_iterable(tgt for _, tgt in sentences.values())
    bleu, chrf = bleu_of(_target_language(corpus), references), CHRF()
    rows = []
    for arm, run in runs.items():
        sources = {name: src for name, (src, _) in sentences.items()}
        found = _translations(folder, arm, run, corpus.tokenizer, sources, device, **search)
        for test, hypotheses in found.items():
            expected = [sentences[test][1]]
            rows.append(
                Translated(
                    arm=arm,
                    test=test,
                    bleu=bleu.corpus_score(hypotheses, expected).score,
                    chrf=chrf.corpus_score(hypotheses, expected).score,
                    bleu_signature=str(bleu.get_signature()),
                    chrf_signature=str(chrf.get_signature()),
                )
            )
    return rows


def _target_language(corpus: Corpus) -> str:
    """Name of the target language, from a model's own code where the text does not tell it."""
    name = corpus.languages[1]
    options = getattr(corpus.tokenizer, "options", {})
    return str(options.get("tgt_lang", name)) if name == "tgt" else name


def _translations(
    folder: OutputFolder,
    arm: str,
    run: Run,
    tokenizer: AnyTokenizer,
    sources: Mapping[str, list[str]],
    device: str,
    **search: Any,
) -> dict[str, list[str]]:
    """Translations of each test set by an arm's model; those on disk are not made again."""
    paths = {test: folder.path / arm / f"{test}.hyp.txt" for test in sources}
    missing = [test for test, path in paths.items() if not path.is_file()]
    if missing:
        torch_device = choose_device(device)
        model = load_model(read_info(run.checkpoints[-1]), torch_device)
        theirs = None
        if has_ctranslate2():
            theirs = ctranslate2_search(
                model,
                tokenizer.eos_id,
                beam=search["beam"],
                alpha=search["length_penalty"],
                device=torch_device,
            )
    for test in missing:
        hypotheses = translate(model, tokenizer, sources[test], search=theirs, **search)
        with replacing(paths[test]) as temporary:
            temporary.write_text("".join(line + "\n" for line in hypotheses), "utf-8")
        folder.record()
    return {test: path.read_text("utf-8").split("\n")[:-1] for test, path in paths.items()}


def read_sentences(text: ParallelText) -> tuple[list[str], list[str]]:
    """Sentences of the source and of the target side."""
    pairs = [
        (decode(src, text.paths[0], number), decode(tgt, text.paths[-1], number))
        for number, (src, tgt) in enumerate(text.pairs(), start=1)
    ]
    return [src for src, _ in pairs], [tgt for _, tgt in pairs]
