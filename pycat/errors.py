"""The errors a user can cause. Each message says place, found, expected and remedy."""


class PycatError(ValueError):
    """Base of every error pycat raises for something its user can mend."""


class TextError(PycatError):
    """Parallel text that cannot be read: missing, empty, unequal or not UTF-8."""


class CorpusError(PycatError):
    """A tokenized corpus that is damaged, of another format, or too small for the request."""


class TokenizerError(PycatError):
    """A tokenizer that cannot be trained, loaded or used for this corpus."""


class CheckpointError(PycatError):
    """A checkpoint that is damaged, of another shape or tokenizer, or yields no finite scores."""


class OutputError(PycatError):
    """An output folder that belongs to something else, or was made with other options."""
