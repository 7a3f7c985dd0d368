"""SHA-256 of large files, with a progress bar: 100 million lines can take a minute."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pycat.runtime.progress import progress

_BLOCK_BYTES = 1 << 20


def hash_files(paths: Sequence[Path], description: str) -> list[str]:
    """SHA-256 of each file's bytes, as hex digits; one progress bar covers all files."""
    if not paths:
        return []
    hashes = []
    block = bytearray(_BLOCK_BYTES)
    view = memoryview(block)
    num_bytes = sum(path.stat().st_size for path in paths)
    with progress(description, num_bytes / 1e6, "MB") as advance:
        for path in paths:
            content = hashlib.sha256()
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(view):
                    content.update(view[:count])
                    advance(count / 1e6)
            hashes.append(content.hexdigest())
    return hashes
