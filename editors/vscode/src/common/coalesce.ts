/**
 * One at a time, and never twice for nothing: a call while one runs waits for it and then runs once more, however many
 * calls came meanwhile.
 */
export function coalesced(work: () => Promise<void>): () => Promise<void> {
  let running: Promise<void> | undefined;
  let waiting: Promise<void> | undefined;
  const start = async (): Promise<void> => {
    try {
      await work();
    } finally {
      running = undefined;
    }
  };
  return () => {
    if (running === undefined) return (running = start());
    waiting ??= running
      .catch(() => undefined)
      .then(() => {
        waiting = undefined;
        return (running = start());
      });
    return waiting;
  };
}
