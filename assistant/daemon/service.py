"""What the daemon does for a request: admit it, encode it, have it answered, write the answer."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager

from assistant import __version__, paths
from assistant.daemon.headroom.budgets import Budgets
from assistant.daemon.headroom.explainer import Desk, Explainer
from assistant.daemon.headroom.governor import Governor
from assistant.daemon.http import completion_handler
from assistant.daemon.http.admission import Admission, Intake, Turns
from assistant.daemon.http.completion_handler import Asked, Encode
from assistant.daemon.http.metrics import Metrics
from assistant.daemon.http.prompts import Encoded, Encoder
from assistant.daemon.http.request_schemas import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    GenerateBody,
    InfillBody,
    TextCompletionBody,
    TokenizeBody,
    check_vocabulary,
)
from assistant.daemon.http.response_formats import ChatShape, Json, NativeShape, Shape, TextShape
from assistant.daemon.models.model_swap import Models
from assistant.daemon.supervisor.engine_supervisor import ModelHost, Planner
from assistant.engine.interface import ElasticEngine
from assistant.engine.types import ModelInfo, Priority
from assistant.errors import ModelError, UnderkeelError
from assistant.memory.degrade.ladder import Rules
from assistant.memory.probes.sampler import Reader
from assistant.settings import DaemonSettings, Settings
from assistant.wire import Props, ServiceState, SettingsNow, Status, UseBody

log = logging.getLogger(__name__)

# Requests of one client and priority that the engine has at a time; an editor has fewer.
_AT_ONCE = 6
# So many bodies of full size are held at once, waiting requests and all.
_BODIES = 4
# The engine answers between two steps; who waits longer gets what it said before.
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
    ) -> None:
        """`look`: what memory is free now (`assistant.memory.probes.sampler.Probes`).

        `clock`: by which deaths are remembered and the ways back up are waited for.
        """
        self.settings = settings
        self.host = ModelHost(engine, planner, clock)
        self.admission = Admission(settings.daemon.max_waiting)
        self.turns = Turns(_AT_ONCE)
        self.intake = Intake(_BODIES * settings.daemon.max_body_bytes)
        self.metrics = Metrics()
        self.budgets = Budgets(settings.completion.budget_tokens, settings.completion.max_tokens)
        self.governor = Governor(
            self.host,
            look,
            budgets=self.budgets,
            rules=_rules(settings.daemon),
            release_after_s=settings.daemon.release_after_s,
            busy=lambda: self.admission.inside > 0,
            keep_warm_s=_keep_warm_s(settings),
            clock=clock,
        )
        self.host.follow(self.governor)
        self.settings_now: Callable[[], SettingsNow | None] = lambda: None
        self.supervisor = ""
        self.explainer: Explainer | None = None
        self.models: Models | None = None
        self._encoder = Encoder(self.host)
        self._desk = Desk(self.host, self.budgets, self._encoder)
        self._started = time.monotonic()

    def follow(self, settings: Settings) -> None:
        """Take over of other settings what can change while requests are served."""
        self.settings = settings
        self.admission.most = settings.daemon.max_waiting
        self.intake.most_bytes = _BODIES * settings.daemon.max_body_bytes
        self.budgets.follow(settings.completion.budget_tokens, settings.completion.max_tokens)
        self.governor.follow(_rules(settings.daemon), settings.daemon.release_after_s)
        self.governor.warmth.every_s = _keep_warm_s(settings)

    def complete(self, body: CompletionBody, client: str = "") -> AsyncGenerator[Json, None]:
        return self._answer(
            body, NativeShape(), lambda model: self._encoder.text(body.prompt, model), client
        )

    def infill(self, body: InfillBody, client: str = "") -> AsyncGenerator[Json, None]:
        def encode(model: ModelInfo) -> Awaitable[Encoded]:
            budget = self.budgets.of(Priority.EXPLAIN)
            room = model.n_ctx - max(body.n_predict, _LEAST_ANSWER)
            return self._encoder.infill(body, model, min(room, budget.tokens) if budget else room)

        return self._answer(body, NativeShape(), encode, client)

    def text_complete(
        self, body: TextCompletionBody, client: str = ""
    ) -> AsyncGenerator[Json, None]:
        return self._answer(
            body,
            TextShape(),
            lambda model: self._encoder.text(body.prompt, model),
            client,
            with_usage=body.wants_usage(),
        )

    def chat(self, body: ChatBody, client: str = "") -> AsyncGenerator[Json, None]:
        """Answered by the model for explanations, where there is one and it is ready."""
        desk = (self.explainer.take() if self.explainer else None) or self._desk
        return self._answer(
            body,
            ChatShape(),
            lambda model: desk.encoder.chat(body, model),
            client,
            with_usage=body.wants_usage(),
            desk=desk,
        )

    async def close(self) -> None:
        """End the engines; what they were answering gets a clear error. Safe to call twice."""
        await self.host.close()
        if self.explainer is not None:
            await self.explainer.close()

    def _explaining(self) -> Desk:
        """Who answers explanations now."""
        second = self.explainer
        return second.desk if second and second.state is ServiceState.READY else self._desk

    async def use_model(self, body: UseBody, client: str = "") -> ModelInfo:  # noqa: ARG002
        """POST /underkeel/model: serve another model from now on."""
        if self.models is None:
            raise ModelError("this daemon cannot change its model", advice="Start it anew")
        return await self.models.use(body.name, body.purpose)

    async def tokenise(self, body: TokenizeBody, client: str = "") -> Json:
        """POST /tokenize."""
        with self._admitted(client):
            model = await self.host.usable()
            ids = await self._encoder.tokens(body, model)
            check_vocabulary(ids, model)
            if not body.with_pieces:
                return {"tokens": ids}
            pieces = [{"id": token, "piece": await self.host.detokenise([token])} for token in ids]
            return {"tokens": pieces}

    async def detokenise(self, body: DetokenizeBody, client: str = "") -> Json:
        """POST /detokenize."""
        with self._admitted(client):
            check_vocabulary(body.tokens, await self.host.usable())
            return {"content": await self.host.detokenise(body.tokens)}

    async def props(self) -> Props:
        model = await self.host.usable()
        return Props(
            model=model,
            n_slots=model.n_seq_max,
            budget=self.budgets.of(Priority.INTERACTIVE),
            explain_budget=self._explaining().budgets.of(Priority.EXPLAIN),
        )

    async def status(self) -> Status:
        host = self.host
        return Status(
            version=__version__,
            pid=os.getpid(),
            uptime_s=time.monotonic() - self._started,
            state=host.state,
            stage=host.stage,
            progress=host.progress,
            error=host.error,
            model=host.info,
            # A worker that hangs must not make its own status hang.
            stats=await host.stats(_STATS_S) or self.governor.stats,
            budget=self.budgets.of(Priority.INTERACTIVE),
            in_flight=self.admission.inside,
            max_waiting=self.admission.most,
            deaths=host.deaths,
            refusals=host.refusals,
            devices=self.governor.devices(),
            rung=self.governor.rung(),
            explain_model=self.explainer.desk.host.info if self.explainer else None,
            explain_state=self.explainer.state if self.explainer else None,
            load=tuple(host.report.lines()) if host.report else (),
            load_error_percent=host.report.error_percent if host.report else None,
            socket=str(paths.socket_path()),
            log=str(paths.log_file()),
            settings=self.settings_now(),
            supervisor=self.supervisor,
        )

    async def exposition(self) -> bytes:
        """GET /metrics."""
        return self.metrics.render(await self.status())

    async def _answer(
        self,
        body: GenerateBody,
        shape: Shape,
        encode: Encode,
        client: str,
        *,
        with_usage: bool = False,
        desk: Desk | None = None,
    ) -> AsyncGenerator[Json, None]:
        """The events of a streamed answer, or the one object of a whole one."""
        asked = Asked(body, shape, encode, client, with_usage=with_usage)
        limit_s = self.settings.daemon.request_limit_s
        with self._admitted(client):
            events = completion_handler.events(
                asked, desk or self._desk, self.turns, self.metrics, limit_s
            )
            async with aclosing(events):
                async for event in events:
                    yield event

    @contextmanager
    def _admitted(self, client: str) -> Iterator[None]:
        """A place in the queue; the governor looks closely as long as anyone has one."""
        try:
            with self.admission.admit(client):
                self.governor.active()
                yield
        except UnderkeelError as error:
            self.metrics.failed(error.code)
            raise
        finally:
            self.governor.active()


def _keep_warm_s(settings: Settings) -> float:
    """Pages that are locked need no touching."""
    return 0.0 if settings.model.mlock else settings.model.keep_warm_s


def _rules(settings: DaemonSettings) -> Rules:
    return Rules(forbidden=frozenset(settings.rungs_off), pinned=settings.rung)
