import { defineConfig } from "vite";

// The built files are committed and embedded into the binary: building netprobe needs no Node.
export default defineConfig({
  base: "./",
  build: { outDir: "dist", assetsInlineLimit: 0, modulePreload: { polyfill: false }, target: "es2022" },
  server: { proxy: { "/api": { target: "http://127.0.0.1:9477", ws: true } } },
});
