"""SentencePiece training in a process of its own: lines on standard input, the model on output.

`train_tokenizer` runs this file. Training takes minutes, in which it ignores signals, and
gigabytes, which it does not free; a process can be killed at Ctrl-C, and frees its memory.
"""

import io
import json
import sys

import sentencepiece


def main() -> None:
    """Train with the options in the argument, as JSON; on failure write the reason and exit 1."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sys.stdin.buffer),
            model_writer=model,
            **json.loads(sys.argv[1]),
        )
    except RuntimeError as error:
        sys.stdout.write(str(error))
        sys.exit(1)
    sys.stdout.buffer.write(model.getvalue())


if __name__ == "__main__":
    main()
