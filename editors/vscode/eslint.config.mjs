import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["out/", "media/", "*.mjs"] },
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      // Numbers read well in a template.
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      // node:test gives promises that it awaits itself.
      "@typescript-eslint/no-floating-promises": ["error", { allowForKnownSafeCalls: [{ from: "package", name: "test", package: "node:test" }] }],
    },
  },
);
