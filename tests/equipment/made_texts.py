"""Made-up inputs for fuzzing what sees foreign text: values that are secrets and values that only
look like it, and edits of documents with odd URIs, encodings and line ends.

Each secret is put together here so that no scanner mistakes this file for one that leaks keys.
"""

# ruff: noqa: E501, RUF001

from __future__ import annotations

import base64
import random
import re
import string
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from lsprotocol import types
from secret_places import PLACES, fill

from lsp.document import Encoding, clean
from lsp.server import Server

_LETTERS = string.ascii_letters + string.digits
_PRIVATE = "PRIVATE " + "KEY"


def mixed(rng: random.Random, length: int) -> str:
    """Letters of both cases and digits, at least two of each."""
    core = [*"aZ3q", *rng.choices(_LETTERS, k=length - 6), *"K7"]
    rng.shuffle(core)
    return "".join(core)


def _digits(rng: random.Random, length: int) -> str:
    return "".join(rng.choices("0123456789abcdef", k=length))


def _encoded(rng: random.Random, length: int) -> str:
    return base64.b64encode(rng.randbytes(length)).decode()


_NAMES = ["password", "db_password", "API_KEY", "apiKey", "secret", "client_secret", "SECRET_KEY",
          "auth_token", "accessToken", "private_key", "DB_PASSWORD", "accessKey", "githubToken"]  # fmt: skip
_PREFIXES = ["ghp_", "glpat-", "xoxb-", "npm_", "hf_", "sk-" + "proj-", "AIza", "gsk_", "dckr_pat_"]
_FORMS = ["{n} = '{v}'", '{n}="{v}"', "{n}={v}", "{n}: {v}", '"{n}": "{v}",', "export {n}={v}",
          "const {n} = `{v}`;", "{n} := \"{v}\"", "<{n}>{v}</{n}>", "define('{n}', '{v}');",
          "'{n}' => '{v}',", "    - {n}={v}", "{n}: str = \"{v}\"", "#define {n} \"{v}\"",
          "x?{n}={v}&y=1", "tool --{n} {v}", "tool --{n}={v}", "set -gx {n} {v}",
          '"{{\\"{n}\\": \\"{v}\\"}}"', "{n} = (\n    '{v}'\n)", '{n} = """\n{v}\n"""',
          "{n}: >-\n  {v}", "- name: {n}\n  value: {v}", "{n} = ['{v}', 'x']", "# {n}: '{v}'",
          "{n} = {{'prod': '{v}'}}", "Server=db;{n}={v};X=1", "{n} = SecretStr('{v}')"]  # fmt: skip
_SPLIT = ["{n} = (\n    '{a}'\n    '{b}'\n)", "{n} = '{a}' +\n    '{b}';", "{n} = '{a}' \\\n    '{b}'",
          "export {n}={a}\\\n{b}", "{n} = '{a}' . '{b}';"]  # fmt: skip


def secret(rng: random.Random) -> tuple[str, str]:
    """A text with a secret in it, and the secret, or one piece of it."""
    if rng.random() < 0.5:
        text, values = fill(rng, rng.choice(PLACES))
        return text, rng.choice(values)
    kind, name, value = rng.random(), rng.choice(_NAMES), mixed(rng, rng.randint(20, 48))
    if kind < 0.1:
        value = rng.choice(_PREFIXES) + mixed(rng, 40)
        return f"run({value!r})\n", value
    if kind < 0.2:
        piece = rng.randint(8, len(value) - 8)
        text = rng.choice(_SPLIT).format(n=name, a=value[:piece], b=value[piece:])
        return text + "\n", value[piece:] if rng.random() < 0.5 else value[:piece]
    if kind < 0.3:
        lines = [_encoded(rng, 48) for _ in range(rng.randint(2, 12))]
        begin, end, between = f"-----BEGIN {_PRIVATE}-----", f"-----END {_PRIVATE}-----", "\n"
        if rng.random() < 0.5:
            between = rng.choice(["\\n", "\n  ", "\r\n", '\\n"\n    "', '\\n" +\n    "'])
        return f'{name} = "' + between.join([begin, *lines, end]) + '"\n', rng.choice(lines)
    if kind < 0.35:
        return f"postgres://user:{value}@db.example.org/x\n", value
    if kind < 0.4:
        return f"Authorization: {rng.choice(['Bearer', 'Basic', 'token'])} {value}\n", value
    return rng.choice(_FORMS).format(n=name, v=value) + "\n", value


_WORDS = ["harbour", "tide", "quay", "berth", "depth", "user", "name", "field", "token", "key", "request",
          "session", "value", "page"]  # fmt: skip


def _identifier(rng: random.Random) -> str:
    words = rng.sample(_WORDS, 3)
    return rng.choice(["_".join(words), "".join(map(str.title, words)), "-".join(words)]) + "2"


_HARMLESS: list[Callable[[random.Random], str]] = [
    lambda rng: f'"integrity": "sha512-{_encoded(rng, 64)[:50]}=="',
    lambda rng: f'checksum = "{_digits(rng, 64)}"',
    lambda rng: f"    --hash=sha256:{_digits(rng, 64)}",
    lambda rng: f"github.com/a/b v1.2.3 h1:{_encoded(rng, 32)[:43]}=",
    lambda rng: f'id = "{uuid.UUID(int=rng.getrandbits(128), version=4)}"',
    lambda rng: f"commit {_digits(rng, 40)}",
    lambda rng: f'ETag: "{_digits(rng, 32)}"',
    lambda rng: f"FROM python@sha256:{_digits(rng, 64)}",
    lambda rng: f"{rng.choice(_NAMES)} = get_{_identifier(rng)}(request)",
    lambda rng: f'{rng.choice(_NAMES)} = os.environ["{_identifier(rng).upper()}"]',
    lambda rng: f"{rng.choice(_NAMES)}: ${{{{ secrets.{_identifier(rng).upper()} }}}}",
    lambda rng: f"{rng.choice(_NAMES)} = {_identifier(rng)}",
    lambda rng: f'{rng.choice(_NAMES)} = "{_identifier(rng)}"',
    lambda rng: f'{rng.choice(_NAMES)} = "<your-{_identifier(rng)}>"',
    lambda rng: f"{rng.choice(_NAMES)}={'x' * rng.randint(8, 30)}",
    lambda rng: f'{rng.choice(_NAMES)} = "your-{mixed(rng, 12)}"',
    lambda rng: f"the {rng.choice(_NAMES)} {_identifier(rng)} of the {_identifier(rng)}",
    lambda rng: f"ssh-ed25519 AAAA{_encoded(rng, 30)} user@host",
    lambda rng: f"def {_identifier(rng).replace('-', '_')}(token, key=None): return key",
    lambda rng: f"url = 'https://example.org/{_identifier(rng)}?page={rng.randint(1, 99)}'",
    lambda rng: f"src/{_identifier(rng)}.py:{rng.randint(1, 99)}:{rng.randint(1, 79)}: E501 line too long",
    lambda rng: f"{_identifier(rng)}:{rng.randint(1000, 9999)}:{_digits(rng, 8)}",
    lambda rng: f"docker run -p {rng.randint(1000, 9999)}:5432 -e POSTGRES_PASSWORD=$PASSWORD postgres",
    lambda rng: f"docker run -p3306:3306 {_identifier(rng).lower()}",
    lambda rng: f"mysql -u root -p {_identifier(rng)}",
    lambda _: "mysql -u root -p$MYSQL_ROOT_PASSWORD app",
    lambda _: "sshpass -p \"$PASSWORD\" ssh user@host",
    lambda rng: f"curl -u $USER:$PASS https://example.org/{_identifier(rng)}",
    lambda _: "PGPASSWORD=${DB_PASSWORD} psql -h localhost",
    lambda rng: f"redis://user:${{REDIS_PASSWORD}}@{_identifier(rng).lower()}:6379",
    lambda rng: f"response.set_cookie('{_identifier(rng)}', value, samesite='Lax')",
    lambda _: "Set-Cookie: theme=dark; Path=/; HttpOnly; SameSite=Lax",
    lambda rng: f"session = {''.join(map(str.title, rng.sample(_WORDS, 2)))}Session2(engine)",
    lambda rng: f"session_id = request.{_identifier(rng).replace('-', '_')}",
    lambda _: "password：请输入密码",
    lambda rng: f"密码: {_identifier(rng)}",
    lambda rng: f"password_re = r'^(?=.*[A-Z])[A-Za-z\\d]{{8,{rng.randint(9, 99)}}}$'",
    lambda rng: f"token_url = 'https://example.org/{_identifier(rng)}/token'",
    lambda rng: f"secret_name: {_identifier(rng)}-{rng.randint(1, 9)}",
    lambda rng: f"token_id = '{uuid.UUID(int=rng.getrandbits(128), version=4)}'",
    lambda rng: f"IDENTIFIED BY {_identifier(rng)} in the list",
    lambda rng: f"records are identified by {_identifier(rng)}",
    lambda rng: f"connect('localhost', {rng.randint(1, 9999)}, '{_identifier(rng)}')",
    lambda rng: f"<token>{_identifier(rng)}</token>",
    lambda rng: f"<password>${{{_identifier(rng)}}}</password>",
    lambda rng: f"git diff {_digits(rng, 40)}..{_digits(rng, 40)}",
    lambda rng: f"app-{_digits(rng, 32)}.js",
    lambda rng: f"--cache-from registry/{_identifier(rng).lower()}:{_digits(rng, 40)}",
    lambda rng: "/" * rng.randint(60, 100),
    lambda rng: f"machine {_identifier(rng)} login {_identifier(rng)}",
    lambda rng: "PRIVATE_KEY_FILE=/run/secrets/" + _identifier(rng),
    lambda rng: f"pass:{_identifier(rng)}",
    lambda rng: f"Private-Lines: see {_identifier(rng)}",
]  # fmt: skip


def harmless(rng: random.Random) -> str:
    """A line that looks like one with a secret, and has none."""
    return rng.choice(_HARMLESS)(rng) + "\n"


def leaks(value: str, shown: str) -> bool:
    """Whether any six characters of a value are shown."""
    return any(value[at : at + 6] in shown for at in range(max(1, len(value) - 5)))


class Reference:
    """A text and its positions by the letter of the specification, recomputed every time."""

    _UNIT_BYTES = {Encoding.UTF8: ("utf-8", 1), Encoding.UTF16: ("utf-16-le", 2)}  # noqa: RUF012

    def __init__(self, text: str, encoding: Encoding) -> None:
        self.text = clean(text)
        self.encoding = encoding

    def lines(self) -> list[str]:
        return [m[0] for m in re.finditer(r"[^\r\n]*(?:\r\n|\n|\r|\Z)", self.text)][
            : len(re.findall(r"\r\n|\n|\r", self.text)) + 1
        ]

    def units(self, char: str) -> int:
        codec, unit_bytes = self._UNIT_BYTES.get(self.encoding, ("utf-32-le", 4))
        return len(char.encode(codec)) // unit_bytes

    def offset(self, line: int, character: int) -> int:
        lines = self.lines()
        if line >= len(lines):
            return len(self.text)
        start = sum(len(one) for one in lines[:line])
        seen = 0
        for at, char in enumerate(lines[line].rstrip("\r\n")):
            seen += self.units(char)
            if seen > character:
                return start + at
        return start + len(lines[line].rstrip("\r\n"))

    def replace(self, span: tuple[int, int, int, int], text: str) -> None:
        start, end = sorted((self.offset(*span[:2]), self.offset(*span[2:])))
        self.text = self.text[:start] + clean(text) + self.text[end:]


URIS = [
    ("file:///c%3A/Users/x.py", "file:///C:/Users/x.py"),
    ("file:///a%20b/%c3%a9.py", "FILE:///a%20b/%C3%A9.py"),
    ("file:///C%23/app/a.py", "file:///C%23/app/a.py"),
    ("file:///50%25/x%2523.py", "file:///50%25/x%2523.py"),
    ("file://Server/share/x.py", "file://server/share/x.py"),
    ("untitled:Untitled-1", "untitled:Untitled-1"),
    ("vscode-notebook-cell:/x/a.ipynb#W0sZg%3D%3D", "vscode-notebook-cell:/x/a.ipynb#W0sZg=="),
    ("vscode-remote://ssh-remote%2Bh/x.py", "vscode-remote://SSH-remote+h/x.py"),
    ("git:/x/a.py?%7B%22ref%22%7D", "git:/x/a.py?%7b%22ref%22%7d"),
    ("\0", "\0"),
    ("", ""),
    ("file:///" + "x" * 5000, "file:///" + "x" * 5000),
]
_PIECES = ["a", "b = 1", "\n", "\r", "\r\n", "\f", "\v", "\x85", "\u2028", "\u2029", "é", "e\u0301", "中",
           "😀", "👩\u200d🚀", "\ud83d", "\ude00", "\0", "\ufeff", "\t", "\u202e", "'''", "\uffff"]  # fmt: skip


@dataclass(frozen=True)
class Sequence:
    """A document and its changes; a change without a span is a whole new text."""

    opened_as: str
    changed_as: str
    encoding: Encoding
    text: str
    changes: tuple[tuple[tuple[int, int, int, int] | None, str], ...]


def sequence(rng: random.Random) -> Sequence:
    """An open document and one to six changes."""

    def text(most: int) -> str:
        return "".join(rng.choices(_PIECES, k=rng.randint(0, most)))

    changes = []
    for _ in range(rng.randint(1, 6)):
        start = rng.randint(0, 8), rng.choice([0, 1, 2, 3, 5, 9, 2**31 - 1])
        end = start[0] + rng.choice([-1, 0, 0, 0, 1, 3]), rng.choice([0, 1, 4, 2**31 - 1])
        whole = rng.random() < 0.2
        changes.append((None if whole else (*start, max(end[0], 0), end[1]), text(6)))
    return Sequence(*rng.choice(URIS), rng.choice(list(Encoding)), text(24), tuple(changes))


def differs(server: Server, made: Sequence) -> str:
    """How the server's document differs from the reference after any change; empty if nowhere.

    To be called in a running event loop.
    """
    session = server.session
    session.encoding = made.encoding
    item = types.TextDocumentItem(made.opened_as, "python", 1, made.text)
    server.protocol.lsp_text_document__did_open(types.DidOpenTextDocumentParams(item))
    reference = Reference(made.text, made.encoding)
    problem = ""
    for number, (span, text) in enumerate(made.changes, 2):
        if span is None:
            reference.text = clean(text)
            change: types.TextDocumentContentChangeEvent = (
                types.TextDocumentContentChangeWholeDocument(text)
            )
        else:
            reference.replace(span, text)
            ends = types.Position(*span[:2]), types.Position(*span[2:])
            change = types.TextDocumentContentChangePartial(types.Range(*ends), text)
        known = types.VersionedTextDocumentIdentifier(number, made.changed_as)
        server.protocol.lsp_text_document__did_change(
            types.DidChangeTextDocumentParams(known, [change])
        )
        document = session.document(made.opened_as)
        if document is None or document.text != reference.text or document.version != number:
            problem = f"text after change {number}"
        elif [document.line(at) for at in range(len(document))] != reference.lines():
            problem = f"lines after change {number}"
    closed = types.TextDocumentIdentifier(made.changed_as)
    server.protocol.lsp_text_document__did_close(types.DidCloseTextDocumentParams(closed))
    return problem or ("still open" if session.document(made.opened_as) is not None else "")
