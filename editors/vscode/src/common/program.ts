/** Where the program `underkeel` is, and what pip installs. Pure except for the check whether a file is executable. */

import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { delimiter, isAbsolute, join } from "node:path";

export interface Places {
  /** The setting `underkeel.program`; VS Code never takes it from a workspace. */
  setting: string;
  /** The PATH. */
  path: string;
  /** The environment that *Install the Program* creates. */
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

/** The Python of a virtual environment. */
export function pythonIn(environment: string): string {
  return join(environment, ...(windows ? ["Scripts", "python.exe"] : ["bin", "python"]));
}

/** Every place to look, best first. A setting is final: nothing else is tried. */
export function candidates(places: Places): Found[] {
  if (places.setting !== "") return [{ path: places.setting, from: "setting" }];
  const onPath = places.path.split(delimiter).filter((folder) => isAbsolute(folder));
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

const CHECKOUT = "In a checkout of Underkeel run “uv tool install .”, then use “Underkeel: Find the Program”.";

/**
 * The arguments of each `pip install`, or why a folder cannot be installed from. Everything is pinned by hash: the
 * owner of a name in a package index cannot choose what is installed.
 *
 * @param files names of the files in the folder: a wheel, `…-requirements.txt` with its hash and those of all packages
 *   that it needs, and `build-requirements.txt` for those that are built from source
 */
export function pipSteps(folder: string, files: readonly string[]): string[][] | string {
  if (!isAbsolute(folder)) {
    return `underkeel.installFrom must be the absolute path of a folder that “make dist” wrote, not “${folder}”. ${CHECKOUT}`;
  }
  const build = files.filter((name) => name === "build-requirements.txt");
  const [requirements, ...more] = files.filter((name) => /^underkeel-.*-requirements\.txt$/.test(name));
  if (requirements === undefined || more.length > 0 || !files.some((name) => /^underkeel-.*\.whl$/.test(name))) {
    return `${folder} does not contain the program: this extension was built without it, or the folder is not one that “make dist” wrote. ${CHECKOUT}`;
  }
  const pinned = ["--require-hashes", "--upgrade"];
  const isolated = build.length > 0 ? ["--no-build-isolation"] : [];
  return [
    ...build.map((name) => [...pinned, "-r", join(folder, name)]),
    [...pinned, ...isolated, "--find-links", folder, "-r", join(folder, requirements)],
  ];
}

/** The environment for `pip install`: limits the build of llama.cpp to what is used, if the folder says how. */
export function pipEnvironment(
  folder: string,
  files: readonly string[],
  given: Readonly<Record<string, string | undefined>>,
): Record<string, string> {
  if (!files.includes("llama_cpp.cmake")) return {};
  const include = `-DCMAKE_PROJECT_llama_cpp_INCLUDE=${join(folder, "llama_cpp.cmake")}`;
  // Split by scikit-build-core as a shell would.
  const quoted = `'${include.replaceAll("'", `'"'"'`)}'`;
  return { CMAKE_ARGS: [given["CMAKE_ARGS"], quoted].filter(Boolean).join(" ") };
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
