"""Every setting: its type, default, meaning, unit and range. One struct for each TOML table."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from assistant.settings.rules import Editor, Rule

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
"""What llama.cpp accepts for the KV cache; a test compares with `ggml_types`."""

RUNGS = (
    "plan", "trim", "drop", "states", "checkpoints", "context", "batch", "cache", "predictions",
    "half experts", "experts", "host", "least", "unload",
)  # fmt: skip
"""The names of the ladder's rungs; a test compares with the ladder."""

_LONGEST_CONTEXT = 4_194_304
_DAY_S = 86_400
_PLAN = ((0, "the plan decides"),)
_MODEL = "its name in `underkeel models list`, or the path of a GGUF file or checkpoint folder"

_ContextSize = Annotated[
    int,
    Rule(
        meaning="Context: the cells of the KV cache, shared by all slots.",
        unit="tokens",
        least=256,
        most=_LONGEST_CONTEXT,
        special=_PLAN,
    ),
]
_Slots = Annotated[
    int, Rule(meaning="Slots: sequences kept in the KV cache.", unit="slots", least=1, most=256)
]
_Threads = Annotated[
    int,
    Rule(
        meaning="CPU threads.",
        unit="threads",
        least=1,
        most=1024,
        special=((0, "one for each core that may run"),),
    ),
]
_CacheType = Annotated[
    str,
    Rule(meaning="Type of the KV cache.", choices=CACHE_TYPES, blank="the plan decides"),
]
_Lock = Annotated[
    bool, Rule(meaning="Lock the model's pages in memory, so that the system never evicts them.")
]


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The model that is served, and its share of the memory."""

    name: Annotated[str, Rule(meaning=f"The model: {_MODEL}.", form="a name or a path")] = (
        "starter-moe"
    )
    n_ctx: _ContextSize = 8192
    n_seq_max: _Slots = 4
    n_threads: _Threads = 0
    cache_type: _CacheType = ""
    weights: Annotated[
        Literal["", "as they are", "nf4"],
        Rule(
            meaning="How the weights of a checkpoint folder are kept.",
            choices=("as they are", "nf4"),
            blank="whichever fits",
        ),
    ] = ""
    mlock: _Lock = False
    disk: Annotated[
        bool,
        Rule(
            meaning="Load a mixture of experts that is larger than memory: what has no space is "
            "read from its file when a token needs it. `mlock` and `keep_warm_s` have no effect "
            "then.",
        ),
    ] = False
    keep_warm_s: Annotated[
        float,
        Rule(
            meaning="While idle, touch the model's mapped pages this often, so that the system "
            "does not evict them.",
            unit="seconds",
            least=1,
            most=_DAY_S,
            special=((0, "never"),),
        ),
    ] = 120.0
    vram_margin_mib: Annotated[
        int, Rule(meaning="Memory left free on each GPU.", unit="MiB", most=1_048_576)
    ] = 256
    vram_overhead_mib: Annotated[
        int,
        Rule(
            meaning="Memory that the driver takes on each GPU for a process.",
            unit="MiB",
            most=65_536,
            special=((-1, "the usual amount"),),
        ),
    ] = -1


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How llama.cpp's worker process is started and watched."""

    backend_libraries: Annotated[
        tuple[str, ...],
        Rule(
            meaning="Further ggml backends to load: libraries (Vulkan, SYCL) built for the same "
            "llama.cpp. They are code that runs as you.",
            form="paths of libraries",
        ),
    ] = ()
    hang_s: Annotated[
        float,
        Rule(
            meaning="A worker that has work and gives no sign of life for this long is ended and "
            "restarted.",
            unit="seconds",
            least=1,
            most=_DAY_S,
        ),
    ] = 60.0


class RemoteSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A server that answers in place of a model on this machine. Your prompts are sent to it."""

    url: Annotated[
        str,
        Rule(
            meaning="Address of the server.",
            pattern=r"(?i)https?://[^\s/?#]+[^\s]*",
            form="an http:// or https:// address",
            blank="no server; the model runs here",
        ),
    ] = ""
    kind: Annotated[
        Literal["auto", "llama-server", "vllm", "openai"],
        Rule(
            meaning='The server\'s protocol; "auto" asks the server.',
            choices=("auto", "llama-server", "vllm", "openai"),
        ),
    ] = "auto"
    model: Annotated[
        str,
        Rule(meaning="Name of the model on the server.", form="a name", blank="the server's first"),
    ] = ""
    key_file: Annotated[
        str,
        Rule(
            meaning="File of mode 600 with the API key on its first line.",
            form="a path",
            blank="no key file",
        ),
    ] = ""
    key_name: Annotated[
        str,
        Rule(
            meaning="Keyring entry with the API key.", form="service/user", blank="no keyring entry"
        ),
    ] = ""
    certificates: Annotated[
        str,
        Rule(
            meaning="Bundle of certificate authorities to trust besides the system's.",
            form="a path",
            blank="the system's",
        ),
    ] = ""
    tokenizer: Annotated[
        str,
        Rule(
            meaning="tokenizer.json or GGUF file with the model's vocabulary, for exact counts.",
            form="a path",
            blank="ask the server, else estimate",
        ),
    ] = ""
    family: Annotated[
        str,
        Rule(
            meaning="The model's family in families.toml, which decides the prompt's layout.",
            form="a name",
            blank="by the model's name and tokens",
        ),
    ] = ""
    n_ctx: Annotated[
        int,
        Rule(
            meaning="Context of the model, if the server does not report it.",
            unit="tokens",
            least=256,
            most=_LONGEST_CONTEXT,
            special=((0, "ask the server"),),
        ),
    ] = 0
    parallel: Annotated[
        int,
        Rule(
            meaning="Requests sent at the same time.",
            unit="requests",
            least=1,
            most=1024,
            special=((0, "ask the server"),),
        ),
    ] = 0
    retries: Annotated[
        int, Rule(meaning="Retries of a request that could not be sent.", unit="retries", most=20)
    ] = 2
    connect_s: Annotated[
        float, Rule(meaning="Limit for connecting.", unit="seconds", least=0.1, most=600)
    ] = 5.0
    silence_s: Annotated[
        float,
        Rule(
            meaning="Limit for the time between two pieces of an answer.",
            unit="seconds",
            least=0.1,
            most=3600,
        ),
    ] = 60.0
    fallback: Annotated[
        bool, Rule(meaning="Answer with the model of [model] while the server cannot.")
    ] = True


class ExplainSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A second model for explanations and chats, planned together with the one of [model]."""

    name: Annotated[
        str,
        Rule(
            meaning=f"The model: {_MODEL}.",
            form="a name or a path",
            blank="one model does both",
        ),
    ] = ""
    n_ctx: _ContextSize = 8192
    n_seq_max: _Slots = 2
    n_threads: _Threads = 0
    cache_type: _CacheType = ""
    mlock: _Lock = False
    release_after_s: Annotated[
        float,
        Rule(
            meaning="Free its memory after this long without a request.",
            unit="seconds",
            least=1,
            most=30 * _DAY_S,
            special=((0, "never"),),
        ),
    ] = 600.0


class DaemonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits, memory policy, port and log of the daemon."""

    max_waiting: Annotated[
        int,
        Rule(
            meaning="Length of the queue; a request beyond it is refused with 429.",
            unit="requests",
            least=1,
            most=10_000,
        ),
    ] = 64
    request_limit_s: Annotated[
        float,
        Rule(
            meaning="Time limit of any request; an answer ends there with what it has.",
            unit="seconds",
            least=1,
            most=_DAY_S,
        ),
    ] = 600.0
    max_body_bytes: Annotated[
        int, Rule(meaning="Largest request body.", unit="bytes", least=1024, most=1 << 30)
    ] = 8 * 1024 * 1024
    release_after_s: Annotated[
        float,
        Rule(
            meaning="Free the model's memory after this long without a request; the next request "
            "loads it again.",
            unit="seconds",
            least=1,
            most=30 * _DAY_S,
            special=((0, "never"),),
        ),
    ] = 1800.0
    rungs_off: Annotated[
        tuple[str, ...],
        Rule(meaning="Rungs of the ladder that are never used.", choices=RUNGS[1:]),
    ] = ()
    rung: Annotated[
        str,
        Rule(
            meaning="The only rung of the ladder that is used.",
            choices=RUNGS,
            blank="memory decides",
        ),
    ] = ""
    tcp_port: Annotated[
        int,
        Rule(
            meaning="Loopback port to listen on besides the socket; requests there need the token "
            "of the address file.",
            least=1,
            most=65_535,
            special=((0, "none; any free port on systems without Unix sockets"),),
        ),
    ] = 0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Rule(meaning="What is logged.", choices=("debug", "info", "warning", "error")),
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"],
        Rule(meaning="Format of the log file.", choices=("text", "json")),
    ] = "text"


class CompletionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Ghost text: suggestions while you type."""

    enabled: Annotated[bool, Rule(meaning="Suggest at all.", editor=Editor.OFF)] = True
    languages_off: Annotated[
        tuple[str, ...],
        Rule(
            meaning="Languages without suggestions.",
            form="LSP language ids",
            editor=Editor.ADD,
        ),
    ] = ()
    budget_tokens: Annotated[
        int,
        Rule(
            meaning="Longest prompt; memory may allow less.",
            unit="tokens",
            least=64,
            most=1_048_576,
            editor=Editor.LOWER,
        ),
    ] = 1024
    max_tokens: Annotated[
        int,
        Rule(meaning="Longest suggestion.", unit="tokens", least=1, most=4096, editor=Editor.LOWER),
    ] = 64
    time_limit_ms: Annotated[
        int,
        Rule(
            meaning="A suggestion ends after this time with what there is.",
            unit="milliseconds",
            least=100,
            most=600_000,
            editor=Editor.LOWER,
        ),
    ] = 8000
    first_line_ms: Annotated[
        int,
        Rule(
            meaning="After this time one whole line is enough.",
            unit="milliseconds",
            most=600_000,
            editor=Editor.LOWER,
        ),
    ] = 600
    blocks: Annotated[
        bool,
        Rule(
            meaning="Decode the rest of a block after its first line is shown.", editor=Editor.OFF
        ),
    ] = True
    debounce_ms: Annotated[
        int,
        Rule(
            meaning="Shortest pause after a key before a request is sent.",
            unit="milliseconds",
            most=10_000,
            editor=Editor.RAISE,
        ),
    ] = 60
    ahead: Annotated[
        bool,
        Rule(meaning="Compute ahead what may be requested next.", editor=Editor.OFF),
    ] = True
    ahead_on_battery: Annotated[bool, Rule(meaning="Do so on battery too.", editor=Editor.OFF)] = (
        False
    )
    workspace: Annotated[
        bool,
        Rule(meaning="Show the model other files of the workspace.", editor=Editor.OFF),
    ] = True
    workspace_files: Annotated[
        int,
        Rule(
            meaning="Most files that are indexed; those near the open files come first.",
            unit="files",
            least=1,
            most=1_000_000,
            editor=Editor.LOWER,
        ),
    ] = 20_000
    excludes: Annotated[
        tuple[str, ...],
        Rule(
            meaning="Files that no model ever sees.",
            form="patterns as in .gitignore",
            editor=Editor.ADD,
        ),
    ] = ()


class NextEditSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Next edits: the change that follows from your last ones, elsewhere in the file or project."""

    enabled: Annotated[bool, Rule(meaning="Suggest next edits.", editor=Editor.OFF)] = True
    languages_off: Annotated[
        tuple[str, ...],
        Rule(
            meaning="Languages without next edits.",
            form="LSP language ids",
            editor=Editor.ADD,
        ),
    ] = ()
    level: Annotated[
        Literal["quiet", "normal", "eager"],
        Rule(
            meaning="How sure an edit must be to be shown.",
            choices=("quiet", "normal", "eager"),
        ),
    ] = "normal"
    model: Annotated[
        Literal["auto", "on", "off"],
        Rule(
            meaning="Request edits from the served model where the rules find none; auto does so"
            " only with a model that was trained for next edits.",
            choices=("auto", "on", "off"),
        ),
    ] = "auto"
    context_tokens: Annotated[
        int,
        Rule(
            meaning="Longest prompt for such an edit. While memory is short none is made.",
            unit="tokens",
            least=128,
            most=1_048_576,
            editor=Editor.LOWER,
        ),
    ] = 1024


class ActionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Code actions: explanations and edits."""

    enabled: Annotated[bool, Rule(meaning="Offer code actions.", editor=Editor.OFF)] = True
    context_tokens: Annotated[
        int,
        Rule(
            meaning="Longest prompt; memory may allow less.",
            unit="tokens",
            least=64,
            most=1_048_576,
            editor=Editor.LOWER,
        ),
    ] = 2048
    explain_tokens: Annotated[
        int,
        Rule(
            meaning="Longest explanation; one that is cut can be continued.",
            unit="tokens",
            least=1,
            most=65_536,
            editor=Editor.LOWER,
        ),
    ] = 640
    edit_tokens: Annotated[
        int,
        Rule(
            meaning="Longest edit; one that is cut is not applied.",
            unit="tokens",
            least=1,
            most=65_536,
            editor=Editor.LOWER,
        ),
    ] = 1024


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The agent: `underkeel acp` and `underkeel agent`."""

    mode: Annotated[
        Literal["ask", "edit", "auto"],
        Rule(
            meaning="What it changes without a question in a new session: nothing, edits, or all "
            "changes of files. Commands always ask.",
            choices=("ask", "edit", "auto"),
        ),
    ] = "ask"
    allow: Annotated[
        tuple[str, ...],
        Rule(
            meaning="Commands that run without a question, with any further arguments. Tests run "
            "the code that the agent wrote.",
            form="starts of command lines",
        ),
    ] = ()
    mcp_servers: Annotated[
        tuple[str, ...],
        Rule(
            meaning="MCP servers whose tools the agent may call. Each is started once you approve "
            "it, and each tool asks.",
            form='"name: command line" or "name: URL"',
        ),
    ] = ()
    steps: Annotated[
        int, Rule(meaning="Most answers of the model per prompt.", unit="steps", least=1, most=1000)
    ] = 40
    time_limit_s: Annotated[
        float,
        Rule(meaning="A prompt ends after this time.", unit="seconds", least=1, most=_DAY_S),
    ] = 1800.0
    answer_tokens: Annotated[
        int,
        Rule(
            meaning="Longest answer; at most a quarter of the context.",
            unit="tokens",
            least=64,
            most=65_536,
        ),
    ] = 2048


class StatisticsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of what became of suggestions, kept on this machine."""

    enabled: Annotated[bool, Rule(meaning="Count suggestions.", editor=Editor.OFF)] = True


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. Each attribute is a table of the TOML file."""

    model: ModelSettings = ModelSettings()
    engine: EngineSettings = EngineSettings()
    remote: RemoteSettings = RemoteSettings()
    explain: ExplainSettings = ExplainSettings()
    daemon: DaemonSettings = DaemonSettings()
    completion: CompletionSettings = CompletionSettings()
    next_edits: NextEditSettings = NextEditSettings()
    actions: ActionSettings = ActionSettings()
    agent: AgentSettings = AgentSettings()
    statistics: StatisticsSettings = StatisticsSettings()


def tables() -> dict[str, msgspec.Struct]:
    """The tables of the file by name, each with its defaults, in order."""
    defaults = Settings()
    return {name: getattr(defaults, name) for name in Settings.__struct_fields__}
