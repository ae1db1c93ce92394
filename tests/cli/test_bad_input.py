"""A user's mistake gets one line that names the cause and the cure, and leaves nothing half-written."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from scratchlm.cli.main import app

from .conftest import Command

COMMANDS = {str(command.name) for command in app.registered_commands}

TABLE: list[tuple[str, str]] = [
    # what is typed; words that the line must have, split at |
    ("sing", "no such command 'sing'|scratchlm --help"),
    ("pull gpt2", "no such command 'pull'; did you mean 'models pull'? (see: scratchlm --help)"),
    ("replay x", "did you mean 'traces replay'?"),
    ("trian tinygpt", "did you mean 'train'"),
    ("--verbose", "no such option|--verbose"),
    # train
    ("train", "PRESET|scratchlm train --help"),
    ("train tinygpt", "--out"),
    ("train tinygpt --out new --sett steps=3", "--sett|--set"),
    ("train tinygtp --out new", "tinygtp|did you mean 'tinygpt'"),
    ("train gpt5 --out new", "gpt5|choose one of: tinybert"),
    ("train tinygpt --out new --data nope.txt", "nope.txt|no file, folder or corpus"),
    ("train tinygpt --out new --data rumy", "rumy|did you mean 'rumi'"),
    ("train tinygpt --out new --data no/such/folder/text.txt", "no/such/folder|does not exist"),
    ("train tinygpt --out new --data empty.txt", "empty.txt is empty|give"),
    ("train tinygpt --out new --data blank.txt", "blank.txt|white space|give"),
    ("train tinygpt --out new --data binary.txt", "binary.txt|binary|UTF-8"),
    ("train tinygpt --out new --data utf16.txt", "utf16.txt|UTF-16|iconv"),
    ("train tinygpt --out new --data latin1.txt", "latin1.txt|UTF-8|iconv"),
    ("train tinygpt --out new --data short.txt", "short|context"),
    ("train tinygpt --out new --data no-text", "no-text|.txt"),
    ("train tinygpt --out new --data rumi --set validation_fraction=0.01", "validation|65|lower context"),
    ("train tinygpt --out new --data tail.txt --set validation_fraction=0.3", "tail.txt, line 21|unknown=token"),
    ("train tinygpt --out text.txt", "text.txt is a file|--out"),
    ("train tinygpt --out text.txt/new", "text.txt/new|folder"),
    ("train tinygpt --out no-text", "already holds files|--out"),
    ("train tinygpt --out gpt", "already holds a run|--resume"),
    ("train tinybert --out gpt --resume", "tinygpt|new folder"),
    ("train tinygpt --out gpt --resume --data text.txt", "rumi|new folder"),
    ("train tinygpt --out gpt --resume --set learning_rate=0.5", "learning_rate|new folder"),
    ("train tinygpt --out gpt --resume --set width=32", "width|new folder"),
    ("train tinygpt --out new --set stepz=3", "--set|stepz|did you mean 'steps'"),
    ("train tinygpt --out new --set steps", "key=value"),
    ("train tinygpt --out new --set steps=many", "steps|many|whole number"),
    ("train tinygpt --out new --set steps=0", "steps is 0|at least 1"),
    ("train tinygpt --out new --set steps=10 --set warmup_steps=10", "warmup_steps|lower"),
    ("train tinygpt --out new --set learning_rate=-1", "learning_rate|above 0"),
    ("train tinygpt --out new --set learning_rate=nan", "learning_rate|above 0"),
    ("train tinygpt --out new --set optimizer=sgd", "optimizer|adamw"),
    ("train tinygpt --out new --set tokenizer=words", "tokenizer|word"),
    ("train tinygpt --out new --set device=warp", "warp|device=cpu"),
    ("train tinygpt --out new --set width=30", "width 30|heads"),
    ("train tinygpt --out new --set dropout=1.5", "dropout|1"),
    ("train tinygpt --out new --set depth=3", "depth|modern"),
    ("train tinygpt --out new --set seed=-1", "seed|at least 0"),
    ("train modern --out new --data text.txt --set tokenizer_vocab_size=5", "5|25"),
    ("train tinygpt --out new --config nope.yaml", "nope.yaml|--config"),
    ("train tinygpt --out new --config broken.yaml", "broken.yaml, line 3|steps: 200"),
    ("train tinygpt --out new --config list.yaml", "list.yaml|steps: 200"),
    ("train tinygpt --out new --config unknown.yaml", "unknown.yaml|stepz|did you mean 'steps'"),
    ("train tinygpt --out new --config no-text", "no-text|--config"),
    ("train transformer --out new --data text.txt", "text.txt, line 1|tab"),
    ("train transformer --out new --data no-text", "no-text is a folder|tab"),
    ("train transformer --out new --data nope.txt", "nope.txt|tab"),
    # eval
    ("eval", "MODEL|scratchlm eval --help"),
    ("eval nope", "'nope'|scratchlm train"),
    ("eval text.txt", "text.txt|not a run"),
    ("eval no-text", "no-text is not a run|--out"),
    ("eval broken-weights", "model.safetensors|damaged|train"),
    ("eval other-weights", "embed.tokens.weight|shape|another model"),
    ("eval no-weights", "no-weights|--resume"),
    ("eval no-tokenizer", "tokenizer.json|missing"),
    ("eval broken-description", "scratchlm.json|train the run again"),
    ("eval later-format", "format 99"),
    ("eval no-data", "data|--data"),
    ("eval gpt --data nope.txt", "nope.txt"),
    ("eval gpt --data greek.txt", "greek.txt, line 2|λ|unknown=token"),
    ("eval gpt --data one.txt", "1 tokens|longer"),
    ("eval gpt --windows some", "--windows|apart"),
    ("eval gpt --max-tokens -5", "--max-tokens|0"),
    ("eval dates --data text.txt", "text.txt, line 1|tab"),
    ("eval dates --data rumi", "rumi|tab"),
    # generate
    ("generate gpt", "--prompt"),
    ("generate nope --prompt Rumi", "'nope'|scratchlm train"),
    ("generate gpt --prompt λόγος", "λ|unknown=token"),
    ("generate gpt --prompt Rumi --temperature -1", "temperature|0.8"),
    ("generate gpt --prompt Rumi --temperature nan", "temperature|0.8"),
    ("generate gpt --prompt Rumi --top-k -3", "top_k|0 for all"),
    ("generate gpt --prompt Rumi --top-k few", "--top-k|integer"),
    ("generate gpt --prompt Rumi --top-p 2", "top_p|at most 1"),
    ("generate gpt --prompt Rumi --min-p 2", "min_p|0"),
    ("generate gpt --prompt Rumi --repetition-penalty 0", "repetition_penalty|1"),
    ("generate gpt --prompt Rumi --precision int3", "int3|int4"),
    ("generate gpt --prompt Rumi --speculate -1", "speculate|0"),
    ("generate gpt --prompt Rumi --json --logprobs -1", "log_probabilities|0"),
    ("generate gpt --prompt Rumi --beams 2 --samples 3", "2 beams|3 texts"),
    ("generate gpt --prompt Rumi --beams -1", "beams|texts"),
    ("generate gpt --prompt Rumi --beams 2 --top-k 3", "beam search|--beams"),
    ("generate bert --prompt Rumi --beams 2", "fill"),
    ("chat", "MODEL|scratchlm chat --help"),
    ("chat nope", "'nope'|scratchlm train"),
    ("generate gpt --prompt Rumi --schema nope.json", "nope.json|cannot be read|JSON"),
    ("generate gpt --prompt Rumi --schema '{\"type\"'", "schema|no JSON"),
    ('generate gpt --prompt Rumi --schema \'{"type": "strin"}\'', "schema is wrong at type|strin"),
    ("generate gpt --prompt Rumi --schema '{\"not\": {}}'", "schema cannot be used|not"),
    ('generate gpt --prompt Rumi --schema \'{"type": "object"}\'', "cannot be met|no '{'"),
    ("generate gpt --prompt Rumi --schema text.txt", "schema|no JSON"),
    ("generate gpt --prompt Rumi --schema utf16.txt", "utf16.txt|not UTF-8"),
    ("generate gpt --prompt Rumi --schema no-text", "no-text|cannot be read"),
    ("generate gpt --prompt Rumi --regex '('", "regular expression|unclosed"),
    ("generate gpt --prompt Rumi --regex 'a(?=b)'", "regular expression|look-around"),
    ("generate gpt --prompt Rumi --regex ''", "regular expression is empty"),
    ("generate gpt --prompt Rumi --regex '[0-9]{30}' --max-new-tokens 20", "at least 30|max_new_tokens is 20"),
    ("generate gpt --prompt Rumi --choice ''", "choices|none empty"),
    ("generate gpt --prompt Rumi --choice 'λ'", "cannot be met|'λ'"),
    ("generate gpt --prompt Rumi --choice Rumi --max-new-tokens 3", "at least 4|max_new_tokens is 3"),
    ("generate gpt --prompt Rumi --choice a --regex b", "one of|--choice"),
    ("generate gpt --prompt Rumi --choice a --beams 2", "beam search"),
    ("generate gpt --prompt Rumi --grammar nope.lark", "nope.lark|cannot be read"),
    ("generate gpt --prompt Rumi --grammar text.txt", "grammar cannot be used"),
    ("generate gpt --prompt Rumi --grammar empty.txt", "grammar is empty"),
    ("chat gpt --schema nope.json", "nope.json|cannot be read"),
    ("chat gpt", "chat template|scratchlm generate gpt"),
    ("chat bert", "chat template|fill"),
    ("chat gpt --temperature -1", "temperature|0.8"),
    ("chat gpt --precision int3", "int3|int4"),
    ("generate gpt --prompt Rumi --samples 0", "samples|1 or more"),
    ("generate gpt --prompt Rumi --max-new-tokens -1", "max_new_tokens|0 or more"),
    ("generate gpt --prompt Rumi --seed -1", "seed|at least 0"),
    ("generate gpt --prompt Rumi --stop ''", "stop|empty"),
    ("mcp", "nothing is offered|--store|--model"),
    ("mcp --tools calculator", "--model"),
    ("mcp --store nowhere", "nowhere"),
    ("mcp --model bert", "no decoder|chat model"),
    ("mcp --model gpt", "no chat template|chat model"),
    ("mcp --model nope", "'nope'|scratchlm train"),
    ("mcp --model gpt --host 0.0.0.0", "--port"),
    ("mcp --model gpt --port 99999", "port|65535"),
    ("mcp --model gpt --port 8001 --host 0.0.0.0", "0.0.0.0|--key-file|--open"),
    ("mcp --model gpt --port 8001 --key-file nope.txt", "nope.txt|--key-file"),
    ("serve", "MODEL|scratchlm serve --help"),
    ("serve nope", "'nope'|scratchlm train"),
    ("serve gpt gpt", "two models|NAME=gpt"),
    ("serve gpt --adapter bert", "bert is no adapter|--adapter"),
    ("serve gpt --host 0.0.0.0", "0.0.0.0|--key-file|--open"),
    ("serve gpt --port 99999", "port|65535"),
    ("serve gpt --key-file nope.txt", "nope.txt|--key-file"),
    ("serve gpt --key-file text.txt", "16 ASCII|openssl"),
    ("serve gpt --cors chat.example", "origin|https://"),
    ("serve gpt --slots 0", "slots|at least 1"),
    ("serve gpt --context 1", "context|at least 16"),
    ("serve gpt --memory 0.000001", "GB|--slots|--memory"),
    ("serve gpt --precision int3", "int3|int4"),
    ("serve gpt --store nowhere", "nowhere|scratchlm index"),
    ("serve gpt --runs text.txt", "text.txt is a file|--runs"),
    ("serve gpt --studio-dir text.txt", "text.txt is a file|--studio-dir"),
    ("predict bert --text Rumi", "bert"),
    ("finetune nowhere --data no.jsonl --out new", "no.jsonl"),
    ("finetune gpt --data no.jsonl --method prefix --out new", "prefix|full, lora, qlora"),
    ("generate bert --prompt Rumi", "does not continue text|fill"),
    ("generate dates --prompt ''", "empty|source"),
    # fill
    ("fill bert", "--text"),
    ("fill gpt --text [MASK]", "generate|tinybert"),
    ("fill bert --text Rumi", "[MASK]|Rumi was a [MASK]"),
    ("fill bert --text 'Rumi likes [MASK]'", "likes|unknown=token"),
    ("fill bert --text 'Rumi was [MASK]' --top-k 0", "top_k|1 or more"),
    # embed; more in test_embed.py
    ("embed", "MODEL|scratchlm embed --help"),
    ("embed nope --text Rumi", "'nope'|scratchlm train"),
    # retrieval; more in test_retrieval_mistakes.py
    ("index", "DOCS|scratchlm index --help"),
    ("search Rumi", "--store"),
    ("ask Rumi", "--store"),
    ("rag-eval --store store", "--queries"),
    ("rag-sweep", "DOCS|scratchlm rag-sweep --help"),
    # teach-reader
    ("teach-reader", "MODEL|scratchlm teach-reader --help"),
    ("teach-reader gpt", "--out"),
    ("teach-reader nope --out new", "'nope'|scratchlm train"),
    ("teach-reader bert --out new", "bert is no decoder|choose one"),
    ("teach-reader gpt --out new --data nope.txt", "nope.txt"),
    ("teach-reader gpt --out new --data text.txt", "text.txt, line 1|== NAME"),
    ("teach-reader gpt --out new --embedder nope", "'nope'|scratchlm train"),
    ("teach-reader gpt --out new --set stepz=3", "--set|stepz|did you mean 'steps'"),
    # teach-tools
    ("teach-tools", "MODEL|scratchlm teach-tools --help"),
    ("teach-tools gpt", "--out"),
    ("teach-tools nope --out new", "'nope'|scratchlm train"),
    ("teach-tools bert --out new", "bert is no decoder|choose one"),
    ("teach-tools gpt --out new", "no chat template|chat model"),
    ("teach-tools gpt --out new --rows 3", "rows is 3|at least 16"),
    ("teach-tools gpt --out new --rollouts -1", "rollouts is -1|at least 0"),
    ("teach-tools gpt --out new --set stepz=3", "--set|stepz|did you mean 'steps'"),
    # plot
    ("plot nope", "'nope'|scratchlm train"),
    ("plot no-metrics", "metrics.jsonl|run"),
    ("plot broken-metrics", "metrics.jsonl, line 1|delete"),
    ("plot gpt --text ''", "empty|words"),
    ("plot gpt --text λόγος", "λ|unknown=token"),
    ("plot gpt --out text.txt", "text.txt|folder"),
    ("plot dates --text 1.2.1999", "encoder-decoder|encoder"),
    ("plot tinygpt --text Rumi", "preset|run"),
    ("plot gpt --lens", "text|--text"),
    ("plot tinygpt --vocab-size 0", "--vocab-size|2"),
    # align; more in alignment/test_align_mistakes.py
    ("align", "missing argument|scratchlm align --help"),
    ("align sing gpt --data text.txt --out new", "no goal 'sing'|reward, dpo, ppo, grpo"),
    # bench, demo
    ("bench", "NAME"),
    ("bench train-tinygtp", "did you mean 'train-tinygpt'"),
    ("bench everything", "choose one of: train-tinygpt"),
    ("doctor now", "unexpected extra argument|scratchlm doctor --help"),
    ("doctor --fast", "--fast|scratchlm doctor --help"),
    ("demo --out text.txt", "text.txt|folder"),
    ("demo --out no-text", "no-text/tinygpt|--out"),
    # agent
    ("agent", "there is no task|scratchlm agent"),
    ("agent ' '", "there is no task"),
    ("agent Hi --model gpt", "no chat template|chat model"),
    ("agent Hi --model bert", "no decoder|chat model"),
    ("agent Hi --model gtp", "gtp"),
    ("agent Hi --tools calculater", "calculater|did you mean calculator"),
    ("agent Hi --tools files", "files needs a place|files:FOLDER"),
    ("agent Hi --tools files:nowhere", "nowhere"),
    ("agent Hi --tools calculator,calculator", "two tools are called calculator"),
    ("agent Hi --tools table:nope.csv", "nope.csv"),
    ("agent Hi --endpoint nowhere", "nowhere|http://"),
    ("agent Hi --endpoint http://127.0.0.1:9/v1 --model x", "127.0.0.1:9|cannot be reached"),
    ("agent Hi --max-steps 0", "max_steps is 0|at least 1"),
    ("agent Hi --max-new-tokens -1", "max_new_tokens is -1|at least 1"),
    ("agent Hi --max-seconds 0", "max_seconds is 0|above 0"),
    ("agent Hi --max-tokens 0", "max_tokens is 0|at least 1"),
    ("agent Hi --temperature -1", "temperature is -1"),
    ("agent --resume", "--resume needs --state"),
    ("agent Hi --resume --state x.json", "leave TASK out"),
    ("agent --resume --state nope.json", "nope.json is not there|leave --resume out"),
    ("agent --resume --state text.txt", "text.txt is no state"),
    ("agent Hi --state text.txt", "text.txt holds a run already|--resume"),
    ("agent Hi --mcp no-such-server", "no-such-server|there is no program no-such-server"),
    ("agent Hi --mcp ' '", "an MCP server is a command or an address"),
    ("agent Hi --mcp http://127.0.0.1:9/mcp", "127.0.0.1:9|connection attempts failed"),
    ("agent Hi --mcp-env HOME", "--mcp-env needs --mcp"),
    ("agent Hi --mcp x --mcp-env NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE is not set"),
    ("agent Hi --secret NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE is not set"),
    ("agent Hi --step 3", "--step|--max-steps"),
    ("agent Hi --openapi nope.yaml", "no file nope.yaml|OpenAPI document"),
    ("agent Hi --openapi text.txt", "text.txt|holds no object|give another file"),
    ("agent Hi --openapi no-text", "no-text cannot be read|OpenAPI document"),
    ("agent Hi --openapi http://127.0.0.1:9/api.json", "127.0.0.1, which is not public|give a file"),
    ("agent Hi --openapi swagger.json", "Swagger 2.0|convert it to OpenAPI 3"),
    ("agent Hi --openapi towns.json", "does not say on which server|--base-url"),
    ("agent Hi --openapi towns.json --base-url towns", "the base URL is wrong|https://"),
    ("agent Hi --openapi towns.json --operations tows", "no operation 'tows'|did you mean towns"),
    ("agent Hi --openapi towns.json --operations ,", "no operation of towns.json is named|leave the choice out"),
    ("agent Hi --operations towns", "--operations needs --openapi"),
    ("agent Hi --base-url http://a.example", "--base-url needs --openapi"),
    ("agent Hi --openapi keyed.json --operations towns", "SCRATCHLM_KEY_MINE|the key"),
    (
        "agent Hi --openapi twice.json --tools calculator --base-url http://a.example --endpoint http://127.0.0.1:9/v1 "
        "--model x",
        "two tools are called calculator",
    ),
    # traces
    ("traces sho x", "no such command 'sho'"),
    ("traces show", "FILE"),
    ("traces show nope.jsonl", "there is no trace nope.jsonl|--trace"),
    ("traces show text.txt", "text.txt:1 is no line of a trace"),
    ("traces show empty.txt", "empty.txt holds no run"),
    ("traces show binary.txt", "binary.txt cannot be read|UTF-8"),
    ("traces replay text.txt", "text.txt:1 is no line of a trace"),
    ("traces to-sft nope.jsonl --out new.jsonl", "there is no trace nope.jsonl"),
    ("traces to-sft text.txt", "--out"),
    ("traces spans nope.jsonl", "there is no trace nope.jsonl"),
]


@pytest.fixture(scope="session")
def mistakes(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the table names."""
    folder = tmp_path_factory.mktemp("mistakes")
    shutil.copytree(runs, folder, dirs_exist_ok=True)
    text = "Rumi was a poet. He wrote in Persian.\n" * 20
    files: dict[str, bytes] = {
        "text.txt": text.encode(),
        "empty.txt": b"",
        "blank.txt": b" \n\n\t ",
        "binary.txt": bytes(range(256)) * 8,
        "utf16.txt": text.encode("utf-16"),
        "latin1.txt": ("Jal\u00e4l " * 200).encode("latin-1"),
        "short.txt": b"Rumi was a poet.",
        "tail.txt": (text + "Stra\u00dfe " * 40).encode(),
        "greek.txt": "Rumi\nλόγος Rumi was a poet\n".encode(),
        "one.txt": b"R",
        "broken.yaml": b"steps: 3\nbatch_size: [1,\n",
        "list.yaml": b"- steps\n- 3\n",
        "unknown.yaml": b"stepz: 3\n",
        "swagger.json": b'{"swagger": "2.0"}',
        "towns.json": b'{"openapi": "3.1.0", "paths": {"/towns": {"get": {"operationId": "towns"}}}}',
        "twice.json": b'{"openapi": "3.1.0", "paths": {"/towns": {"get": {"operationId": "calculator"}}}}',
        "keyed.json": b'{"openapi": "3.1.0", "paths": {"/towns": {"get": {"operationId": "towns"}}}, '
        b'"security": [{"mine": []}], '
        b'"components": {"securitySchemes": {"mine": {"type": "apiKey", "in": "header", "name": "X-Key"}}}}',
        "no-text/picture.png": b"\x89PNG",
        "no-text/tinygpt/notes.txt": b"mine",
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "no-text" / "tinygpt" / "notes.txt").rename(folder / "no-text" / "tinygpt" / "notes.doc")
    for name in (
        *("broken-weights", "other-weights", "no-weights", "no-tokenizer", "broken-description", "later-format"),
        *("no-data", "no-metrics", "broken-metrics", "damaged-checkpoint"),
    ):
        shutil.copytree(folder / "gpt", folder / name)
    weights = (folder / "gpt" / "model.safetensors").read_bytes()
    (folder / "broken-weights" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    shutil.copy(folder / "bert" / "model.safetensors", folder / "other-weights")
    (folder / "no-weights" / "model.safetensors").unlink()
    (folder / "no-tokenizer" / "tokenizer.json").unlink()
    (folder / "broken-description" / "scratchlm.json").write_text("{")
    description = json.loads((folder / "gpt" / "scratchlm.json").read_text())
    (folder / "later-format" / "scratchlm.json").write_text(json.dumps({**description, "format": 99}))
    shutil.rmtree(folder / "no-data" / "data")
    (folder / "no-metrics" / "metrics.jsonl").unlink()
    (folder / "broken-metrics" / "metrics.jsonl").write_text('{"step": \n{"step": 2, "loss": 1}\n')
    (checkpoint,) = (folder / "damaged-checkpoint" / "checkpoints").iterdir()
    (checkpoint / "optimizer.safetensors").write_bytes(b"nothing")
    return folder


def _contents(folder: Path) -> dict[str, int]:
    """Every file and folder with its size; a lock's coming and going is no writing."""
    return {str(path.relative_to(folder)): path.stat().st_size if path.is_file() else -1 for path in folder.rglob("*")}


@pytest.mark.parametrize(("line", "words"), TABLE, ids=[line for line, _ in TABLE])
def test_a_mistake_gets_one_line_and_leaves_nothing(
    line: str, words: str, command: Command, mistakes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mistakes)
    before = _contents(mistakes)
    outcome = command(*shlex.split(line))
    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err.endswith("\n")
    (told,) = outcome.err.splitlines()
    assert told.startswith("error: ")
    assert [word for word in words.split("|") if word not in told] == [], told
    assert _contents(mistakes) == before


def test_the_table_is_long_and_covers_every_command() -> None:
    assert len(TABLE) >= 40
    assert {line.split()[0] for line, _ in TABLE} >= COMMANDS


def test_a_damaged_checkpoint_is_told_before_a_step_is_taken(command: Command, mistakes: Path) -> None:
    outcome = command("train", "tinygpt", "--out", str(mistakes / "damaged-checkpoint"), "--resume")
    assert outcome.status == 2
    told = outcome.err.splitlines()[-1]
    assert told.startswith("error: ")
    assert "optimizer.safetensors is damaged" in told
    assert "delete the folder" in told
    assert "step " not in outcome.err.replace("step-", "")


def test_memory_that_does_not_suffice_is_a_mistake_like_any_other(command: Command, tmp_path: Path) -> None:
    outcome = command("train", "tinygpt", "--out", str(tmp_path / "new"), "--set", "width=4194304")
    assert outcome.status == 2
    assert outcome.err.startswith("error: there is not enough memory; lower width")
    assert list(tmp_path.iterdir()) == []


def test_outside_a_clone_the_benchmarks_are_told_to_be_absent(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scratchlm.cli.bench.__file__", str(tmp_path / "a" / "b" / "c" / "d" / "bench.py"))
    outcome = command("bench", "train-tinygpt")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == (
        "error: the benchmarks are not installed with the package; run this inside a clone of the project\n"
    )
