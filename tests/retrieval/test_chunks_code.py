"""Chunks of source code, by definitions; and where sentences end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.retrieval.chunk_checks import check, chunks, document, pieces, words

from scratchlm.retrieval.chunks import ChunkSettings, chunk_document
from scratchlm.retrieval.code_parts import Definition, definitions
from scratchlm.retrieval.sentences import sentences

ROOT = Path(__file__).resolve().parents[2]

CODE = '''"""What it is for."""

import os

LIMIT = 3


def first(a):
    """Doc."""
    return a


# Of second.
@decorated
def second(b):
    return b


class Small:
    def one(self):
        return 1


class Large:
    """About it."""

    size = 1

    def method(self, value):
        total = value + 1
        total = total + 2
        return total

    async def other(self):
        def inner():
            return 1
        return inner
'''


def test_python_by_definitions() -> None:
    found = chunks(CODE, 20, kind="code")
    check(document(CODE, "code", "a.py"), found, words, 20)
    assert [(chunk.headings, chunk.text.split("\n")[0]) for chunk in found] == [
        ((), '"""What it is for."""'),
        (("first",), "def first(a):"),
        (("second",), "# Of second."),
        (("Small",), "class Small:"),
        (("Large",), "class Large:"),
        (("Large", "method"), "    def method(self, value):"),
        (("Large", "other"), "    async def other(self):"),
    ]


def names(found: list[Definition]) -> list[object]:
    return [(one.name, names(one.inner)) if one.inner else one.name for one in found]


SAMPLES: list[tuple[str, str, list[object]]] = [
    (
        "a.js",
        """// Adds.
export function add(a) {
  if (a) {
    go();
  }
}

export class Foo extends Bar {
  constructor(x) {
    super(x);
  }

  async run(x) {
    for (const a of x) {
      go(a);
    }
  }
}

const f = async (x) => {
  return x;
};
""",
        ["add", ("Foo", ["constructor", "run"]), "f"],
    ),
    (
        "a.c",
        """#include <x.h>

static int add(int a)
{
    return a;
}

struct point {
    int x;
};

int main(void) {
    while (1) {
        call(2);
    }
}
""",
        ["add", "point", "main"],
    ),
    (
        "a.rs",
        """use x;

#[derive(Debug)]
pub struct P { x: i32 }

impl Display for P {
    fn fmt(&self) -> R {
        Ok(())
    }
}
""",
        ["P", ("Display for P", ["fmt"])],
    ),
    (
        "a.go",
        """package main

func (s *Server) Run(c Context) error {
	return nil
}

type T struct {
	a int
}
""",
        ["Run", "T"],
    ),
    (
        "a.rb",
        """module A
  class B < C
    def self.x(y)
      y.each do |z|
        puts z
      end
    end

    def w?
      1
    end
  end
end
""",
        [("A", [("B", ["self.x", "w?"])])],
    ),
    (
        "A.java",
        """package a.b;

@Service
public class Foo {
    @Override
    public String name(int a) throws E {
        if (a > 0) {
            return "x";
        } else {
            return "y";
        }
    }
}
""",
        [("Foo", ["name"])],
    ),
    (
        "a.sh",
        """set -e
build() {
  make
}
function clean {
  rm x
}
build
""",
        ["build", "clean"],
    ),
    (
        "a.sql",
        """CREATE TABLE t (
  a int
);

create or replace view v as
  select 1;
""",
        ["t", "v"],
    ),
    (
        "broken.py",
        """def f(x:
    return

class A:
    def g(self):
        pass
""",
        ["f", ("A", ["g"])],
    ),
    (
        "a.py",
        """if True:
    def f():
        pass
else:
    def f():
        pass
x = 1; y = 2
""",
        ["f", "f"],
    ),
]
"""A file, its text, and the names of the definitions in it with those inside of them."""


@pytest.mark.parametrize(("path", "text", "expected"), SAMPLES, ids=[path for path, _, _ in SAMPLES])
def test_definitions_of_other_languages(path: str, text: str, expected: list[object]) -> None:
    assert names(definitions(path, text)) == expected


def test_a_closing_bracket_is_no_chunk_of_its_own() -> None:
    body = "\n\n".join(f"  run{n}(x) {{\n    call(x, {n});\n  }}" for n in range(12))
    text = f"class A {{\n{body}\n}}\n"
    found = chunk_document(document(text, "code", "a.js"), pieces, ChunkSettings(30))
    check(document(text, "code", "a.js"), found, pieces, 30)
    assert all(re.search(r"\w", chunk.text) for chunk in found)
    assert found[6].headings == ("A", "run5")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        (
            "Dr. Smith met J. Doe at 5.30 p.m. on Fig. 3 Street. Next.",
            ["Dr. Smith met J. Doe at 5.30 p.m. on Fig. 3 Street.", "Next."],
        ),
        ('He said "Stop." Then he left... and came back.', ['He said "Stop."', "Then he left... and came back."]),
        ("今日は天気。「そうですか？」はい。", ["今日は天気。", "「そうですか？」", "はい。"]),
        ("- one\n- two\n2. three", ["- one", "- two", "2. three"]),
        ("A title\n\nA sentence\nover two lines.", ["A title", "A sentence\nover two lines."]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == expected


@pytest.mark.parametrize(
    "path", sorted((ROOT / "src" / "scratchlm" / "retrieval").glob("*.py")), ids=lambda path: path.name
)
def test_our_own_source(path: Path) -> None:
    source = document(path.read_text(encoding="utf-8"), "code", path.name)
    check(source, chunk_document(source, pieces, ChunkSettings(128)), pieces, 128)
