// Runs in the panel: shows what the extension sends, and reports buttons and questions.
(() => {
  const vscode = acquireVsCodeApi();
  // The text comes from a model and may contain elements with any id; ours are outside it.
  const by = (id) => document.querySelector(`body > #${id}, body > footer > #${id}, body > footer > form > #${id}`);
  const notes = {
    streaming: "writing…",
    end: "",
    limit: "length limit reached",
    cancelled: "cancelled",
    error: "",
  };

  window.addEventListener("message", ({ data }) => {
    const atEnd = window.innerHeight + window.scrollY >= document.body.scrollHeight - 40;
    by("text").innerHTML = data.html;
    by("text").classList.toggle("streaming", data.state === "streaming");
    by("note").textContent = notes[data.state];
    by("cancel").hidden = data.state !== "streaming";
    by("continue").hidden = data.state !== "limit";
    by("ask").hidden = data.state === "streaming" || data.state === "error";
    if (atEnd) window.scrollTo(0, document.body.scrollHeight);
  });
  by("cancel").addEventListener("click", () => vscode.postMessage({ kind: "cancel" }));
  by("continue").addEventListener("click", () => vscode.postMessage({ kind: "continue" }));
  by("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const question = by("question").value.trim();
    if (question !== "") vscode.postMessage({ kind: "ask", question });
    by("question").value = "";
  });
})();
