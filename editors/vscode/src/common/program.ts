/** Where the program `underkeel` is. Pure but for the check whether a file can be run. */

import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { delimiter, join } from "node:path";

export interface Places {
  /** The setting `underkeel.program`; VS Code never takes it from a workspace. */
  setting: string;
  /** The PATH. */
  path: string;
  /** The environment that *Install the Program* makes. */
  managed: string;
  /** Folders of the workspace; empty where the workspace is not trusted. */
  folders: readonly string[];
}

export interface Found {
  path: string;
  from: "setting" | "PATH" | "own environment" | "workspace";
}

const windows = process.platform === "win32";
const NAME = windows ? "underkeel.exe" : "underkeel";

/** The program inside a virtual environment. */
export function inEnvironment(environment: string): string {
  return join(environment, windows ? "Scripts" : "bin", NAME);
}

/** Every place to look at, the first that is there wins. A setting is final: nothing else is tried. */
export function candidates(places: Places): Found[] {
  if (places.setting !== "") return [{ path: places.setting, from: "setting" }];
  const onPath = places.path.split(delimiter).filter((folder) => folder !== "");
  return [
    ...onPath.map((folder): Found => ({ path: join(folder, NAME), from: "PATH" })),
    { path: inEnvironment(places.managed), from: "own environment" },
    ...places.folders.flatMap((folder) =>
      [".venv", "venv"].map((name): Found => ({ path: inEnvironment(join(folder, name)), from: "workspace" })),
    ),
  ];
}

export async function find(places: Places, runs = isExecutable): Promise<Found | undefined> {
  for (const candidate of candidates(places)) {
    if (await runs(candidate.path)) return candidate;
  }
  return undefined;
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
