"use strict";
(() => {
  const worker = new Worker("./worker.js", { type: "module" });
  const waiting = new Map();
  let sent = 0;
  const ask = (request) =>
    new Promise((resolve, reject) => {
      waiting.set((sent += 1), { resolve, reject });
      worker.postMessage({ number: sent, request });
    });
  worker.onmessage = ({ data }) => {
    const { resolve, reject } = waiting.get(data.number);
    waiting.delete(data.number);
    if (data.failed) reject(new Error(data.failed));
    else resolve(data.answer);
  };
  worker.onerror = () => tell("The browser's Python could not be started.");

  const of = (id) => document.getElementById(id);
  const [editor, gutter, marks, list] = ["editor", "gutter", "marks", "completions"].map(of);
  const element = (name, content, className) => {
    const made = document.createElement(name);
    if (content !== undefined) made.textContent = content;
    if (className) made.className = className;
    return made;
  };
  const tell = (words) => (of("state").textContent = words);

  // Names in messages stand in backticks.
  const worded = (name, message, className) => {
    const made = element(name, undefined, className);
    message.split("`").forEach((part, at) => made.append(at % 2 ? element("code", part) : part));
    return made;
  };

  const offset = (line, column) => {
    const lines = editor.value.split("\n");
    return lines.slice(0, line - 1).reduce((sum, text) => sum + text.length + 1, 0) + column - 1;
  };

  const decorate = (findings) => {
    const lines = editor.value.split("\n");
    gutter.textContent = lines.map((_, at) => at + 1).join("\n");
    const places = findings.filter((one) => one.place).sort((one, other) => offset(...one.place) - offset(...other.place));
    marks.replaceChildren();
    let at = 0;
    for (const { place, severity } of places) {
      const start = offset(place[0], place[1]);
      if (start < at) continue;
      const end = Math.max(start + 1, start + place[2]);
      marks.append(editor.value.slice(at, start), element("mark", editor.value.slice(start, end), severity));
      at = end;
    }
    marks.append(`${editor.value.slice(at)}\n`);
    editor.setAttribute("aria-invalid", String(findings.some((one) => one.severity === "error")));
  };

  const listed = (findings) => {
    of("findings").replaceChildren(
      ...findings.map((found) => {
        const line = element("li", undefined, found.severity);
        const where = found.place ? `, line ${found.place[0]}` : "";
        const head = found.place ? element("button", `${found.severity}${where}`) : element("b", found.severity);
        if (found.place) {
          head.type = "button";
          head.addEventListener("click", () => {
            const start = offset(found.place[0], found.place[1]);
            editor.focus();
            editor.setSelectionRange(start, start + found.place[2]);
          });
        }
        line.append(head, " ", worded("span", found.message));
        for (const note of found.notes) line.append(worded("small", note));
        if (found.help) line.append(worded("small", `help: ${found.help}`));
        return line;
      }),
    );
  };

  // Pictures are the core's own SVG, made of escaped text; a parser of XML runs no scripts and loads nothing.
  const drawn = (svg) => {
    const picture = document.importNode(new DOMParser().parseFromString(svg, "image/svg+xml").documentElement, true);
    for (const style of picture.querySelectorAll("style")) style.remove();  // the page has these rules
    return picture;
  };

  const show = ({ findings, plans, picture }) => {
    decorate(findings);
    listed(findings);
    of("picture").replaceChildren(...(picture ? [drawn(picture)] : []));
    of("plans").replaceChildren(
      ...plans.map((plan) => {
        const facts = element("dl");
        for (const [label, value] of plan.facts) facts.append(element("dt", label), element("dd", value));
        facts.append(element("dt", "digest"), element("dd", plan.digest, "digest"));
        const section = element("section");
        section.append(element("h3", plan.name), facts);
        return section;
      }),
    );
    const errors = findings.filter((one) => one.severity === "error").length;
    tell(errors ? `No plan: ${errors} ${errors === 1 ? "error" : "errors"}` : "Planned");
  };

  let asked = 0;
  const plan = async () => {
    const mine = (asked += 1);
    document.body.dataset.busy = "";
    try {
      // As wide as it is shown, so that its text has the size of the page's.
      const width = Math.round(Math.min(560, Math.max(280, of("picture").clientWidth - 24)));
      const answer = await ask({ ask: "plan", policy: editor.value, model: of("model").value, host: of("host").value, width });
      if (mine === asked) show(answer);
    } catch (error) {
      if (mine === asked) tell(error.message);
    }
    if (mine === asked) delete document.body.dataset.busy;
  };

  // Completion: a list below the editor's line, chosen by arrow keys and Enter, or by pointer.
  let offers = [];
  let active = -1;
  const close = () => {
    offers = [];
    list.hidden = true;
    editor.removeAttribute("aria-activedescendant");
  };
  const choose = (number) => {
    active = number;
    [...list.children].forEach((line, at) => line.setAttribute("aria-selected", String(at === active)));
    editor.setAttribute("aria-activedescendant", `offer-${active}`);
    list.children[active].scrollIntoView({ block: "nearest" });
  };
  const take = () => {
    const { insert } = offers[active];
    close();
    editor.setRangeText(insert, editor.selectionStart, editor.selectionEnd, "end");
    changed();
  };
  const complete = async () => {
    const before = editor.value.slice(0, editor.selectionStart).split("\n");
    const [line, column] = [before.length - 1, before.at(-1).length];
    const position = editor.selectionStart;
    const found = await ask({ ask: "complete", policy: editor.value, line, column });
    if (position !== editor.selectionStart) return;
    offers = found;
    if (!offers.length) return close();
    list.replaceChildren(
      ...offers.map((offer, at) => {
        const entry = element("li", undefined);
        entry.id = `offer-${at}`;
        entry.setAttribute("role", "option");
        entry.append(element("b", offer.label), " ", worded("small", offer.about));
        entry.addEventListener("mousedown", (event) => {
          event.preventDefault();
          active = at;
          take();
        });
        return entry;
      }),
    );
    list.style.setProperty("top", `${(line + 1) * 21 + 12 - editor.scrollTop}px`);
    list.hidden = false;
    choose(0);
  };

  let later;
  const changed = () => {
    decorate([]);
    clearTimeout(later);
    later = setTimeout(plan, 250);
  };
  editor.addEventListener("input", (event) => {
    changed();
    if (event.inputType === "insertText" && /[\w."[]/.test(event.data || "")) complete();
    else close();
  });
  editor.addEventListener("scroll", () => {
    gutter.scrollTop = marks.scrollTop = editor.scrollTop;
    marks.scrollLeft = editor.scrollLeft;
  });
  editor.addEventListener("blur", close);
  editor.addEventListener("keydown", (event) => {
    if (event.key === " " && event.ctrlKey) {
      event.preventDefault();
      complete();
    } else if (!list.hidden && (event.key === "Escape" || event.key === "Tab")) {
      close();
    } else if (!list.hidden && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      choose((active + (event.key === "ArrowDown" ? 1 : offers.length - 1)) % offers.length);
    } else if (!list.hidden && event.key === "Enter") {
      event.preventDefault();
      take();
    }
  });
  let shown = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== shown) changed();
    shown = innerWidth;
  });
  for (const id of ["model", "host"]) of(id).addEventListener("change", plan);

  const options = (select, entries, chosen) => {
    select.replaceChildren(...entries.map(([value, label]) => new Option(label, value, false, value === chosen)));
  };
  decorate([]);
  ask({ ask: "choices" })
    .then(({ models, hosts, policies }) => {
      options(of("model"), models.map((name) => [name, name]), "llama-3.1-8b");
      options(of("host"), Object.entries(hosts), "2x24gb");
      options(of("policy"), [["", "your own"], ...Object.keys(policies).map((name) => [name, name])], "");
      of("policy").addEventListener("change", () => {
        if (of("policy").value) editor.value = policies[of("policy").value];
        plan();
      });
      return plan();
    })
    .catch((error) => tell(error.message))
    .finally(() => (document.documentElement.dataset.ready = ""));
})();
