"""How a checkpoint wants its vectors made: read as sentence-transformers reads it, or refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from scratchlm.checkpoints import PoolingSettings, read_pooling
from scratchlm.errors import UserError

KIND = "sentence_transformers.models."
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": KIND + "Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": KIND + "Pooling"},
]
NORMALIZE = {"idx": 2, "name": "2", "path": "2_Normalize", "type": KIND + "Normalize"}
MEAN = {"word_embedding_dimension": 8, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}


def written(folder: Path, modules: Any = None, pooling: Any = None, text: Any = None, more: Any = None) -> Path:
    (folder / "1_Pooling").mkdir()
    for name, values in (
        ("modules.json", modules),
        ("1_Pooling/config.json", pooling),
        ("sentence_bert_config.json", text),
        ("config_sentence_transformers.json", more),
    ):
        if values is not None:
            (folder / name).write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, PoolingSettings("mean", False, None)),
        ({"modules": MODULES, "pooling": MEAN}, PoolingSettings("mean", False, None)),
        ({"modules": [*MODULES, NORMALIZE], "pooling": MEAN}, PoolingSettings("mean", True, None)),
        ({"modules": MODULES, "pooling": CLS, "text": {"max_seq_length": 256}}, PoolingSettings("cls", False, 256)),
        ({"modules": MODULES, "pooling": {"pooling_mode": "cls"}}, PoolingSettings("cls", False, None)),
        ({"text": {"max_seq_length": None, "do_lower_case": True}}, PoolingSettings(lower_case=True)),
        ({"more": {"prompts": {"query": "q: "}, "default_prompt_name": None}}, PoolingSettings()),
    ],
)
def test_settings_are_read(files: dict[str, Any], expected: PoolingSettings, tmp_path: Path) -> None:
    assert read_pooling(written(tmp_path, **files)) == expected


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"modules": [*MODULES, {"path": "2_Dense", "type": KIND + "Dense"}], "pooling": MEAN}, "module 'Dense'"),
        ({"modules": MODULES, "pooling": MEAN | {"pooling_mode_max_tokens": True}}, "mean_tokens.*max_tokens"),
        ({"modules": MODULES, "pooling": {"pooling_mode": "lasttoken"}}, "lasttoken"),
        ({"modules": MODULES, "pooling": {"pooling_mode": ["mean"]}}, "asks for pooling by"),
        ({"modules": MODULES, "pooling": {}}, "asks for pooling by"),
        ({"modules": MODULES}, r"1_Pooling.config\.json is missing"),
        ({"modules": {"a": 1}}, r"modules\.json is damaged"),
        ({"modules": [MODULES[0] | {"path": "../elsewhere"}]}, "'../elsewhere', which is not beside it"),
        ({"text": {"max_seq_length": 0}}, "max_seq_length is '0'"),
        ({"text": {"do_lower_case": 1}}, "do_lower_case is '1'"),
        ({"more": {"default_prompt_name": "query"}}, "default_prompt_name is 'query'"),
    ],
)
def test_what_cannot_be_done_is_named(files: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as error:
        read_pooling(written(tmp_path, **files))
    assert "\n" not in str(error.value)


def test_minilms_settings() -> None:
    root = os.environ.get("SCRATCHLM_TEST_MODELS")
    found = sorted(Path(root).glob("**/1_Pooling")) if root else []
    if not found:
        pytest.skip("set SCRATCHLM_TEST_MODELS to a folder that holds all-MiniLM-L6-v2")
    assert read_pooling(found[0].parent) == PoolingSettings("mean", True, 256)
