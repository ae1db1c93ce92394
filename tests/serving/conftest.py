"""A server in a thread, with a tiny chat model of random weights and an encoder, both written here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from scratchlm.adapters import LoraSettings, add_lora
from scratchlm.adapters.attach import trainable
from scratchlm.adapters.peft_format import save_adapter
from scratchlm.checkpoints import save_huggingface
from scratchlm.models import ModelConfig, build_model
from scratchlm.opening import open_model
from scratchlm.serving.server import Server
from scratchlm.serving.settings import ServerSettings

from ..agents.chat_tokenizers import CHATML, chatty
from ..cli.library import DOCUMENTS, write_encoder

CONTEXT = 1024
os.environ.setdefault("OPENAI_API_KEY", "none")


def write_chat_model(folder: Path, seed: int = 0, template: str | None = CHATML, **changes: Any) -> Path:
    """A Llama of one byte a token, whose words are noise: greedy, drawn and constrained alike."""
    words = chatty(template)
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        **{"context": CONTEXT, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_width": 48},
        **{"positions": "rotary", "norm": "rmsnorm", "activation": "swiglu", "init_std": 0.3},
        **{"out_bias": False, "ffn_bias": False, "head_bias": False, "dropout": 0.0},
    }
    save_huggingface(build_model(ModelConfig(words.vocab_size, **(shape | changes))), folder, words)
    return folder


def write_adapter(base: Path, folder: Path) -> None:
    """An adapter for a model, with weights that are not nothing."""
    opened = open_model(base)
    add_lora(opened.model, LoraSettings(rank=4))
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in trainable(opened.model).values():
            weight.normal_(0, 0.3)
    save_adapter(opened.model, folder, str(base))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models chat, other, plain (without a template) and encoder."""
    folder = tmp_path_factory.mktemp("served")
    write_chat_model(folder / "chat")
    write_chat_model(folder / "other", seed=1)
    write_chat_model(folder / "plain", template=None)
    write_encoder(folder / "encoder", DOCUMENTS.values())
    return folder


@contextmanager
def serving(
    *names: str, adapters: tuple[str, ...] = (), stores: tuple[str, ...] = (), **settings: Any
) -> Iterator[Server]:
    """A server of these models, for as long as it is wanted."""
    server = Server(
        names, adapters, ServerSettings(**({"port": 0, "memory": 1.0, "grace": 5.0} | settings)), None, stores
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()


def wait_for(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Until something is so."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            pytest.fail("it did not come to be")
        time.sleep(0.01)


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with serving(*(str(models / name) for name in ("chat", "other", "plain", "encoder"))) as found:
        yield found


@pytest.fixture
def client(server: Server) -> Any:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
