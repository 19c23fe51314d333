"""Languages are data: every folder loads, compiles and has a fixture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import context
from context.index.open_file import names_beside
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
    "void f(Foo& x);",
    "void f(Foo &x);",
    "void f(const Foo &x, int y);",
    "Foo& f();",
    "Foo &f(int x);",
    "Foo&& f();",
    "void f(Foo&& x);",
    "void f(int a, Foo& b);",
    "int f(int a = 1, int b = 2);",
    "Foo f(int a = 3);",
    "void f(Foo a = Foo());",
    "void f(Foo a = {});",
    "void f(int = 3);",
    "void f(const char* s = nullptr);",
    "char* p = nullptr;",
    "return nullptr;",
    "auto x{1};",
    "int x{3};",
    "auto f = [](int x) { return x; };",
    "auto f = [&](int x) { return x; };",
    "auto f = [=] { return 1; };",
    "auto f = [this, x](int y) { };",
    "std::sort(a, b, [](int x, int y) { return x < y; });",
    "sort(a, b, [&](int x) {",
    "using enum Color;",
    "return new Foo();",
    "p = new int[3];",
    "f(new Foo(1));",
    "  delete this;",
    "if (x) delete p;",
    "throw;",
    "throw x;",
    'throw std::runtime_error("x");',
    "for (auto& x : v) {",
    "for (auto &&[k, v] : m)",
    "for (const auto &[k, v] : m) {",
    "if (auto it = m.find(k); it != m.end()) {",
    "return *this;",
    "struct A { A(); };",
    "struct A { A(int x); int x; };",
    "struct A { int f(); };",
    "struct A {\n  int f(int x);\n};",
    "struct A {\n  int x;\n  void f() { x = 1; }\n};",
    "struct A {\n  A() {}\n  int x;\n};",
    "struct A {\n  int x = 1;\n};",
    "struct A {\n  int x{1};\n};",
    "struct A {\n  std::string s;\n};",
    "struct A {\n  static int x;\n};",
    "inline int x = 1;",
    "inline const int kMax = 1;",
    "static const int kX{3};",
    "typename... Ts",
    "void f(Args&&... args);",
    "void f(Ts... ts);",
    "decltype(x) y;",
    "sizeof...(Ts)",
    "typeid(x).name();",
    'const char* s = R"(abc)";',
    'auto s = u8R"x(a',
    'operator""_km(long double x);',
    'Length operator""_km(long double x);',
    'Length operator "" _km(long double x);',
    "A& operator=(A&& other);",
    "A& operator++();",
    "A operator++(int);",
    "T* operator->() const;",
    "T& operator[](int i);",
    "bool operator()(int a, int b);",
    "operator int() const;",
    "explicit operator bool();",
    "operator Foo() const;",
    "operator const char*() const;",
    "void* operator new(size_t n);",
    "enum struct E { a };",
    "enum class E;",
    "__global__ void f(int* x);",
    "__host__ __device__ int f();",
    "#include <experimental/filesystem>",
    "#include <Eigen/Dense>",
    "#include <bits/stdc++.h>",
    "#include <fmt/core.h>",
    '#include "absl/strings/string_view.h"',
    '#include "gtest/gtest.h"',
    "#include <google/protobuf/message.h>",
    "#include <QtWidgets>",
    '#include "vector"',
    "#include <nlohmann/json.hpp>",
    "#include <rapidjson/document.h>",
    "#include <llvm/ADT/StringRef.h>",
    "#ifndef __cplusplus\n#error C++ only\n#endif",
    "signals:",
    "[[likely]] x();",
    "static_assert(std::is_same_v<A, B>);",
    "template <class T, int N>",
    "template<typename T> T f(T x);",
    "template <>",
    "template <auto V>",
    "template\n<class T>",
    "class\nFoo\n{",
    "class A",
    "class A { int x; };",
    "class A : B {",
    "class A: public virtual B<C> {",
    "class A::B {",
    "class EXPORT A {",
    "class EXPORT(x) A : B {",
    "class A final {",
    "friend class A;",
    "friend struct A;",
    "friend bool operator==(const A&, const A&);",
    "friend void swap(A& a, A& b);",
    "virtual void f();",
    "virtual void f() = 0;",
    "virtual int f() const = 0;",
    "virtual ~A() {}",
    "void f() final;",
    "void f() override {",
    "void f() const override;",
    "void f() &&;",
    "void f() const &;",
    "int f() const volatile;",
    "auto f() -> decltype(x);",
    "auto f(int x) -> int { return x; }",
    "auto f() noexcept -> int;",
    "[[nodiscard]] auto f() const -> int;",
    "explicit A(int x);",
    "explicit A(int x) : x_(x) {}",
    "A(int x) : x_(x) {}",
    "A(int x) : x_{x} {}",
    "A(int x)\n  : x_(x)\n{}",
    "A(int x)\n  : x_(x),\n    y_(1) {}",
    "mutable std::mutex m;",
    "mutable int x = 0;",
    "static constexpr int x = 1;",
    "constexpr auto x = 1;",
    "constinit int x = 1;",
    "static_cast<int>(x)",
    "int y = static_cast<int>(x);",
    "y = reinterpret_cast<const char*>(p);",
    "if (dynamic_cast<A*>(p)) {",
    "namespace a {",
    "namespace a::b {",
    "namespace {",
    "namespace\n{",
    "namespace a\n{",
    "namespace a = b::c;",
    "inline namespace v1 {",
    "export namespace a {",
    "namespace [[deprecated]] a {",
    "namespace a { namespace b { class C; } }",
    "using namespace std;",
    "using std::string;",
    "using T = int;",
    "using T [[deprecated]] = int;",
    "template <typename T> using V = std::vector<T>;",
    "typedef std::vector<int> V;",
    "typedef Foo<int> V;",
    "std::vector<int> f();",
    "std::size_t n;",
    "::foo();",
    "int A::f() { return 1; }",
    "A::A() {}",
    "A::~A() {}",
    "A::A(int x) : x(x) {}",
    "const int A::x = 1;",
    "vector<vector<int>> v;",
    "pair<int, string> p;",
    "map<string, int>::iterator it;",
    "shared_ptr<Foo> p = make_shared<Foo>();",
    "unique_ptr<Foo> f();",
    "optional<int> f(const string& s);",
    "Foo<Bar> x{1};",
    "Foo<3> x;",
    "array<int, 3> a;",
    "function<void(int)> f;",
    "bool operator<=>(const A&) const = default;",
    "auto operator<=>(const A&) const = default;",
    "A(const A&) = default;",
    "A(const A&) = delete;",
    "A& operator=(const A&) = delete;",
    "void f() = delete;",
    "~A();",
    "~A() = default;",
    "virtual ~A() = default;",
    "~A() noexcept;",
    "  ~A() override;",
    "inline ~A() {}",
    "EXPORT ~A();",
    "public:",
    "protected :",
    "private:  // x",
    "public: int x;",
    "concept C = requires(T a) { a + a; };",
    "template<class T> concept C = true;",
    "requires C<T>",
    "co_return x;",
    "co_yield 1;",
    "import std;",
    "export module a.b;",
    "} catch (...) {",
    "catch (Foo& e) {",
    "void f() throw();",
    "void f() throw() {",
    "void f() noexcept(true);",
    "noexcept",
    "thread_local std::string s;",
    "extern thread_local Foo& x;",
    "union A { A() {} };",
    "goto x; std::cout << x;",
    'cout << "a" << endl;',
    "std::cout << x << std::endl;",
    "Q_DECLARE_METATYPE(A)",
    "Q_ENUM(X)",
    "Q_NAMESPACE",
    "UPROPERTY(EditAnywhere)",
    "USTRUCT()",
    "BOOST_FOREACH(int x, v)",
    "PYBIND11_MODULE(a, m) {",
    "wxDECLARE_EVENT_TABLE();",
    "static const string& name();",
    "const Foo& x;",
    "Foo& x_;",
    "const vector<int>& v,",
    "    const Foo& a,",
    "    Foo& b)",
    "int&& x;",
    "auto& x = y;",
    "auto&& x = y;",
    "const auto& x = y;",
    "int& x = y;",
    "Foo& x = y;",
    "decltype(auto) f();",
    "if constexpr (x) {",
    "if consteval {",
    "int x = 1'000'000;",
    "int a[]{1, 2};",
    "return {1, 2};",
    "return A{1};",
    "struct A final : B {};",
    "struct A : B {};",
    "struct A: public B<C> {",
    "struct A : a::B {",
    "struct A::B {",
    "struct A { friend B; };",
    "struct EXPORT A : B {",
    "struct A { virtual void f(); };",
    "struct A { ~A(); };",
    "struct A { explicit A(int); };",
    "struct A { private: int x; };",
    "struct A { using T = int; };",
    "struct A { static int f(); };",
    "struct A { enum class E { a }; };",
    "struct A { A* next() { return n; } A* n; };",
    "struct A { bool operator()(int a) const { return a; } };",
    "struct A { template <class T> void f(T x); };",
    "struct A { inline int f(); };",
    "const int& f();",
    "int (&a)[3];",
    "int (A::*f)(int);",
    "void (*f)(Foo&);",
    "std::function<void()> f;",
    "typedef void (A::*F)();",
    "int f(std::string);",
    "int f(string const& s);",
    "int f(char const &s);",
    "int f(unsigned int& s);",
    "int f(size_t& s);",
    "int f(int[], Foo&);",
    "int f(int const&);",
    "  int f(int &);",
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
    "int f(void);",
    "int x = a & b;",
    "f(a & b);",
    "  return f(a &b);",
    "if (x &y) {",
    "static inline int f(int a) { return g(a & b, c); }",
    "#define F(a, b) ((a) & (b))",
    "    foo & bar,",
    "    FLAG_A & FLAG_B)",
    "struct A { int x; int (*f)(int a); };",
    "struct A {\n  int x __attribute__((aligned(8)));\n};",
    "struct A {\n  DECLARE_BITMAP(x, 3);\n  LIST_HEAD(y);\n};",
    "struct A {\n  u8 data[] __counted_by(n);\n  int x __aligned(8);\n};",
    "struct A {\n  void (*f)(struct A *self);\n  SLIST_ENTRY(A) link;\n};",
    "int f(const struct A *a);",
    "for (int i = 0, j = 1; i < n; i++)",
    "if ((x = f(a)) == 1) {",
    "while (c = getc(f))",
    "else if (x = f(a = 1)) {",
    "return f(a = b);",
    "int x = f(a = b);",
    "struct A a = { .x = f(1), .y = { 1 } };",
    "int a[] = {1, 2};",
    "return (struct A){1, 2};",
    "x = (int){1};",
    "enum { a = 1 };",
    "enum E { A = 1 << 2, B };",
    "unsigned int x : 3, y : 4;",
    "int this_is;",
    "struct foo *this;",
    "this->x = 1;",
    "char new_name[3];",
    "struct list *new = malloc(1);",
    "int (*delete)(struct x *);",
    "ops->delete(x);",
    "int f(int class, int template);",
    "struct { int private; } x;",
    "bool operator_is(int x);",
    "x = y ? a : b;",
    "case 1: default: x;",
    "typedef unsigned char byte;",
    "#include <linux/kernel.h>",
    '#include "config.h"',
    "#include <X11/Xlib.h>",
    "#define X class",
    "#if 0\nclass A;\nnamespace b {\n#endif",
    "#if 0\nstd::string x;\n#else\nint x;\n#endif",
    "// std::vector<int> x;",
    "/* std::vector<int> x; */",
    "int x; // class A {",
    "int x; /* class A\n class B {\n */",
    'char *s = "class A { std::x };";',
    '#define S "x" /* it\'s */',
    "int f(int a, /* b = 3 */ int c);",
    "// it's a namespace\n",
    "int f(int a) /* = 3 */;",
    "#ifdef __cplusplus\nclass A { };\n#endif\nint x;",
    "#if defined(__cplusplus) && X\nstd::string x;\n#if Y\nclass B;\n#endif\nclass A;\n#endif\nint x;",  # noqa: E501
    "#ifndef __cplusplus\nint x;\n#else\nclass A;\n#endif",
    "#if !defined(__cplusplus)\nint x;\n#else\nclass A;\n#endif",
    "#if !defined __cplusplus\ntypedef int bool;\n#endif",
    '#if __cplusplus\nextern "C" {\n#endif',
    "#if __cplusplus >= 201103L\nconstexpr int x = 1;\n#endif\nint y;",
    "#ifdef __cplusplus\n#define X static_cast<int>(x)\n#else\n#define X ((int) x)\n#endif",
    "__BEGIN_DECLS",
    'extern "C" {',
    'extern "C" int f(void);',
    "extern int f(int);",
    "[[gnu::packed]] struct x;",
    "[[deprecated]] int f(void);",
    "_Generic((x), int: f, default: g)(x)",
    "__attribute__((format(printf, 1, 2))) int f(const char *x, ...);",
    "int f(a, b) int a; int b; { return 1; }",
    "int f(int n, int a[static n]);",
    "int f(int n, int a[n]);",
    "int (*signal(int sig, void (*f)(int)))(int);",
    'static const char *const names[] = { "a", "b" };',
    "x < y && z > w;",
    "if (a < b && c > (d)) {",
    "for (i = 0; i < n; i++) { x(i); }",
    "if (a < b || c > d) x = 1;",
    "f(a < b, c > d);",
    "x = a<b>c;",
    "#define CHECK(x) do { if (x < 0) goto out; } while (0)",
    "CHECK(a < b);",
    'asm volatile("x" : "=r"(a) : "r"(b));',
    'asm("x" :: "r"(b));',
    '__asm__ __volatile__ ("x" ::: "memory");',
    "@protocol A <B>",
    "- (void)f:(int)x;",
    "+ (instancetype)a;",
    "typedef void (^Block)(int);",
    "NS_ENUM(int, X)",
    "typedef NS_ENUM(NSInteger, X) { a };",
    "int x = 'a';",
    "char c = '\"';",
    "char c = '\\'';",
    "int catch;",
    "int try;",
    "void throw(int x);",
    "int final;",
    "int override;",
    "int import;",
    "int module;",
    "int requires;",
    "int concept;",
    "int friend;",
    "int explicit;",
    "int mutable;",
    "int virtual;",
    "int using;",
    "int export;",
    "int namespace;",
    "struct x { int namespace; int virtual; };",
    "void *delete;",
    "f(new);",
    "f(&x);",
    "f(a, &x);",
    "return &x;",
    "x = &y;",
    "  &y,",
    "x = a\n  & b;",
    "u32 f(u32 a) { return (a & MASK); }",
    "int f(void) __attribute__((weak));",
    "int f(void) __nonnull((1));",
    "int f(int x) CONST_FN;",
    "extern int f(int) __THROW __nonnull ((1));",
    "struct A { struct B b; union { int x; }; };",
    "typedef struct A { int x; } A;",
    "typedef struct { int x; } A;",
    "#pragma omp parallel for",
    "int f(enum E e);",
    "int f(struct A a);",
    "int signals;",
    "int emit;",
    'MODULE_LICENSE("GPL");',
    "EXPORT_SYMBOL(x);",
    "DEFINE_MUTEX(x);",
    "static DEFINE_PER_CPU(int, x) = 1;",
    "module_param(x, int, 0644);",
    "static struct A a = INIT(x = 1);",
    "int x = sizeof(struct A);",
    "label:",
    "out: return 1;",
    "x = y * (a);",
    "constant_p(x);",
    "int noexcept_;",
    "struct s { int f; } __packed;",
    "struct s { int x; } s(1);",
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


def test_a_sign_in_what_no_c_compiler_reads_does_not_count_while_it_is_typed() -> None:
    """C14: the lines around an edit are not enough to say so."""
    document = context.Document("", "a.h", "int x;\n#ifdef __cplusplus\n" + "int y;\n" * 900, "c")
    for char in "class Berth {\n};\n#endif\n":
        document.edit(len(document.data), len(document.data), char)
    assert document.language is languages()["c"]
    document = context.Document("", "a.h", "struct Berth {\n" + "  int x;\n" * 200 + "};\n", "c")
    document.edit(len(document.data) - 3, len(document.data) - 3, "  int depth() const;\n")
    assert document.language is languages()["cpp"]


@pytest.mark.parametrize(
    ("beside", "text", "name"),
    [
        ([], "int x;\n", "c"),
        (["berth.cpp"], "int x;\n", "cpp"),
        (["berth.c"], "int x;\n", "c"),
        (["berth.cc", "quay.c"], "int x;\n", "cpp"),
        (["quay.cpp", "berth.c"], "int x;\n", "c"),
        (["quay.cpp", "tide.hpp", "README.md"], "int x;\n", "cpp"),
        (["quay.cpp", "tide.c"], "int x;\n", "c"),
        (["quay.h", "README.md"], "int x;\n", "c"),
        (["berth.cpp"], "#ifdef __cplusplus\n#endif\nint x;\n", "c"),
        (["kernel.cu"], "", "cpp"),
    ],
)
@pytest.mark.parametrize("language_id", ["", "c"])
def test_files_beside_a_header_tell_its_language(
    beside: list[str], text: str, name: str, language_id: str, tmp_path: Path
) -> None:
    """C14: where the text has no sign: what has the same stem, then all files of the folder."""
    found = language_for("berth.h", text, language_id, beside)
    assert found is not None and found.name == name
    for one in beside:
        (tmp_path / one).write_text("")
    assert "berth.h" not in names_beside(tmp_path / "berth.h")
    assert sorted(names_beside(tmp_path / "berth.h")) == sorted(beside)
    assert names_beside(tmp_path / "none" / "berth.h") == []


REAL_C = sorted(Path("/usr/include/linux").glob("*.h"))[:60]
REAL_CPP = sorted(Path("/usr/include/c++").glob("*/bits/stl_*.h"))


@pytest.mark.skipif(not REAL_C or not REAL_CPP, reason="no system headers here")
def test_headers_of_the_system_are_what_they_are() -> None:
    """C14: on real headers, of which no list of signs was made."""
    for paths, name in ((REAL_C, "c"), (REAL_CPP, "cpp")):
        found = {path.name: language_for(path.name, path.read_text()) for path in paths}
        assert {
            one for one, language in found.items() if language is not languages()[name]
        } == set()


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
