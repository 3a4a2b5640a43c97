// The core runs here, so that the page answers while a plan is made.
import { loadPyodide } from "./pyodide/pyodide.mjs";

const ready = (async () => {
  const python = await loadPyodide({ indexURL: new URL("./pyodide/", import.meta.url).href });
  const packages = await (await fetch(new URL("./packages.zip", import.meta.url))).arrayBuffer();
  python.unpackArchive(packages, "zip", { extractDir: "/packages" });
  await python.runPythonAsync("import sys; sys.path.insert(0, '/packages')");
  return python.pyimport("devpolicy._core.playground.answers").answer;
})();

self.onmessage = async ({ data: { number, request } }) => {
  try {
    self.postMessage({ number, answer: JSON.parse((await ready)(JSON.stringify(request))) });
  } catch (error) {
    self.postMessage({ number, failed: String(error) });
  }
};
