"""Vectors of texts: those of transformers with sentence-transformers' settings, whatever the batch and the path."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scratchlm import kernels
from scratchlm.checkpoints.pooling import PoolingSettings
from scratchlm.errors import UserError
from scratchlm.models import Decoder, Encoder, ModelConfig, build_model, with_head
from scratchlm.opening import open_model
from scratchlm.retrieval import Embedder, embeddings
from scratchlm.tokenizers import train_tokenizer

transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")
needs_native = pytest.mark.skipif(not kernels.available(), reason="the native code is not built here")

TEXT = "a the cat dog sat ran on under mat tree big small red and then he she it was not"
WORDS = TEXT.split()
CONTEXT = 40


def sentences(count: int, longest: int = 60, seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(1, longest))) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT as transformers writes it, with weights far enough from zero for texts to differ."""
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s", ",", "."]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
    )
    torch.manual_seed(0)
    model = transformers.BertModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0 if parameter.dim() == 1 else 5.0).add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    return folder


def pooled(folder: Path, into: Path, mode: str, *, normalise: bool, length: int | None, lower: bool = False) -> Path:
    """The folder's model with sentence-transformers' settings beside it."""
    into.mkdir()
    for file in folder.iterdir():
        (into / file.name).symlink_to(file)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalise else [])]
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds)
    ]
    (into / "modules.json").write_text(json.dumps(modules))
    (into / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", "max_tokens")}
    (into / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 64} | modes))
    settings = {"max_seq_length": length, "do_lower_case": lower}
    (into / "sentence_bert_config.json").write_text(json.dumps(settings))
    return into


def reference(
    folder: Path, texts: list[str], mode: str = "mean_tokens", normalise: bool = False, length: int | None = None
) -> NDArray[np.float32]:
    """As sentence-transformers computes them, all texts in one padded batch."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    options = {"padding": True, "truncation": True, "max_length": length or CONTEXT, "return_tensors": "pt"}
    batch = tokenizer(texts, **options)
    with torch.inference_mode():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).float()
    vectors = states[:, 0] if mode == "cls_token" else (states * mask).sum(1) / mask.sum(1)
    if normalise:
        vectors = torch.nn.functional.normalize(vectors, dim=1)
    return vectors.numpy()  # type: ignore[no-any-return]


def by_pytorch(folder: Path, **options: Any) -> Embedder:
    """An embedder that goes without native code, as with an adapter."""
    opened = open_model(folder)
    opened.model.blocks[0].register_forward_hook(lambda *_: None)  # type: ignore[union-attr]
    embedder = Embedder.open(opened, **options)
    assert embedder._reader.native is None
    return embedder


@pytest.mark.parametrize("path", ["native", "pytorch"])
@pytest.mark.parametrize(
    ("mode", "normalise", "length"),
    [("mean_tokens", True, 24), ("mean_tokens", False, None), ("cls_token", True, 9), ("cls_token", False, 512)],
)
def test_vectors_equal_the_references(
    path: str, mode: str, normalise: bool, length: int | None, folder: Path, tmp_path: Path
) -> None:
    model = pooled(folder, tmp_path / "model", mode, normalise=normalise, length=length)
    embedder = Embedder.open(model) if path == "native" else by_pytorch(model)
    texts = [*sentences(20), "", "cats, dogs and unknown öçé words.", "[SEP] cat [MASK]"]
    found = embedder.embed(texts)
    most = min(length or CONTEXT, CONTEXT)
    expected = reference(folder, texts[:-1], mode, normalise, most)
    assert found.vectors.dtype == np.float32
    np.testing.assert_allclose(found.vectors[:-1], expected, atol=1e-5, rtol=0)
    # Special tokens spelled in a text are text, where the reference would take them for a separator.
    assert np.abs(found.vectors[-1] - reference(folder, texts[-1:], mode, normalise, most)[0]).max() > 1e-3
    whole = transformers.AutoTokenizer.from_pretrained(folder)
    assert found.truncated == sum(len(whole(text)["input_ids"]) > most for text in texts)
    assert found.truncated > 0


def test_without_settings_it_is_the_mean_of_all_that_the_model_can_read(folder: Path) -> None:
    texts = sentences(5, 100)
    found = Embedder.open(folder)
    assert (found.pooling, found.max_length, found.dimensions) == (PoolingSettings(), CONTEXT, 64)
    np.testing.assert_allclose(found.embed(texts).vectors, reference(folder, texts), atol=1e-5, rtol=0)


def test_lower_case_is_for_models_that_want_it(folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    cased = tmp_path / "cased"
    cased.mkdir()
    for file in folder.iterdir():
        (cased / file.name).write_bytes(file.read_bytes())
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    state = json.loads(backend.to_str())
    state["normalizer"]["lowercase"] = False
    (cased / "tokenizer.json").write_text(json.dumps(state))
    settings = json.loads((cased / "tokenizer_config.json").read_text())
    (cased / "tokenizer_config.json").write_text(json.dumps(settings | {"do_lower_case": False}))
    for lower in (True, False):
        model = pooled(cased, tmp_path / f"lower-{lower}", "mean_tokens", normalise=False, length=None, lower=lower)
        vectors = Embedder.open(model).embed(["the cat", "The CAT"]).vectors
        assert np.array_equal(vectors[0], vectors[1]) is lower


@needs_native
def test_a_vector_does_not_depend_on_order_or_company(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = sentences(60)
    embedder = Embedder.open(folder)
    together = embedder.embed(texts).vectors
    assert np.array_equal(embedder.embed(texts[::-1]).vectors[::-1], together)
    alone = np.concatenate([embedder.embed([text]).vectors for text in texts[:10]])
    assert np.array_equal(alone, together[:10])
    monkeypatch.setattr(embeddings, "LOOK_AHEAD", 7)
    monkeypatch.setattr(embedder._reader, "batch_tokens", 50)
    assert np.array_equal(embedder.embed(texts).vectors, together)


def test_pytorch_gives_the_same_vectors_in_any_order(folder: Path) -> None:
    texts = sentences(60)
    embedder = by_pytorch(folder)
    together = embedder.embed(texts).vectors
    embedder._batch_tokens = 90
    np.testing.assert_allclose(embedder.embed(texts[::-1]).vectors[::-1], together, atol=1e-6, rtol=0)
    np.testing.assert_allclose(together, Embedder.open(folder).embed(texts).vectors, atol=1e-5, rtol=0)


@pytest.mark.parametrize("path", [pytest.param("native", marks=needs_native), "pytorch"])
def test_int8_stays_close(path: str, folder: Path) -> None:
    texts = sentences(40)
    exact = Embedder.open(folder).embed(texts).vectors
    embedder = Embedder.open(folder, "int8") if path == "native" else by_pytorch(folder, precision="int8")
    found = embedder.embed(texts).vectors
    cosines = (found * exact).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(exact, axis=1)
    assert 0.995 < cosines.min() < 0.999999


def test_auto_is_fp32(folder: Path) -> None:
    assert Embedder.open(folder).precision == Embedder.open(folder, "auto").precision == "fp32"


def test_of_a_long_text_the_beginning_is_read_and_gives_the_same(folder: Path) -> None:
    embedder = Embedder.open(folder)
    asked: list[int] = []
    encode = embedder.tokenizer.encode

    def noted(text: str, **options: Any) -> list[int]:
        asked.append(len(text))
        return encode(text, **options)

    embedder.tokenizer.encode = noted  # type: ignore[method-assign]
    for text in (
        "cat " * 100_000,
        "cat," * 100_000,
        " " * 100_000 + "the cat",  # nothing to read where it is cut
        "c" * 100_000 + " cat",
        "the cat" + " " * 100_000,
        "dog " + "s" * 90 + " cat" * 20_000,
    ):
        asked.clear()
        found = embedder.embed([text, text[:10]])
        expected = reference(folder, [text])
        np.testing.assert_allclose(found.vectors[:1], expected, atol=1e-5, rtol=0)
        assert found.truncated == (len(encode(text)) > CONTEXT - 2)
        if found.truncated:
            assert max(asked) < 2_000


def test_a_stream_comes_in_blocks_and_reads_no_further(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "LOOK_AHEAD", 10)
    embedder = Embedder.open(folder)
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield WORDS[taken % len(WORDS)]

    seen: list[int] = []
    stream = embedder.stream(endless(), seen.append)
    for blocks in range(1, 4):
        block = next(stream)
        assert (len(block.vectors), taken) == (10, 10 * blocks)
    assert seen == sorted(seen)
    assert seen[-1] == 30


@pytest.mark.parametrize("limit", ["MOST_TOKENS", "MOST_CHARACTERS"])
def test_what_is_held_of_long_texts_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(embeddings, limit, 100)
    texts = ["cat " * 20] * 12
    blocks = [len(block.vectors) for block in Embedder.open(folder).stream(texts)]
    assert sum(blocks) == 12
    assert max(blocks) <= 5


def test_no_texts_are_no_vectors(folder: Path) -> None:
    found = Embedder.open(folder).embed([])
    assert (found.vectors.shape, found.truncated) == ((0, 64), 0)


def test_one_text_is_no_list_of_texts(folder: Path) -> None:
    with pytest.raises(ValueError, match="put it into a list"):
        Embedder.open(folder).embed("cat")


def test_weights_that_are_no_numbers_are_named(folder: Path) -> None:
    opened = open_model(folder)
    with torch.no_grad():
        opened.model.blocks[1].mlp.up.weight[3, 4] = torch.nan  # type: ignore[union-attr]
    for precision in ("fp32", "int8"):
        with pytest.raises(UserError, match=r"blocks\.1\.mlp\.up\.weight holds something that is no number"):
            Embedder.open(opened, precision)  # type: ignore[arg-type]


def test_a_vector_without_finite_numbers_is_told_with_its_text(folder: Path) -> None:
    embedder = Embedder.open(folder)
    model = open_model(folder).model
    with torch.no_grad():
        model.embed.tokens.weight[5 + WORDS.index("tree")] = 3e38  # type: ignore[union-attr]
    embedder = Embedder(model, embedder.tokenizer, name="wild")
    assert embedder.embed(["the cat"]).vectors.shape == (1, 64)
    with pytest.raises(UserError, match="wild: the vector of text 2 has no finite numbers"):
        embedder.embed(["the cat", "the tree", "a dog"])


def made_here(kind: str, architecture: str) -> tuple[Any, Any]:
    tokenizer = train_tokenizer(kind, ["the cat sat on the mat"])
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, context=16, width=32, layers=2, heads=4, architecture=architecture
    )
    return build_model(config), tokenizer


def test_a_decoder_gives_the_mean_of_its_states() -> None:
    model, tokenizer = made_here("char", "decoder")
    assert isinstance(model, Decoder)
    found = Embedder(model, tokenizer).embed(["the cat", "mat", "the cat sat on the mat"])
    with torch.inference_mode():
        expected = model.hidden(torch.tensor([tokenizer.encode("mat")]))[0].mean(0)
    np.testing.assert_allclose(found.vectors[1], expected, atol=1e-5, rtol=0)
    assert found.truncated == 1


def test_mistakes_are_told_in_a_line(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = made_here("char", "encoder")
    assert isinstance(model, Encoder)
    ours = Embedder(model, tokenizer, name="runs/mine")
    with pytest.raises(UserError, match=r"text 2: .*'q'"):
        ours.embed(["the cat", "q"])
    with pytest.raises(UserError, match=r"text 1 is empty, and runs/mine puts no token"):
        ours.embed([""])
    with pytest.raises(UserError, match="no precision 'int2' for vectors"):
        Embedder.open(folder, "int2")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="none of them a text's"):
        Embedder.open(pooled(folder, tmp_path / "two", "mean_tokens", normalise=False, length=2))
    opened = open_model(folder)
    tagger = with_head(opened.model, "tag", ("O", "B-x"))
    with pytest.raises(UserError, match="news gives labels, no vectors; use: scratchlm predict news"):
        Embedder(tagger, opened.tokenizer, name="news")
    seq2seq, tokenizer = made_here("char", "seq2seq")
    with pytest.raises(UserError, match="encoder-decoder"):
        Embedder(seq2seq, tokenizer)


def test_minilm_equals_the_reference() -> None:
    root = os.environ.get("SCRATCHLM_TEST_MODELS")
    found = sorted(Path(root).glob("**/1_Pooling")) if root else []
    if not found:
        pytest.skip("set SCRATCHLM_TEST_MODELS to a folder that holds all-MiniLM-L6-v2")
    model = found[0].parent
    texts = ["A cat sat on the mat.", "", "Zürich, 2024: naïve café 東京 🙂", *(s * 8 for s in sentences(5))]
    exact = Embedder.open(model)
    assert (exact.max_length, exact.dimensions, exact.pooling.normalise) == (256, 384, True)
    vectors = exact.embed(texts).vectors
    np.testing.assert_allclose(vectors, reference(model, texts, normalise=True, length=256), atol=1e-5, rtol=0)
    np.testing.assert_allclose(by_pytorch(model).embed(texts).vectors, vectors, atol=1e-5, rtol=0)
    assert (Embedder.open(model, "int8").embed(texts).vectors * vectors).sum(1).min() >= 0.995
