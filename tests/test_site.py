"""The site: it builds strictly, its links lead somewhere, and each command that any page shows can be typed."""

from __future__ import annotations

import html.parser
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest
import typer

from scratchlm.cli.main import app
from scratchlm.cli.main import run as run_program

from .test_docs import PAGES, ROOT, blocks

SITE_SOURCE = ROOT / "docs" / "site"
TEXTS = [ROOT / "README.md", *PAGES]
INLINE = re.compile(r"(?<!`)`(scratchlm [a-z][^`\n]*)`")


@pytest.fixture(scope="module", autouse=True)
def _makers() -> Iterator[None]:
    """The scripts that generate pages lie beside the book, not in a package."""
    sys.path.insert(0, str(SITE_SOURCE))
    yield
    sys.path.remove(str(SITE_SOURCE))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Page(html.parser.HTMLParser):
    """The ids of a page, its links, and what a browser fetches to show it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids |= {name for key in ("id", "name") if (name := given.get(key))}
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if tag in ("script", "img", "iframe") and given.get("src"):
            self.fetched.append(str(given["src"]))
        if tag == "link" and given.get("rel") in ("stylesheet", "preconnect", "icon"):
            self.fetched.append(str(given.get("href")))


@pytest.mark.slow
def test_no_link_of_the_site_is_broken(site: Path) -> None:
    pages = {path: _Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            address, anchor = urldefrag(link)
            if "://" in address or address.startswith("mailto:"):
                continue
            target = (path.parent / unquote(address)).resolve() if address else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (anchor and target in pages and unquote(anchor) not in pages[target].ids):
                wrong.append(f"{path.relative_to(site)} -> {link}")
    assert len(pages) > len(PAGES)
    assert wrong == []


@pytest.mark.slow
def test_the_readmes_anchors_are_on_the_site(site: Path) -> None:
    for target in re.findall(r"\]\((docs/[^)]*)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        address, anchor = urldefrag(target.removeprefix("docs/"))
        page = site / address.removesuffix(".md") / "index.html" if address != "index.md" else site / "index.html"
        assert page.exists(), target
        assert not anchor or anchor in _Page(page).ids, target


@pytest.mark.slow
def test_a_reader_without_a_network_sees_everything(site: Path) -> None:
    fetched = {address for path in site.rglob("*.html") for address in _Page(path).fetched}
    assert fetched
    assert [address for address in fetched if "//" in address] == []


def test_every_verb_has_its_page() -> None:
    import command_pages

    pages = command_pages.pages()
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert sorted(pages) == sorted(["commands/index.md", *(f"commands/scratchlm-{name}.md" for name in verbs)])
    for name, verb in verbs.items():
        page = pages[f"commands/scratchlm-{name}.md"]
        options = [option for part in _parts(verb) for one in part.params for option in one.opts if option[:2] == "--"]
        assert [option for option in options if option not in page] == [], name


def _parts(verb: Any) -> list[Any]:
    return list(getattr(verb, "commands", {}).values()) or [verb]


def test_every_room_and_every_export_is_in_the_reference() -> None:
    import reference_pages

    import scratchlm

    pages = reference_pages.pages()
    rooms = {path.name for path in (ROOT / "src" / "scratchlm").iterdir() if (path / "__init__.py").exists()}
    assert [room for room in rooms - {"cli"} if f"reference/{room}.md" not in pages] == []
    exports = set(scratchlm.__all__) - {"__version__"}
    assert [name for name in exports if f"[`{name}`][scratchlm." not in pages["reference/index.md"]] == []


def test_every_measurement_is_on_its_page() -> None:
    import measurement_page

    (page,) = measurement_page.pages().values()
    results = [path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")]
    assert [name for name in results if f"## {name}\n" not in page] == []


# What is typed; each of these fails before any model is opened.
MISTAKES = [
    "train tinygtp --out new",
    "train tinygpt --out new --data nope.txt",
    "train tinygpt --out new --set steps=0",
    "train tinygpt --out new --set learning_rate=-1",
    "train tinygpt --out new --set stepz=3",
    "generate no-such-folder/run --prompt x",
    "models export tinygpt --to gguf --out new",
    "search x --store nowhere",
    "traces show nothing.jsonl",
    "bench no-such-benchmark",
]


@pytest.mark.parametrize("typed", MISTAKES)
def test_what_the_program_says_is_in_the_error_index(
    typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_program(shlex.split(typed)) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1].removeprefix("error: ")
    matching = [one for one in _messages() if len("".join(one.pieces)) > 12 and one.pattern.fullmatch(line)]
    assert matching, line


@cache
def _messages() -> list[Any]:
    import error_index

    return error_index.messages()


def test_each_message_of_the_index_stands_where_it_says() -> None:
    for one in _messages():
        place = (ROOT / one.path).read_text(encoding="utf-8").splitlines()[one.line - 1 : one.line + 30]
        words = max(re.findall(r"[A-Za-z]+", "".join(p for p in one.pieces if p != "\0")), key=len)
        assert words in "\n".join(place), f"{one.path}:{one.line} {one.text}"


def test_a_message_is_read_with_its_holes(tmp_path: Path) -> None:
    import error_index

    source = tmp_path / "src" / "scratchlm" / "room"
    source.mkdir(parents=True)
    text = 'raise UserError(f"{name} is {what!r}" + ("; give one" if a else "; take one"))\n'
    text += "raise UserError(str(error))\n"
    (source / "file.py").write_text(text, encoding="utf-8")
    found = error_index.messages(tmp_path / "src" / "scratchlm")
    assert [(one.wrong, one.cure, one.room, one.line) for one in found] == [
        ("{name} is {what}", "give one", "room", 1),
        ("{name} is {what}", "take one", "room", 1),
    ]
    assert found[0].pattern.fullmatch("steps is 'x'; give one")


def shown_commands(page: str) -> Iterator[list[str]]:
    """The words after ``scratchlm`` of each command in a page's shell blocks."""
    for block in blocks(page):
        if block.language != "bash":
            continue
        text = re.sub(r"<<'?(\w+)'?.*?^\1$", "", block.body.replace("\\\n", " "), flags=re.DOTALL | re.MULTILINE)
        for line in text.splitlines():
            words = shlex.split(line, comments=True) if line.count("'") % 2 == 0 and line.count('"') % 2 == 0 else []
            if "scratchlm" in words and words[0] not in ("podman", "docker"):  # whose image is called so, too
                yield _until_shell(words[words.index("scratchlm") + 1 :])


def _until_shell(words: list[str]) -> list[str]:
    """Without what is the shell's: redirections, pipes, what comes after."""
    ends = [n for n, word in enumerate(words) if re.fullmatch(r"\d?>.*|<|\||\|\||&&?|;|2>&1", word)]
    return words[: ends[0]] if ends else words


def typing_errors(words: list[str]) -> str:
    """Why a command cannot be typed so: no such verb, option, or a value that is missing; empty where it can."""
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        if words[0] in ("--help", "-h", "--version", "--install-completion", "--show-completion"):
            return ""
        if words[0] not in command.commands:
            return f"no verb {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    known = {option: one for one in command.params for option in (*one.opts, *one.secondary_opts)}
    known |= {"--help": None, "-h": None}
    position = 0
    while position < len(words):
        name, equals, _ = words[position].partition("=")
        if re.match(r"--?[a-z]", name):
            if name not in known:
                return f"no option {name}"
            if known[name] is not None and not known[name].is_flag and not equals:
                position += 1
                if position == len(words):
                    return f"{name} lacks its value"
        position += 1
    return ""


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_each_command_of_a_page_can_be_typed(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    inline = [shlex.split(text)[1:] for text in INLINE.findall(page) if text.count("'") % 2 == 0]
    shown = [*shown_commands(page), *(_until_shell(words) for words in inline)]
    errors = [f"scratchlm {' '.join(words)}: {why}" for words in shown if (why := typing_errors(words))]
    assert errors == []


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("sing", "no verb sing"),
        ("models burn x", "no verb burn"),
        ("train tinygpt --uot x", "no option --uot"),
        ("train tinygpt --out", "--out lacks its value"),
        ("train tinygpt --out x --resume", ""),
        ("models pull a b --source package", ""),
    ],
)
def test_a_command_that_cannot_be_typed_is_noticed(typed: str, why: str) -> None:
    assert typing_errors(typed.split()) == why


def test_commands_are_found_among_what_else_a_shell_says() -> None:
    page = "```bash\nx=$(date)\nscratchlm eval a \\\n  --json > b 2> c\n"
    page += "cat <<END\nscratchlm no\nEND\necho 'a' | scratchlm fill b --text -\n```\n"
    assert list(shown_commands(page)) == [["eval", "a", "--json"], ["fill", "b", "--text", "-"]]
