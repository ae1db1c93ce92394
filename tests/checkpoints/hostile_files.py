"""Small honest models, and what it takes to spoil them; a limit on memory; a payload that would betray itself."""

from __future__ import annotations

import json
import pickle
import resource
import signal
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scratchlm.checkpoints.huggingface import save_huggingface
from scratchlm.models import Decoder, ModelConfig
from scratchlm.tokenizers import train_tokenizer

SPARE = 768 << 20
"""Bytes of address space that opening a hostile file may take: libraries' threads reserve much, and use little."""
WIDTH, LAYERS, VOCABULARY = 8, 1, 300


@contextmanager
def little_memory() -> Iterator[None]:
    """Within this block the process gets ``SPARE`` more address space and no more, and half a minute."""

    def late(*_: object) -> None:
        pytest.fail("it took more than half a minute: is it waiting for a pipe?")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.trace, "the code was run"))


def pickled(trace: Path) -> bytes:
    """What a hostile pytorch_model.bin looks like."""
    return pickle.dumps({"model.embed_tokens.weight": Payload(trace)})


def huggingface_folder(folder: Path) -> Path:
    """A tiny Llama with its tokenizer."""
    tokenizer = train_tokenizer("bpe", ["the cat sat on the mat. " * 50], vocab_size=VOCABULARY)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        context=16,
        width=WIDTH,
        layers=LAYERS,
        heads=2,
        positions="rotary",
        norm="rmsnorm",
        activation="swiglu",
        out_bias=False,
        ffn_bias=False,
        head_bias=False,
        dropout=0.0,
    )
    torch.manual_seed(0)
    save_huggingface(Decoder(config), folder, tokenizer)
    return folder


def read_json(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def change_json(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file; NaN and the like are written as Python does."""
    path.write_text(json.dumps(read_json(path) | fields), encoding="utf-8")


# -- safetensors ------------------------------------------------------------------------------------------------------


def safetensors(header: str | bytes, data: bytes = b"") -> bytes:
    """A file with this header, whatever it says."""
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text)) + text + data


def spoil_header(path: Path, name: str, **fields: Any) -> None:
    """Change what a safetensors header says about a tensor."""
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    header[name] = header[name] | fields
    path.write_bytes(safetensors(json.dumps(header), content[8 + length :]))


# -- GGUF -------------------------------------------------------------------------------------------------------------

STRING, ARRAY, FLOAT, UINT32 = 8, 9, 6, 4
Value = bytes | str | int | float | list[str]


def gguf_value(value: Value) -> bytes:
    """A value with its type before it; bytes are taken as they are."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return struct.pack("<I", STRING) + gguf_string(value)
    if isinstance(value, list):
        strings = b"".join(map(gguf_string, value))
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + strings
    return struct.pack("<If", FLOAT, value) if isinstance(value, float) else struct.pack("<II", UINT32, value)


def gguf_string(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def gguf_metadata() -> dict[str, Value]:
    """The settings of a tiny Llama with a tokenizer of 256 bytes and one merge."""
    tokens = [*_byte_letters(), "th", "<end>"]
    types = struct.pack("<IIQ", ARRAY, 5, len(tokens)) + np.array([1] * 257 + [3], "<i4").tobytes()
    return {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.context_length": 16,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": 16,
        "llama.attention.head_count": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": ["t h"],
        "tokenizer.ggml.eos_token_id": 257,
    }


def gguf_shapes() -> dict[str, tuple[int, ...]]:
    """The tensors' shapes, outermost first."""
    block = {f"attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
    block |= {"ffn_gate": (16, WIDTH), "ffn_up": (16, WIDTH), "ffn_down": (WIDTH, 16)}
    block |= {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)}
    return {
        "token_embd.weight": (258, WIDTH),
        **{f"blk.0.{name}.weight": shape for name, shape in block.items()},
        "output_norm.weight": (WIDTH,),
    }


def gguf(
    metadata: Mapping[str, Value] | None = None,
    *,
    without: str = "",
    tensors: Mapping[str, tuple[int, ...]] | None = None,
    described: Mapping[str, tuple[tuple[int, ...], int, int | None]] | None = None,
    version: int = 3,
    counts: tuple[int | None, int | None] = (None, None),
) -> bytes:
    """A GGUF file of float32 tensors.

    Args:
        metadata: more keys, or other values.
        without: a key that is left out.
        tensors: name -> shape.
        described: what the header says of a tensor instead: shape, type and offset (None: the right one).
        counts: how many tensors and keys the header claims.
    """
    keys = {name: value for name, value in (gguf_metadata() | dict(metadata or {})).items() if name != without}
    shapes = gguf_shapes() if tensors is None else tensors
    infos, data = [], b""
    for name, shape in shapes.items():
        told, kind, offset = (described or {}).get(name, (shape, 0, None))
        info = gguf_string(name) + struct.pack("<I", len(told)) + b"".join(struct.pack("<Q", n) for n in told[::-1])
        infos.append(info + struct.pack("<IQ", kind, len(data) if offset is None else offset))
        content = np.linspace(-1, 1, int(np.prod(shape)), dtype="<f4").tobytes()
        data += content + bytes(-len(content) % 32)
    claimed = [len(true) if count is None else count for count, true in zip(counts, (shapes, keys), strict=True)]
    head = b"GGUF" + struct.pack("<IQQ", version, *claimed)
    head += b"".join(gguf_string(name) + gguf_value(value) for name, value in keys.items()) + b"".join(infos)
    return head + bytes(-len(head) % 32) + data


def _byte_letters() -> list[str]:
    """How byte-level BPE spells the 256 bytes (Radford et al. 2019, encoder.py)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in plain] + [chr(256 + n) for n in range(256 - len(plain))]
