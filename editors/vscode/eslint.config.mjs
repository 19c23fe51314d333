import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["out/", "media/", "*.mjs"] },
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      // No telemetry, no downloads: the extension itself talks to nobody but the program it starts.
      "no-restricted-imports": ["error", ...["dgram", "dns", "http", "http2", "https", "net", "tls"].flatMap((name) => [name, `node:${name}`])],
      "no-restricted-globals": ["error", "fetch", "WebSocket", "XMLHttpRequest", "EventSource"],
      "@typescript-eslint/no-unused-vars": ["error", { ignoreRestSiblings: true }],
      // Numbers read well in a template.
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      // node:test gives promises that it awaits itself.
      "@typescript-eslint/no-floating-promises": ["error", { allowForKnownSafeCalls: [{ from: "package", name: "test", package: "node:test" }] }],
    },
  },
);
