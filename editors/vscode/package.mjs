// Packs the extension into underkeel.vsix: a zip of the files below with VS Code's two manifests.
// The same sources give the same bytes: entries are sorted and dated alike.
import { existsSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { crc32 as nodeCrc32, deflateRawSync } from "node:zlib";

const DOS_DATE = ((2024 - 1980) << 9) | (1 << 5) | 1;
// The program's version is the extension's, too; package.json says 0.0.0.
const [, version] = /__version__ = "(.+)"/.exec(readFileSync("../../assistant/__init__.py", "utf8"));
const about = { ...JSON.parse(readFileSync("package.json", "utf8")), version };

/** Every file under a path, sorted, as paths with slashes. */
function files(path) {
  if (!statSync(path).isDirectory()) return [path];
  return readdirSync(path).sort().flatMap((name) => files(join(path, name)));
}

function crc32(bytes) {
  if (nodeCrc32) return nodeCrc32(bytes);
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

/** A zip archive (PKWARE APPNOTE 6.3.9, sections 4.3.7, 4.3.12 and 4.3.16) of [name, bytes] pairs. */
function zip(entries) {
  const bodies = [];
  const directory = [];
  let offset = 0;
  for (const [name, bytes] of entries) {
    const path = Buffer.from(name, "utf8");
    const packed = deflateRawSync(bytes, { level: 9 });
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0); // version needed
    common.writeUInt16LE(0x0800, 2); // names are UTF-8
    common.writeUInt16LE(8, 4); // deflate
    common.writeUInt16LE(DOS_DATE, 8);
    common.writeUInt32LE(crc32(bytes), 10);
    common.writeUInt32LE(packed.length, 14);
    common.writeUInt32LE(bytes.length, 18);
    common.writeUInt16LE(path.length, 22);
    const local = Buffer.concat([Buffer.from("PK\x03\x04"), common, path, packed]);
    const central = Buffer.alloc(14);
    central.writeUInt32LE(offset, 10);
    directory.push(Buffer.concat([Buffer.from("PK\x01\x02\x14\x00"), common, central, path]));
    bodies.push(local);
    offset += local.length;
  }
  const index = Buffer.concat(directory);
  const end = Buffer.alloc(18);
  end.writeUInt16LE(entries.length, 4);
  end.writeUInt16LE(entries.length, 6);
  end.writeUInt32LE(index.length, 8);
  end.writeUInt32LE(offset, 12);
  return Buffer.concat([...bodies, index, Buffer.from("PK\x05\x06"), end]);
}

const escaped = (text) => text.replace(/[<>&"]/g, (char) => `&#${char.charCodeAt(0)};`);

const manifest = `<?xml version="1.0" encoding="utf-8"?>
<PackageManifest Version="2.0.0" xmlns="http://schemas.microsoft.com/developer/vsx-schema/2011">
  <Metadata>
    <Identity Language="en-US" Id="${about.name}" Version="${about.version}" Publisher="${about.publisher}"/>
    <DisplayName>${escaped(about.displayName)}</DisplayName>
    <Description xml:space="preserve">${escaped(about.description)}</Description>
    <Tags>${escaped(about.keywords.join(","))}</Tags>
    <Categories>${escaped(about.categories.join(","))}</Categories>
    <GalleryFlags>Public</GalleryFlags>
    <Properties>
      <Property Id="Microsoft.VisualStudio.Code.Engine" Value="${escaped(about.engines.vscode)}"/>
      <Property Id="Microsoft.VisualStudio.Code.ExtensionKind" Value="workspace"/>
    </Properties>
    <License>extension/LICENSE</License>
    <Icon>extension/${about.icon}</Icon>
  </Metadata>
  <Installation><InstallationTarget Id="Microsoft.VisualStudio.Code"/></Installation>
  <Dependencies/>
  <Assets>
    <Asset Type="Microsoft.VisualStudio.Code.Manifest" Path="extension/package.json" Addressable="true"/>
    <Asset Type="Microsoft.VisualStudio.Services.Content.Details" Path="extension/README.md" Addressable="true"/>
    <Asset Type="Microsoft.VisualStudio.Services.Content.License" Path="extension/LICENSE" Addressable="true"/>
    <Asset Type="Microsoft.VisualStudio.Services.Icons.Default" Path="extension/${about.icon}" Addressable="true"/>
  </Assets>
</PackageManifest>
`;

const kinds = { whl: "application/zip", txt: "text/plain", cmake: "text/plain", json: "application/json", js: "application/javascript", md: "text/markdown", png: "image/png", css: "text/css", vsixmanifest: "text/xml" };
const types = `<?xml version="1.0" encoding="utf-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">${Object.entries(kinds)
  .map(([extension, type]) => `<Default Extension=".${extension}" ContentType="${type}"/>`)
  .join("")}<Override PartName="/extension/LICENSE" ContentType="text/plain"/></Types>
`;

// The program itself, which `make dist` puts there: a wheel and the hashes of all that it needs.
const program = existsSync("program") ? ["program"] : [];
const contents = ["README.md", "media", "out/extension.js", ...program].flatMap(files);
const archive = zip([
  ["extension.vsixmanifest", Buffer.from(manifest)],
  ["[Content_Types].xml", Buffer.from(types)],
  ["extension/LICENSE", readFileSync("../../LICENSE")],
  ["extension/package.json", Buffer.from(JSON.stringify(about, null, 2) + "\n")],
  ...contents.map((path) => [`extension/${path}`, readFileSync(path)]),
]);
writeFileSync("underkeel.vsix", archive);
console.log(`underkeel.vsix: ${contents.length + 4} files, ${(archive.length / 1024).toFixed(0)} KiB`);
