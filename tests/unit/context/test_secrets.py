"""Values of secrets: what is found, what is left alone, and that cuts never let a part pass.

Each sample is put together here so that no scanner mistakes this file for one that leaks keys.
"""

# ruff: noqa: E501

from __future__ import annotations

import base64
import random
import string
from pathlib import Path
from typing import Any

import pytest
from secret_places import PLACES, fill
from toy_counter import ToyCounter

import context
from context import FimLayout
from context.syntax import secrets
from context.syntax.document import Document, TextEdit
from context.syntax.secrets import HIDDEN, MASK, ShownText, masked, masked_runs

_LETTERS = string.ascii_letters + string.digits
_RNG = random.Random(1515)


def mixed(length: int) -> str:
    """Letters of both cases and digits, at least two of each."""
    core = [*"aZ3q", *_RNG.choices(_LETTERS, k=length - 6), *"K7"]
    _RNG.shuffle(core)
    return "".join(core)


def hexadecimal(length: int) -> str:
    return "".join(_RNG.choices("0123456789abcdef", k=length - 4)) + "a1f9"


def encoded(length: int) -> str:
    return base64.b64encode(_RNG.randbytes(length)).decode()


def _samples() -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}

    def add(name: str, template: str, value: str) -> None:
        found[name] = (template.replace("@@", value), value)

    prefixed = {
        "aws": "AKIA" + "Z7Q2M4N8P1R5T3V9", "aws temporary": "ASIA" + "Z7Q2M4N8P1R5T3V9",
        "github": "ghp_" + mixed(36), "github fine": "github_pat_" + mixed(40),
        "gitlab": "glpat-" + mixed(20), "gitlab runner": "glrt-" + mixed(20),
        "slack": "xoxb-" + "123456789012-" + mixed(24), "slack app": "xapp-" + "1-A0B1C2-" + mixed(20),
        "openai": "sk-" + "proj-" + mixed(40), "anthropic": "sk-" + "ant-api03-" + mixed(60),
        "stripe": "sk_" + "live_" + mixed(24), "stripe restricted": "rk_" + "test_" + mixed(24),
        "stripe hook": "whsec_" + mixed(32), "google": "AIza" + mixed(35),
        "google oauth": "GOCSPX-" + mixed(28), "google token": "ya29." + mixed(60),
        "hugging face": "hf_" + mixed(34), "npm": "npm_" + mixed(36), "pypi": "pypi-" + mixed(80),
        "vault": "hvs." + mixed(28), "grafana": "glsa_" + mixed(32), "databricks": "dapi" + hexadecimal(32),
        "groq": "gsk_" + mixed(52), "atlassian": "ATATT3" + mixed(60), "tailscale": "tskey-" + "auth-" + mixed(24),
        "age": "AGE-SECRET-" + "KEY-1" + mixed(50).upper(), "telegram": "123456789:" + "AA" + mixed(33),
        "discord": "M" + mixed(25) + "." + mixed(6) + "." + mixed(30), "sendgrid": "SG." + mixed(22) + "." + mixed(43),
        "linear": "lin_api_" + mixed(40), "notion": "ntn_" + mixed(46), "figma": "figd_" + mixed(40),
        "sentry": "sntrys_" + mixed(60), "square": "sq0atp-" + mixed(22), "mailgun": "key-" + hexadecimal(32),
        "new relic": "NRAK-" + mixed(27).upper(), "planetscale": "pscale_tkn_" + mixed(40),
        "twilio": "SK" + hexadecimal(32), "digitalocean": "dop_v1_" + hexadecimal(64),
        "shopify": "shpat_" + hexadecimal(32), "docker": "dckr_pat_" + mixed(27), "replicate": "r8_" + mixed(37),
        "terraform": mixed(14) + ".atlasv1." + mixed(60), "nuget": "oy2" + hexadecimal(43),
        "jwt": "eyJ" + mixed(20) + "." + "eyJ" + mixed(40) + "." + mixed(43),
    }  # fmt: skip
    for name, value in prefixed.items():
        add(f"prefix {name}", "run(@@)\n", value)
    for name, template, value in (
        ("env short", "DB_PASSWORD=@@\n", "Tr0ub4dor-Quay"),
        ("env", "SECRET_KEY=@@\n", mixed(40)),
        ("env hex", "SESSION_SECRET=@@\n", mixed(14) + hexadecimal(30)),
        ("env quoted", 'APP_TOKEN="@@"\n', mixed(14)),
        ("shell", "export AWS_SECRET_ACCESS_KEY=@@\n", mixed(20) + "/" + mixed(19)),
        ("dockerfile", "ENV API_KEY=@@ DEBUG=1\n", mixed(24)),
        ("camel", 'privateKey: "@@",\n', mixed(32)),
        ("camel access", 'const accessKey = "@@";\n', mixed(20)),
        ("camel client", "clientSecret: '@@'\n", mixed(24)),
        ("bytes", 'password = b"@@"\n', mixed(16)),
        ("raw", "token = r'@@'\n", mixed(16)),
        ("f string", 'token = f"@@"\n', mixed(20)),
        ("template", "const token = `@@`;\n", mixed(20)),
        ("typed", 'password: str = "@@"\n', mixed(14)),
        ("typed go", 'var apiKey string = "@@"\n', mixed(24)),
        ("typed java", 'private String password = "@@";\n', mixed(14)),
        ("go short", 'password := "@@"\n', mixed(14)),
        ("php define", "define('DB_PASSWORD', '@@');\n", mixed(14)),
        ("php array", "'password' => '@@',\n", mixed(14)),
        ("ruby", ':password => "@@"\n', mixed(14)),
        ("ruby symbol", "password: '@@'\n", mixed(14)),
        ("call", 'SecretStr("@@")\n', mixed(14)),
        ("wrapped call", 'password = SecretStr("@@")\n', mixed(14)),
        ("get with default", 'os.environ.get("API_TOKEN", "@@")\n', mixed(20)),
        ("keyword", 'connect(user="sa", password="@@")\n', mixed(12)),
        ("next line", 'password = (\n    "@@"\n)\n', mixed(16)),
        ("comparison", 'if token == "@@":\n', mixed(20)),
        ("index", 'config["password"] = "@@"\n', mixed(14)),
        ("json", '{"client_secret": "@@"}\n', mixed(24)),
        ("json in a string", '"{\\"password\\": \\"@@\\"}"\n', mixed(16)),
        ("json auth", '{"auths": {"r.example.org": {"auth": "@@"}}}\n', encoded(30)),
        ("yaml", "client_secret: @@\n", mixed(20)),
        ("yaml quoted", 'password: "@@"\n', mixed(14)),
        ("yaml next", "- name: DB_PASSWORD\n  value: @@\n", mixed(20)),
        ("yaml next quoted", '- name: DB_PASSWORD\n  value: "@@"\n', mixed(14)),
        ("kubeconfig", "    client-key-data: @@\n", encoded(60)),
        ("toml", 'api_key = "@@"\n', mixed(24)),
        ("ini", "password=@@\n", mixed(14)),
        ("properties", "spring.datasource.password=@@\n", mixed(14)),
        ("connection", '"Server=db;User Id=sa;Password=@@;Encrypt=true"\n', mixed(14)),
        ("connection bare", "Server=db;Password=@@;Encrypt=true\n", mixed(14)),
        ("storage", "AccountName=tides;AccountKey=@@\n", encoded(64)),
        ("bus", "Endpoint=sb://x/;SharedAccessKey=@@\n", encoded(32)),
        (
            "sas",
            "https://x.example.org/c?sv=2022&sig=@@&se=1\n",
            mixed(30) + "%2B" + mixed(8) + "%3D",
        ),
        ("presigned", "https://x.example.org/f?X-Amz-Signature=@@\n", hexadecimal(64)),
        ("xml", "<password>@@</password>\n", mixed(14)),
        ("xml attribute", '<user name="sa" password="@@"/>\n', mixed(14)),
        ("xml add", '<add key="ApiToken" value="@@" />\n', mixed(20)),
        ("basic", "Authorization: Basic @@\n", encoded(20)),
        ("bearer", "Authorization: Bearer @@\n", mixed(30)),
        ("header token", 'headers = {"Authorization": "token @@"}\n', mixed(40)),
        ("header key", 'headers["X-Api-Key"] = "@@"\n', mixed(32)),
        ("url", "postgres://tides:@@@db.example.org/x\n", "h4rb0ur-p4ss"),
        ("redis", "redis://:@@@cache.example.org:6379\n", mixed(20)),
        ("git url", "https://@@@git.example.org/x.git\n", mixed(36)),
        ("sentry dsn", "https://@@@o1.ingest.example.org/2\n", hexadecimal(32)),
        ("query", "https://x.example.org/?access_token=@@\n", mixed(30)),
        ("flag", "run --password=@@ --verbose\n", mixed(14)),
        ("slack hook", "https://hooks.slack.com/services/@@\n", "T00A1B2C3/B00D4E5F6/" + mixed(24)),
        (
            "discord hook",
            "https://discord.com/api/webhooks/@@\n",
            "123456789012345678/" + mixed(60),
        ),
        ("npmrc", "//r.example.org/:_authToken=@@\n", mixed(36)),
        ("symbols", 'DB_PASSWORD = "@@"\n', "xK9#mQ2$vL7pW4zR"),
        ("symbols short", 'password = "@@"\n', "p4$$W0rd!x"),
        ("comment", '# old password: "@@"\n', mixed(14)),
        ("lua", 'local api_key = "@@"\n', mixed(24)),
        ("rust", 'const TOKEN: &str = "@@";\n', mixed(24)),
        ("c", '#define WIFI_PASSWORD "@@"\n', mixed(14)),
        ("c array", 'static const char password[] = "@@";\n', mixed(14)),
        ("powershell", '$env:API_TOKEN = "@@"\n', mixed(24)),
        ("hcl", 'password = "@@"\n', mixed(16)),
        ("azure", 'client_secret = "@@"\n', mixed(3) + "8Q~" + mixed(34)),
    ):
        add(f"form {name}", template, value)
    for name, template, value in (
        ("list", 'api_keys = [\n    "@@",\n]\n', mixed(32)),
        ("list, second", f"api_keys = [\n    '{mixed(30)}',\n    '@@',\n]\n", mixed(32)),
        ("mapping", f"tokens = {{'prod': '{mixed(30)}', 'dev': '@@'}}\n", mixed(32)),
        ("user and password", 'get(url, auth=("harbour", "@@"))\n', mixed(16)),
        ("netrc", "machine x.example.org login u password @@\n", mixed(16)),
        ("option", "tool --api-key @@ --verbose\n", mixed(32)),
        ("setx", "setx API_KEY @@\n", mixed(32)),
        ("fish", "set -gx API_KEY @@\n", mixed(32)),
        ("curl user", "curl -u harbour:@@ https://x.example.org\n", mixed(16)),
        ("odbc braces", "Server=db;Uid=sa;Pwd={@@};\n", mixed(16)),
        ("property list", "<key>ApiKey</key>\n<string>@@</string>\n", mixed(32)),
        ("escaped in a call", 'field("String", "API_KEY", "\\"@@\\"")\n', mixed(32)),
        ("secure string", 'ConvertTo-SecureString "@@" -AsPlainText\n', mixed(16)),
        ("sql", "CREATE USER u IDENTIFIED BY '@@';\n", mixed(16)),
        ("npm auth", "_auth = @@\n", encoded(24)),
        ("hexadecimal", "SECRET_KEY=@@\n", hexadecimal(64)),
        ("hexadecimal, quoted", 'api_key: "@@"\n', hexadecimal(32)),
        ("base32", "TOTP_SECRET=@@\n", "MFRGG3DFMZTWQ2LKNNWG23TPOBYXE43U"),
        ("three quotes", 'api_key = """\n@@\n"""\n', mixed(32)),
        ("bcrypt", "admin:@@\n", "$2y$" + "05$" + mixed(53)),
        ("shadow", "root:@@:1:0\n", "$6$" + mixed(8) + "$" + mixed(86)),
        ("line ends CR", 'x = 1\rpassword = "@@"\ry = 2\r\n', mixed(14)),
        ("byte order mark", "\ufeffDB_PASSWORD=@@\n", mixed(16)),
        ("combining marks", '# e\u0301\u2028token = "@@"\n', mixed(24)),
    ):
        add(f"sibling {name}", template, value)
    for name, template in (
        ("python", "api_key = ('{a}'\n           '@@')\n"),
        ("backslash", "password = '{a}' \\\n    '@@'\n"),
        ("plus", 'const token = "{a}" +\n    "@@";\n'),
        ("dot", "$password = '{a}' . '@@';\n"),
        ("shell", "export TOKEN={a}\\\n@@\n"),
    ):
        add(f"continued {name}", template.replace("{a}", mixed(18)), mixed(20))
    body = "\n".join(encoded(48) for _ in range(12))
    for kind in ("RSA ", "EC ", "OPENSSH ", "ENCRYPTED ", ""):
        key = (
            f"-----BEGIN {kind}" + f"PRIVATE KEY-----\n{body}\n-----END {kind}" + "PRIVATE KEY-----"
        )
        found[f"pem {kind}"] = (f"key = '''{key}'''\n", body.split("\n")[3])
    return found


SAMPLES = _samples()

HARMLESS = [
    'token = "some_function_name"',
    'password = get_password("tides")',
    "secret = os.environ['SECRET']",
    'API_KEY_HEADER = "X-Api-Key-Header"',
    "url = 'https://example.org/a:b'",
    "task-sk-short",
    "class KeyError(LookupError): ...",
    "sha256 = compute(data)",
    'PREFIX_TOKEN = "<|fim_prefix|>"',
    "token = tokenizer_from_header_2",
    "self._token: TokenCounterOfThisModel",
    "secret_sauce = compute_the_sauce_of_1999(x)",
    "password=PasswordFromSomewhereElse",
    'token: "${{ secrets.DEPLOY_TOKEN }}"',
    'password = "%(database_password)s"',
    'password = "Enter your password"',
    "password: passwordFromRequest.body.user2",
    'f"{scheme}://{user}:{password}@{host}"',
    "api_key=settings.OPENAI_API_KEY_V2,",
    "token_type = TokenType.IDENTIFIER_2",
    'raise ValueError("token: expected Number2")',
    'if "-----BEGIN ' + 'PRIVATE KEY-----" in text:\n    return load(text)',
    "secretKeyRef:\n  name: harbour-credentials\n  key: password",
    "self.tokens = Tokenizer2Factory.create(self)",
    'auth = ("user", get_secret())',
    "access_token_url='https://example.org/oauth2/v2/token'",
    'tokens = ["def", "class", "return2"]',
    "password_field: Optional[PasswordField2] = None",
    "<password>${db.password}</password>",
    "basic usage of the harbour",
    "Bearer authentication_is_required_here",
    'password = "test1234"',
    'tokenizer = "Qwen/Qwen2.5-Coder-7B"',
    'api_key = "dummy-api-key-123"',
    '"integrity": "sha512-' + encoded(40) + '"',
    'checksum = "' + hexadecimal(64) + '"',
    'cache_key = "' + hexadecimal(32) + '"',
    'id = "3f2b8c1e-9d4a-4e6f-8b7a-1c2d3e4f5a6b"',
    "rev: " + hexadecimal(40),
    'TOKEN_RE = re.compile(r"[A-Za-z_]\\w*2")',
    'ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/"',
    "the password is stored in HarbourConfiguration2",
    "set the token TokenKind2 of the lexer",
    'tokens = {"open": "BraceOpen2", "close": "BraceClose2"}',
    'words = ("password", "harbour", "QuayNumber2")',
    "curl -u $USER:$PASSWORD https://x.example.org",
]


def leaks(value: Any, shown: Any) -> Any:
    return any(value[at : at + 6] in shown for at in range(max(1, len(value) - 5)))


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_values_are_found(name: str) -> None:
    """T10: keys of known makers, and values behind a name that says what they are."""
    text, value = SAMPLES[name]
    whole = f"before = 1\n{text}after = 2\n"
    shown = masked(whole)
    assert not leaks(value, shown) and MASK in shown
    assert shown.count("\n") == whole.count("\n")
    assert shown.startswith("before = 1\n") and shown.endswith("after = 2\n")


@pytest.mark.parametrize("number", range(len(PLACES)))
def test_places_where_secrets_are(number: int) -> None:
    """T10: commands, credential files, connection strings, cookies, keys of makers, in each place
    three made-up values."""
    rng = random.Random(number)
    for _ in range(3):
        text, values = fill(rng, PLACES[number])
        whole = f"before = 1\n{text}after = 2\n"
        shown = masked(whole)
        assert not any(leaks(value, shown) for value in values), (text, shown)
        assert shown.count("\n") == whole.count("\n")
        assert shown.startswith("before = 1\n") and shown.endswith("after = 2\n")


@pytest.mark.parametrize("text", HARMLESS)
def test_plain_code_is_left_alone(text: str) -> None:
    """T10: names, calls, placeholders and phrases are no values."""
    assert masked(text) == text


@pytest.mark.parametrize(
    "name", ["form symbols", "form env", "pem RSA ", "form json", "prefix aws"]
)
def test_no_part_of_a_secret_passes_wherever_the_cursor_is(
    counter: ToyCounter, layout: FimLayout, control: dict[str, int], tmp_path: Path, name: str
) -> None:
    """T2: secrets are found on the whole text and then cut: before, inside, behind, at any budget."""
    text, value = SAMPLES[name]
    head = "".join(f"def berth_{at}(x):\n    return x\n\n" for at in range(20))
    whole = f"{head}{text}{head}"
    start = whole.index(value)
    workspace = context.Workspace([tmp_path], counter, layout, control)
    document = workspace.open(tmp_path / "a.py", whole)
    places = {start + at for at in range(-2, len(value) + 3, 3)} | {0, len(whole), start - 60}
    for at in sorted(places):
        for budget in (40, 90, 400, 2000):
            for rest in (True, False):
                made = workspace.prompt(document, len(whole[:at].encode()), budget, rest=rest)
                assert not leaks(value, counter.decode(made.ids)), (at, budget)
                assert HIDDEN not in counter.decode(made.ids)
            plain = context.window(whole, at, layout, counter, control, budget, 0)
            assert not leaks(value, counter.decode(plain.ids))
        workspace.visited(document, at, at + 10)
        for passages in (
            workspace.explain(document, at, at + 5, 300).passages,
            workspace.overview(document, 200).passages,
        ):
            assert not any(leaks(value, one.text) for one in passages)
    assert not any(leaks(value, one.text) for one in workspace.recent.newest())


PIECES = ["x = 1\n", "password = ", '"', "(\n", "\n", "- name: API_KEY\n", "  value: ", "é", "\u2028",
          "-----BEGIN " + "PRIVATE KEY-----\n", "-----END " + "PRIVATE KEY-----\n", "MIIE" * 20 + "\n",
          "token", "AKIA" + "Z7Q2M4N8P1R5T3V9", "# ", "Tr0ub4dor-Quay9", ",\n", "' +\n    '", "\\\n",
          "'aB3dE5fG7hJ9kLmN'", "[", "</key>\n<string>", '\"\"\"\n']  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_following_edits_equals_searching_again(seed: int) -> None:
    """T2: after any edits the document shows what a search of the whole text shows."""
    rng = random.Random(seed)
    document = Document("", "a.py", "".join(rng.choices([*PIECES, mixed(16)], k=60)))
    assert len(document.shown_text) == len(document.text)
    for _ in range(200):
        lines = document.text.split("\n")
        line = rng.randrange(len(lines))
        start = (line, rng.randrange(len(lines[line]) + 1))
        end = (line + rng.choice((0, 0, 0, 1, 3)), rng.randrange(20))
        text = rng.choice([*PIECES, "", "", mixed(14)])
        document.apply([TextEdit(start, max(start, end), text)])
        assert document.shown_text == ShownText(document.text).text


def test_the_shown_text_keeps_lines_and_places() -> None:
    """T2: it is as long as the text, so that places in it are places in the text."""
    text, value = SAMPLES["pem "]
    shown = ShownText(text).text
    assert len(shown) == len(text) and value not in shown
    assert [len(line) for line in shown.split("\n")] == [len(line) for line in text.split("\n")]
    assert masked_runs(shown).count("\n") == text.count("\n")
    assert masked_runs("plain") == "plain"


def test_a_text_without_secrets_is_itself() -> None:
    """T2: nothing is copied where there is nothing to hide."""
    text = "def quay(depth):\n    return depth\n"
    assert ShownText(text).text is text


def test_hints_can_be_found() -> None:
    """T10: a hint that is no part of a word would hide its kind of key from every search."""
    forms = secrets._forms()
    assert all(set(hint) <= secrets._IN_KEYS for hint, _ in forms.keys)
    assert all(word in hint for word, hint, _ in forms.places)
    assert all(hint == hint.lower() for hint in forms.names_beyond_ascii)


@pytest.mark.parametrize("kind", ["PRIVATE KEY", "OPENSSH PRIVATE KEY", "PuTTY"])
def test_a_private_key_is_hidden_as_soon_as_it_is_typed(kind: str) -> None:
    """T2, T10: a text that held no key is searched for whole keys from the edit on that makes one."""
    lines = "".join(f"{encoded(48)[:64]}\n" for _ in range(12))
    key = f"-----BEGIN {kind}-----\n{lines}-----END {kind}-----\n"
    if kind == "PuTTY":
        key = f"Private-Lines: 12\n{lines}"
    text = "a = 1\n" * 30
    shown = ShownText(text)
    for at in (90, 90 + len(key)):
        for place, part in enumerate((key[:13], key[13:20], key[20:])):
            start = at + (0, 13, 20)[place]
            text = text[:start] + part + text[start:]
            shown.edited(text, start, start, start + len(part))
            assert shown.spans == ShownText(text).spans and shown.text == ShownText(text).text
    assert lines[:20] not in shown.text
    text = text.replace("PRIVATE", "PUBLIC").replace("Private", "Public")
    shown.edited(text, 0, len(shown.text), len(text))
    assert shown.spans == ShownText(text).spans


@pytest.mark.parametrize(("template", "value"), [
    ('password = "@@"', "Qu{4}y-H4rb"), ('password = "@@"', "a<B>9kL!2x"), ("DB_PASSWORD=@@", "Tr{ub}4dor9X"),
    ("pwd: '@@'", "xK{9m}Q2vL7"), ('PASSWORD="@@"', "{7Gk!mQ2x}"), ('mysql -u root -p"@@" db', "a{B}9kL!2x"),
    ("postgres://u:@@@h/x", "p{4}ssW0rd"), ('token = f"{user}:@@"', "aB3dE5fG7hJ9"),
    ("define('DB_PASSWORD', '@@');", "k9<Lm>2Qx!P"), ('"clientSecret": "@@"', "x{Q}7~mK9-pL2vR"),
    ("db.password=@@", "aB<3>dE5fG7"), ("db_password=@@", "harbour42quay"), ("mysql_pwd=@@", "quay-harb7"),
    ("export api_secret=@@", "correcthorse9"), ("  export smtp_pass=@@", "tidal9wave"), ("set db_pwd=@@", "tidal9wave"),
    ("ENV app_secret=@@", "tidal9wave"), ("- password=@@", "tidal9wave"), ("spring.datasource.password=@@", "tidal9wave"),
    ("curl -u admin:@@ https://ci", "11" + "3f9a0c7be2d4516889acbd0e7f1234a5"),
    ('user.setApiToken("@@")', "11" + "3f9a0c7be2d4516889acbd0e7f1234a5"),
    ("LÖSENORD=@@", "aB3dE5fG7hJ9"), ("HASŁO = '@@'", "aB3dE5fG7hJ9"),
])  # fmt: skip
def test_siblings_are_masked(template: str, value: str) -> None:
    """T10: passwords with brackets, lower-case variables, tokens of Jenkins, names in capitals."""
    shown = masked(template.replace("@@", value) + "\n")
    assert value not in shown and value[3:-2] not in shown


@pytest.mark.parametrize("line", [
    'password = "{user}:{host1}A"', 'password = "<your-Password1>"', 'token="{prefix}-{id}"', "password=${DB_PASS1}",
    "password=$1", "pwd=/home/u1/x", "pass=password2", 'secret=config.get("a1")', "    password=settings1.password,",
    'password = "<b>Password1</b>"', "url = 'https://{user}:{password}@host1/x'", 'secret = "{0}/{1}"', "secret=>value1x",
    'token = "<Token2>"', "pass=0x1", 'key = "{a!r:>10}"', "password==other12",
])  # fmt: skip
def test_what_only_looks_like_the_siblings_stays(line: str) -> None:
    """T10: what is filled in later, calls, paths and comparisons."""
    assert masked(line) == line
