"""The worker that holds a checkpoint. Speaks the frames of `assistant.engine.ipc`, as the one
that holds llama.cpp does."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import NoReturn

from assistant.engine import ipc
from assistant.engine.transformers.checkpoint import LoadedCheckpoint
from assistant.engine.transformers.runner import Runner
from assistant.engine.worker.worker_loop import BEAT_S, WorkerLoop
from assistant.errors import EngineError


class Worker(WorkerLoop[Runner]):
    """The worker whose model is a checkpoint."""

    def run(self) -> None:
        # A forward pass of a large model may take longer than the daemon's patience.
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        super().run()

    def load(self, command: ipc.Load) -> None:
        old, self.runner = self.runner, None
        if old is not None:
            old.fail_all(EngineError("the model is being reloaded", advice="Try again"))
            del old

        def goes_on(share: float) -> bool:
            self.say(ipc.Progress(id=command.id, share=share))
            return not self.given_up.is_set()

        model = LoadedCheckpoint(command.spec, goes_on)
        self.runner = Runner(model, self.report, self.failed)
        self.say(ipc.Loaded(id=command.id, info=model.info()))

    def tokenise(self, text: str, *, special: bool) -> Sequence[int]:
        return self.ready().model.encode(text, special=special)

    def detokenise(self, tokens: Sequence[int]) -> str:
        return self.ready().model.decode(tokens)

    def drop_idle(self) -> int:
        return self.ready().drop_idle()

    def deserted(self) -> NoReturn:
        os._exit(0)  # torch has no way to end a forward pass

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_S)
            self.say(ipc.Beat())


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to handle
    # What libraries print goes to stderr, and nothing is fetched.
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    Worker(sys.stdin.buffer, sink).run()


if __name__ == "__main__":
    main()
