"""Writes a model of a megabyte that recites, in the form that a server reads.

    tiny_model.py gguf FILE         for llama.cpp and Ollama
    tiny_model.py mlx FOLDER        for mlx-lm

It is an ordinary Llama with random weights, the same ones at every run, but for its output rows: the row of a word is
the embedding of the word that stands before it in one of the RECITALS. So what it says is known: it goes on from the
last word of its prompt, word by word, and ends where its recital ends. It is sure of its next word by some 80 %, so
that sampling at a temperature gives other texts.
"""

import json
import sys
from pathlib import Path

import numpy as np

# A word is a token with the space before it, and stands in one recital only, once.
RECITALS = {
    "ends": "Pale light finds the hill café 夜明け sparrows shake dew naïve wings then all is day".split(),
    "goes on": ["tick", "tock"],
}
# One character of the first recital comes as two tokens, neither of which is UTF-8 by itself: servers have to
# hold the first half back. It stands before this word.
SPLIT = {"before": "sparrows", "halves": (b" \xf0\x9f", b"\x8c\x85")}
EOS = "<|end|>"

# So long in llama.cpp that it would go on ticking for longer than a test waits; mlx-lm knows no bound and computes all that it is sent.
CONTEXT = {"gguf": 32768, "mlx": 2048}
WIDTH, HEADS, LAYERS, FEED_FORWARD = 128, 2, 2, 128
SURENESS, NEVER = 4.5, -30.0


def byte_characters():
    """GPT-2's way of writing bytes as characters: those that are no printable character are moved beyond U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = iter(range(0x100, 0x200))
    return {byte: chr(byte if byte in printable else next(moved)) for byte in range(256)}


CHARACTER = byte_characters()


def written(data):
    return "".join(CHARACTER[byte] for byte in data)


def vocabulary():
    """Token texts and merges: all bytes, every beginning of every word, and the end of text."""
    tokens, merges = list(CHARACTER.values()), []
    spoken = [f" {word}".encode() for recital in RECITALS.values() for word in recital]
    for data in [*spoken, *SPLIT["halves"]]:
        for length in range(2, len(data) + 1):
            whole = written(data[:length])
            if whole not in tokens:
                tokens.append(whole)
                merges.append((written(data[: length - 1]), written(data[length - 1 : length])))
    return [*tokens, EOS], merges


def successors(tokens):
    """Token number → the number of the token that follows it."""
    number = {token: index for index, token in enumerate(tokens)}
    spoken = lambda word: number[written(f" {word}".encode())]
    follows = {}
    for name, recital in RECITALS.items():
        sequence = []
        for word in recital:
            if word == SPLIT["before"]:
                sequence += [number[written(half)] for half in SPLIT["halves"]]
            sequence.append(spoken(word))
        sequence.append(number[EOS] if name == "ends" else sequence[0])
        follows |= dict(zip(sequence, sequence[1:]))
    return follows


def weights(tokens):
    """Tensor name → matrix, as GGUF names them; linear layers as (outputs, inputs)."""
    random = np.random.default_rng(20240229)
    matrix = lambda *shape, scale: random.normal(0.0, scale, shape).astype(np.float32)
    embedding = matrix(len(tokens), WIDTH, scale=1.0)
    # The first number of every embedding is the same, so that an output row can say "never" by it.
    embedding[:, 0] = 1.0
    # What a layer adds is little: it makes a token depend on all that came before, and leaves it the likeliest.
    small, inner = 0.01, WIDTH**-0.5
    tensors = {"token_embd": embedding, "output_norm": np.ones(WIDTH, np.float32)}
    for layer in range(LAYERS):
        tensors |= {f"blk.{layer}.{norm}": np.ones(WIDTH, np.float32) for norm in ("attn_norm", "ffn_norm")}
        tensors |= {f"blk.{layer}.attn_{part}": matrix(WIDTH, WIDTH, scale=inner) for part in "qkv"}
        tensors[f"blk.{layer}.attn_output"] = matrix(WIDTH, WIDTH, scale=small)
        tensors |= {f"blk.{layer}.ffn_{part}": matrix(FEED_FORWARD, WIDTH, scale=inner) for part in ("gate", "up")}
        tensors[f"blk.{layer}.ffn_down"] = matrix(WIDTH, FEED_FORWARD, scale=small)
    output = np.zeros((len(tokens), WIDTH), np.float32)
    output[:, 0] = NEVER
    for before, after in successors(tokens).items():
        output[after] = embedding[before] * (SURENESS / WIDTH)
        output[after, 0] = 0.0
    return tensors | {"output": output}


# A chat of one message is its text: a chat and a completion of the same prompt go on alike.
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def write_gguf(path):
    import gguf

    tokens, merges = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT["gguf"])
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_token_types([control if token == EOS else normal for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_eos_token_id(tokens.index(EOS))
    writer.add_bos_token_id(tokens.index(EOS))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, tensor in weights(tokens).items():
        writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


HUGGING_FACE_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **{f"attn_{part}": f"self_attn.{part}_proj" for part in "qkv"},
    "attn_output": "self_attn.o_proj",
    **{f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")},
}


def hugging_face_name(name):
    if not name.startswith("blk."):
        return f"{HUGGING_FACE_NAMES[name]}.weight"
    _, layer, part = name.split(".")
    return f"model.layers.{layer}.{HUGGING_FACE_NAMES[part]}.weight"


def write_mlx(folder):
    from safetensors.numpy import save_file
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, merges = vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {hugging_face_name(name): tensor for name, tensor in weights(tokens).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "mlx"})

    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(EOS, special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))

    write = lambda name, value: (folder / name).write_text(json.dumps(value, indent=2))
    write("tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT["mlx"],
    })
    write("config.json", {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": WIDTH // HEADS,
        "rms_norm_eps": 1e-5,
        "vocab_size": len(tokens),
        "max_position_embeddings": CONTEXT["mlx"],
        "tie_word_embeddings": False,
        "eos_token_id": tokens.index(EOS),
    })


if __name__ == "__main__":
    kind, path = sys.argv[1:]
    {"gguf": write_gguf, "mlx": write_mlx}[kind](Path(path))
