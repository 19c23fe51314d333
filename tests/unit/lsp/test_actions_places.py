"""Which lines an action is about, where documentation and tests go."""

# ruff: noqa: E501

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import tree_sitter

import context
from context.syntax.language import language_for, languages
from lsp.actions import conventions, offer
from lsp.actions.document_range import DocumentRange
from lsp.actions.offer import facts_of
from lsp.actions.prompts import wording as words

CURSOR = "\u2038"


def document_range(
    marked: str, path: str = "/h/work.py", language: str = "python"
) -> DocumentRange:
    """A document with a cursor, or with a selection between two."""
    first, _, rest = marked.partition(CURSOR)
    inside, second, after = rest.partition(CURSOR)
    text = first + inside + after
    stop = len(first) + (len(inside) if second else 0)
    return DocumentRange(f"file://{path}", 1, language, text, len(first), stop)


def documented(marked: str, path: str, said: str = "Return one.") -> str:
    """The text after its definition was documented."""
    at = document_range(marked, path)
    document = context.Document("", path, at.text)
    definition = offer.definition_at(document, at)
    style = conventions.comment_style_of(document)
    assert definition is not None and style is not None
    spot = conventions.comment_spot(document, definition, style)
    comment = conventions.written_comment(said, style, spot.indent)
    behind = spot.indent if spot.lead else ""
    return at.text[: spot.start] + spot.lead + comment + behind + at.text[spot.stop :]


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("a.py", "def f():\n    ‸return 1\n", 'def f():\n    """Return one."""\n    return 1\n'),
        ("a.py", "def f(): ‸return 1\n", 'def f():\n    """Return one."""\n    return 1\n'),
        (
            "a.py",
            'class A:\n    @x\n    def f(self):\n        """Old."""\n        ‸return 1\n',
            'class A:\n    @x\n    def f(self):\n        """Return one."""\n        return 1\n',
        ),
        ("a.go", "package a\n\nfunc f() {\n‸}\n", "package a\n\n// Return one.\nfunc f() {\n}\n"),
        (
            "a.go",
            "package a\n\n// f is old.\nfunc f() {\n‸}\n",
            "package a\n\n// Return one.\nfunc f() {\n}\n",
        ),
        ("a.rs", "fn f() -> i32 {\n    ‸1\n}\n", "/// Return one.\nfn f() -> i32 {\n    1\n}\n"),
        (
            "a.ts",
            "export function f() {\n  ‸return 1;\n}\n",
            "/**\n * Return one.\n */\nexport function f() {\n  return 1;\n}\n",
        ),
        (
            "a.js",
            "// keep me\nfunction f() {\n  ‸return 1;\n}\n",
            "// keep me\n/**\n * Return one.\n */\nfunction f() {\n  return 1;\n}\n",
        ),
    ],
)
def test_a_comment_goes_where_the_language_wants_it(path: str, before: str, after: str) -> None:
    assert documented(before, f"/h/{path}") == after
    assert context.broken_by(path, before.replace(CURSOR, ""), after) == ()


@pytest.mark.parametrize("said", ['It says """hi"""', "ends */ early", "a\\b", 'quote"'])
@pytest.mark.parametrize(
    ("path", "text"),
    [("a.py", "def f():\n    ‸return 1\n"), ("a.js", "function f() {\n  ‸return 1;\n}\n")],
)
def test_no_words_end_a_comment_early(path: str, text: str, said: str) -> None:
    assert context.damage(path, documented(text, f"/h/{path}", said)) == ()


DEFINITIONS = {
    "bash": ("a.sh", "f() {\n  ‸echo 1\n}\n"),
    "c": ("a.c", "int f(void) {\n    ‸return 1;\n}\n"),
    "cpp": ("a.cpp", "int f() {\n    ‸return 1;\n}\n"),
    "csharp": ("a.cs", "class A {\n    int F() {\n        ‸return 1;\n    }\n}\n"),
    "go": ("a.go", "package a\n\nfunc f() {\n\t‸g()\n}\n"),
    "java": ("A.java", "class A {\n    int f() {\n        ‸return 1;\n    }\n}\n"),
    "javascript": ("a.js", "function f() {\n  ‸return 1;\n}\n"),
    "lua": ("a.lua", "local function f()\n  ‸return 1\nend\n"),
    "php": ("a.php", "<?php\nfunction f() {\n    ‸return 1;\n}\n"),
    "python": ("a.py", "def f():\n    ‸return 1\n"),
    "ruby": ("a.rb", "def f\n  ‸1\nend\n"),
    "rust": ("a.rs", "fn f() -> i32 {\n    ‸1\n}\n"),
    "tsx": ("a.tsx", "function f() {\n  ‸return <p>1</p>;\n}\n"),
    "typescript": ("a.ts", "function f(): number {\n  ‸return 1;\n}\n"),
}


def code_of(path: str, text: str) -> list[tuple[str, str]]:
    """The leaves of a syntax tree without comments and docstrings."""
    language = language_for(path, text)
    assert language is not None
    raw = text.encode()
    tree = tree_sitter.Parser(language.parser_language).parse(raw)
    leaves: list[tuple[str, str]] = []

    def walk(node: tree_sitter.Node) -> None:
        docstring = node.type == "expression_statement" and [
            child.type for child in node.children
        ] == ["string"]
        if "comment" in node.type or docstring:
            return
        if not node.children:
            leaves.append((node.type, raw[node.start_byte : node.end_byte].decode()))
        for child in node.children:
            walk(child)

    walk(tree.root_node)
    return leaves


@pytest.mark.parametrize(
    "end", ["\r", "\r\n", "\n", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\0"]
)
@pytest.mark.parametrize("name", sorted(DEFINITIONS))
def test_words_never_become_code(name: str, end: str) -> None:
    """T6: whatever ends a line in the words, the code nodes of the tree stay as they were."""
    path, marked = DEFINITIONS[name]
    for said in (
        f"Return one.{end}boom();{end}import os",
        f"x{end}",
        f"a \\{end}b */ c {end}?> d",
    ):
        after = documented(marked, f"/h/{path}", said)
        assert code_of(path, after) == code_of(path, marked.replace(CURSOR, ""))


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("ends \\u002a/ boom();", "ends \\\\u002a/ boom();"),
        ("a path, C:\\users", "a path, C:\\\\users"),
        ("\\\\u002a is text", "\\\\u002a is text"),
        ("\\\\\\uuu000a boom();", "\\\\\\\\uuu000a boom();"),
        ("C:\\temp", "C:\\temp"),
    ],
)
def test_words_never_become_unicode_escapes_of_java(said: str, written: str) -> None:
    """T6: javac reads them before it knows what is a comment, and refuses those that are broken."""
    path, marked = DEFINITIONS["java"]
    assert f" * {written}\n" in documented(marked, f"/h/{path}", said)


@pytest.mark.parametrize("name", sorted(DEFINITIONS))
@pytest.mark.parametrize(
    "said",
    [
        "**//", "*\\\n/ boom();", "[[ x ]] boom()", "]==] x", "<?php boom(); ?>", "#{boom}", "=end\nboom",
        "\\N{x} \\", "\"\"\"\"\"\"\"", "'''x'''", "\\\"\"\"", "</script><b>", "?>boom<?php", "$(boom) `boom`", "\x1b[2Jx",
        "//go:embed x", "!/bin/sh", "\\\n\\\n", "* /\n*/\n/*", "--]]\nboom()", "@x\n/// y",
    ],
)  # fmt: skip
def test_no_mark_in_words_ends_a_comment(name: str, said: str) -> None:
    """T6: the marks of every language in the words of every other."""
    path, marked = DEFINITIONS[name]
    after = documented(marked, f"/h/{path}", said)
    assert code_of(path, after) == code_of(path, marked.replace(CURSOR, ""))


# Definitions in other forms: members, one-liners, behind other code, with attributes.
MORE_DEFINITIONS = [
    ("a.py", "class A:\n\tasync def f(self):\n\t\t‸return 1\n"),
    ("a.py", "def f(x): ‸return x; y = 2\n"),
    ("a.py", "@a\n@b(\n  1)\ndef f(\n  x,\n):  # note\n    ‸return 1\n"),
    ("a.py", 'def f():\n    r"""Old\n    doc."""\n    ‸return 1\n'),
    ("a.py", "def f():\n    'x' \"y\"\n    ‸return 1\n"),
    ("a.py", "class A: ‸pass\n"),
    ("a.py", "class A:\n\n    ‸x = 1\n"),
    ("a.py", "if 1:\n  def f():\n      # c\n      ‸return 1\n"),
    ("a.py", "def f():\n    ‸...\n"),
    ("a.py", 'def f() -> "a:b": ‸pass'),
    ("a.py", 'class A(B):\n    f"""{x}"""\n    ‸y=1\n'),
    ("a.py", 'lambda: 0\ndef f(): ‸return """\n a"""\n'),
    ("a.pyi", "def f() -> int: ‸...\n"),
    ("a.sh", "function f {\n  ‸echo 1\n}\n"),
    ("a.sh", "cat <<E\nf() {\n}\nE\nf() {\n  ‸echo 1\n}\n"),
    ("a.sh", "echo a \\\n\nf() {\n ‸:\n}\n"),
    ("a.sh", "x=1; f() { ‸echo 1; }\n"),
    ("a.c", "#define X \\\n 1\nint f(void) {\n  ‸return 1;\n}\n"),
    ("a.c", "static inline int\nf(int a)\n{\n‸return 1;}\n"),
    ("a.c", "int x; int f(void) { ‸return 1; }\n"),
    ("a.h", "struct a {\n int ‸b;\n};\n"),
    ("a.c", "#define M(x) \\\n  x\n// c \\\nint g;\nint f(void){\n‸return 1;}\n"),
    ("a.cpp", "template <class T>\nclass A {\n public:\n  int f() const { ‸return 1; }\n};\n"),
    ("a.cpp", "namespace a { int f() {\n ‸return 1; }}\n"),
    ("a.cpp", 'auto s = R"(\n)";\nint f() {\n‸return 1; }\n'),
    (
        "a.cs",
        "namespace A;\n[X]\npublic class B {\n  [Y(1)]\n  public async Task<int> F() => ‸1;\n}\n",
    ),
    ("a.cs", "class A { int F() { ‸return 1; } }\n"),
    ("a.cs", "#if X\nclass A {\n  int F() {\n   ‸return 1; }\n}\n#endif\n"),
    ("a.go", "package a\n\nfunc (t *T) f() {\n\t‸g()\n}\n"),
    ("a.go", "package a\n\n//go:noinline\nfunc f() {\n\t‸g()\n}\n"),
    ("a.go", "package a\n\ntype T struct {\n\t‸a int\n}\n"),
    ("a.go", "package a; func f() { ‸g() }\n"),
    ("a.go", 'package a\nimport "C"\nfunc f() {\n‸g()\n}\n'),
    ("A.java", "class A {\n    @Override\n    public int f() { ‸return 1; }\n}\n"),
    ("A.java", "@X\nclass A {\n int ‸a;\n}\n"),
    ("A.java", "interface A {\n int f();\n default int g() {\n ‸return 1; }\n}\n"),
    ("A.java", "class A { int f() { ‸return 1; } }\n"),
    ("a.js", "class A {\n  static async *f() {\n    ‸yield 1;\n  }\n}\n"),
    ("a.js", "const f = () => {\n  ‸return 1;\n};\n"),
    ("a.js", "var a = 1\nfunction f() { ‸return `\n` }\n"),
    ("a.js", "const o = {\n  f() {\n   ‸return 1;\n  },\n};\n"),
    ("a.lua", "function M.f()\n  ‸return 1\nend\n"),
    ("a.lua", "local M = {}\nfunction M:f() ‸return 1 end\n"),
    ("a.lua", "local x = [[\n]]\nlocal f = function()\n ‸return 1\nend\n"),
    ("a.php", "<?php\nclass A {\n  #[X]\n  public function f(): int {\n    ‸return 1;\n  }\n}\n"),
    ("a.php", "<html>\n<?php function f() {\n‸return 1; } ?>\n</html>\n"),
    ("a.php", "<?php\n$x = <<<E\na\nE;\nfunction f() {\n ‸return 1;\n}\n"),
    ("a.rb", "class A\n  def self.f(x)\n    ‸x\n  end\nend\n"),
    ("a.rb", "module M\n  class B; def f; ‸1; end; end\nend\n"),
    ("a.rb", "x = <<~E\n  a\nE\ndef f\n  ‸1\nend\n"),
    ("a.rb", "private def f\n  ‸1\nend\n"),
    ("a.rb", "# frozen_string_literal: true\ndef f = ‸1\n"),
    ("a.rs", "impl A {\n    #[inline]\n    pub fn f(&self) -> i32 {\n        ‸1\n    }\n}\n"),
    ("a.rs", "#[derive(X)]\nstruct A {\n    ‸a: i32,\n}\n"),
    ("a.rs", "fn g() {} fn f() { ‸1 }\n"),
    ("a.rs", "macro_rules! m {\n () => { ‸1 };\n}\n"),
    ("a.rs", 'fn g(){let s=r#"\n"#;}\nfn f() {\n ‸1\n}\n'),
    ("a.tsx", 'export const F: FC = () => {\n  ‸return <p>{"a"}</p>;\n};\n'),
    ("a.tsx", "class A extends B {\n  render() { ‸return <p/>; }\n}\n"),
    ("a.ts", "interface A {\n  f(): ‸number;\n}\n"),
    ("a.ts", "@X()\nexport class A {\n  @Y() private f(): number {\n    ‸return 1;\n  }\n}\n"),
    ("a.ts", 'declare module "x" {\n  export function f(): ‸void;\n}\n'),
]


@pytest.mark.parametrize(("path", "marked"), MORE_DEFINITIONS)
def test_words_never_become_code_wherever_the_comment_goes(path: str, marked: str) -> None:
    """T6: nor does the place of the comment change or hide any code."""
    code = code_of(path, marked.replace(CURSOR, ""))
    for said in (
        "Return one.", "a\rboom();\u2028boom()\x85boom()", "*/ boom(); /*\n--]]\nboom()\n=end\nboom", "?>boom<?php",
        '\"\"\"\nboom()\n\'\'\'', "x ??/\nboom();", "x \\", "\\u000aboom();", "#{boom}${boom}\0\x1a",
    ):  # fmt: skip
        assert code_of(path, documented(marked, f"/h/{path}", said)) == code


@pytest.mark.parametrize(
    "marked",
    [
        'def f():\n    """One""" ; ‸x = 1\n',
        'def f():\n    """One"""; ‸x = 1; y = 2\n    return x\n',
        'class A:\n\tdef f(self):\n\t\t"""One\n\n\t\tTwo""" ;‸x = 1\n',
        "def f():\\\n  ‸return 1\n",
        "def f(): \\\n  \\\n  ‸return 1\n",
        'def f():\n    """One"""  # noqa\n    ‸x = 1\n',
    ],
)
def test_code_behind_a_docstring_or_a_continued_line_stays(marked: str) -> None:
    """T6: as Python itself reads it."""

    def read(text: str) -> str:
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
                del node.body[0]
        return ast.dump(tree)

    after = documented(marked, "/h/a.py")
    assert read(after) == read(marked.replace(CURSOR, "")) and "Return one." in after
    assert ("# noqa" in marked) == ("# noqa" in after)


def test_all_languages_have_said_how_they_are_documented() -> None:
    assert set(languages()) == set(conventions._comment_styles()) == set(DEFINITIONS)


@pytest.mark.parametrize(
    ("marked", "lines"),
    [
        ("a\nb‸\nc\n", (1, 2)),
        ("a\n‸b\n‸c\n", (1, 2)),
        ("a\n‸b\nc‸\n", (1, 3)),
        ("def f():\n    ‸x\n    y\n\nz\n", (0, 3)),
        ("def f():\n    x\n‸\n    y\n", (2, 3)),
        ("‸", (0, 1)),
    ],
)
def test_whole_lines_are_chosen(marked: str, lines: tuple[int, int]) -> None:
    at = document_range(marked)
    region = offer.chosen(context.Document("", "/h/work.py", at.text), at)
    assert (region.first, region.stop) == lines


def test_a_long_definition_is_fixed_around_the_error() -> None:
    marked = "def f():\n" + "    x = 1\n" * 200 + "    ‸y\n" + "    x = 1\n" * 200
    at = document_range(marked)
    region = offer.to_fix(context.Document("", "/h/work.py", at.text), at)
    assert region.first <= 201 < region.stop and region.stop - region.first <= 25


def test_what_stands_at_a_place() -> None:
    def found(marked: str, path: str = "/h/work.py") -> object:
        at = document_range(marked, path)
        return facts_of(context.Document("", path, at.text), at)

    code = found("class A:\n    def f(self):\n        ‸return 1\n")
    assert (code.definition, code.documentable, code.testable) == ("f", True, True)  # type: ignore[attr-defined]
    assert found("‸\n").blank is True  # type: ignore[attr-defined]
    assert found("def f():\n    ‸1\n", "/h/test_work.py").testable is False  # type: ignore[attr-defined]
    assert found("x‸\n", "/h/notes.xyz").documentable is False  # type: ignore[attr-defined]
    asked = found("‸# make it\n# faster\nx = 1‸\n")
    assert asked.instruction == "make it faster"  # type: ignore[attr-defined]


def test_tests_go_into_the_first_place_that_is_there(tmp_path: Path) -> None:
    file = tmp_path / "src" / "work.py"
    file.parent.mkdir()
    convention = conventions.test_convention_of(context.Document("", str(file), ""))
    assert convention is not None
    assert conventions.test_target(file, [tmp_path], convention) == conventions.TestTarget(
        file.with_name("test_work.py"), None
    )
    (tmp_path / "tests").mkdir()
    assert (
        conventions.test_target(file, [tmp_path], convention).path
        == tmp_path / "tests" / "test_work.py"
    )
    there = file.with_name("test_work.py")
    there.write_text("x = 1\n")
    assert conventions.test_target(file, [tmp_path], convention) == conventions.TestTarget(
        there, "x = 1\n"
    )


@pytest.mark.parametrize("name", ["test_a", "a_test", "a.test", "ATest", "ATests", "a_spec"])
def test_files_of_tests_are_known(name: str) -> None:
    assert conventions.is_test_file(Path(f"/h/{name}.x"))
    assert not conventions.is_test_file(Path("/h/contest.py"))


def test_code_in_a_field_is_not_read_as_a_field() -> None:
    assert "{evil}" in words("edit", "instruction", instruction="{evil}", diagnostic="")
