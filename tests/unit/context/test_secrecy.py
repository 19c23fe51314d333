"""Planted secrets: by name and by looks, none may reach an index or a prompt."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from toy_counter import ToyCounter

import context
from context import FimLayout
from context.index.read_policy import is_secret, is_skipped
from context.syntax.secrets import MASK, masked

# Put together here so that no scanner mistakes this file for one that leaks keys.
KEYS = {
    "aws": "AKIA" + "Z7Q2M4N8P1R5T3V9",
    "github": "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "github fine": "github_pat_" + "11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz0123456789",
    "gitlab": "glpat-" + "x9Y8z7W6v5U4t3S2r1Q0",
    "slack": "xoxb-" + "123456789012-abcdefGHIJKL",
    "openai": "sk-proj-" + "Qw3rTy7UiOpAsDfGhJkLzXcV",
    "stripe": "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "google": "AIza" + "SyD4f6G8h0J2k4L6m8N0p2Q4r6S8t0U2v4W",
    "hugging face": "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh",
    "npm": "npm_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "ocean": "dop_v1_" + "0123456789abcdef" * 4,
    "shop": "shpat_" + "0123456789abcdef" * 2,
    "registry": "dckr_pat_" + "aB3dE6fG9hJ2kL5mN8pQ",
    "hook": "https://hooks.slack.com/services/" + "T00A1B2C3/B00D4E5F6/a1B2c3D4e5F6g7H8",
    "storage": "AccountName=tides;AccountKey=" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0==",
    "header": "Authorization: Bearer " + "a1B2c3D4e5F6.g7H8i9J0k1L2",
    "shell": "export AWS_SECRET_ACCESS_KEY=" + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzqqkkEY01",
    "yaml": "client_secret: " + "zX81kQpLm20vBnTyaa77",
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0",
    "url": "postgres://tides:" + "h4rb0ur-p4ss" + "@db.example.org/x",
    "named": 'DB_PASSWORD = "' + "xK9#mQ2$vL7pW4zR" + '"',
    "json": '{"client_secret": "' + "Zx81kQpLm20vBnTy" + '"}',
    "pem": "-----BEGIN RSA " + "PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEA7bq" + "\n" * 3
    + "-----END RSA " + "PRIVATE KEY-----",
}  # fmt: skip
SECRET_PARTS = {
    name: key.split('"')[-2] if name in ("named", "json") else key for name, key in KEYS.items()
} | {
    "hook": "T00A1B2C3",
    "storage": "a1B2c3D4e5F6g7H8",
    "header": "a1B2c3D4e5F6",
    "shell": "K7MDENG",
    "yaml": "zX81kQpLm20vBnTyaa77",
    "url": "h4rb0ur-p4ss",
    "pem": "MIIEowIBAAKCAQEA7bq",
}

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
]


@pytest.mark.parametrize("name", sorted(KEYS))
def test_keys_are_masked(name: str) -> None:
    text = f"before = 1\nvalue = {KEYS[name]}\nafter = 2\n"
    shown = masked(text)
    assert SECRET_PARTS[name] not in shown
    assert MASK in shown and "before = 1" in shown and "after = 2" in shown
    assert shown.count("\n") == text.count("\n"), "lines must stay where they are"


@pytest.mark.parametrize("text", HARMLESS)
def test_plain_code_is_left_alone(text: str) -> None:
    assert masked(text) == text


def test_the_middle_of_a_private_key_is_masked() -> None:
    assert masked("MIIEpAIBAAKCAQEA" * 5 + "\n") == MASK + "\n"


@pytest.mark.parametrize(
    ("path", "secret"),
    [
        (".env", True),
        ("deploy/.env.production", True),
        (".env.example", False),
        ("certs/server.pem", True),
        ("home/.ssh/config", True),
        ("id_ed25519.pub", True),
        ("config/credentials.json", True),
        ("auth/credentials.py", False),
        (".npmrc", True),
        ("infra/prod.tfvars", True),
        ("src/keys.py", False),
        ("environment.py", False),
    ],
)
def test_secret_files_by_name(path: Any, secret: Any) -> None:
    assert is_secret(path) is secret


def test_version_control_and_caches_are_no_source() -> None:
    assert is_skipped(".git/config") and is_skipped("web/node_modules/a/b.js")
    assert not is_skipped("src/nodes.py")


def test_planted_secrets_reach_neither_index_nor_prompt(
    counter: ToyCounter, layout: FimLayout, control: dict[str, int], tmp_path: Path
) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (root / ".env").write_text(f"TOKEN={KEYS['github']}\n")
    (root / "server.key").write_text(KEYS["pem"])
    for at, (name, key) in enumerate(KEYS.items()):
        code = f"def harbour_{at}(tide):\n    # {name}\n    value = '''{key}'''\n    return value\n"
        (root / f"part_{at}.py").write_text(code)
    store = tmp_path / "index.db"
    workspace = context.Workspace([root], counter, layout, control, store=store)
    workspace.index.refresh()
    everything = dump(store)
    for name, part in SECRET_PARTS.items():
        assert part not in everything, name
    assert "harbour_3" in everything
    used = "".join(f"from part_{at} import harbour_{at}\n" for at in range(len(KEYS)))
    text = used + "def all_of_them(tide):\n    key = '" + KEYS["aws"] + "'\n    harbour_0(tide)\n"
    document = workspace.open(root / "main.py", text)
    workspace.visited(document, 0, len(text))
    for budget in (64, 500, 4000):
        prompt = workspace.prompt(document, len(text), budget)
        shown = counter.decode(prompt.ids)
        assert not [name for name, part in SECRET_PARTS.items() if part in shown]
    assert KEYS["aws"] not in str(workspace.recent.newest())
    explained = workspace.explain(document, 0, len(text), 2000)
    assert KEYS["aws"] not in str(explained.passages)


def test_no_prompt_for_a_secret_file(
    counter: ToyCounter, layout: FimLayout, control: dict[str, int], tmp_path: Path
) -> None:
    workspace = context.Workspace([tmp_path], counter, layout, control)
    document = workspace.open(tmp_path / ".env", "TOKEN=abc\n")
    prompt = workspace.prompt(document, 3, 500)
    assert prompt.ids == () and "secrets" in prompt.cut[0]
    assert workspace.explain(document, 0, 5, 500).passages == ()


def test_what_the_user_excludes_is_never_shown(
    counter: ToyCounter, layout: FimLayout, control: dict[str, int], tmp_path: Path
) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "plan.py").write_text("def hidden_plan(): return 'quay'\n")
    (tmp_path / "ignored.py").write_text("def ignored_plan(): return 'berth'\n")
    (tmp_path / ".gitignore").write_text("ignored.py\n")
    workspace = context.Workspace([tmp_path], counter, layout, control, excludes=["/private/"])
    workspace.index.refresh()
    hidden = workspace.open(tmp_path / "private" / "plan.py", "def hidden_plan(): return 'quay'\n")
    prompt = workspace.prompt(hidden, 10, 500)
    assert prompt.ids == () and "exclude" in prompt.cut[0]
    assert workspace.explain(hidden, 0, 9, 500).passages == ()
    ignored = workspace.open(tmp_path / "ignored.py", "def ignored_plan(): return 'berth'\n")
    assert workspace.prompt(ignored, 10, 500).ids, "one may work on a file that git ignores"
    for document in (hidden, ignored):
        workspace.visited(document, 0, 40)
    text = (
        "from private.plan import hidden_plan\nimport ignored\n\nignored.ignored_plan(hidden_plan("
    )
    main = workspace.open(tmp_path / "main.py", text)
    shown = counter.decode(workspace.prompt(main, len(text), 2000, rest=True).ids)
    assert "quay" not in shown and "berth" not in shown


def test_the_plain_window_masks_too(
    counter: ToyCounter, layout: FimLayout, control: dict[str, int]
) -> None:
    text = "before = 1\n" + "".join(f"key_{at} = '{KEYS['aws']}'\n" for at in range(20))
    for budget in range(10, 400, 13):
        prompt = context.window(text, len(text) // 2, layout, counter, control, budget, 0)
        assert len(prompt.ids) <= budget and KEYS["aws"] not in counter.decode(prompt.ids)


def dump(store: Any) -> Any:
    with sqlite3.connect(store) as db:
        return "\n".join(db.iterdump())
