"""Pretrained models of a moment: two layers of width 32 with random weights, in folders as a hub would hold them."""

from __future__ import annotations

from pathlib import Path

from runs_world import WORDS

TEXTS = [f"{words}. {' '.join(reversed(words.split()))}." for words in WORDS.values()]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def byte_tokenizer():
    """Byte-level BPE with an end of sequence, and no other opening or closing."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<bos>", "<end>"], show_progress=False, initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def word_tokenizer():
    """WordPiece that lower-cases and drops white space, with an opening and a separator, as BERT's."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


def model(kind: str):
    """A causal model with tied ("llama", "gpt2") or separate ("untied") output matrix, or a masked one ("bert")."""
    import torch
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        if kind == "gpt2":  # with dropout, which training must not use
            return GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=64))
        if kind == "bert":
            return BertForMaskedLM(BertConfig(vocab_size=200, max_position_embeddings=64, **SIZES))
        tied = kind == "llama"
        return LlamaForCausalLM(
            LlamaConfig(vocab_size=304, max_position_embeddings=64, tie_word_embeddings=tied, **SIZES)
        )


def write(folder: Path, kind: str) -> Path:
    """The folder of a model with its tokenizer."""
    model(kind).save_pretrained(folder)
    (word_tokenizer() if kind == "bert" else byte_tokenizer()).save_pretrained(folder)
    return folder
