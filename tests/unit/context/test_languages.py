"""Languages are data: every folder loads, compiles and has a fixture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import context
from context.syntax.document import read
from context.syntax.language import (
    QUERIES,
    _ids,
    canonical_id,
    language_for,
    language_of_id,
    languages,
)

WANTED = {
    "python", "javascript", "typescript", "tsx", "go", "rust", "java", "c", "cpp", "csharp",
    "ruby", "php", "bash", "lua",
}  # fmt: skip


def test_all_languages_are_there() -> None:
    assert set(languages()) == WANTED


@pytest.mark.parametrize("name", sorted(WANTED))
def test_queries_compile_and_find_something(name: str, main_file: Callable[[str], Path]) -> None:
    language = languages()[name]
    source = read(main_file(name).read_text(encoding="utf-8"), language)
    assert source.tree.root is not None and not source.tree.root.has_error
    for query in QUERIES:
        assert language.query(query).pattern_count > 0
    assert source.outline.definitions and source.outline.imports
    assert source.spans("comments", "comment") and source.spans("bodies", "body")
    boilerplate = source.spans("boilerplate", "main") + source.spans("boilerplate", "accessor")
    assert boilerplate


@pytest.mark.parametrize(
    ("path", "text", "name"),
    [
        ("a.py", "", "python"),
        ("A.PY", "", "python"),
        ("x/y.test.ts", "", "typescript"),
        ("Rakefile", "", "ruby"),
        ("tool", "#!/usr/bin/env python3\n", "python"),
        ("tool", "#!/bin/sh -e\n", "bash"),
        ("tool", "#!/usr/bin/env -S node --flag\n", "javascript"),
        ("tool", "hello\n", None),
        ("a.unknown", "#!/bin/sh\n", None),
        ("", "", None),
    ],
)
def test_a_file_tells_its_language(path: Any, text: str, name: str) -> None:
    found = language_for(path, text)
    assert (found.name if found else None) == name


def test_every_language_has_a_folder_with_a_readme() -> None:
    folder = Path(context.__file__).with_name("syntax") / "languages"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for query in QUERIES:
        assert f"`{query}.scm`" in readme


@pytest.mark.parametrize(
    ("vscode", "neovim", "name"),
    [
        ("shellscript", "sh", "bash"),
        ("shellscript", "zsh", "bash"),
        ("shellscript", "ksh", "bash"),
        ("csharp", "cs", "csharp"),
        ("cuda-cpp", "cuda", "cpp"),
        ("objective-cpp", "objcpp", "cpp"),
        ("javascriptreact", "javascript.jsx", "javascript"),
        ("typescriptreact", "typescript.tsx", "tsx"),
        ("python", "python.django", "python"),
        ("cpp", "c++", "cpp"),
        ("objective-c", "objc", None),
        ("makefile", "make", None),
        ("powershell", "ps1", None),
        ("git-commit", "gitcommit", None),
        ("markdown", "pandoc", None),
        ("latex", "plaintex", None),
        ("bat", "dosbatch", None),
    ],
)
def test_ids_of_both_editors_mean_the_same(vscode: Any, neovim: Any, name: str) -> None:
    """C16: one table for the language ids of VS Code and of Neovim."""
    assert canonical_id(vscode) == canonical_id(neovim)
    found = language_of_id(neovim)
    assert (found.name if found else None) == name


def test_ids_of_the_table_are_in_lower_case_and_grammars_exist() -> None:
    """C16: an id that is looked up is folded in case, so the table must be too."""
    canonical, grammars = _ids()
    assert all(one == one.lower() for one in canonical)
    assert set(grammars.values()) <= set(languages()) and set(grammars) <= set(canonical)


@pytest.mark.parametrize(
    ("path", "language_id", "name"),
    [
        ("Untitled-1", "python", "python"),
        ("Untitled-1", "", None),
        ("Untitled-1", "plaintext", None),
        ("a.py", "plaintext", "python"),
        ("a.py", "text", "python"),
        ("a.py", "an-id-that-nobody-knows", "python"),
        ("a.py", "ruby", "ruby"),
        ("a.py", "makefile", None),
        ("a.txt", "typescriptreact", "tsx"),
        ("a.h", "cpp", "cpp"),
        ("a.h", "c", "c"),
        ("a.h", "cuda", "cpp"),
        ("a.h", "", "c"),
        ("BUILD", "Python", "python"),
        ("x.ipynb#W0", "python", "python"),
    ],
)
def test_the_language_id_decides_over_the_path(path: Any, language_id: str, name: str) -> None:
    """C7, C14: the path counts only where no language id says what the text is."""
    found = language_for(path, "", language_id)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("class Berth {", "cpp"),
        ("class Berth final : public Quay {", "cpp"),
        ("class HARBOUR_API Berth\n{", "cpp"),
        ("namespace harbour {", "cpp"),
        ("namespace harbour::quay\n{", "cpp"),
        ("inline namespace v2 {", "cpp"),
        ("template <typename T>", "cpp"),
        ("enum class Tide { ebb };", "cpp"),
        ("using Depth = double;", "cpp"),
        ("using std::size_t;", "cpp"),
        ("  public:", "cpp"),
        ("#include <vector>", "cpp"),
        ("#include <vector.h>", "c"),
        ("#include <sys/types.h>", "c"),
        ("struct berth { int depth; };", "c"),
        ("/* class of ships and\n class names are kept */", "c"),
        ("int namespace_of(int class_id);", "c"),
        ('extern "C" {', "c"),
    ],
)
def test_a_header_is_known_by_its_content(line: Any, name: str) -> None:
    """C14: a `.h` file with classes, namespaces or templates in it is C++."""
    found = language_for("a.h", f"#pragma once\n\n{line}\n")
    assert found is not None and found.name == name


def test_cpp_and_c_see_each_other() -> None:
    """C14: a `.h` file that an editor calls C++ still sees the definitions of its C files."""
    table = languages()
    assert table["cpp"].sees("c") and table["c"].sees("cpp")
    assert not table["cpp"].sees("rust") and not table["cpp"].sees("")


CPP_LINES = [
    "struct A : B {",
    "struct A final {",
    "  virtual void f() = 0;",
    "  explicit A(int);",
    "std::string f();",
    "void f(const std::string& s);",
    "  A(const A&) = delete;",
    "  bool operator==(const A& o) const;",
    "  int get() const noexcept;",
    "  int get() const { return x; }",
    "friend class X;",
    "class [[nodiscard]] A {",
    "class alignas(16) A {",
    "class __attribute__((x)) A {",
    "#include <cstdint>",
    '#include "a.hpp"',
    "Q_OBJECT",
    "  ~A();",
    'extern "C++" {',
    "concept C = true;",
    "enum class E : int;",
    "namespace a { namespace b {",
    "export module x;",
    "template<>",
    "  public slots:",
    "using x = y;",
    "constexpr int x = 1;",
    "consteval int f();",
    "constinit int x;",
    "auto f() -> int;",
    "void f(int &x);",
    "int f(int a = 3);",
    "enum E : int { a };",
    "enum class E { a };",
    "mutable int x;",
    "bool f(std::vector<int> v);",
    "  A() : x(1) {}",
    "  A() = default;",
    "struct A { int f() const; };",
    "typedef std::map<int, int> M;",
    "template class A<int>;",
    "try {",
    "} catch (const E& e) {",
    "throw E();",
    "delete p;",
    "delete[] p;",
    "using ns::x;",
    "using A::A;",
    "Foo::bar();",
    "void Foo::bar() {",
    "int A::x = 1;",
    "inline constexpr int x = 1;",
    "static_cast<int>(x);",
    "reinterpret_cast<T*>(p)",
    "dynamic_cast<A*>(b)",
    "const_cast<char*>(s)",
    "typename T::type x;",
    "virtual ~A();",
    "protected:",
    "private:",
    "requires std::integral<T>",
    "co_await x;",
    "import <vector>;",
    "namespace fs = std::filesystem;",
    "union U { A a; ~U(); };",
    "friend void f();",
    "friend std::ostream& operator<<(std::ostream&, A);",
    "explicit operator bool() const;",
    "operator bool() const;",
    "#include <memory>",
    "#include <QObject>",
    "#include <QtCore/QObject>",
    "#include <boost/optional.hpp>",
    '#include "x.hpp"',
    "#include <x.hpp>",
    "#include <gtest/gtest.h>",
    "class A;",
    "class A : public B",
    "  class A\n  {",
    "struct A : public B {",
    "struct A: B",
    "struct A\n  : B {",
    "struct A<int> {",
    "auto [a, b] = f();",
    "for (auto x : v)",
    "for (const auto& x : v)",
    "if constexpr (x)",
    "UCLASS()",
    "GENERATED_BODY()",
    "Q_PROPERTY(int x READ x)",
    "void f() override;",
    "int f() noexcept;",
    "std::unique_ptr<A> p;",
    "::std::string s;",
    "boost::optional<int> x;",
    "QList<int> list;",
    "vector<int> v;",
    "Foo<int> f();",
    "map<string, vector<int>> m;",
    "T operator+(T a, T b);",
    "bool operator<(const A&) const;",
    "extern template class A<int>;",
    "export class A {",
    "#pragma once\nnamespace {\nint x;\n}",
    "MyNs::Type f(int);",
    'const std::string kName = "a";',
    "bool is_x() const;",
    "static bool f(const T& t) noexcept {",
    "explicit Foo(int x) : x_(x) {}",
    "~Foo() = default;",
    "Foo(Foo&&) = delete;",
]
C_LINES = [
    "int class_x;",
    "struct s { unsigned a : 3; };",
    "/* virtual memory */",
    "// std::string is C++",
    "int operator_id;",
    "typedef int (*f)(const char *);",
    '#ifdef __cplusplus\nextern "C" {\n#endif\nint f(void);\n#ifdef __cplusplus\n}\n#endif',
    "static inline int f(int *a) { return a ? 1 : 0; }",
    "  default: x;",
    "label: public_x = 1;",
    "#define private_ 1",
    'char *s = "std::string";',
    "* template <x> is",
    "x = ~A;",
    "int new(int delete);",
    "/* operator ( */",
    "struct a b = { .x = 1 };",
    "struct a { int x; };",
    "void f(int *x);",
    "#include <stdio.h>",
    "#include <stdbool.h>",
    "#include <linux/list.h>",
    '#include "a.h"',
    "typedef struct node *node_t;",
    "#define MAX(a, b) ((a) > (b) ? (a) : (b))",
    "static const char *const names[] = {",
    "enum e { a, b };",
    "extern int x;",
    "int class;",
    "int new;",
    "void delete(int x);",
    "int private;",
    "struct class { int template; };",
    "int f(int a, int b) __attribute__((const));",
    "#define template x",
    "x = a & b;",
    "if (a && b) {",
    "f(a && b);",
    "int (*operator)(int);",
    "a = b ? c : d;",
    "switch (x) { case A: default: break; }",
    "struct s s = { .class = 1 };",
    'static_assert(1, "x");',
    '_Static_assert(1, "x");',
    "typedef int bool_t;",
    "#ifdef __cplusplus\nnamespace x {}\n#endif",
    "#if defined(__cplusplus)\nclass A;\n#endif\nint x;",
    "/* class A { */",
    "// namespace x {",
    "/*\n * class Foo { };\n * namespace x {\n */",
    "/*\nclass Foo {\n};\n*/",
    "typeof(x) y;",
    "auto int x;",
    "bool x = true;",
    "nullptr_t x;",
    "[[nodiscard]] int f(void);",
    "alignas(8) int x;",
    "thread_local int x;",
    "unsigned x : 3;",
    "struct a\n  b;",
    "#define std x",
    "int virtual_x;",
    "public_fn(1);",
    'char *s = "class A {";',
    "int typename;",
    "#define NS_BEGIN namespace x {",
    "int f(const char *a, size_t n);",
    "int this;",
    "goto public;",
    "static inline uint32_t f(uint32_t x) { return x & 0xff; }",
    "@interface A : B",
    "@class A;",
    "#import <Foundation/Foundation.h>",
    "- (void)f;",
    "@property int x;",
]


@pytest.mark.parametrize("language_id", ["", "c", "plaintext"])
@pytest.mark.parametrize(
    ("line", "name"), [(line, "cpp") for line in CPP_LINES] + [(line, "c") for line in C_LINES]
)
def test_what_only_cpp_has_makes_a_header_cpp(line: str, name: str, language_id: str) -> None:
    """C14: also where an editor calls every header C, and never in a `.c` file."""
    found = language_for("a.h", f"#pragma once\n{line}\n", language_id)
    assert found is not None and found.name == name
    found = language_for("a.c", f"{line}\n", language_id)
    assert found is not None and found.name == "c"


def test_a_header_becomes_cpp_while_it_is_typed() -> None:
    """C14: the language of an open document is looked at again where it is edited."""
    document = context.Document("", "a.h", "", "c")
    for char in "#pragma once\n\nclass Berth {\n":
        document.edit(len(document.data), len(document.data), char)
    assert document.language is languages()["cpp"]
    document.replace("#pragma once\n\nclass Berth {\n  int depth() const;\n};\n")
    assert document.source is not None and document.source.tree.root is not None
    assert not document.source.tree.root.has_error


def test_paths_mean_what_vs_code_takes_them_for() -> None:
    """C14, C16: the index knows files by their names only; names of files in any case."""
    table = json.loads((Path(__file__).parents[2] / "e2e/vscode_language_ids.json").read_text())
    others = {
        ".erb",
        ".fish",
        ".csh",
        ".tcsh",
        ".hpp.in",
        ".h.in",
        ".h",
        ".yash_profile",
        ".yashrc",
        ".mm",
    }
    others |= {".cshrc", ".tcshrc", ".hushlogin", ".envrc", "berksfile.lock", ".Xsession"}
    wrong = []
    for id_, names in table.items():
        wanted = language_of_id(id_)
        for name in names if wanted is not None else ():
            path = f"x{name}" if name.startswith(".") else name
            found = language_for(path) or language_for(name)
            if found is not wanted and name not in others and "zlogout" not in name:
                wrong.append((id_, name))
    assert [one for one in wrong if not one[1].startswith(("bashrc_", "z"))] == []
