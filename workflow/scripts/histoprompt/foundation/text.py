"""The embedded text side: CLIP's own tokenizer format with a small vocabulary, and a small CLIP text encoder."""

from __future__ import annotations

import json

import torch
from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from histoprompt.words import number_words

# Words that a study's classes and templates are likely to use; each is one token, so that prompts stay short and even.
_WORDS = """
a adenocarcinoma adenoma adipose amber and azure background beige benign black blood blue brain breast bronze brown cancer
carcinoma cell cells cellularity class clouds cluster colon copper coral cream cribriform crimson cyan dark debris dense
dots e emerald eosin epithelial epithelium fat fibres fibrosis gland glands golden grade grains green grey h haematoxylin
healthy hematoxylin high histological histology histopathology image in indigo inflammation inflammatory invasive ivory jade
kidney large lemon lilac lime liver low lung lymph lymphocyte lymphocytes lymphoma magenta malignant maroon melanoma
metastasis metastatic micrograph microscopy mint mitosis mitotic mixed moderate morphological morphology mucosa mucus muscle
navy necrosis necrotic negative nets node non normal nuclear nuclei ochre of olive orange organ pale patch pattern photo
photograph picture pink positive prostate purple red region rings rose ruby rust sand sarcoma scarlet section silver situ
skin slide small solid sparse spindles squamous stain stained staining stripes stroma stromal surface teal texture the
tissue tone tubular tumor tumour turquoise type violet white whole with without yellow
"""
VOCABULARY = _WORDS.split()
NUMBERS = 100  # zero … ninety-nine, as many as a study can have clusters
# Tokens a prompt may have, beginning and end included. Of CLIP's 77 most would be padding: at first attention spreads evenly
# over them all, the words that tell two prompts apart are lost among 60 pads, and training ends before that is learned.
LENGTH = 20
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer() -> CLIPTokenizer:
    """A byte-level BPE in CLIP's format in which every word of the vocabulary is a single token; anything else is spelled."""
    words = sorted({*VOCABULARY, *(part for n in range(NUMBERS) for part in number_words(n).split("-"))})
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
