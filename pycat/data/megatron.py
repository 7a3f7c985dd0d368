"""Data of Megatron-LM: MMIDIDX files with documents and without a vocabulary.

`prefix.idx` may have either layout: before Megatron had documents, its files were like fairseq's.
`write_index` makes an index that Megatron reads for a corpus of pycat.
"""

import glob
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat._core import IndexedFile
from pycat.data.tokenizer import Tokenizer
from pycat.errors import CorpusError, OutputError, PycatError
from pycat.runtime.locks import Lock
from pycat.runtime.output import digest, replacing
from pycat.runtime.publishing import remove_left_files, replace_link

_HEADER_BYTES = 26  # magic, version, dtype code, number of sequences
_ENTRY_BYTES = 12  # length and pointer of a sequence
_BLOCK_DOCUMENTS = 1 << 20
_READABLE = ("uint8", "int8", "int16", "int32", "int64", "uint16")


def open_prefixes(
    src: Path,
    tgt: Path,
    *,
    languages: tuple[str, str] | None,
    vocab_size: int | None,
    eos_id: int | None,
    pad_id: int | None,
    tokenizer: Path | None,
    layout: str | None,
) -> tuple[Path, dict[str, Any], IndexedFile, IndexedFile]:
    """Open two prefixes: the folder that holds both, the manifest that a corpus needs, both files.

    Raises:
        PycatError: not exactly one of `tokenizer` and the two numbers is given, or a number is out
            of range.
        CorpusError: a file is damaged, or document i of one file has another number of sequences
            than document i of the other, so that their sequences do not translate one another.
    """
    given = vocab_size is not None or eos_id is not None
    if given == (tokenizer is not None) or (given and (vocab_size is None or eos_id is None)):
        raise PycatError(
            f"{src}, {tgt}: vocab_size is {vocab_size}, eos_id {eos_id} and tokenizer {tokenizer}; "
            "expected vocab_size and eos_id, or else a tokenizer, which says both"
        )
    if tokenizer is not None:
        model = Tokenizer(tokenizer)
        vocab_size, eos_id, identity = model.vocab_size, model.eos_id, model.sha256
    else:
        identity = digest({"vocab_size": vocab_size, "eos_id": eos_id})
    for name, value in (("eos_id", eos_id), ("pad_id", pad_id)):
        if value is not None and not 0 <= value < (vocab_size or 0):
            raise PycatError(
                f"{src}, {tgt}: {name} is {value}; expected 0 or more and below {vocab_size}, the "
                "vocab_size"
            )
    names = languages or ("src", "tgt")
    folder = src.parent
    if tgt.parent != folder:
        folder = Path(os.path.commonpath((src.parent.resolve(), tgt.parent.resolve())))
    files = [IndexedFile(str(path), vocab_size=vocab_size, layout=layout) for path in (src, tgt)]
    _check_documents(*files)
    options: dict[str, Any] = {
        "prefixes": [_relative(path, folder) for path in (src, tgt)],
        "languages": names,
        "pad_id": pad_id,
        "layout": layout,
    }
    if tokenizer is not None:
        options["tokenizer"] = _relative(tokenizer, folder)
    else:
        options |= {"vocab_size": vocab_size, "eos_id": eos_id}
    manifest = {
        "languages": names,
        "num_pairs": len(files[0]),
        "vocab_size": vocab_size,
        "eos_id": eos_id,
        "pad_id": eos_id if pad_id is None else pad_id,
        "tokenizer_sha256": identity,
        "options": options,
    }
    return folder, manifest, files[0], files[1]


def write_index(file: IndexedFile) -> Path:
    """Write `prefix.mcore.idx` and the link `prefix.mcore.bin`, which Megatron opens.

    The index is that of `prefix.idx` with all sequences as one document. Copying it takes constant
    memory. Until it is complete, no file of that name exists.

    Returns:
        The path without `.idx` and `.bin`.

    Raises:
        CorpusError: the file has Megatron's layout already, or tokens of a type that Megatron
            does not know; or it has changed since it was opened.
        OutputError: `prefix.mcore.bin` is a file, not such a link.
    """
    if file.layout != "fairseq" or file.dtype not in _READABLE:
        found = "Megatron's layout already" if file.layout != "fairseq" else f"{file.dtype} tokens"
        raise CorpusError(
            f"{file.prefix}.idx: has {found}, expected fairseq's layout and one of the types "
            f"{', '.join(_READABLE)}, of which an index for Megatron can be made"
        )
    file.lengths()  # verifies the index first
    prefix = Path(f"{file.prefix}.mcore")
    link, target = Path(f"{prefix}.bin"), Path(f"{prefix}.idx")
    if link.exists() and not link.is_symlink():
        raise OutputError(f"{link}: expected no file, or a link that pycat made; move it away")
    with Lock.of_file(target):
        for path in (link, target):
            remove_left_files(path.parent, glob.escape(path.name))
        target.unlink(missing_ok=True)
        replace_link(link, f"{Path(file.prefix).name}.bin")
        with replacing(target) as temporary:
            with Path(f"{file.prefix}.idx").open("rb") as index, temporary.open("wb") as out:
                out.write(index.read(_HEADER_BYTES) + struct.pack("<Q", 2))
                shutil.copyfileobj(index, out, 1 << 20)
                out.write(struct.pack("<2q", 0, len(file)))
            file.lengths()  # refuses an index that has changed since it was opened
    return prefix


def _check_documents(src: IndexedFile, tgt: IndexedFile) -> None:
    """Refuse files whose documents differ: an empty line on one side shifts all that follow.

    A file with all its sequences in one document says nothing of lines.
    """
    if not src.layout == tgt.layout == "megatron":
        return
    _ = src.lengths(), tgt.lengths()  # verifies both indexes, documents too
    ends = [_document_ends(file) for file in (src, tgt)]
    if min(map(len, ends)) < 2:
        return
    num_documents = min(map(len, ends))
    for first in range(0, num_documents, _BLOCK_DOCUMENTS):
        block = slice(first, min(first + _BLOCK_DOCUMENTS, num_documents))
        differ = np.flatnonzero(ends[0][block] != ends[1][block])
        if len(differ):
            at = first + int(differ[0])
            begin = 0 if at == 0 else int(ends[0][at - 1])
            counts = [int(end[at]) - begin for end in ends]
            raise CorpusError(
                f"{src.prefix}.idx: document {at:,} has {counts[0]:,} sequences, but {counts[1]:,} "
                f"in {tgt.prefix}.idx; expected as many in both, since sequence i translates "
                "sequence i: drop lines that are empty on either side from both, and preprocess "
                "again"
            )
    if len(ends[0]) != len(ends[1]) and len(src) == len(tgt):
        raise CorpusError(
            f"{src.prefix}.idx: has {len(ends[0]):,} documents, but {tgt.prefix}.idx has "
            f"{len(ends[1]):,}; expected as many in both: preprocess files of equal line counts"
        )


def _document_ends(file: IndexedFile) -> NDArray[np.int64]:
    """Number of sequences up to the end of each document."""
    path = Path(f"{file.prefix}.idx")
    with path.open("rb") as index:
        index.seek(_HEADER_BYTES)
        (num_boundaries,) = struct.unpack("<Q", index.read(8))
    offset = _HEADER_BYTES + 8 + _ENTRY_BYTES * len(file)
    ends: NDArray[np.int64] = np.memmap(path, "<i8", "r", offset, (num_boundaries,))
    return ends[1:]


def _relative(path: Path, folder: Path) -> str:
    return os.path.relpath(path.resolve(), folder.resolve())
