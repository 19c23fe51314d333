"""What the daemon does for a request: admit it, encode it, have it answered, write the answer."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from assistant import __version__, paths
from assistant.daemon.budgets import Budgets
from assistant.daemon.engine_supervisor import EngineSupervisor, Planner
from assistant.daemon.governor import Governor
from assistant.daemon.http import ollama_api
from assistant.daemon.http.bodies import Intake
from assistant.daemon.http.completion_handler import Admission, CompletionHandler, Encode, Turns
from assistant.daemon.http.metrics import Metrics
from assistant.daemon.http.ollama_api import (
    OllamaChatBody,
    OllamaFormat,
    OllamaGenerateBody,
    ShowBody,
)
from assistant.daemon.http.prompts import Encoded, Encoder, can_fill, encoded
from assistant.daemon.http.request_schemas import (
    ChatBody,
    DetokenizeBody,
    InfillBody,
    TextCompletionBody,
    TokenizeBody,
    check_vocabulary,
)
from assistant.daemon.http.response_formats import (
    ChatFormat,
    Json,
    NativeFormat,
    ResponseFormat,
    TextFormat,
)
from assistant.daemon.http.responses_api import ResponsesBody, ResponsesFormat
from assistant.daemon.served_models import Explainer, Models, ServedModel
from assistant.engine.types import ElasticEngine, ModelInfo, Priority
from assistant.errors import ModelError, UnderkeelError
from assistant.memory.ladder import Rules
from assistant.memory.sampler import Reader
from assistant.settings import DaemonSettings, Settings
from assistant.wire import (
    BUDGET_HEADER,
    CompletionRequest,
    GenerateBody,
    Props,
    ServiceState,
    SettingsNow,
    Status,
    UseBody,
)

log = logging.getLogger(__name__)

# Requests of one client and priority at the engine at a time; an editor has fewer.
_AT_ONCE = 6
# Request bodies of full size held at once, waiting requests included.
_BODIES = 4
# The engine answers between two steps; after this the last counters are reported.
_STATS_S = 0.5
# Kept free for the answer where the request does not say how long it may be.
_LEAST_ANSWER = 64


class Service:
    """The daemon without its HTTP. One event loop; nothing here blocks it."""

    def __init__(
        self,
        engine: ElasticEngine,
        planner: Planner,
        settings: Settings,
        look: Reader,
        clock: Callable[[], float] = time.monotonic,
        *,
        identity: Callable[[], object] = lambda: None,
    ) -> None:
        """`look`: measures free memory (`assistant.memory.sampler.Probes`).

        `identity`: of `EngineSupervisor`. `clock`: the clock of the crash history and the governor.
        """
        self.settings = settings
        self.supervisor = EngineSupervisor(engine, planner, clock, identity=identity)
        self.admission = Admission(settings.daemon.max_waiting)
        self.turns = Turns(_AT_ONCE)
        self.intake = Intake(_BODIES * settings.daemon.max_body_bytes)
        self.metrics = Metrics()
        self.budgets = Budgets(settings.completion.budget_tokens, settings.completion.max_tokens)
        self.governor = Governor(
            self.supervisor,
            look,
            budgets=self.budgets,
            rules=_rules(settings.daemon),
            release_after_s=settings.daemon.release_after_s,
            busy=lambda: self.admission.inside > 0,
            keep_warm_s=_keep_warm_s(settings),
            clock=clock,
        )
        self.supervisor.follow(self.governor)
        self.settings_now: Callable[[], SettingsNow | None] = lambda: None
        self.service_manager = ""
        self.explainer: Explainer | None = None
        self.models: Models | None = None
        self._encoder = Encoder(self.supervisor)
        self._served = ServedModel(self.supervisor, self.budgets, self._encoder)
        self._handler = CompletionHandler(
            self.admission, self.turns, self.metrics, self.governor.active
        )
        self._started = time.monotonic()

    def follow(self, settings: Settings) -> None:
        """Apply the settings that can change while requests are served."""
        self.settings = settings
        self.admission.most = settings.daemon.max_waiting
        self.intake.most_bytes = _BODIES * settings.daemon.max_body_bytes
        self.budgets.follow(settings.completion.budget_tokens, settings.completion.max_tokens)
        self.governor.follow(_rules(settings.daemon), settings.daemon.release_after_s)
        self.governor.page_warmer.every_s = _keep_warm_s(settings)

    def complete(self, body: CompletionRequest, client: str = "") -> AsyncGenerator[Json, None]:
        """POST /completion."""
        return self._answer(body, NativeFormat(), self._text(body), client)

    def infill(self, body: InfillBody, client: str = "") -> AsyncGenerator[Json, None]:
        """POST /infill."""
        return self._answer(body, NativeFormat(), self._infill(body), client)

    def _infill(self, body: InfillBody) -> Encode:
        def encode(model: ModelInfo) -> Awaitable[Encoded]:
            budget = self.budgets.of(Priority.EXPLAIN)
            free = model.n_ctx - max(body.max_tokens or 0, _LEAST_ANSWER)
            return self._encoder.infill(body, model, min(free, budget.tokens) if budget else free)

        return encode

    async def text_complete(
        self, body: TextCompletionBody, client: str = ""
    ) -> AsyncGenerator[Json, None]:
        """POST /v1/completions."""
        written = TextFormat(body.prompt_text("echo") if body.echo else "")
        encode = self._text(body)
        if body.suffix:
            prefix = body.prompt_text("suffix")
            place = InfillBody(
                input_prefix=prefix, input_suffix=body.suffix, max_tokens=body.max_tokens
            )
            encode = self._infill(place)
        async with aclosing(self._answer(body, written, encode, client)) as items:
            async for item in items:
                yield item

    def chat(self, body: ChatBody, client: str = "") -> AsyncGenerator[Json, None]:
        """POST /v1/chat/completions: answered by the model for explanations, if it is ready."""
        served = self._chat_model()
        return self._answer(
            body, ChatFormat(), lambda model: served.encoder.chat(body, model), client, served
        )

    def _chat_model(self) -> ServedModel:
        """The model that answers the next chat."""
        return (self.explainer.take() if self.explainer else None) or self._served

    async def respond(self, body: ResponsesBody, client: str = "") -> AsyncGenerator[Json, None]:
        """POST /v1/responses: a chat, written as items."""
        chat, written = body.chat(), ResponsesFormat(body)
        served = self._chat_model()
        encode = lambda model: served.encoder.chat(chat, model)  # noqa: E731
        try:
            async with aclosing(self._answer(chat, written, encode, client, served)) as items:
                async for item in items:
                    yield item
        except UnderkeelError as error:
            events = written.failed(error) if body.stream else []
            if not events:
                raise
            for event in events:
                yield event

    def ollama_chat(self, body: OllamaChatBody, client: str = "") -> AsyncGenerator[Json, None]:
        """POST /api/chat."""
        return self._ollama(body.chat(), OllamaFormat(body.model, "chat"), client)

    def ollama_generate(
        self, body: OllamaGenerateBody, client: str = ""
    ) -> AsyncGenerator[Json, None]:
        """POST /api/generate."""
        return self._ollama(body.request(), OllamaFormat(body.model, "generate"), client)

    async def _ollama(
        self,
        body: ChatBody | CompletionRequest | InfillBody | None,
        written: OllamaFormat,
        client: str,
    ) -> AsyncGenerator[Json, None]:
        """The answer to one of Ollama's requests; None only loads the model."""
        if body is None:
            await self.supervisor.usable(self.settings.daemon.request_limit_s)
            yield written.loaded()
            return
        served = None
        if isinstance(body, ChatBody):
            served, chat = self._chat_model(), body
            encoder = served.encoder
            encode: Encode | Encoded = lambda model: encoder.chat(chat, model)  # noqa: E731
        else:
            encode = self._infill(body) if isinstance(body, InfillBody) else self._text(body)
        async with aclosing(self._answer(body, written, encode, client, served)) as items:
            async for item in items:
                yield item

    async def ollama_tags(self) -> Json:
        """GET /api/tags: the served model."""
        entry, model = await self.listed(), await self.supervisor.usable()
        return {"models": [ollama_api.tag(entry["id"], model)]}

    async def ollama_ps(self) -> Json:
        """GET /api/ps: the served model, as it is loaded."""
        if self.supervisor.state is not ServiceState.READY:
            return {"models": []}
        entry, model = await self.listed(), await self.supervisor.usable()
        return {"models": [ollama_api.running(entry["id"], model)]}

    async def ollama_show(self, body: ShowBody, client: str = "") -> Json:  # noqa: ARG002
        """POST /api/show."""
        model = await self.supervisor.usable()
        fills = await asyncio.to_thread(can_fill, model)
        return ollama_api.shown(model, fills=fills)

    async def close(self) -> None:
        """Stop the engines; requests in flight get an error. Safe to call twice."""
        await self.supervisor.close()
        if self.explainer is not None:
            await self.explainer.close()

    def _explaining(self) -> ServedModel:
        """The model that answers explanations now."""
        second = self.explainer
        return second.served if second and second.state is ServiceState.READY else self._served

    async def use_model(self, body: UseBody, client: str = "") -> ModelInfo:  # noqa: ARG002
        """POST /underkeel/model: serve another model."""
        if self.models is None:
            raise ModelError("this daemon cannot change its model", advice="Restart it")
        return await self.models.use(body.name, body.purpose)

    async def tokenise(self, body: TokenizeBody, client: str = "") -> Json:
        """POST /tokenize."""
        with self._handler.admitted(client):
            model = await self.supervisor.usable()
            ids = await self._encoder.tokens(body, model)
            check_vocabulary(ids, model)
            if not body.with_pieces:
                return {"tokens": ids}
            pieces = [
                {"id": token, "piece": await self.supervisor.detokenise([token])} for token in ids
            ]
            return {"tokens": pieces}

    async def detokenise(self, body: DetokenizeBody, client: str = "") -> Json:
        """POST /detokenize."""
        with self._handler.admitted(client):
            check_vocabulary(body.tokens, await self.supervisor.usable())
            return {"content": await self.supervisor.detokenise(body.tokens)}

    async def props(self) -> Props:
        model = await self.supervisor.usable()
        return Props(
            model=model,
            n_slots=model.n_seq_max,
            budget=self.budgets.of(Priority.INTERACTIVE),
            explain_budget=self._explaining().budgets.of(Priority.EXPLAIN),
        )

    def budget_headers(self) -> dict[str, str]:
        """The current budget as a header; empty before the first look at the memory."""
        budget = self._explaining().budgets.of(Priority.EXPLAIN)
        return {BUDGET_HEADER: str(budget.tokens)} if budget else {}

    async def listed(self) -> Json:
        """The entry of GET /v1/models: named as in the settings."""
        model = await self.supervisor.usable()
        budget = self._explaining().budgets.of(Priority.EXPLAIN)
        planned = self.supervisor.loadable.model if self.supervisor.loadable else None
        name = planned.name if planned and not model.server else ""
        return {
            "id": name or model.name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "underkeel",
            "context_length": model.n_ctx,
            "max_model_len": model.n_ctx,
            "budget_tokens": budget.tokens if budget else model.n_ctx,
            "meta": {
                "name": model.name,
                "n_vocab": model.n_vocab,
                "n_ctx": model.n_ctx,
                "n_ctx_train": model.n_ctx_train,
                "n_params": model.n_params,
                "size": model.size_bytes,
            },
        }

    async def status(self) -> Status:
        supervisor = self.supervisor
        return Status(
            version=__version__,
            pid=os.getpid(),
            uptime_s=time.monotonic() - self._started,
            state=supervisor.state,
            stage=supervisor.stage,
            progress=supervisor.progress,
            error=supervisor.error,
            model=supervisor.info,
            # A worker that hangs must not make its own status hang.
            stats=await supervisor.stats(_STATS_S) or self.governor.stats,
            budget=self.budgets.of(Priority.INTERACTIVE),
            in_flight=self.admission.inside,
            max_waiting=self.admission.most,
            deaths=supervisor.deaths,
            refusals=supervisor.refusals,
            devices=self.governor.devices(),
            rung=self.governor.rung(),
            explain_model=self.explainer.served.supervisor.info if self.explainer else None,
            explain_state=self.explainer.state if self.explainer else None,
            models=self.models.now(self.settings) if self.models else (),
            load=tuple(supervisor.report.lines()) if supervisor.report else (),
            caveats=self._caveats(),
            load_error_percent=supervisor.report.error_percent if supervisor.report else None,
            socket=str(paths.socket_path()),
            log=str(paths.log_file()),
            settings=self.settings_now(),
            supervisor=self.service_manager,
        )

    def _caveats(self) -> tuple[str, ...]:
        """Of the plans of all models."""
        loadable = self.supervisor.loadable
        second = self.explainer.served.supervisor.loadable if self.explainer else None
        return (
            *(loadable.caveats if loadable else ()),
            *(f"explanations: {one}" for one in (second.caveats if second else ())),
        )

    async def exposition(self) -> bytes:
        """GET /metrics."""
        return self.metrics.render(await self.status())

    def _answer(
        self,
        body: GenerateBody,
        response_format: ResponseFormat,
        prompt: Encoded | Encode,
        client: str,
        served: ServedModel | None = None,
    ) -> AsyncGenerator[Json, None]:
        limit_s = self.settings.daemon.request_limit_s
        return self._handler.answer(
            body,
            response_format,
            prompt,
            served=served or self._served,
            client=client,
            limit_s=limit_s,
        )

    def _text(self, body: CompletionRequest | TextCompletionBody) -> Encoded | Encode:
        ids = encoded(body.prompt)
        if ids is not None:
            return ids
        plain = bool(body.prompt_model)
        return lambda model: self._encoder.text(body.prompt, model, plain=plain)


def _keep_warm_s(settings: Settings) -> float:
    """Pages that are locked need no touching; of a model larger than memory it would evict some."""
    needless = settings.model.mlock or settings.model.disk
    return 0.0 if needless else settings.model.keep_warm_s


def _rules(settings: DaemonSettings) -> Rules:
    return Rules(forbidden=frozenset(settings.rungs_off), pinned=settings.rung)
