"""Prune a small text with the pycat that is installed: what a wheel has to be able to do."""

import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pycat

# A language of numbers, and one in which each digit is another word.
SOURCE = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TARGET = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]
NUM_PAIRS = 300


def main() -> None:
    """Train, score and select; each pair must have a perplexity under each checkpoint."""
    numbers = random.Random(0).sample(range(10_000), NUM_PAIRS)
    with TemporaryDirectory() as folder:
        here = Path(folder)
        for name, words in (("text.en", SOURCE), ("text.de", TARGET)):
            lines = (" ".join(words[int(digit)] for digit in str(number)) for number in numbers)
            (here / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
        pruned = pycat.prune(
            here / "text.en",
            here / "text.de",
            out=here / "work",
            by="cat_var",
            rules="none",
            guard=0.0,
            tokenize_options={"vocab_size": 300},
            train_options={"checkpoint_steps": [2, 4], "batch_tokens": 512, "device": "cpu"},
            score_options={"device": "cpu"},
        )
        assert len(pruned.selection) == NUM_PAIRS // 2
        assert pruned.scores.ppl.shape == (NUM_PAIRS, 2)
        assert (pruned.scores.ppl > 1).all()
    print("prune: kept half of a small text")


if __name__ == "__main__":
    main()
