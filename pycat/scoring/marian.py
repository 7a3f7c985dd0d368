"""Marian's `.npz` models and OPUS-MT's folders of them, through CTranslate2's converter."""

import re
import tempfile
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pycat.errors import CheckpointError
from pycat.scoring.ct2_file import Ct2File, read_ct2_file

# Options of a model that change its probabilities, and the values with which the converter's result
# is the same model. It checks others itself.
_EXPECTED: dict[str, tuple[object, ...]] = {
    "transformer-decoder-autoreg": ("self-attention",),
    "transformer-disable-position-embeddings": (None, False),
    "transformer-attention-mask": (None, "default"),
    "transformer-tied-layers": (None, []),
    "transformer-ffn-depth": (None, 2),
    "transformer-decoder-ffn-depth": (None, 0, 2),
    "transformer-pool": (None, False),
    "transformer-no-projection": (None, False),
    "right-left": (None, False),
    "ulr": (None, False),
    "lemma-dim-emb": (None, 0),
}

# Arrays that the converter reads; a model with others has parts that it would leave out.
_KNOWN = re.compile(
    r"special:.*|(encoder_|decoder_)?Wemb|Wpos|decoder_ff_logit_out_(W|Wt|b)"
    r"|(encoder|decoder)_(top|emb)_ln_(scale|bias)(_pre)?"
    r"|(encoder|decoder)_l(?P<layer>\d+)_(self|context)_(W[qkvo]|b[qkvo]|Wo_ln_(scale|bias)(_pre)?)"
    r"|(encoder|decoder)_l(?P<ffn>\d+)_ffn_([Wb][12]|ffn_ln_(scale|bias)(_pre)?)"
)


def read_marian(path: Path) -> Ct2File:
    """Read a model into the variables of CTranslate2.

    Raises:
        CheckpointError: ctranslate2 is missing, the file is damaged or not Marian's, or the model
            has a part that changes its probabilities and is not supported, which is named.
    """
    converter = _converter(path)
    sizes = _vocabulary_sizes(path)
    with tempfile.TemporaryDirectory(prefix="pycat-") as name:
        folder = Path(name)
        vocabularies = []
        for side, size in zip(("src", "tgt"), sizes, strict=True):
            # The converter wants a name for each id; pycat reads ids alone.
            vocabularies.append(folder / f"{side}.yml")
            vocabularies[-1].write_text("".join(f"{i}: {i}\n" for i in range(size)), "utf-8")
        try:
            # It would leave a file open that it is given by its path.
            with path.open("rb") as file:
                converter(file, list(map(str, vocabularies))).convert(str(folder / "model"))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{path}: CTranslate2 cannot convert this model ({reason}); score it with "
                "marian-scorer"
            ) from None
        return read_ct2_file(folder / "model" / "model.bin")


def opus_mt_model(folder: Path) -> Path:
    """The `.npz` of an OPUS-MT folder.

    Raises:
        CheckpointError: `decoder.yml` names none, or it is not there.
    """
    listed = re.search(r"^models:\s*\n\s*-\s*(\S+)", _decoder_yml(folder), re.MULTILINE)
    if listed is None or not (folder / listed[1].strip("'\"")).is_file():
        raise CheckpointError(
            f"{folder / 'decoder.yml'}: names no model that is in the folder; expected an OPUS-MT "
            "folder as it was unpacked"
        )
    return folder / listed[1].strip("'\"")


def opus_mt_vocabularies(folder: Path) -> tuple[list[Path], list[Path]]:
    """The vocabularies of an OPUS-MT folder, and the SentencePiece models that split its text.

    Raises:
        CheckpointError: it splits text otherwise, such as by BPE.
    """
    block = re.search(r"^vocabs:\s*\n((?:\s*-\s*\S+\s*\n?)+)", _decoder_yml(folder), re.MULTILINE)
    names = [] if block is None else re.findall(r"-\s*(\S+)", block[1])
    vocabs = [folder / name.strip("'\"") for name in names]
    models = [folder / "source.spm", folder / "target.spm"]
    if not vocabs or not all(path.is_file() for path in (*vocabs, *models)):
        raise CheckpointError(
            f"{folder}: splits text otherwise than by source.spm and target.spm; split it as its "
            "preprocess.sh does, and pass the vocabulary (--vocabs)"
        )
    return vocabs[:2], models


def _decoder_yml(folder: Path) -> str:
    return (folder / "decoder.yml").read_text("utf-8", "replace")


def _vocabulary_sizes(path: Path) -> tuple[int, int]:
    """Check the model's options and the names of its arrays; rows of the two embeddings."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            names = set(arrays.files)
            config = _config(path, arrays)
            _check(path, config, names)
            rows = []
            for side in ("encoder", "decoder"):
                name = next((n for n in (f"{side}_Wemb", "Wemb") if n in names), None)
                if name is None:
                    raise CheckpointError(f"{path}: has no embedding {side}_Wemb; fetch it again")
                rows.append(len(arrays[name]))
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path}: not a readable .npz file ({error}); fetch it again"
        ) from None
    return rows[0], rows[1]


def _config(path: Path, arrays: Any) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]  # which ctranslate2 needs

    if "special:model.yml" not in arrays.files:
        raise CheckpointError(
            f"{path}: holds no special:model.yml; expected a model that Marian saved"
        )
    raw = arrays["special:model.yml"].tobytes().rstrip(b"\0")
    found = yaml.safe_load(raw.decode("utf-8", "replace"))
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: special:model.yml is no list of options; fetch it again")
    return found


def _check(path: Path, config: dict[str, Any], names: set[str]) -> None:
    kind = config.get("type")
    if kind != "transformer":
        known = {"s2s": "a recurrent model", "amun": "a recurrent model", "lm": "a language model"}
        known |= {"nematus": "a recurrent model", "multi-transformer": "a model of two sources"}
        raise CheckpointError(
            f"{path}: is {known.get(str(kind), 'no Transformer')} (type: {kind}); expected type "
            "transformer: score it with marian-scorer"
        )
    for option, expected in _EXPECTED.items():
        if (value := config.get(option)) not in expected:
            raise CheckpointError(
                f"{path}: was trained with --{option} {value}, expected {expected[-1]}; score it "
                "with marian-scorer"
            )
    if any(str(name).endswith(".fsv") for name in config.get("vocabs") or ()):
        raise CheckpointError(
            f"{path}: has a factored vocabulary (.fsv); score it with marian-scorer"
        )
    depths = {side: int(config[f"{side[:3]}-depth"]) for side in ("encoder", "decoder")}
    for name in sorted(names):
        match = _KNOWN.fullmatch(name)
        number = int((match and (match["layer"] or match["ffn"])) or 0)
        if match is None or number > depths.get(name.partition("_")[0], number):
            raise CheckpointError(
                f"{path}: has {name}, a part of the model that pycat does not know; score it with "
                "marian-scorer"
            )


def _converter(path: Path) -> Any:
    try:
        from ctranslate2.converters import MarianConverter
    except ImportError:
        raise CheckpointError(
            f"{path}: a model of Marian's is read by ctranslate2, which is not installed; install "
            "it with: pip install 'pycat-nmt[ct2]'"
        ) from None
    return MarianConverter
