"""GGUF files: dequantised to gguf-py's bits, read as they lie, written and read again."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from scratchlm.checkpoints.dequantise import BLOCKS, dequantise
from scratchlm.checkpoints.gguf import GGUFFile, load_gguf
from scratchlm.checkpoints.gguf_config import llama3_scaling, rope_factors
from scratchlm.checkpoints.gguf_names import interleaved
from scratchlm.checkpoints.gguf_write import quantise_q8_0, write_gguf
from scratchlm.errors import UserError
from scratchlm.models import ModelConfig, build_model
from scratchlm.models.layers import rotary_frequencies, rotate
from scratchlm.tokenizers import Tokenizer, tokenizer_from_gguf, train_tokenizer

from .gguf_models import LLAMA3, MODELS, small

TEXT = "It's naïve – 漢字 and 🌾.\nthe quick brown fox jumps over the lazy dog 0123456789\n"


@pytest.fixture(scope="module")
def characters() -> Tokenizer:
    return train_tokenizer("char", [TEXT])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_every_type_is_dequantised_to_the_bits_of_gguf_py(kind: str, rows: int) -> None:
    weights, size = BLOCKS[kind]
    assert (weights, size) == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    blocks = np.random.default_rng(rows).integers(0, 256, (rows, 8 * size)).astype(np.uint8)
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind]) if kind not in ("F32", "F16") else None
    if expected is None:
        expected = blocks.view({"F32": np.float32, "F16": np.float16}[kind]).astype(np.float32)
    ours = dequantise(kind, blocks).numpy()
    assert ours.shape == expected.shape == (rows, 8 * weights)
    same = (ours.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(ours) & np.isnan(expected))
    assert bool(same.all())


def test_rows_that_are_no_whole_blocks_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no whole number of Q8_0 blocks"):
        dequantise("Q8_0", np.zeros((2, 35), np.uint8))


def test_q8_0_is_quantised_to_the_bits_of_gguf_py() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(64, 96) * torch.logspace(-6, 4, 64)[:, None]
    matrix[3] = 0
    matrix[5, :32] = torch.arange(32) - 15.5  # halves
    assert (quantise_q8_0(matrix) == gguf.quants.quantize(matrix.numpy(), gguf.GGMLQuantizationType.Q8_0)).all()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_survives_being_written_and_read(name: str, characters: Tokenizer, tmp_path: Path) -> None:
    model = small(name, characters.vocab_size)
    write_gguf(model, characters, tmp_path / "m.gguf")
    file = GGUFFile(tmp_path / "m.gguf")
    assert file.metadata["general.architecture"] == MODELS[name][0]
    read, tokenizer = load_gguf(tmp_path / "m.gguf"), tokenizer_from_gguf(file.metadata)
    ids = torch.tensor([characters.encode(TEXT)[:40]])
    assert tokenizer.encode(TEXT) == characters.encode(TEXT)
    assert read.config.vocab_size == tokenizer.vocab_size == characters.vocab_size + 1, "and a token for the end"
    with torch.no_grad():
        before, after = model(ids), read(ids)
    # What is folded into a matrix is rounded to fp16 once more; GELU is known by its approximation alone.
    folded = model.config.head_bias or model.config.activation == "gelu" or model.config.embedding_scale != 1
    assert torch.allclose(after[..., :-1], before, atol=2e-2 if folded else 1e-5)
    assert bool((after[..., -1] <= after[..., :-1].max(-1).values).all()), "the end is never the likeliest"
    # The other way round nothing is left to fold: the same numbers to the bit.
    write_gguf(read, tokenizer, tmp_path / "again.gguf")
    again = load_gguf(tmp_path / "again.gguf")
    assert again.config == read.config
    for (one, a), (other, b) in zip(read.named_parameters(), again.named_parameters(), strict=True):
        assert one == other
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["tinygpt", "modern", "shakespeare"])
@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_our_presets_are_written(name: str, kind: str, characters: Tokenizer, tmp_path: Path) -> None:
    model = small(name, characters.vocab_size)
    write_gguf(model, characters, tmp_path / "m.gguf", kind=kind)
    ids = torch.tensor([characters.encode(TEXT)[:40]])
    with torch.no_grad():
        before, after = model(ids), load_gguf(tmp_path / "m.gguf")(ids)[..., :-1]
    assert float((before - after).std()) < (1e-3 if kind == "f16" else 0.05) * float(before.std())
    types = {GGUFFile(tmp_path / "m.gguf").info(n).type for n in GGUFFile(tmp_path / "m.gguf").names()}
    assert types == {"F32", "F16" if kind == "f16" else "Q8_0"}


def test_pieces_make_our_tensors_as_they_lie_in_the_file(characters: Tokenizer, tmp_path: Path) -> None:
    model = small("llama, biases", characters.vocab_size)
    write_gguf(model, characters, tmp_path / "m.gguf", kind="q8_0")
    file, read = GGUFFile(tmp_path / "m.gguf"), load_gguf(tmp_path / "m.gguf")
    for name, parameter in read.named_parameters():
        rows = []
        for piece in file.pieces(name):
            assert piece.ordered().shape == (piece.shape[0], file.raw(piece.name).blocks.size // piece.shape[0])
            rows.append(dequantise(piece.type, piece.ordered()))
        assert torch.equal(torch.cat(rows).view(parameter.shape), parameter)
        assert torch.equal(file.tensor(name), parameter)
    q, k, v = file.pieces("blocks.1.attention.qkv.weight")
    assert (q.name, k.name, v.name) == tuple(f"blk.1.attn_{part}.weight" for part in "qkv")
    assert (q.type, q.shape, k.shape) == ("Q8_0", (64, 64), (32, 64))
    assert q.order is not None
    assert k.order is not None
    assert v.order is None
    with pytest.raises(ValueError, match="has no tensor 'nope'"):
        file.pieces("nope")


def test_a_tied_head_has_the_embeddings_pieces(characters: Tokenizer, tmp_path: Path) -> None:
    write_gguf(small("llama, tied", characters.vocab_size), characters, tmp_path / "m.gguf")
    file = GGUFFile(tmp_path / "m.gguf")
    assert "output.weight" not in file.names()
    assert [piece.name for piece in file.pieces("head.weight")] == ["token_embd.weight"]
    read = load_gguf(tmp_path / "m.gguf")
    assert read.head.weight is read.embed.tokens.weight


def test_the_interleaved_rotation_of_llama_cpp_is_ours_after_the_rows_are_ordered() -> None:
    heads, size, at = 3, 8, 5.0
    ours = torch.randn(1, 1, heads, size)
    theirs = torch.empty(heads * size)
    theirs[interleaved(heads, size)] = ours.flatten()
    angles = at * rotary_frequencies(size, 10_000.0)
    pairs = theirs.view(heads, size // 2, 2)
    turned = torch.stack(
        (
            pairs[..., 0] * angles.cos() - pairs[..., 1] * angles.sin(),
            pairs[..., 1] * angles.cos() + pairs[..., 0] * angles.sin(),
        ),
        dim=-1,
    ).flatten()
    expected = rotate(ours, angles.cos()[None], angles.sin()[None]).flatten()
    assert torch.allclose(turned[interleaved(heads, size)], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "size", "theta"),
    [
        ({}, 64, 500_000.0),
        ({"original_context": 8192}, 128, 500_000.0),
        ({"original_context": 8192, "factor": 32.0}, 64, 500_000.0),
        ({"original_context": 4096, "high_freq_factor": 6.0}, 128, 10_000.0),
        ({"original_context": 100_000, "factor": 3.5}, 96, 1e6),
        ({}, 32, 500_000.0),  # one frequency lies between the borders
        ({}, 8, 1e6),  # none does
    ],
)
def test_llama_3s_scaling_is_found_from_its_factors(changes: dict, size: int, theta: float) -> None:
    scaling = LLAMA3 | changes
    config = ModelConfig(64, width=size, heads=1, positions="rotary", rope_theta=theta, rope_scaling=scaling)
    found = llama3_scaling(rope_factors(config), theta)
    assert found is not None
    again = ModelConfig(64, width=size, heads=1, positions="rotary", rope_theta=theta, rope_scaling=found)
    assert torch.allclose(rope_factors(again), rope_factors(config), rtol=1e-3)
    assert found["factor"] == pytest.approx(scaling["factor"])


def test_factors_that_follow_no_rule_are_refused_and_ones_mean_none() -> None:
    assert llama3_scaling(torch.ones(32), 10_000.0) is None
    assert llama3_scaling(torch.full((32,), 2.0), 10_000.0) == {"type": "linear", "factor": 2.0}
    with pytest.raises(UserError, match=r"rope_freqs\.weight does not follow"):
        llama3_scaling(torch.linspace(1, 9, 32), 10_000.0)
    with pytest.raises(UserError, match=r"rope_freqs\.weight holds numbers"):
        llama3_scaling(torch.full((32,), float("nan")), 10_000.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architecture": "encoder"}, "written of decoders"),
        ({"norm_placement": "post"}, "norms after each sub-layer"),
        ({"final_norm": False}, "without a final norm"),
        ({"activation": "relu"}, "the closest, gpt2, has no relu"),
        ({"positions": "rotary", "qk_norm": True, "activation": "gelu"}, "has no norm on queries and keys"),
        ({"kv_heads": 2}, "heads of another size or shared keys"),
        ({"head": "tag", "labels": ("O", "B-x")}, "gives labels; export it with --to huggingface"),
        ({"head": "reward"}, "gives rewards; export it with --to huggingface"),
    ],
)
def test_what_llama_cpp_cannot_compute_is_refused_with_the_reason(
    changes: dict, says: str, characters: Tokenizer, tmp_path: Path
) -> None:
    config = ModelConfig(characters.vocab_size, **({"width": 64, "layers": 1} | changes))
    with pytest.raises(UserError, match=says) as caught:
        write_gguf(build_model(config), characters, tmp_path / "m.gguf")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_window_becomes_the_context(characters: Tokenizer, tmp_path: Path) -> None:
    config = ModelConfig(characters.vocab_size, **(MODELS["llama"][1] | {"sliding_window": 16}))
    write_gguf(build_model(config).eval(), characters, tmp_path / "m.gguf")
    assert GGUFFile(tmp_path / "m.gguf").config().context == 16


def test_numbers_beyond_fp16_are_refused_and_fit_q8_0(characters: Tokenizer, tmp_path: Path) -> None:
    model = small("llama", characters.vocab_size)
    with torch.no_grad():
        model.blocks[0].mlp.down.weight[0, 0] = 1e6
    with pytest.raises(UserError, match=r"blk\.0\.ffn_down\.weight holds 1e\+06"):
        write_gguf(model, characters, tmp_path / "m.gguf")
    write_gguf(model, characters, tmp_path / "m.gguf", kind="q8_0")


def test_a_model_is_loaded_in_another_precision(characters: Tokenizer, tmp_path: Path) -> None:
    write_gguf(small("llama", characters.vocab_size), characters, tmp_path / "m.gguf")
    for dtype in (torch.float32, torch.bfloat16):
        read = load_gguf(tmp_path / "m.gguf", dtype)
        assert {parameter.dtype for parameter in read.parameters()} == {dtype}
        assert not read.training


def test_bert_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        30, architecture="encoder", width=32, layers=2, heads=4, ffn_width=64, context=16, qkv_bias=True,
        norm_placement="post", final_norm=False, embedding_norm=True, token_types=2, head="none", head_bias=False,
        norm_eps=1e-12, dropout=0.0,
    )  # fmt: skip
    model = build_model(config).eval()
    names = {
        "embed.tokens": "token_embd", "embed.positions": "position_embd", "embed.types": "token_types",
        "embed.norm": "token_embd_norm", "norm1": "attn_output_norm", "norm2": "layer_output_norm",
        "attention.out": "attn_output", "mlp.up": "ffn_up", "mlp.down": "ffn_down",
    }  # fmt: skip
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "bert")
    for key, value in (
        ("block_count", 2),
        ("context_length", 16),
        ("embedding_length", 32),
        ("feed_forward_length", 64),
    ):
        writer.add_uint32(f"bert.{key}", value)
    writer.add_uint32("bert.attention.head_count", 4)
    writer.add_float32("bert.attention.layer_norm_epsilon", 1e-12)
    for name, parameter in model.named_parameters():
        module, _, last = name.rpartition(".")
        prefix = ""
        if module.startswith("blocks."):
            _, number, module = module.split(".", 2)
            prefix = f"blk.{number}."
        if module == "attention.qkv":
            for part, rows in zip("qkv", parameter.chunk(3), strict=True):
                writer.add_tensor(f"{prefix}attn_{part}.{last}", rows.detach().numpy())
        else:
            writer.add_tensor(f"{prefix}{names[module]}.{last}", parameter.detach().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = load_gguf(tmp_path / "m.gguf")
    assert read.config == config
    ids = torch.randint(30, (1, 12))
    with torch.no_grad():
        assert torch.equal(read.hidden(ids), model.hidden(ids))
