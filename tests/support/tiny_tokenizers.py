"""Hugging Face tokenizers of the invented language pair, and models of their vocabulary."""

from typing import Any

from helpers import toy_pairs
from tiny_models import make_model, transformers
from tokenizers import Tokenizer as Rules
from tokenizers import models, pre_tokenizers, processors, trainers

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def lines() -> list[str]:
    return [line for pair in toy_pairs(400) for line in pair]


def words(single: str) -> Any:
    """A tokenizer of whole words; `single` is the template of special tokens."""
    rules = Rules(models.WordLevel(unk_token="<unk>"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    rules.train_from_iterator(lines(), trainers.WordLevelTrainer(special_tokens=SPECIAL))
    rules.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return fast(rules)


def fast(rules: Rules) -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=rules,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def model_for(family: str, tokenizer: Any, seed: int, **settings: Any) -> Any:
    changes: dict[str, Any] = {
        "vocab_size": 1 + max(tokenizer.get_vocab().values()),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "max_position_embeddings": 200,
    }
    if family == "gpt2":
        changes["n_positions"] = changes.pop("max_position_embeddings")
    elif family == "t5 tied":
        del changes["max_position_embeddings"]
    if family in ("t5 tied", "marian"):
        changes["decoder_start_token_id"] = tokenizer.pad_token_id
    return make_model(family, seed, **{**changes, **settings})
