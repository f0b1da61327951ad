"""`python -m tests.model.checkpoint FOLDER [--random]`: a folder that vLLM loads, from the stored rows.

Owns the stored file, the model's shape and the format of a checkpoint on disk; `train.py` makes the
weights. Needs the standard library only.
"""

import argparse
import gzip
import json
import math
import os
import random
import shutil
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STORED = Path(__file__).parent / "tiny_gpt_oss.safetensors.gz"
VOCABULARY = 201_088
HIDDEN, LAYERS, EXPERTS, HEADS, KEY_HEADS, HEAD_SIZE = 64, 2, 4, 4, 2, 64

CONFIG: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": 200_002,
    "pad_token_id": 199_999,
    "head_dim": HEAD_SIZE,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": HIDDEN,
    "layer_types": ["sliding_attention", "full_attention"],
    "max_position_embeddings": 131_072,
    "num_attention_heads": HEADS,
    "num_experts_per_tok": 2,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KEY_HEADS,
    "num_local_experts": EXPERTS,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150_000,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}
"""GPT-OSS, as small as possible for it still to learn; all other shapes are the real ones."""

TOKEN_IDS = "token_ids"
"""The tensor of the stored file with the ids that have rows of their own, after the row shared by all
others."""
VOCABULARY_MATRICES = ("model.embed_tokens.weight", "lm_head.weight")
_BYTES_OF = {"BF16": 2, "I32": 4}
_RANDOM_SEED = 20


@dataclass(frozen=True, slots=True)
class Tensor:
    """`data`: little-endian and row by row; `kind` as safetensors names it."""

    kind: str
    shape: tuple[int, ...]
    data: bytes


def expand(folder: Path) -> None:
    """Writes the trained checkpoint. Raises FileExistsError if the folder contains other things."""
    stored = load_tensors(gzip.decompress(STORED.read_bytes()))
    _write(folder, _scatter(stored))


def make_random(folder: Path) -> None:
    """Writes an untrained checkpoint: the same each time, with every next token about equally likely."""
    rng = random.Random(_RANDOM_SEED)
    tensors = {
        name: Tensor("BF16", shape, _draw(name, math.prod(shape), rng)) for name, shape in _shapes().items()
    }
    _write(folder, tensors)


# --- tensors ------------------------------------------------------------------------------------


def dump_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Returns the bytes of a safetensors file: a header in JSON, then the data in its order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + len(tensor.data)
        header[name] = {"dtype": tensor.kind, "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *(tensor.data for tensor in tensors.values())])


def load_tensors(file: bytes) -> dict[str, Tensor]:
    """Parses what `dump_tensors` returned."""
    (length,) = struct.unpack_from("<Q", file)
    header = json.loads(file[8 : 8 + length])
    header.pop("__metadata__", None)
    data = memoryview(file)[8 + length :]
    return {
        name: Tensor(about["dtype"], tuple(about["shape"]), bytes(data[slice(*about["data_offsets"])]))
        for name, about in header.items()
    }


def _scatter(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the full vocabulary, in which every id without a row of its own gets the shared row."""
    ids = struct.unpack(f"<{math.prod(stored[TOKEN_IDS].shape)}i", stored[TOKEN_IDS].data)
    tensors = {name: tensor for name, tensor in stored.items() if name != TOKEN_IDS}
    for name in VOCABULARY_MATRICES:
        rows = tensors[name]
        size = rows.shape[1] * _BYTES_OF[rows.kind]
        data = bytearray(rows.data[:size] * VOCABULARY)
        for place, token in enumerate(ids, start=1):
            data[token * size : (token + 1) * size] = rows.data[place * size : (place + 1) * size]
        tensors[name] = Tensor(rows.kind, (VOCABULARY, rows.shape[1]), bytes(data))
    return tensors


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(VOCABULARY_MATRICES, (VOCABULARY, HIDDEN))
    shapes["model.norm.weight"] = (HIDDEN,)
    for layer in range(LAYERS):
        for name, shape in _LAYER_SHAPES.items():
            shapes[f"model.layers.{layer}.{name}"] = shape
    return shapes


_LAYER_SHAPES: dict[str, tuple[int, ...]] = {
    "input_layernorm.weight": (HIDDEN,),
    "post_attention_layernorm.weight": (HIDDEN,),
    "self_attn.sinks": (HEADS,),
    "self_attn.q_proj.weight": (HEADS * HEAD_SIZE, HIDDEN),
    "self_attn.q_proj.bias": (HEADS * HEAD_SIZE,),
    "self_attn.k_proj.weight": (KEY_HEADS * HEAD_SIZE, HIDDEN),
    "self_attn.k_proj.bias": (KEY_HEADS * HEAD_SIZE,),
    "self_attn.v_proj.weight": (KEY_HEADS * HEAD_SIZE, HIDDEN),
    "self_attn.v_proj.bias": (KEY_HEADS * HEAD_SIZE,),
    "self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_SIZE),
    "self_attn.o_proj.bias": (HIDDEN,),
    "mlp.router.weight": (EXPERTS, HIDDEN),
    "mlp.router.bias": (EXPERTS,),
    "mlp.experts.gate_up_proj": (EXPERTS, HIDDEN, 2 * HIDDEN),
    "mlp.experts.gate_up_proj_bias": (EXPERTS, 2 * HIDDEN),
    "mlp.experts.down_proj": (EXPERTS, HIDDEN, HIDDEN),
    "mlp.experts.down_proj_bias": (EXPERTS, HIDDEN),
}

_ONE = b"\x80\x3f"
_SMALL = bytes(0x3C | (byte & 1) << 7 for byte in range(256))
"""Upper bytes of a bfloat16 between 2**-7 and 2**-5, of either sign; the lower byte may be any."""


def _draw(name: str, count: int, rng: random.Random) -> bytes:
    """Returns `count` weights as bfloat16: ones for a norm, otherwise small values like those of a fresh
    model."""
    if name.endswith("norm.weight"):
        return _ONE * count
    data = bytearray(rng.randbytes(2 * count))
    data[1::2] = data[1::2].translate(_SMALL)
    return bytes(data)


# --- folders ------------------------------------------------------------------------------------


def _write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    files = {
        "config.json": json.dumps(CONFIG, indent=2).encode() + b"\n",
        "model.safetensors": dump_tensors(tensors),
    }
    if _holds(folder, files):
        return
    strange = {path.name for path in folder.iterdir()} - set(files) if folder.exists() else set()
    if strange:
        raise FileExistsError(f"{folder} is no checkpoint of this project: it holds {sorted(strange)[0]}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, content in files.items():
            (aside / name).write_bytes(content)
        aside.chmod(0o755)
        _rename(aside, folder, files)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _rename(aside: Path, folder: Path, files: Mapping[str, bytes]) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    try:
        os.rename(aside, folder)
    except OSError:
        if not _holds(folder, files):  # another process was faster, and wrote something else
            raise


def _holds(folder: Path, files: Mapping[str, bytes]) -> bool:
    if not folder.is_dir() or {path.name for path in folder.iterdir()} != set(files):
        return False
    return all((folder / name).read_bytes() == content for name, content in files.items())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.model.checkpoint", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--random", action="store_true", help="weights that know nothing")
    arguments = parser.parse_args()
    (make_random if arguments.random else expand)(arguments.folder)


if __name__ == "__main__":
    main()
