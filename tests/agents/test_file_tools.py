"""Tools for one folder: what they do, and that nothing leads out of it, neither a path nor a race."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from scratchlm.agents.file_tools import Folder, file_tools
from scratchlm.agents.shipped import open_tools
from scratchlm.agents.tool import Outcome
from scratchlm.errors import UserError

SECRET = "secret-7f3a9c"


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A folder with files, beside one with a secret, and every kind of link to it."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    (outside / "deep").mkdir(parents=True)
    (outside / "secret.txt").write_text(SECRET)
    (inside / "notes" / "old").mkdir(parents=True)
    (inside / "notes" / "a.txt").write_text("first line\nSecond Line\n")
    (inside / "b.txt").write_text("line\n")
    (inside / "link.txt").symlink_to(outside / "secret.txt")
    (inside / "relative.txt").symlink_to("../outside/secret.txt")
    (inside / "linked").symlink_to(outside)
    (inside / "notes" / "up").symlink_to("../..")
    (inside / "loop").symlink_to("loop")
    (inside / "gone").symlink_to(tmp_path / "new")
    os.mkfifo(inside / "pipe")
    (inside / "picture.bin").write_bytes(b"\xff\xfe\x00")
    return inside


def use(folder: Path, name: str, **arguments: object) -> Outcome:
    return next(one for one in file_tools(folder, writing=True) if one.name == name).run(arguments)


def test_files_are_listed_read_and_searched(inside: Path) -> None:
    assert use(inside, "list_files").text.splitlines() == [
        "b.txt (5 bytes)",
        "gone (a link)",
        "link.txt (a link)",
        "linked (a link)",
        "loop (a link)",
        "notes/",
        "picture.bin (3 bytes)",
        "pipe (no ordinary file)",
        "relative.txt (a link)",
    ]
    assert use(inside, "list_files", path="notes/old").text == "(an empty folder)"
    assert use(inside, "read_file", path="./notes//a.txt").text == "first line\nSecond Line"
    assert use(inside, "search_files", text="LINE").text.splitlines() == [
        "b.txt:1: line",
        "notes/a.txt:1: first line",
        "notes/a.txt:2: Second Line",
    ]
    assert use(inside, "search_files", text="second", path="notes/a.txt").text == "notes/a.txt:2: Second Line"
    assert use(inside, "search_files", text="nowhere").text == "no file has 'nowhere'"


def test_long_files_are_read_in_parts(inside: Path) -> None:
    (inside / "long.txt").write_text("".join(f"{number}\n" for number in range(1, 451)))
    assert use(inside, "read_file", path="long.txt").text.endswith("\n200\n[lines 1 to 200 of 450]")
    assert use(inside, "read_file", path="long.txt", first_line=401).text.startswith("401\n")
    assert use(inside, "read_file", path="long.txt", first_line=451).text.startswith("error: long.txt has 450 lines")
    assert use(inside, "search_files", text="1").text.endswith("\n[more lines have it]")


def test_files_are_written(inside: Path) -> None:
    (inside / "b.txt").chmod(0o640)
    assert use(inside, "write_file", path="b.txt", text="né").text == "wrote 3 bytes to b.txt"
    assert (inside / "b.txt").read_text(encoding="utf-8") == "né"
    assert (inside / "b.txt").stat().st_mode & 0o777 == 0o640
    assert not use(inside, "write_file", path="new/deep/c.txt", text="c").failed
    assert (inside / "new" / "deep" / "c.txt").read_text() == "c"
    assert not list(inside.rglob("*.partial"))


def test_writing_has_to_be_allowed(inside: Path) -> None:
    assert [tool.name for tool in open_tools([f"files:{inside}"])] == ["list_files", "read_file", "search_files"]
    writing = open_tools([f"files-write:{inside}"])
    assert [tool.name for tool in writing if tool.effects] == ["write_file"]


ESCAPES = [
    "../outside/secret.txt",
    "notes/../../outside/secret.txt",
    "./../outside/secret.txt",
    "notes/up/outside/secret.txt",
    "linked/secret.txt",
    "linked/../secret.txt",
    "link.txt",
    "relative.txt",
    "gone",
    "loop",
    "pipe",
    "{root}/outside/secret.txt",
    "/etc/passwd",
    "//etc/passwd",
    "~/secret.txt",
    "..",
    "",
    ".",
    "notes",
    "b.txt/..",
    "b.txt/x",
    "b.txt\x00.md",
    "/proc/self/environ",
    "/dev/zero",
    "a" * 300,
    "/".join("a" * 40),
    "..\\outside\\secret.txt",
    "%2e%2e/outside/secret.txt",
    "file:///etc/passwd",
    "․․/outside/secret.txt",
]


def snapshot(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or (path.is_file() and path.suffix != ".bin")
    }


@pytest.mark.parametrize("path", ESCAPES, ids=lambda path: ascii(path)[:30])
def test_no_path_is_read_outside(path: str, inside: Path) -> None:
    path = path.format(root=inside.parent)
    outcome = use(inside, "read_file", path=path)
    assert outcome.failed
    for name, more in (("list_files", {}), ("search_files", {"text": "secret"}), ("search_files", {"text": "root"})):
        outcome = use(inside, name, path=path, **more)
        assert SECRET not in outcome.text
        assert "deep" not in outcome.text
        assert "root:" not in outcome.text


@pytest.mark.parametrize("path", ESCAPES, ids=lambda path: ascii(path)[:30])
def test_no_path_is_written_outside(path: str, inside: Path) -> None:
    before = snapshot(inside.parent)
    outcome = use(inside, "write_file", path=path.format(root=inside.parent), text="x")
    after = snapshot(inside.parent)
    assert {name: text for name, text in after.items() if not name.startswith("inside/")} == {
        "outside/secret.txt": SECRET
    }
    assert outcome.failed == (after == before)
    assert not list(inside.parent.rglob("*.partial"))


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("read_file", {"path": "missing.txt"}, "missing.txt: No such file or directory"),
        ("read_file", {"path": "picture.bin"}, "picture.bin is no text in UTF-8"),
        ("read_file", {"path": "notes"}, "notes is a folder; read a file"),
        ("read_file", {"path": "pipe"}, "pipe is no ordinary file"),
        ("read_file", {"path": "b.txt", "first_line": 0}, "b.txt has 1 lines; first_line is 0"),
        ("list_files", {"path": "b.txt"}, "b.txt: it is a link, or leads through a file or a link"),
        ("list_files", {"path": "missing"}, "missing: No such file or directory"),
        ("search_files", {"text": " "}, "give a text to look for"),
        ("search_files", {"text": "x", "path": "missing"}, "missing: No such file or directory"),
        ("write_file", {"path": "notes", "text": ""}, "notes is a folder; write to a file"),
        ("write_file", {"path": "link.txt", "text": ""}, "link.txt is a link; write to a file"),
        ("write_file", {"path": "linked/x", "text": ""}, "linked/x: it is a link"),
        ("write_file", {"path": "c.txt", "text": "x" * 5_000_000}, "the arguments"),
        ("write_file", {"path": "c.txt"}, "'text' is a required property"),
    ],
)
def test_mistakes_go_back_as_text(name: str, arguments: dict[str, object], says: str, inside: Path) -> None:
    if name == "write_file" and len(str(arguments.get("text"))) > 1_000_000:
        says = "the text has 5,000,000 bytes"
    outcome = use(inside, name, **arguments)
    assert outcome.failed
    assert says in outcome.text


def test_a_file_that_is_too_large_is_told(inside: Path) -> None:
    with (inside / "huge.txt").open("wb") as file:
        file.truncate(1 << 33)
    assert use(inside, "read_file", path="huge.txt").text == "error: huge.txt has more than 4,194,304 bytes"


@contextmanager
def flipping(path: Path, other: Path) -> Iterator[None]:
    """What a path means changes all the time between what it is and what the other is."""
    ended, kept = threading.Event(), path.with_name("kept")

    def flip() -> None:
        while not ended.is_set():
            path.rename(kept)
            try:
                other.rename(path)
                path.rename(other)
                kept.rename(path)
            except OSError:  # the tool has made a folder in the gap
                while kept.exists():
                    shutil.rmtree(path, ignore_errors=True)
                    with suppress(OSError):
                        kept.rename(path)

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize(
    ("fine", "target", "path"),
    [("raced", "../outside/secret.txt", "raced"), ("raced/secret.txt", "../outside", "raced/secret.txt")],
    ids=["a file", "a folder"],
)
def test_what_becomes_a_link_meanwhile_is_not_followed(fine: str, target: str, path: str, inside: Path) -> None:
    (inside / fine).parent.mkdir(exist_ok=True)
    (inside / fine).write_text("fine")
    (inside / "bad").symlink_to(target)
    folder, seen, link = Folder(inside), set(), "it is a link, or leads through a file or a link"
    with flipping(inside / "raced", inside / "bad"):
        for number in range(100_000):
            if number >= 1_500 and {"fine", link} <= seen:  # a busy machine may flip seldom
                break
            try:
                seen.add(folder.read(path))
            except ValueError as error:
                seen.add(str(error).removeprefix(f"{path}: "))
            if number % 10 == 0 and "/" in path:
                with suppress(ValueError):
                    folder.write("raced/new.txt", "written")
    assert "fine" in seen
    assert link in seen
    assert SECRET not in seen
    assert sorted(one.name for one in (inside.parent / "outside").iterdir()) == ["deep", "secret.txt"]
    assert (inside.parent / "outside" / "secret.txt").read_text() == SECRET


def test_the_folder_stays_the_same_when_its_name_is_given_to_another(inside: Path) -> None:
    folder = Folder(inside)
    inside.rename(inside.parent / "moved")
    inside.symlink_to(inside.parent / "outside")
    assert folder.read("b.txt") == "line"
    with pytest.raises(ValueError, match="No such file"):
        folder.read("secret.txt")


@pytest.mark.parametrize("place", ["missing", "b.txt"])
def test_what_is_no_folder_is_told_in_one_line(place: str, inside: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be opened: .*; name a folder"):
        open_tools([f"files:{inside / place}"])
