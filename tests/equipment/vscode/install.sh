#!/usr/bin/env bash
# Installs a real VS Code server and playwright-core into a cache folder, from the npm registry alone.
#
# usage: install.sh [FOLDER [LOCKED]]   default: ~/.cache/underkeel-test/vscode, and the versions locked here
#
# LOCKED is a folder with package.json and package-lock.json: models/ has a newer VS Code.
# The npm package code-server holds VS Code's own server. Its install script would fetch helpers from elsewhere,
# so scripts stay off; what VS Code needs natively is built here, and Debian's ripgrep stands in for the fetched one.
# Safe to repeat: a finished folder whose lock file is unchanged is left as it is.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-${UNDERKEEL_TEST_VSCODE:-$HOME/.cache/underkeel-test/vscode}}
locked=${2:-$here}

for tool in node npm rg; do
  command -v "$tool" >/dev/null || { echo "install.sh: $tool is missing" >&2; exit 3; }
done

mkdir -p "$folder"
exec 9>"$folder/.lock"
flock 9
stamp=$(cat "$locked/package-lock.json" "$here/install.sh" | sha256sum | cut -d' ' -f1)
if [[ -f $folder/.ready && $(cat "$folder/.ready") == "$stamp" ]]; then
  exit 0
fi
rm -f "$folder/.ready"
cp "$locked/package.json" "$locked/package-lock.json" "$folder/"
cd "$folder"
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error

cd node_modules/code-server/lib/vscode
# Newer ones pin a commit on GitHub of a package that the registry has, too.
node -e '
  const { readFileSync, writeFileSync } = require("node:fs");
  const name = "@parcel/watcher";
  const edit = (path, change) => {
    const data = JSON.parse(readFileSync(path, "utf8"));
    if (change(data)) writeFileSync(path, JSON.stringify(data, null, 2));
  };
  const pinned = (dependencies) => !/^[\d.]+$/.test(dependencies[name]) && (dependencies[name] = "2.5.1");
  edit("package.json", (data) => pinned(data.dependencies));
  edit("npm-shrinkwrap.json", ({ packages }) => pinned(packages[""].dependencies) && delete packages[`node_modules/${name}`]);
'
npm install --ignore-scripts --omit=dev --no-audit --no-fund --loglevel=error
npm rebuild --loglevel=error @vscode/spdlog native-watchdog @parcel/watcher
ln -sfn node_modules node_modules.asar
mkdir -p node_modules/@vscode/ripgrep/bin
ln -sf "$(command -v rg)" node_modules/@vscode/ripgrep/bin/rg
echo "$stamp" >"$folder/.ready"
