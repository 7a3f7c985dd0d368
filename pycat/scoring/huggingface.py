"""Adapters of checkpoints that Hugging Face's transformers saved.

Only the parts that compute hidden states run: encoder and decoder, or the causal model below its
head. The head is rebuilt from its parts (`Head`) and verified on loading against the model's own
logits for a small batch; a model with another kind of head is refused.

The decoder of an encoder-decoder model reads its start token, then the special tokens before its
labels (a language tag, `<s>`: `Template.tgt_before`), then the target; only the target counts. A
causal model reads the source, which is its prompt, and the target as one sequence.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pycat.data.batches import Batch, length_mask
from pycat.data.corpus import Corpus
from pycat.data.hf_tokenizer import Template, folder_sha256
from pycat.errors import CheckpointError
from pycat.runtime.output import digest, file_sha256
from pycat.scoring.adapter import Adapter, Head
from pycat.scoring.causal_weights import causal_weights
from pycat.scoring.cpu_forward import CpuForward
from pycat.scoring.hf_weights import encoder_decoder_weights
from pycat.scoring.t5_weights import t5_weights
from pycat.scoring.transformer_weights import TransformerWeights

_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin", "*.index.json")

# Max difference of head(hidden) and the model's own logits, relative to the largest logit. Both are
# float32 products of the same numbers, in different orders.
_TOLERANCE = 1e-5


class _HuggingFaceAdapter(Adapter):
    """A model of transformers, of either kind."""

    def __init__(self, model: Any, path: Path, step: int, **limits: int | None) -> None:
        self.model = model
        super().__init__(
            model,
            Head(model.get_output_embeddings().weight),
            name=str(path),
            step=step,
            sha256=_folder_weights_sha256(path),
            **limits,
        )

    @property
    def src_vocab_size(self) -> int:
        """Bound on source ids: that of the embedding that reads the source."""
        reader = self.model.get_encoder() if self.model.config.is_encoder_decoder else self.model
        return int(reader.get_input_embeddings().num_embeddings)

    def _if_verified(
        self, weights: TransformerWeights | None, eos_id: int
    ) -> TransformerWeights | None:
        """The weights, if the extension computes the same nll of a small batch as PyTorch."""
        if weights is None:
            return None
        probe = _probe(min(self.vocab_size, self.src_vocab_size), eos_id, self.model.config)
        sides = ((probe.src_tokens, probe.src_cu_seqlens), (probe.tgt_tokens, probe.tgt_cu_seqlens))
        src, tgt = (tokens[length_mask(tokens, ends)] for tokens, ends in sides)
        packed = probe._replace(src_tokens=src, tgt_tokens=tgt)
        nll = CpuForward([weights], "float32", per_token=True).score(packed).nll_per_token
        with torch.inference_mode():
            logits = self.head.logits(self.hidden(probe))
        expected = nn.functional.cross_entropy(logits, tgt, reduction="none").numpy()
        return weights if nll is not None and np.allclose(nll[0], expected, 1e-4, 1e-4) else None


class EncoderDecoderAdapter(_HuggingFaceAdapter):
    """Marian, T5, mT5, BART, mBART, M2M-100, NLLB and their like."""

    def __init__(self, model: Any, path: Path, step: int, template: Template, eos_id: int) -> None:
        config = model.config
        if config.model_type == "mbart" and template.tgt_after:
            start = template.tgt_after[-1]  # the language tag, with which its labels end
        elif config.model_type == "mbart":
            start = eos_id
        else:
            start = config.decoder_start_token_id
        if start is None:
            raise CheckpointError(
                f"{path}: config.json has no decoder_start_token_id, so what the decoder begins "
                "with is not known; set it as it was in training"
            )
        self.template, self.eos_id = template, eos_id
        self._prefix = [start, *template.tgt_before]
        positions = getattr(config, "max_position_embeddings", None)
        super().__init__(
            model,
            path,
            step,
            max_src_tokens=positions,
            max_tgt_tokens=None if positions is None else positions - len(template.tgt_before),
        )

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states (T, H)."""
        tgt = batch.tgt_tokens  # (B, longest)
        prefix = tgt.new_tensor(self._prefix).expand(len(tgt), -1)
        src_mask = length_mask(batch.src_tokens, batch.src_cu_seqlens).long()
        encoder, decoder = self.model.get_encoder(), self.model.get_decoder()
        memory = encoder(input_ids=batch.src_tokens, attention_mask=src_mask).last_hidden_state
        # The decoder needs no mask: padding comes last, and no token attends to later ones.
        states: Tensor = decoder(
            input_ids=torch.cat((prefix, tgt[:, :-1]), dim=1),
            encoder_hidden_states=memory,
            encoder_attention_mask=src_mask,
            use_cache=False,
        ).last_hidden_state
        return states[:, len(self._prefix) - 1 :][length_mask(tgt, batch.tgt_cu_seqlens)]

    def transformer_weights(self, num_positions: int) -> TransformerWeights | None:
        """Weights of a model of the families of BART and T5."""
        prefix = tuple(self._prefix)
        weights = encoder_decoder_weights(self.model, self.head, prefix)
        if weights is None:
            weights = t5_weights(self.model, self.head, prefix, num_positions)
        return self._if_verified(weights, self.eos_id)

    def model_logits(self, batch: Batch) -> Tensor:
        """Logits (T, V) of the whole model, which makes its decoder's input from labels."""
        before, after = self.template.tgt_before, self.template.tgt_after
        lengths = batch.tgt_cu_seqlens.diff().tolist()
        labels = torch.full(
            (len(lengths), len(before) + max(lengths) + len(after)), -100, dtype=torch.int64
        )
        for row, length in enumerate(lengths):
            row_labels = [*before, *batch.tgt_tokens[row, :length].tolist(), *after]
            labels[row, : len(row_labels)] = torch.tensor(row_labels)
        src_mask = length_mask(batch.src_tokens, batch.src_cu_seqlens).long()
        logits: Tensor = self.model(
            input_ids=batch.src_tokens, attention_mask=src_mask, labels=labels, use_cache=False
        ).logits
        of_targets = logits[:, len(before) : len(before) + max(lengths)]
        return of_targets[length_mask(batch.tgt_tokens, batch.tgt_cu_seqlens)]


class CausalAdapter(_HuggingFaceAdapter):
    """GPT-2, Llama, Qwen, Gemma and their like: the source is the prompt."""

    def __init__(self, model: Any, path: Path, step: int, eos_id: int) -> None:
        self.eos_id = eos_id
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        # One more than it has positions for: it does not read the last target token.
        max_tokens = None if positions is None else positions + 1
        super().__init__(model, path, step, max_tokens=max_tokens)

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states (T, H)."""
        ids, predicts = _one_sequence(batch)
        # Padding comes last, so that no token attends to it.
        states: Tensor = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return states[predicts]

    def transformer_weights(self, num_positions: int) -> TransformerWeights | None:
        """Weights of a model that `causal_weights` supports.

        `num_positions` is the bound of either side, of which this model makes one sequence.
        """
        return self._if_verified(
            causal_weights(self.model, self.head, 2 * num_positions), self.eos_id
        )

    def model_logits(self, batch: Batch) -> Tensor:
        """Logits (T, V) of the whole model, padding masked."""
        ids, predicts = _one_sequence(batch)
        lengths = batch.src_cu_seqlens.diff() + batch.tgt_cu_seqlens.diff() - 1
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits[predicts]


def _one_sequence(batch: Batch) -> tuple[Tensor, Tensor]:
    """Join source and target without the last token (B, W); mask positions before target tokens."""
    src, tgt = batch.src_tokens, batch.tgt_tokens
    src_lengths = batch.src_cu_seqlens.diff().long()[:, None]
    tgt_lengths = batch.tgt_cu_seqlens.diff().long()[:, None]
    columns = torch.arange(int((src_lengths + tgt_lengths).max()) - 1, device=src.device)
    in_tgt = columns - src_lengths
    from_src = src.gather(1, columns.clamp(max=src.shape[1] - 1).expand(len(src), -1))
    from_tgt = tgt.gather(1, in_tgt.clamp(0, tgt.shape[1] - 1))
    predicts = (in_tgt >= -1) & (in_tgt < tgt_lengths - 1)
    return torch.where(in_tgt < 0, from_src, from_tgt), predicts


def load_hugging_face(path: Path, corpus: Corpus, *, step: int) -> Adapter:
    """Load the model of a folder, in float32 on the CPU, and verify its head.

    Args:
        path: the folder, with `config.json` and weights.
        corpus: the corpus to score; its template has the special tokens around the targets.
        step: updates it was trained for, or what stands for them (`CheckpointOrder.steps`).

    Raises:
        CheckpointError: transformers is missing or cannot load it, weights are missing or not
            finite, its head is unknown, or its tokenizer is not that of the corpus.
    """
    if (path / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{path}: holds an adapter of another model (PEFT), no model; merge the two and save "
            "that (merge_and_unload)"
        )
    _check_tokenizer(path, corpus)
    model = _load(path)
    _check_prompt(path, corpus, model.config)
    for name, value in model.named_parameters():
        if not bool(value.isfinite().all()):
            raise CheckpointError(
                f"{path}: {name} has weights that are not finite numbers; the file is damaged or "
                "the training diverged: leave this checkpoint out"
            )
    adapter: EncoderDecoderAdapter | CausalAdapter
    if not isinstance(model.get_output_embeddings(), nn.Linear):
        raise CheckpointError(
            f"{path}: {type(model).__name__} has no linear output layer "
            f"(get_output_embeddings() is {type(model.get_output_embeddings()).__name__}); score "
            "it through a pycat.Adapter of your own"
        )
    if model.config.is_encoder_decoder:
        adapter = EncoderDecoderAdapter(
            model, path, step, Template.of(corpus.manifest), corpus.eos_id
        )
    else:
        adapter = CausalAdapter(model, path, step, corpus.eos_id)
    adapter.head = _verified_head(adapter, corpus.eos_id)
    return adapter


@torch.inference_mode()
def _verified_head(adapter: EncoderDecoderAdapter | CausalAdapter, eos_id: int) -> Head:
    """Find the head that yields the model's own logits for a small batch.

    Raises:
        CheckpointError: no known head does, or the model does not run.
    """
    model, path = adapter.model, adapter.name
    batch = _probe(min(adapter.vocab_size, adapter.src_vocab_size), eos_id, model.config)
    try:
        hidden, expected = adapter.hidden(batch), adapter.model_logits(batch).float()
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise CheckpointError(
            f"{path}: {type(model).__name__} does not run as other models of its kind do "
            f"({_first_line(error)}); score it through a pycat.Adapter of your own"
        ) from None
    largest = float(expected.abs().max())
    nearest = float("inf")
    for head in _heads(model):
        if head.weight.shape[1] == hidden.shape[1] and expected.shape[1] == len(head.weight):
            distance = float((head.logits(hidden) - expected).abs().max())
            if distance <= _TOLERANCE * largest:
                return head
            nearest = min(nearest, distance)
    raise CheckpointError(
        f"{path}: the output head of {type(model).__name__} is not known to pycat: its own logits "
        f"(up to {largest:.3g}) differ from those computed from its last hidden states by "
        f"{nearest:.2g}; score it through a pycat.Adapter of your own"
    )


def _heads(model: Any) -> Iterator[Head]:
    """Yield heads that the model's configuration allows, the likeliest first."""
    layer, config = model.get_output_embeddings(), model.config.get_text_config()
    bias = layer.bias
    if (added := getattr(model, "final_logits_bias", None)) is not None and bool(added.any()):
        bias = added[0] if bias is None else bias + added[0]
    softcap = getattr(config, "final_logit_softcapping", None)
    scales = [1.0]
    if getattr(config, "d_model", None):
        scales.append(config.d_model**-0.5)  # T5 with tied embeddings
    if getattr(config, "logit_scale", None):
        scales.append(float(config.logit_scale))  # Cohere
    if getattr(config, "logits_scaling", None):
        scales.append(1.0 / float(config.logits_scaling))  # Granite
    for scale in scales:
        yield Head(layer.weight, bias, scale, softcap)


def _probe(vocab_size: int, eos_id: int, config: Any) -> Batch:
    """A padded batch of two pairs of unequal lengths, with EOS at their ends."""
    special = {getattr(config, name, None) for name in ("pad_token_id", "decoder_start_token_id")}
    plain = [i for i in range(min(vocab_size, 64)) if i not in special | {eos_id}]
    numbers = torch.randint(len(plain), (2, 10), generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor(plain)[numbers]
    src, tgt = tokens[:, :5].clone(), tokens[:, 5:9].clone()
    src[0, 4] = src[1, 2:] = tgt[0, 1:] = tgt[1, 3] = eos_id
    boundaries = (torch.tensor(ends, dtype=torch.int32) for ends in ([0, 5, 8], [0, 2, 6]))
    src_ends, tgt_ends = boundaries
    return Batch(src, src_ends, tgt, tgt_ends, torch.arange(2))


def _load(path: Path) -> Any:
    try:
        import transformers
    except ImportError:
        raise CheckpointError(
            f"{path}: a model saved by transformers, which is not installed; install it with: "
            "pip install 'pycat-nmt[hf]'"
        ) from None
    try:
        with quiet_transformers():
            config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
            kind = (
                transformers.AutoModelForSeq2SeqLM
                if config.is_encoder_decoder
                else transformers.AutoModelForCausalLM
            )
            model, report = kind.from_pretrained(
                path,
                config=config,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # configurations and weights of others fail in many ways
        raise CheckpointError(
            f"{path}: transformers cannot load this model ({_first_line(error)}); save it again, "
            "or leave it out"
        ) from None
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{path}: the weights lack {len(missing)} tensors of {type(model).__name__}, such as "
            f"{missing[0]}; expected a model that was saved whole (save_pretrained)"
        )
    return model.eval()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence progress bars and warnings of transformers inside the block."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _check_tokenizer(path: Path, corpus: Corpus) -> None:
    if "prefixes" in corpus.options and "tokenizer" not in corpus.options:
        return  # ids without a tokenizer on record
    expected = corpus.manifest["tokenizer_sha256"]
    found = folder_sha256(path)
    if found is not None and expected is not None and found != expected:
        raise CheckpointError(
            f"{path}: has tokenizer {found[:12]}… beside the weights, but {corpus.path} was made "
            f"with {expected[:12]}…; tokenize the text with the checkpoint's own "
            f"(--tokenizer {path})"
        )


def _check_prompt(path: Path, corpus: Corpus, config: Any) -> None:
    """Refuse a corpus whose sources were tokenized for the other kind of model."""
    made = corpus.manifest.get("recipe", {}).get("tokenizer")
    if "template" not in corpus.manifest or not isinstance(made, dict):
        return
    is_text = "prompt" in made or "monolingual" in made
    for_causal = is_text and not made.get("encoder_decoder", False)
    if for_causal == (not config.is_encoder_decoder):
        return
    found, kind = (
        ("as one text of prompt and target, which a causal model reads", "an encoder-decoder")
        if for_causal
        else ("as two texts, which an encoder-decoder model reads", "a causal")
    )
    raise CheckpointError(
        f"{path}: is {kind} model ({config.model_type}), but {corpus.path} was tokenized {found}; "
        f"tokenize the text with the folder of the whole model (--tokenizer {path}), and the "
        "prompt that it was trained with, if any"
    )


def _folder_weights_sha256(path: Path) -> str:
    """SHA-256 of configuration and weights; other files of the folder do not change scores."""
    files = sorted({file for pattern in _WEIGHTS for file in path.glob(pattern)})
    return digest([[file.name, file_sha256(file)] for file in (path / "config.json", *files)])


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
