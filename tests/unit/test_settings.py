"""The settings file and an editor's options: every value is checked, none can stop the program."""

from __future__ import annotations

import codecs
import json
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from examples import examples
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from assistant import paths
from assistant.cli import build_app
from assistant.cli import help as help_pages
from assistant.errors import SettingsError
from assistant.memory import ladder
from assistant.memory.gguf.header import CACHE_TYPES
from assistant.memory.planning import measured_planner
from assistant.models.local_store import use_model
from assistant.settings import CompletionSettings, Settings, load, overlay, written
from assistant.settings import fields as setting_fields
from assistant.settings.fields import tables
from assistant.settings.rules import Editor, Rule, checked, rule_of
from context.index.walk import Walk

ALL = [
    pytest.param(table, field, id=f"{table}.{field.name}")
    for table, default in tables().items()
    for field in msgspec.structs.fields(default)
]


def loaded(folder: Path, text: str | bytes) -> tuple[Settings, list[SettingsError]]:
    file = folder / "config.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(file)


def only_problem(folder: Path, text: str | bytes) -> str:
    """The one problem of a file that leaves all settings at their defaults."""
    found, problems = loaded(folder, text)
    assert found == Settings()
    (problem,) = problems
    return str(problem)


@pytest.mark.parametrize(("table", "field"), ALL)
def test_every_field_has_a_rule_and_a_default_inside_it(
    table: str, field: msgspec.structs.FieldInfo
) -> None:
    kind, rule = rule_of(field)
    assert checked(kind, rule, field.default) == field.default
    assert rule.meaning.endswith(".")
    if kind is not bool:
        assert rule.accepted


@pytest.mark.parametrize(("table", "field"), ALL)
def test_wrong_values_are_reported_and_keep_the_default(
    tmp_path: Path, table: str, field: msgspec.structs.FieldInfo
) -> None:
    """S16, T17: every field refuses other types, values out of range, NaN, infinities and blanks,
    and names the default that is used."""
    kind, rule = rule_of(field)
    wrong: list[str] = ["{}", "1979-05-27", "[[1]]"]
    if kind is bool:
        wrong += ["0", "1", '"true"', '"off"', "[]", "nan"]
    elif kind in {int, float}:
        wrong += ["true", "false", '"1"', '" 1"', "nan", "-nan", "inf", "-inf", "[1]", '""']
        low = min([rule.least, *(value for value, _ in rule.special)])
        wrong += [str(low - 1), str(int(rule.most) + 1), str(10**30), str(-(10**30))]
        wrong += ["1.5"] if kind is int else []
        # Between the special values and the range there is nothing.
        wrong += (
            ["0"] if rule.least > 0 and not any(value == 0 for value, _ in rule.special) else []
        )
    elif kind is str:
        wrong += ["true", "1", "nan", '" "', r'"a\u0000b"', r'"a\nb"', r'"\u001b[31mred"', "[]"]
        wrong += [f'"{"x" * 5000}"', f'" {field.default or "x"}"', f'"{field.default or "x"} "']
        wrong += ['"nonsense"'] if rule.choices else []
        wrong += [] if rule.blank else ['""']
    else:
        wrong += ["true", "1", '"x"', "[1]", "[true]", '[""]', '[" "]', r'["a\u0000"]', '[["x"]]']
        wrong += ['["nonsense"]'] if rule.choices else []
    for value in wrong:
        said = only_problem(tmp_path, f"[{table}]\n{field.name} = {value}\n")
        assert f"{table}.{field.name}" in said, value
        assert f"{msgspec.json.encode(field.default).decode()} is used" in said
        assert "\x1b" not in said and "\n" not in said and len(said) < 600


@pytest.mark.parametrize(("table", "field"), ALL)
def test_the_edges_of_every_range_are_accepted(
    tmp_path: Path, table: str, field: msgspec.structs.FieldInfo
) -> None:
    kind, rule = rule_of(field)
    right: list[Any] = [True, False]
    if kind in {int, float}:
        right = [rule.least, rule.most, *(value for value, _ in rule.special)]
    elif kind is str:
        right = list(rule.choices) or ["https://x:1/y" if rule.pattern else "some name"]
        right += [""] if rule.blank else []
    elif kind is tuple:
        right = [[], list(rule.choices)[:2] or ["a b", "*.c"]]
    for value in right:
        written = msgspec.json.encode(value).decode()
        found, problems = loaded(tmp_path, f"[{table}]\n{field.name} = {written}\n")
        assert not problems
        got = getattr(getattr(found, table), field.name)
        assert got == (tuple(value) if isinstance(value, list) else value)
        assert type(got) is kind


def test_the_cases_of_the_reports(tmp_path: Path) -> None:
    """S16 and T17, as they were reported: all in one file, each with its range."""
    found, problems = loaded(
        tmp_path,
        '[model]\nn_ctx = -5\nn_seq_max = 300\ncache_type = "q9_9"\n[engine]\nhang_s = 0\n'
        '[daemon]\nmax_waiting = 0\nrequest_limit_s = -1\nrung = "nonsense"\n',
    )
    assert found == Settings()
    said = "\n".join(map(str, problems))
    assert len(problems) == 7
    for part in ("256 to 4,194,304 tokens", "1 to 256", '"q8_0"', '"half experts"', "1 to 10,000"):
        assert part in said
    assert "out of range" in only_problem(tmp_path, "[model]\nn_ctx = 1\n")


def test_a_file_that_is_read_again_keeps_the_last_valid_values(tmp_path: Path) -> None:
    """Only of the settings whose value is wrong; those that were removed go back to defaults."""
    file = tmp_path / "config.toml"
    file.write_text('[daemon]\nmax_waiting = 7\nlog_level = "debug"\n[model]\nname = "a"\n')
    first, problems = load(file)
    assert not problems
    file.write_text('model = 3\n[daemon]\nmax_waiting = "many"\n')
    again, problems = load(file, last=first)
    assert again.daemon.max_waiting == 7 and again.model.name == "a"
    assert again.daemon.log_level == Settings().daemon.log_level
    assert ["the last valid value, is used" in str(one) for one in problems] == [False, True]
    # Without a valid value before, it is the default.
    fresh, problems = load(file)
    assert fresh.daemon.max_waiting == Settings().daemon.max_waiting and len(problems) == 2


def test_whole_numbers_may_be_written_as_floats(tmp_path: Path) -> None:
    found, problems = loaded(tmp_path, "[model]\nn_ctx = 4096.0\n[engine]\nhang_s = 5\n")
    assert not problems
    assert (found.model.n_ctx, type(found.model.n_ctx)) == (4096, int)
    assert (found.engine.hang_s, type(found.engine.hang_s)) == (5.0, float)


def test_names_of_other_packages_are_the_same() -> None:
    """`settings` lies below the memory package and cannot import these."""
    assert setting_fields.CACHE_TYPES == CACHE_TYPES
    names = [
        "plan",
        ladder.TRIM,
        ladder.DROP,
        *(change.name for change in measured_planner._CHANGES),
    ]
    assert (*names, "unload") == setting_fields.RUNGS


MARK, TABLE = b"\xef\xbb\xbf", '[model]\nn_ctx = 4096\nname = "caf\xe9"\n'
MARKED = {
    "a mark": MARK + TABLE.encode(),
    "a mark and Windows' line ends": MARK + TABLE.replace("\n", "\r\n").encode(),
    "a mark before a comment": MARK + b"# mine\n" + TABLE.encode(),
    "a mark before an empty line": MARK + b"\n" + TABLE.encode(),
    "two marks": MARK * 2 + TABLE.encode(),
    "an empty line before the mark": b"\n" + MARK + TABLE.encode(),
    "two files that were joined": MARK + b"[daemon]\n" + MARK + TABLE.encode(),
    "UTF-16 as of PowerShell": codecs.BOM_UTF16_LE + TABLE.encode("utf-16-le"),
    "UTF-16, the large end first": codecs.BOM_UTF16_BE + TABLE.encode("utf-16-be"),
    "UTF-32": codecs.BOM_UTF32_LE + TABLE.encode("utf-32-le"),
    "UTF-32, the large end first": codecs.BOM_UTF32_BE + TABLE.encode("utf-32-be"),
}


@pytest.mark.parametrize("content", MARKED.values(), ids=MARKED)
def test_a_byte_order_mark_is_read(tmp_path: Path, content: bytes) -> None:
    """S22: of every encoding; and another model is chosen in such a file."""
    found, problems = loaded(tmp_path, content)
    assert (found.model.n_ctx, found.model.name, problems) == (4096, "caf\xe9", [])
    file = use_model("new", tmp_path / "config.toml")
    assert load(file)[0].model == msgspec.structs.replace(found.model, name="new")
    assert file.read_text("utf-8").count("[model]") == 1


def test_nothing_but_a_mark_is_an_empty_file(tmp_path: Path) -> None:
    """S22."""
    assert loaded(tmp_path, MARK) == (Settings(), [])


def test_another_encoding_without_a_mark_is_named(tmp_path: Path) -> None:
    """S22."""
    assert "UTF-16 without" in only_problem(tmp_path, TABLE.encode("utf-16-le"))
    assert "not UTF-16" in only_problem(tmp_path, codecs.BOM_UTF16_LE + b"\x00\xd8[\x00")


def test_a_model_is_chosen_in_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    """S22: the first table is found, not written a second time."""
    file = tmp_path / "config.toml"
    file.write_bytes(b'\xef\xbb\xbf[model]\nname = "old"\n')
    use_model("new", file)
    assert tomllib.loads(file.read_text()) == {"model": {"name": "new"}}
    assert load(file)[0].model.name == "new"


@pytest.mark.parametrize(
    "text",
    [
        b"model = [1]\n",
        b'model = "x"\n',
        b"[[model]]\n",
        b"a = " + b"[" * 20_000,
        b"\xff",
        b"[model",
    ],
)
def test_a_model_is_not_written_into_settings_of_another_form(tmp_path: Path, text: bytes) -> None:
    """S22: an error that says what to write, and the file as it was."""
    file = tmp_path / "config.toml"
    file.write_bytes(text)
    with pytest.raises(SettingsError, match="cannot be changed"):
        use_model("new", file)
    assert file.read_bytes() == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[model\n", "line 1"),
        (b"[model]\nn_ctx = 1\nn_ctx = 2\n", "line 3"),
        (b"[model]\n[model]\n", "line 2"),
        (b"[model]\nname = \xff\n", "byte 15 is not UTF-8"),
        (b"[model]\nname = '\x00'\n", "line 2"),
        (b"a = " + b"[" * 20_000, "nested too deeply"),
        (b"a" + b".a" * 100_000 + b" = 1", "more than 1000 parts"),
        (b"[a" + b".a" * 100_000 + b"]", "more than 1000 parts"),
        (b"[model]\nn_ctx = " + b"9" * 6000, "digits"),
        (b"[model]\nn_ctx = " + b"9" * 5000, "limit"),
        (b"# " + b"x" * (2 << 20), "larger than 1 MiB"),
    ],
)
def test_a_file_that_cannot_be_read_gives_the_defaults(
    tmp_path: Path, text: bytes, says: str
) -> None:
    said = only_problem(tmp_path, text)
    assert says in said and "the defaults are used" in said and "Fix or remove the file" in said


def test_what_is_not_a_file(tmp_path: Path) -> None:
    found, (problem,) = load(tmp_path)
    assert found == Settings() and "not a file" in str(problem)
    assert load(tmp_path / "missing.toml") == (Settings(), [])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[model]\nnctx = 1", "Did you mean n_ctx?"),
        ("[model]\nN-CTX = 1", "Did you mean n_ctx?"),
        ("[modle]\nn_ctx = 1", "Did you mean model?"),
        ("[model]\nmax_waiting = 1", "Put it under [daemon]"),
        ("max_waiting = 1", "Put it under [daemon]"),
        ("[[model]]\nn_ctx = 1", "Write [model]"),
        ('model = "x"', "Write [model]"),
        ("[qqqq]\n", "Known: model, engine"),
        ("[engine]\nqqqq = 1", "Known: backend_libraries, hang_s"),
        ("[model]\n__class__ = 1", "no such setting"),
        ('[model]\n"\\u001b[2J" = 1', "no such setting"),
        ('["a\\nb"]\n', "no table"),
    ],
)
def test_unknown_names_are_met_with_the_nearest(tmp_path: Path, text: str, says: str) -> None:
    said = only_problem(tmp_path, text)
    assert says in said and "\x1b" not in said and "\n" not in said


@pytest.mark.parametrize("variable", ["UNDERKEEL_HOME", "UNDERKEEL_MODELS"])
def test_environment_variables_are_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    """A blank one is not set; one that cannot be followed is an error with advice."""
    monkeypatch.delenv("UNDERKEEL_HOME", raising=False)
    monkeypatch.delenv("UNDERKEEL_MODELS", raising=False)
    usual = paths.models_dir()
    for blank in ("", " ", "\t"):
        monkeypatch.setenv(variable, blank)
        assert paths.models_dir() == usual
    monkeypatch.setenv(variable, "~no-user-of-this-name/x")
    with pytest.raises(SettingsError, match=r"no home folder.*full path"):
        paths.models_dir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "some where")
    assert paths.models_dir().is_relative_to(tmp_path / "some where")


STRICT = Settings(
    completion=CompletionSettings(
        enabled=False,
        languages_off=("sql",),
        budget_tokens=512,
        max_tokens=32,
        time_limit_ms=2000,
        first_line_ms=100,
        debounce_ms=200,
        ahead=False,
        workspace=False,
        excludes=("private/",),
    ),
    actions=setting_fields.ActionSettings(
        enabled=False, context_tokens=1024, explain_tokens=320, edit_tokens=512
    ),
    statistics=setting_fields.StatisticsSettings(enabled=False),
)


def test_an_editor_cannot_loosen_what_the_user_set() -> None:
    """T11: each of these is looser than the user's file, in every table that an editor may set."""
    loose = {
        "completion": {
            "enabled": True,
            "languages_off": [],
            "budget_tokens": 1024,
            "max_tokens": 64,
            "time_limit_ms": 8000,
            "first_line_ms": 600,
            "debounce_ms": 0,
            "ahead": True,
            "ahead_on_battery": True,
            "workspace": True,
            "excludes": [],
        },
        "actions": {
            "enabled": True,
            "context_tokens": 2048,
            "explain_tokens": 640,
            "edit_tokens": 1024,
        },
        "statistics": {"enabled": True},
    }
    found, problems = overlay(STRICT, loose, "the editor")
    assert found == STRICT
    assert len(problems) == 14  # all but the two lists, whose entries stay
    assert all("an editor can only" in str(problem) for problem in problems)


def test_an_editor_can_tighten() -> None:
    """T11: and what it adds stands beside the user's own."""
    strict = {
        "completion": {
            "workspace": False,
            "ahead": False,
            "excludes": ["*.sql", "private/"],
            "languages_off": ["lua"],
            "max_tokens": 16,
            "debounce_ms": 300,
        },
        "actions": {"enabled": False},
        "statistics": {"enabled": False},
    }
    base = msgspec.structs.replace(
        Settings(),
        completion=CompletionSettings(excludes=("private/",), max_tokens=32, debounce_ms=200),
    )
    found, problems = overlay(base, strict, "the editor")
    assert not problems
    assert found.completion.excludes == ("private/", "*.sql")
    assert found.completion.languages_off == ("lua",)
    assert (found.completion.max_tokens, found.completion.debounce_ms) == (16, 300)
    assert not (found.completion.workspace or found.completion.ahead)
    assert not (found.actions.enabled or found.statistics.enabled)


@pytest.mark.parametrize(
    "entry", ["!private/", "!private/**", "!*", "!/private/plan.py", "!**/plan.py", "!PRIVATE/"]
)
@pytest.mark.parametrize("before", [[], ["*.log"], ["private/"]])
def test_an_editor_cannot_take_back_an_exclude(
    tmp_path: Path, entry: str, before: list[str]
) -> None:
    """T11: a pattern with `!` in the editor's list; its other entries are added."""
    given = {"completion": {"excludes": [*before, entry, "*.sql"]}}
    found, (problem,) = overlay(STRICT, given, "the editor")
    assert entry in str(problem) and "completion.excludes" in str(problem)
    assert set(found.completion.excludes) == {"private/", "*.sql", *before}
    (tmp_path / "private").mkdir()
    for name in ("private/plan.py", "a.py", "b.sql"):
        (tmp_path / name).write_text("x = 1\n")
    walk = Walk(tmp_path, excludes=found.completion.excludes)
    assert [one.path for one in walk.files()] == ["a.py"]


def test_the_users_own_list_may_take_back_its_entries(tmp_path: Path) -> None:
    text = '[completion]\nexcludes = ["*.sql", "!a.sql"]\n'
    found, problems = loaded(tmp_path, text)
    assert not problems and found.completion.excludes == ("*.sql", "!a.sql")
    merged, problems = overlay(found, {"completion": {"excludes": ["b.sql"]}}, "the editor")
    assert not problems and merged.completion.excludes == ("*.sql", "!a.sql", "b.sql")


NUMBERS = [
    pytest.param(table, field, id=f"{table}.{field.name}")
    for table, default in tables().items()
    for field in msgspec.structs.fields(default)
    if rule_of(field)[1].editor in {Editor.LOWER, Editor.RAISE}
]


@pytest.mark.parametrize(("table", "field"), NUMBERS)
def test_a_number_that_the_user_set_to_its_default_is_the_users(
    tmp_path: Path, table: str, field: msgspec.structs.FieldInfo
) -> None:
    """T11: what the file says counts, not whether it differs from the default."""
    _, rule = rule_of(field)
    looser = int(rule.most if rule.editor is Editor.LOWER else rule.least)
    stricter = int(rule.least if rule.editor is Editor.LOWER else rule.most)
    file = tmp_path / "config.toml"
    for text, kept in ((f"[{table}]\n{field.name} = {field.default}\n", True), ("", False)):
        file.write_text(text)
        base, problems = load(file)
        assert not problems and base == Settings()
        raw = {table: {field.name: looser}}
        found, problems = overlay(base, raw, "the editor", own=written(file))
        assert getattr(getattr(found, table), field.name) == (field.default if kept else looser)
        assert len(problems) == kept
        raw = {table: {field.name: stricter}}
        found, problems = overlay(base, raw, "the editor", own=written(file))
        assert getattr(getattr(found, table), field.name) == stricter and not problems


def test_nothing_is_written_in_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert written(tmp_path / "missing.toml") == written(tmp_path) == frozenset()
    (tmp_path / "config.toml").write_bytes(b"[model\n")
    assert written(tmp_path / "config.toml") == frozenset()


def test_an_editor_sets_numbers_that_the_user_left_alone() -> None:
    given = {"completion": {"max_tokens": 128, "debounce_ms": 0}}
    found, problems = overlay(Settings(), given, "the editor")
    assert not problems
    assert (found.completion.max_tokens, found.completion.debounce_ms) == (128, 0)


@pytest.mark.parametrize("raw", [[], 1, "x", True, {"completion": []}, {"completion": None}])
def test_options_that_are_not_tables_are_reported(raw: object) -> None:
    found, problems = overlay(Settings(), raw, "the editor")
    assert found == Settings() and len(problems) == 1


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
VALUES = SCALARS | st.lists(SCALARS, max_size=4)


@hypothesis_settings(max_examples=examples(50), suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.fixed_dictionaries(
        {},
        optional={
            name: st.dictionaries(
                st.sampled_from(default.__struct_fields__) | st.text(max_size=9), VALUES, max_size=6
            )
            | VALUES
            for name, default in tables().items()
        },
    )
)
def test_no_options_loosen_or_break_anything(data: dict[str, Any]) -> None:
    """T11: after any options at all, each setting is as strict as the user's or stricter."""
    found, problems = overlay(STRICT, data, "the editor")
    for name, default in tables().items():
        own, now = getattr(STRICT, name), getattr(found, name)
        for field in msgspec.structs.fields(default):
            kind, rule = rule_of(field)
            was, is_now = getattr(own, field.name), getattr(now, field.name)
            assert checked(kind, rule, is_now) == is_now
            match rule.editor:
                case Editor.NEVER:
                    assert is_now == was
                case Editor.OFF:
                    assert was or not is_now
                case Editor.ADD:
                    assert set(is_now) >= set(was)
                case Editor.LOWER:
                    assert is_now <= was
                case Editor.RAISE:
                    assert is_now >= was
    assert all("\n" not in str(problem) and len(str(problem)) < 600 for problem in problems)


def test_only_four_tables_belong_to_editors() -> None:
    """T11: what SECURITY.md and the reference page say."""
    may = {
        table
        for table, default in tables().items()
        for field in msgspec.structs.fields(default)
        if rule_of(field)[1].editor is not Editor.NEVER
    }
    assert may == {"completion", "next_edits", "actions", "statistics"}


def test_a_rule_describes_itself() -> None:
    rule = Rule(meaning="x.", unit="MiB", least=1, most=2048, special=((0, "none"),))
    assert rule.accepted == "0 (none), or 1 to 2,048 MiB"


def test_the_reference_page_is_written_from_the_fields() -> None:
    """Run `python -m assistant.cli.help > assistant/docs/settings.md` after a change."""
    page = Path(help_pages.__file__).parents[1] / "docs" / "settings.md"
    assert page.read_text(encoding="utf-8") == help_pages.settings_page()


@pytest.mark.parametrize(
    ("arguments", "accepted"),
    [
        (("plan", "gpt-oss-20b", "--ctx", "1"), "256 to 4,194,304 tokens"),
        (("plan", "gpt-oss-20b", "--ctx", "-5"), "256 to 4,194,304 tokens"),
        (("plan", "gpt-oss-20b", "--sequences", "300"), "1 to 256 slots"),
        (("plan", "gpt-oss-20b", "--cache-type", "q9_9"), '"q8_0"'),
        (("recommend", "--ctx", "1"), "256 to 4,194,304 tokens"),
        (("serve", "--ctx", "1"), "256 to 4,194,304 tokens"),
        (("serve", "--slots", "0"), "1 to 256 slots"),
        (("serve", "--threads", "-1"), "1 to 1,024 threads"),
        (("serve", "--model", " "), "a name or a path"),
        (("serve", "--log-level", "loud"), '"warning"'),
    ],
)
def test_options_of_commands_have_the_same_ranges(
    home: Path, arguments: tuple[str, ...], accepted: str
) -> None:
    """S16: what the file may not say, the command line may not say either."""
    error = CliRunner().invoke(build_app(arguments[0]), list(arguments)).exception
    assert isinstance(error, SettingsError)
    assert error.subject.startswith("--") and accepted in error.advice


def test_a_workspace_sets_only_what_is_shown_in_vs_code() -> None:
    """T20: the log of messages, programs, servers and limits are settings of the machine."""
    manifest = Path(__file__).parents[2] / "editors" / "vscode" / "package.json"
    contributed = json.loads(manifest.read_text(encoding="utf-8"))["contributes"]
    fields = contributed["configuration"]["properties"]
    of_a_workspace = {name for name, field in fields.items() if field["scope"] != "machine"}
    shown = {"enable", "languages", "nextEdits", "explainLenses"}
    assert of_a_workspace == {f"underkeel.{name}" for name in shown}
    assert "underkeel.trace.server" in fields
