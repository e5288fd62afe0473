"""Small corpora made here, and a tiny model of transformers that reads them."""

import json
import random

import torch

WORDS = ["the", "cat", "sat", "on", "mat", "and", "dog", "ran", "to", "sea", "12", "1997", ",", ".", "!"]


def texts(count, seed=0, longest=40):
    """Texts of these words, of many lengths."""
    chance = random.Random(seed)
    return [" ".join(chance.choice(WORDS) for _ in range(chance.randint(1, longest))) for _ in range(count)]


def jsonl(path, count, seed=0, longest=40):
    """A corpus of a text a line."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(count, seed, longest)))
    return path


def save_model(folder, seed=5, positions=48):
    """Write a decoder with its tokenizer."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    known = ["<pad>", "<s>", "</s>", "<unk>", *WORDS]
    config = transformers.LlamaConfig(
        vocab_size=len(known), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=positions, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4.0)  # sharper attention, so that heads differ
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return folder
