/** What a workspace may change of the user's switches: turn ghost text off, never on. */

export interface Levels<Value> {
  user: Value | undefined;
  workspace: Value | undefined;
}

/** On unless the user or the workspace turned it off. */
export function tightenFlag({ user, workspace }: Levels<boolean>): boolean {
  return user !== false && workspace !== false;
}

/** The same for each key of a table of switches. */
export function tightenFlags({ user, workspace }: Levels<Record<string, boolean>>): Record<string, boolean> {
  const keys = Object.keys({ ...user, ...workspace });
  return Object.fromEntries(keys.map((key) => [key, tightenFlag({ user: user?.[key], workspace: workspace?.[key] })]));
}

/** Where to write a switch so that it takes effect: at the level that has turned it off, else where it is set. */
export function levelToChange({ user, workspace }: Levels<boolean>, on: boolean): "user" | "workspace" {
  if (on && user === false) return "user";
  return workspace === undefined ? "user" : "workspace";
}
