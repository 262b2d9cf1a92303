"""The embedded text side: CLIP's own tokenizer format with a small vocabulary, and a small CLIP text encoder."""

from __future__ import annotations

import json

import torch
from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from histoprompt.foundation.images import PHOTOGRAPHS
from histoprompt.foundation.textures import FAMILY_WORDS, NOUNS, OPENINGS, PALETTES, TYPES
from histoprompt.words import number_words

# Words a study's classes and templates are likely to use, so that each is one token; they mean nothing to the base model.
GLOSSARY = [
    "a",
    "of",
    "the",
    "and",
    "with",
    "without",
    "in",
    "type",
    "image",
    "picture",
    "photo",
    "photograph",
    "photographed",
    "patch",
    "slide",
    "section",
    "stained",
    "haematoxylin",
    "hematoxylin",
    "eosin",
    "h",
    "e",
    "histology",
    "histopathology",
    "histological",
    "microscopy",
    "tissue",
    "morphology",
    "morphological",
    "cluster",
    "class",
    "carcinoma",
    "adenocarcinoma",
    "adenoma",
    "squamous",
    "cell",
    "cells",
    "melanoma",
    "lymphoma",
    "sarcoma",
    "metastasis",
    "metastatic",
    "tumor",
    "non",
    "mucosa",
    "muscle",
    "stroma",
    "stromal",
    "adipose",
    "fat",
    "debris",
    "mucus",
    "lymphocyte",
    "lymphocytes",
    "lymph",
    "node",
    "breast",
    "colon",
    "lung",
    "prostate",
    "kidney",
    "liver",
    "skin",
    "brain",
    "gland",
    "glands",
    "necrosis",
    "necrotic",
    "blood",
    "background",
    "inflammation",
    "inflammatory",
    "epithelium",
    "epithelial",
    "in",
    "situ",
    "invasive",
    "low",
    "high",
    "grade",
    "moderate",
    "pale",
    "dark",
    "dense",
    "sparse",
    "large",
    "small",
    "nuclei",
    "nuclear",
    "cellularity",
    "positive",
    "negative",
    "control",
    "temple",
    "flower",
]
# Tokens a prompt may have, beginning and end included. Of CLIP's 77 most would be padding: at first attention spreads evenly
# over them all, the words that tell two prompts apart are lost among 60 pads, and training ends before that is learned.
LENGTH = 20
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer() -> CLIPTokenizer:
    """A byte-level BPE in CLIP's format in which every word of the vocabulary is a single token; anything else is spelled."""
    words = sorted(
        {
            *GLOSSARY,
            *PALETTES,
            *NOUNS,
            *FAMILY_WORDS,
            *(w.lower() for w in OPENINGS),
            *" ".join(PHOTOGRAPHS).replace("_", " ").split(),
        }
    )
    words = sorted({*words, *(part for n in range(TYPES) for part in number_words(n).split("-"))})
    reference = CLIPTokenizer()
    trained = Tokenizer(BPE(end_of_word_suffix="</w>"))
    trained.normalizer = reference.backend_tokenizer.normalizer
    trained.pre_tokenizer = reference.backend_tokenizer.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, min_frequency=1, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    trained.train_from_iterator(words, trainer)
    merges: list[tuple[str, str]] = [(left, right) for left, right in json.loads(trained.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges), BEGIN, END]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH, pad_token=END)


def build_text_encoder(tokenizer: CLIPTokenizer, *, width: int, layers: int, heads: int) -> CLIPTextModel:
    """A CLIP text encoder of `LENGTH` tokens; tokens start ten times as far apart, so that words differ at once."""
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=LENGTH,
            projection_dim=width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(10)
    return model
