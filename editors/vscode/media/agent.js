// Runs in the agent's view: shows what the extension sends, and reports buttons and keys.
(() => {
  const vscode = acquireVsCodeApi();
  const by = (id) => document.getElementById(id);
  const parts = Object.fromEntries(
    ["talk", "asked", "question", "answers", "task", "attached", "text", "attach", "mode", "send", "stop", "budget", "used", "tokens"]
      .map((id) => [id, by(id)]),
  );
  const blocks = new Map();
  const icons = { pending: "○", in_progress: "◌", completed: "✓", failed: "✗" };

  /** What a model's Markdown may become: text and structure, no ids, styles, images or forms. */
  const allowed = new Set(("A B BLOCKQUOTE BR CODE DEL EM H1 H2 H3 H4 H5 H6 HR I LI OL P PRE SPAN STRONG TABLE TBODY TD TH THEAD TR UL").split(" "));
  const dropped = new Set(["SCRIPT", "STYLE", "TEMPLATE", "IFRAME", "OBJECT", "SVG", "MATH"]);
  function clean(from, to) {
    for (const node of from.childNodes) {
      if (node.nodeType === Node.TEXT_NODE) to.append(node.data);
      else if (node.nodeType !== Node.ELEMENT_NODE || dropped.has(node.nodeName.toUpperCase())) continue;
      else if (!allowed.has(node.nodeName)) clean(node, to);
      else {
        const made = document.createElement(node.nodeName);
        const link = node.getAttribute("href") ?? "";
        if (node.nodeName === "A" && /^https?:\/\//.test(link)) made.href = made.title = link;
        const classes = [...node.classList].filter((name) => name.startsWith("hljs"));
        if (classes.length > 0) made.className = classes.join(" ");
        clean(node, made);
        to.append(made);
      }
    }
    return to;
  }

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function button(text, run, className) {
    const made = element("button", text, className);
    made.type = "button";
    made.addEventListener("click", run);
    return made;
  }

  const draw = {
    text: (to, { html }) => clean(new DOMParser().parseFromString(html, "text/html").body, to),
    thought: (to, { text }) => {
      const details = element("details");
      details.append(element("summary", "Thoughts"), element("pre", text));
      to.append(details);
    },
    plan: (to, { entries }) => {
      const list = element("ul");
      for (const { content, status } of entries) list.append(element("li", content, status));
      to.append(element("strong", "Plan"), list);
    },
    call: (to, { call, title, status, command, hasDiff, result }) => {
      const waits = status === "pending" || status === "in_progress";
      to.classList.add(status);
      const details = element("details");
      const summary = element("summary");
      const icon = element("span", icons[status] ?? "○", "icon");
      icon.setAttribute("aria-label", status.replace("_", " "));
      summary.append(icon, element("span", title, "title"));
      if (hasDiff) summary.append(button("Diff", (event) => { event.preventDefault(); vscode.postMessage({ kind: "diff", id: call }); }, "quiet"));
      details.append(summary);
      if (result) details.append(element("pre", result));
      if (command && waits) { details.append(element("pre", command, "command")); details.open = true; details.dataset.own = "true"; }
      to.append(details);
    },
  };

  function show(block) {
    let to = blocks.get(block.id);
    if (!to) {
      to = element("div");
      blocks.set(block.id, to);
      parts.talk.append(to);
    }
    const before = to.querySelector("details");
    const open = before !== null && before.open && before.dataset.own === undefined;
    to.className = `block ${block.kind}`;
    to.replaceChildren();
    (draw[block.kind] ?? ((at, { text }) => { at.textContent = text; }))(to, block);
    const details = to.querySelector("details");
    if (details && open) details.open = true;
  }

  function ask(asked) {
    parts.asked.hidden = !asked;
    parts.answers.replaceChildren();
    if (!asked) return;
    parts.question.textContent = `Allow “${asked.title}”?`;
    for (const { id, name } of asked.options) {
      const made = button(name, () => vscode.postMessage({ kind: "answer", option: id }), id === "once" ? "" : "secondary");
      if (id === "once") made.title = "Ctrl+Enter";
      if (id === "reject") made.title = "Ctrl+Backspace";
      parts.answers.append(made);
    }
  }

  let state = { working: false };
  function around(now) {
    state = now;
    parts.send.hidden = now.working;
    parts.stop.hidden = !now.working;
    parts.talk.setAttribute("aria-busy", String(now.working));
    parts.attached.replaceChildren(...now.attached.map((name, index) => {
      const item = element("li", name);
      item.append(button("×", () => vscode.postMessage({ kind: "detach", index }), "quiet"));
      item.lastChild.setAttribute("aria-label", `Remove ${name}`);
      return item;
    }));
    parts.mode.hidden = now.modes.length === 0;
    parts.mode.replaceChildren(...now.modes.map(({ id, name, description }) => {
      const option = element("option", name);
      Object.assign(option, { value: id, title: description, selected: id === now.mode });
      return option;
    }));
    parts.budget.hidden = now.size === 0;
    parts.used.value = now.size === 0 ? 0 : now.used / now.size;
    parts.tokens.textContent = `${now.used.toLocaleString("en")} of ${now.size.toLocaleString("en")} tokens`;
    ask(now.asked);
  }

  const receive = {
    blocks: (data) => data.blocks.forEach(show),
    state: (data) => around(data.state),
    clear: () => { blocks.clear(); parts.talk.replaceChildren(); },
    focus: () => parts.text.focus(),
  };
  window.addEventListener("message", ({ data }) => {
    const talk = parts.talk;
    const atEnd = talk.scrollTop + talk.clientHeight >= talk.scrollHeight - 40;
    receive[data.kind]?.(data);
    if (atEnd) talk.scrollTop = talk.scrollHeight;
  });

  function send() {
    const text = parts.text.value.trim();
    if (text === "" || state.working) return;
    vscode.postMessage({ kind: "send", text });
    parts.text.value = "";
  }
  parts.task.addEventListener("submit", (event) => { event.preventDefault(); send(); });
  parts.text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.ctrlKey && !event.metaKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
  document.addEventListener("keydown", (event) => {
    const option = { Enter: "once", Backspace: "reject" }[event.key];
    if (state.asked && option && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      vscode.postMessage({ kind: "answer", option });
    }
    if (event.key === "Escape" && state.working) vscode.postMessage({ kind: "stop" });
  });
  parts.stop.addEventListener("click", () => vscode.postMessage({ kind: "stop" }));
  parts.attach.addEventListener("click", () => vscode.postMessage({ kind: "attach" }));
  parts.mode.addEventListener("change", () => vscode.postMessage({ kind: "mode", mode: parts.mode.value }));
  vscode.postMessage({ kind: "ready" });
})();
