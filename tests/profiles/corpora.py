"""Small corpora made here, and a tiny model of transformers that reads them."""

import json
import random

import torch

WORDS = ["the", "cat", "sat", "on", "mat", "and", "dog", "ran", "to", "sea", "12", "1997", ",", ".", "!"]
KNOWN = ["<pad>", "<s>", "</s>", "<unk>", *WORDS]


def texts(count, seed=0, longest=40):
    """Texts of these words, of many lengths."""
    chance = random.Random(seed)
    return [" ".join(chance.choice(WORDS) for _ in range(chance.randint(1, longest))) for _ in range(count)]


def jsonl(path, count, seed=0, longest=40):
    """A corpus of a text a line."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(count, seed, longest)))
    return path


def pairs(path, count, seed=0):
    """A corpus of two texts a line, `from` and `to`."""
    rows = zip(texts(count, seed, 9), texts(count, seed + 1, 7), strict=True)
    path.write_text("".join(json.dumps({"from": one, "to": other}) + "\n" for one, other in rows))
    return path


def save_model(folder, seed=5, positions=48):
    """Write a decoder with its tokenizer."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=len(KNOWN), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=positions, pad_token_id=0,
    )  # fmt: skip
    return _saved(folder, transformers.LlamaForCausalLM, config, seed)


def save_translator(folder, seed=5):
    """Write an encoder-decoder with its tokenizer."""
    import transformers

    config = transformers.T5Config(
        vocab_size=len(KNOWN), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0,
        decoder_start_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return _saved(folder, transformers.T5ForConditionalGeneration, config, seed)


def _saved(folder, kind, config, seed):
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4.0)  # sharper attention, so that heads differ
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(KNOWN)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return folder
