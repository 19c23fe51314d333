/**
 * Run work one at a time. Calls during a run wait for it and share one more run.
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
