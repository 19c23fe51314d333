"""Filters in languages by their comments, indentation and line breaks, and in embedded code."""

from __future__ import annotations

import sys

import pytest

from lsp.completion import filters
from lsp.completion.filters.brackets import unclosed
from lsp.documents.site import Site, is_listed, language

CURSOR = "\u2038"


def site(marked: str, language_id: str) -> Site:
    before, _, after = marked.partition(CURSOR)
    return Site(before, after, language_id)


@pytest.mark.parametrize(
    ("language_id", "answer"),
    [
        ("twig", "{# later #}"),
        ("jinja", "{# later\nand more #}"),
        ("html.twig", "{# x #}"),
        ("razor", "@* later *@"),
        ("cshtml", "@* a\nb *@"),
        ("aspnetcorerazor", "<!-- x -->"),
        ("terraform", "# later"),
        ("tf", "// later"),
        ("terraform-vars", "/* x */"),
        ("hcl", "# x"),
        ("tfvars", "# x"),
        ("jinja-html", "{# x #}"),
        ("django-html", "{% comment %}x{% endcomment %}"),
        ("htmldjango", "{# x #}"),
        ("liquid", "{% comment %} x {% endcomment %}"),
        ("handlebars", "{{! x }}"),
        ("hbs", "{{!-- x --}}"),
        ("erb", "<%# x %>"),
        ("eruby", "<%# x %>"),
        ("ejs", "<%# x %>"),
        ("blade", "{{-- x --}}"),
        ("jsp", "<%-- x --%>"),
        ("heex", "<%!-- x --%>"),
        ("gotmpl", "{{/* x */}}"),
        ("helm", "{{- /* x */ -}}"),
        ("vue", "<!-- x -->"),
        ("bat", "REM later"),
        ("dosbatch", "@rem x"),
        ("cmd", "rem"),
        ("vb", "REM x"),
        ("vbnet", "' x"),
        ("lua", "--[[ x\ny ]]"),
        ("luau", "--[=[ x ]=]"),
        ("cmake", "#[[ x\ny ]]"),
        ("pascal", "(* x *)"),
        ("delphi", "{ x }"),
        ("haskell", "{- x -}"),
        ("elm", "-- x"),
        ("ocaml", "(* x *)"),
        ("coq", "(* x *)"),
        ("fsharp", "// x"),
        ("nim", "#[ x ]#"),
        ("perl", "# x"),
        ("r", "# x"),
        ("julia", "#= x =#"),
        ("matlab", "%{\nx\n%}"),
        ("octave", "% x"),
        ("erlang", "%% x"),
        ("prolog", "% x"),
        ("nasm", "; x"),
        ("asm", "; x"),
        ("emacs-lisp", ";; x"),
        ("elisp", "; x"),
        ("scheme", ";; x"),
        ("clojure", ";; x"),
        ("racket", "#| x |#"),
        ("nix", "# x"),
        ("jsonnet", "// x"),
        ("wast", ";; x"),
        ("plantuml", "' x"),
        ("mermaid", "%% x"),
        ("pug", "//- x"),
        ("haml", "-# x"),
        ("applescript", "-- x"),
        ("ahk", "; x"),
        ("m4", "dnl x"),
        ("cobol", "*> x"),
        ("vim9", "# x"),
        ("vim", '" x'),
        ("dockerfile", "# x"),
        ("nginx", "# x"),
        ("gitconfig", "# x"),
        ("dosini", "; x"),
        ("proto", "// x"),
        ("graphql", "# x"),
        ("prisma", "// x"),
        ("sql", "/* x\ny */"),
        ("csh", "# x"),
        ("fish", "# x"),
        ("ps1", "<# x\ny #>"),
        ("latex", "% x"),
        ("tex", "% x"),
        ("typst", "// x"),
        ("swift", "/// x"),
        ("kotlin", "/** x */"),
        ("dart", "/// x"),
        ("zig", "/// x"),
        ("d", "// x"),
        ("crystal", "# x"),
        ("elixir", "# x"),
        ("gleam", "// x"),
        ("systemverilog", "// x"),
        ("vhdl", "-- x"),
        ("fortran", "! x"),
        ("ada", "-- x"),
        ("scss", "// x"),
        ("css", "/* x */"),
        ("gherkin", "# x"),
        ("lean", "/- x -/"),
        ("go.mod", "// x"),
        ("gomod", "// x"),
        ("tiltfile", "# x"),
        ("starlark", "# x"),
        ("conf", "# x"),
        ("python", "# a\n# b"),
        ("mdx", "{/* x */}"),
        ("xml", "<!-- x\ny -->"),
        ("svelte", "<!-- x -->"),
        ("awk", "# x"),
        ("meson", "# x"),
        ("groovy", "// x"),
        ("javascript.jsx", "// x"),
        ("rust", "//! x"),
        ("php", "# x"),
    ],
)
def test_nothing_but_comments_is_not_shown(language_id: str, answer: str) -> None:
    """C16, C17: in every language, by every editor's id for it."""
    assert filters.apply(answer, Site("", "", language_id)) == ""


@pytest.mark.parametrize(
    ("language_id", "answer"),
    [
        ("python", "x = 1"),
        ("pascal", "{$mode objfpc}"),
        ("haskell", "{-# LANGUAGE Foo #-}"),
        ("css", "#a { }"),
        ("scss", "#{$a} { }"),
        ("bat", "remote = 1"),
        ("vb", "Remove(x)"),
        ("rust", "#[derive(Debug)]"),
        ("twig", "{% if x %}"),
        ("jinja", "{{ x }}"),
        ("handlebars", "{{#if x}}"),
        ("blade", "{{ $x }}"),
        ("razor", "@model Foo"),
        ("erb", "<%= x %>"),
        ("gotmpl", "{{ .x }}"),
        ("terraform", "x = 1"),
        ("m4", "dnlx"),
        ("makefile", "all:"),
        ("abap", "WRITE x."),
        ("powershell", "#Requires -Version 5"),
        ("elixir", "x"),
        ("markdown", "# Title"),
        ("restructuredtext", ".. note:: x"),
        ("yaml", "- x"),
        ("clojure", "#(inc %)"),
        ("lua", "x = 1"),
        ("shellscript", "#!/bin/sh"),
    ],
)
def test_what_starts_like_a_comment_is_shown(language_id: str, answer: str) -> None:
    """C17."""
    assert filters.apply(answer, Site("", "", language_id)) == answer


@pytest.mark.parametrize(
    ("language_id", "answer", "marked", "expected"),
    [
        ("javascript", "// x", 'fetch(u, {headers: {Accept: "*/*"}})\n‸', ""),
        ("typescript", "// x", 'const g = "src/**/*.ts"\n‸', ""),
        ("javascript", "// x", "const g = 'src/**/*.js' // see src/*.js\n‸", ""),
        ("go", "// x", 'p := "/*"\n‸', ""),
        ("c", "// x", 'char *s = "/*";\n‸', ""),
        ("rust", "// x", "fn f<'a>(x: &'a str) { g(\"/*\") }\n‸", ""),
        ("php", "// x", "$a = '/*';\n‸", ""),
        ("css", "/* x */", 'a { background: url("/*x") }\n‸', ""),
        ("sql", "-- x", "select '/*'\n‸", ""),
        ("jsonc", "// x", '{"include": ["src/**/*"]}\n‸', ""),
        ("lua", "-- x", 'x = "--[["\n‸', ""),
        ("terraform", "// x", 'x = "/*"\n‸', ""),
        ("scss", "// x", 'a: "/*"\n‸', ""),
        ("javascript", "words here", "/* it's ‸", "words here"),
        ("javascript", "// words here", "/* it's ‸", "// words here"),
        ("javascript", "words here", 'x = "a" /* it\n * ‸', "words here"),
        ("javascript", "// words here", 'x = "a" /* it\n * ‸', "// words here"),
        ("twig", "words here", "{# foo ‸", "words here"),
        ("twig", "// words here", "{# foo ‸", "// words here"),
        ("razor", "words here", "@* foo\n‸", "words here"),
        ("razor", "// words here", "@* foo\n‸", "// words here"),
        ("html", "words here", "<!-- a\n‸", "words here"),
        ("html", "// words here", "<!-- a\n‸", "// words here"),
        ("jinja", "words here", "{# a\n‸", "words here"),
        ("jinja", "// words here", "{# a\n‸", "// words here"),
        ("pascal", "words here", "(* a\n‸", "words here"),
        ("pascal", "// words here", "(* a\n‸", "// words here"),
        ("elm", "words here", "{- a\n‸", "words here"),
        ("elm", "// words here", "{- a\n‸", "// words here"),
        ("html", "// x", "<script>\n‸\n</script>", ""),
        ("html", "// x", "<script>\n</script>\n‸", "// x"),
        ("html", "/* x */", "<style>\n‸", ""),
        ("vue", "// x", '<script lang="ts">\n‸', ""),
        ("vue", "<!-- x -->", "<template>\n‸", ""),
        ("vue", "// x", '<style lang="scss">\n‸', ""),
        ("svelte", "// x", "<SCRIPT>\n‸", ""),
        ("markdown", "# x", "```python\n‸\n```", ""),
        ("markdown", "# x", "```python\nx\n```\n‸", "# x"),
        ("markdown", "# x", "~~~sh\n‸", ""),
        ("markdown", "// x", "````md\n```c\n‸", "// x"),
        ("markdown", "# x", "```{r}\n‸", ""),
        ("markdown", "# x", "```\n‸", "# x"),
        ("markdown", "// x", "> ```js\n‸", ""),
        ("markdown", "// x", "1. a\n   ```go\n‸", ""),
        ("php", "// x", "<?php\n‸", ""),
        ("php", "<!-- x -->", "<?php x ?>\n‸", ""),
        ("php", "// x", "<?php x ?>\n<script>\n‸", ""),
        ("erb", "# x", "<% ‸", "# x"),
        ("erb", "# x", "<%\n‸", ""),
        ("astro", "// x", "---\n‸", ""),
        ("astro", "<!-- x -->", "---\nx\n---\n‸", ""),
        ("html", '{"a": 1}', '<script type="application/json">\n‸', '{"a": 1}'),
        ("html", "<!-- x -->", '<script type="text/x-template">\n‸', ""),
        ("html", "<!-- x -->", '<script src="x"/>\n‸', ""),
        ("python", "# x", "%%bash\n‸", ""),
        ("python", "// x", "%%javascript\n‸", ""),
        ("python", "# x", "%%time\n‸", ""),
        ("quarto", "# x", "```{python}\n‸", ""),
        ("mdx", "// x", "```ts\n‸", ""),
        ("jinja", "// x", "<script>\n‸", ""),
        ("markdown", "  \nviolets", "Roses‸", "  \nviolets"),
        ("markdown", " \nviolets", "Roses ‸", " \nviolets"),
        ("markdown", "\nviolets", "Roses  ‸", "\nviolets"),
        ("markdown", " \nviolets", "Roses‸", "\nviolets"),
        ("markdown", "a   \nb", "‸", "a  \nb"),
        ("markdown", "int a;  \nint b;", "```c\n‸", "int a;\nint b;"),
        ("diff", "-a\n \n+b ", "@@ -1 +1 @@\n‸", "-a\n \n+b "),
        ("patch", " a \n-b", "‸", " a \n-b"),
        ("python", "  \ny", "x‸", "\ny"),
        ("gfm", "a  \nb", "‸", "a  \nb"),
        ("prompt", "a  \nb", "‸", "a  \nb"),
        ("python", "a  \nb", "%%markdown\n‸", "a  \nb"),
        ("markdown", "a\t\nb", "‸", "a\nb"),
        ("markdown", "a  ", "‸", "a  "),
    ],
)
def test_comments_and_line_breaks_where_the_cursor_is(
    language_id: str, answer: str, marked: str, expected: str
) -> None:
    """C17, C27: marks in strings begin no comment, open comments go on, embedded code counts as
    what it is, and two blanks end a line in Markdown only."""
    assert filters.apply(answer, site(marked, language_id)) == expected


@pytest.mark.parametrize(
    ("language_id", "marked", "answer", "expected"),
    [
        ("makefile", "clean:\n‸\n", "    rm -rf build\n    rm -f x", "\trm -rf build\n\trm -f x"),
        (
            "makefile",
            "all:\n\tcc a.c\n‸\n",
            "    ld a.o\n\nclean:\n    rm x",
            "\tld a.o\n\nclean:\n\trm x",
        ),
        ("makefile", "all:\n\t‸\n", "cc a.c\n    ld a.o", "cc a.c\n\tld a.o"),
        ("makefile", "all:\n\tcc\nifdef DEBUG\n‸endif", "    strip a", "\tstrip a"),
        (
            "makefile",
            "all:\n\tcc‸",
            "\nifdef DEBUG\n    strip a\nelse\n    x\nendif",
            "\nifdef DEBUG\n\tstrip a\nelse\n\tx\nendif",
        ),
        (
            "makefile",
            "‸",
            "ifeq ($(OS),Windows)\n    RM = del\nelse\n    RM = rm\nendif",
            "ifeq ($(OS),Windows)\n    RM = del\nelse\n    RM = rm\nendif",
        ),
        (
            "makefile",
            "all:\n\t‸",
            "for x in a b; do \\\n\t\techo $$x; \\\n\tdone",
            "for x in a b; do \\\n\t\techo $$x; \\\n\tdone",
        ),
        ("makefile", "‸", "$(OBJS:.c=.o): x.h\n    cc", "$(OBJS:.c=.o): x.h\n\tcc"),
        ("makefile", "‸", "%.o: %.c\n    cc\n    # note\n    ld", "%.o: %.c\n\tcc\n\t# note\n\tld"),
        ("makefile", "‸", "a b::\n  cc", "a b::\n\tcc"),
        ("makefile", "‸", "debug: CFLAGS += -g\n    x", "debug: CFLAGS += -g\n    x"),
        ("makefile", "‸", "X := a \\\n    b\nY ::= c \\\n  d", "X := a \\\n    b\nY ::= c \\\n  d"),
        ("makefile", "‸", ".PHONY: all\nall: | out\n    cc", ".PHONY: all\nall: | out\n\tcc"),
        ("makefile", "‸", "a: b \\\n   c\n    cc", "a: b \\\n   c\n\tcc"),
        ("makefile", "‸", "a: ; cc\nb: # note\n    cc", "a: ; cc\nb: # note\n\tcc"),
        ("makefile", "‸", "define X\n    a\nendef", "define X\n    a\nendef"),
        ("markdown", "```make\nall:‸", "\n    cc", "\n\tcc"),
        ("automake", "all:‸", "\n    cc", "\n\tcc"),
        ("makefile", "all:\n‸", "        cc", "\tcc"),
        ("go", "func f() {\n\tx()\n}\n\nfunc g() {\n‸\n}", "    y()\n    z()", "\ty()\n\tz()"),
        ("python", "def f():\n    x()\n\ndef g():\n‸", "\ty()\n\tz()", "    y()\n    z()"),
        ("yaml", "a:‸", "\n\tb: \n\t\tc: 2", "\n    b: \n        c: 2"),
        ("yaml", "x:\n  y: 1\na:‸", "\n\tb:\n\t\tc: 2", "\n  b:\n    c: 2"),
        ("yaml", "x: |\n\tfoo\n\tbar\na:‸", "\n  b: 1", "\n  b: 1"),
        ("nim", "proc f() =‸", "\n\techo 1", "\n    echo 1"),
        ("fsharp", "let f x =‸", "\n\tx", "\n    x"),
        ("elm", "f =‸", "\n\tx", "\n    x"),
        ("helm", "a:‸", "\n\tb: 1", "\n    b: 1"),
        (
            "python",
            "class A:\n\tdef f(self):\n\t\tpass\n\n\tdef g(self):‸",
            "\n        return 1",
            "\n\t\treturn 1",
        ),
        (
            "python",
            "if x:\n  a\n\ndef f():\n        b\n\ndef g():‸",
            "\n    return 1",
            "\n    return 1",
        ),
        ("rust", "fn f() {\n‸\n}", "    x();", "    x();"),
        (
            "c",
            "void f()\n{\n\tg();\n}\n\nvoid h()\n{\n‸\n}",
            "    g();\n    k();",
            "\tg();\n\tk();",
        ),
        (
            "html",
            "<div>\n\t<p>\n\t\ta\n\t</p>\n</div>\n<div>\n‸",
            "    <p>\n        b\n    </p>",
            "\t<p>\n\t\tb\n\t</p>",
        ),
        ("lua", "function f()\n\tx()\nend\nfunction g()\n‸", "    y()", "\ty()"),
        ("ruby", "def f\n  x\nend\ndef g\n‸", "\ty", "  y"),
        ("shellscript", "f() {\n\tx\n}\ncat <<EOF\n    a\n    b\nEOF\ng() {‸", "\n    y", "\n\ty"),
        ("go", "package main\n\nfunc main() {‸", "\n    x()\n}", "\n    x()\n}"),
        ("python", "\tx = 1\n‸", "    y", "    y"),
    ],
)
def test_indentation_by_syntax_and_neighbours(
    language_id: str, marked: str, answer: str, expected: str
) -> None:
    """C10: recipes of makefiles, languages without tabs, and the answer's first line too."""
    assert filters.CHAIN["indentation"](answer, site(marked, language_id)) == expected


@pytest.mark.parametrize(
    ("language_id", "ids"),
    [("sh", ["shellscript"]), ("shellscript", ["bash"]), ("Quarto", ["markdown"]), ("x", ["x"])],
)
def test_a_language_is_off_by_any_of_its_ids(language_id: str, ids: list[str]) -> None:
    """C16: in `languages_off`."""
    assert is_listed(language_id, ids)
    assert not is_listed("python", ids)


@pytest.mark.parametrize("line", ["function " * 2000, "do |" * 4000, "a:" * 8000])
def test_very_long_lines_open_blocks_by_their_ends_only(line: str) -> None:
    """C21: no pattern runs over a line of any length."""
    for name in ("lua", "ruby", "makefile"):
        assert not language(name).opens_block(line)
        assert language(name).opens_block(f"{line} {{")


@pytest.mark.parametrize("unit", ["'\\", "`a", "'\"", "(", "'\\\n"])
def test_quotes_that_never_close_cost_their_number(unit: str) -> None:
    """C21: counted in calls of functions, at one size and at four times that size."""

    def steps(text: str) -> int:
        count = 0

        def called(*_: object) -> None:
            nonlocal count
            count += 1

        before = sys.getprofile()
        sys.setprofile(called)
        try:
            unclosed(text)
        finally:
            sys.setprofile(before)
        return count

    assert steps(unit * 2000) <= 5 * steps(unit * 500) + 500


def test_a_line_of_comments_without_end_is_no_comment() -> None:
    """C21: its parts are not looked at one by one."""
    assert language("c").only_comments("/* */ " * 100)
    assert not language("c").only_comments("/* */ " * 100_000)
    assert not language("c").in_comment("'\\" * 100_000)
