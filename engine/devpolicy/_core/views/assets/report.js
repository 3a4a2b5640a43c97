"use strict";
(async () => {
  const packed = Uint8Array.from(atob(document.getElementById("data").textContent), (sign) => sign.charCodeAt(0));
  const data = new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate")));
  const { texts, cells } = await data.json();
  const table = document.querySelector("table");
  const detail = document.getElementById("detail");
  const main = document.getElementById("main");
  const columns = [...table.tHead.rows[0].cells].slice(1);
  const rows = [...table.querySelectorAll("tbody tr")].map((line) => ({ line, cells: [...line.cells].slice(1) }));
  const buttons = rows.map((row) => row.cells.map((cell) => cell.firstElementChild));
  let chosen = null;

  const element = (name, content, className) => {
    const made = document.createElement(name);
    if (content !== undefined) made.textContent = content;
    if (className) made.className = className;
    return made;
  };

  // Pictures are the page's own SVG, made of escaped text; a parser of XML runs no scripts and loads nothing.
  const drawn = (source) => {
    const svg = source.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ');
    return document.importNode(new DOMParser().parseFromString(svg, "image/svg+xml").documentElement, true);
  };

  // Names in messages stand in backticks.
  const worded = (name, message) => {
    const made = element(name);
    message.split("`").forEach((part, at) => made.append(at % 2 ? element("code", part) : part));
    return made;
  };

  const show = (button) => {
    const cell = cells[Number(button.dataset.cell)];
    const facts = element("dl");
    for (const [label, value] of cell.facts) facts.append(element("dt", texts[label]), element("dd", texts[value]));
    const reasons = element("ul");
    for (const reason of cell.reasons) reasons.append(worded("li", texts[reason]));
    const close = element("button", "×", "close");
    close.type = "button";
    close.setAttribute("aria-label", "Close");
    close.addEventListener("click", hide);
    const scheme = texts[cell.scheme] === "none" ? "" : ` as ${texts[cell.scheme]}`;
    detail.replaceChildren(
      close,
      element("h2", `${texts[cell.model]}${scheme} on ${texts[cell.host]}`),
      element("p", `${texts[cell.says]}.`, "says"),
      ...(cell.picture === undefined ? [] : [drawn(texts[cell.picture])]),
      ...(cell.facts.length ? [facts] : []),
      element("h3", "Reasons"),
      reasons,
    );
    detail.hidden = false;
    main.classList.add("open");
    document.body.classList.add("open");
  };

  const hide = () => {
    if (chosen) chosen.removeAttribute("aria-pressed");
    detail.hidden = true;
    main.classList.remove("open");
    document.body.classList.remove("open");
    if (chosen) chosen.focus({ preventScroll: true });
    chosen = null;
  };

  const choose = (button) => {
    for (const other of table.querySelectorAll('button[tabindex="0"], button[aria-pressed]')) {
      other.tabIndex = -1;
      other.removeAttribute("aria-pressed");
    }
    button.tabIndex = 0;
    button.setAttribute("aria-pressed", "true");
    chosen = button;
    show(button);
    button.scrollIntoView({ block: "nearest", inline: "nearest" });
  };

  const visible = (button) => button && button.offsetParent !== null && getComputedStyle(button).visibility !== "hidden";

  const step = (button, down, right) => {
    let row = buttons.findIndex((line) => line.includes(button));
    let column = buttons[row].indexOf(button);
    for (;;) {
      row += down;
      column += right;
      const next = buttons[row] && buttons[row][column];
      if (!next) return;
      if (visible(next)) return next.focus();
    }
  };

  const moves = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
  const found = (event) => event.target.closest("button[data-cell]");
  table.addEventListener("focusin", (event) => found(event) && choose(found(event)));
  table.addEventListener("click", (event) => found(event) && choose(found(event)));
  table.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (!move || !found(event)) return;
    event.preventDefault();
    step(found(event), ...move);
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && !detail.hidden && hide());

  // A pointer that hovers looks at a cell and changes nothing: the chosen one comes back when it leaves.
  if (matchMedia("(hover: hover) and (min-width: 1100px)").matches) {
    table.addEventListener("mouseover", (event) => found(event) && show(found(event)));
    table.addEventListener("mouseleave", () => chosen && show(chosen));
  }

  const filter = () => {
    const words = document.getElementById("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const verdict = document.getElementById("verdict").value;
    const schemes = new Set([...document.querySelectorAll("[name=scheme]:checked")].map((box) => box.value));
    const used = columns.map(() => false);
    let shown = 0;
    for (const row of rows) {
      let any = false;
      row.cells.forEach((place, column) => {
        const cell = cells[Number(place.firstElementChild.dataset.cell)];
        const names = `${texts[cell.model]} ${texts[cell.scheme]} ${texts[cell.host]}`.toLowerCase();
        const on =
          schemes.has(texts[cell.scheme]) && (!verdict || verdict === cell.verdict) && words.every((word) => names.includes(word));
        place.classList.toggle("off", !on);
        if (on) {
          any = used[column] = true;
          shown += 1;
        }
      });
      row.line.classList.toggle("gone", !any);
    }
    used.forEach((on, column) => {
      columns[column].classList.toggle("gone", !on);
      for (const row of rows) row.cells[column].classList.toggle("gone", !on);
    });
    for (const body of table.tBodies) {
      const first = [...body.rows].find((line) => !line.classList.contains("gone"));
      for (const line of body.rows) line.classList.toggle("lead", line === first);
    }
    document.getElementById("count").textContent =
      shown === cells.length ? `${shown.toLocaleString("en")} verdicts` : `${shown.toLocaleString("en")} of ${cells.length.toLocaleString("en")} verdicts`;
    const entry = table.querySelector('button[tabindex="0"]');
    if (!visible(entry)) {
      const next = buttons.flat().find(visible);
      if (entry) entry.tabIndex = -1;
      if (next) next.tabIndex = 0;
    }
  };
  const form = document.getElementById("filter");
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
  document.documentElement.dataset.ready = "";
})();
