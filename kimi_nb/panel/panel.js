// Draws a panel. What is on it comes from the kernel as plain data ("view", see nodes.py); what a person does
// goes back as messages. Nothing is decided here.

const PATIENCE_MS = 4000;
const MOST_PATIENCE_MS = 60000;

let made = 0;
const unique = () => `knb-${Date.now().toString(36)}-${made++}`;

function tag(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };

// A control that cannot be used stays where the Tab key finds it, and says why: aria-disabled, not disabled.
function off_or_on(control, why, hint) {
  control.setAttribute("aria-disabled", why ? "true" : "false");
  put(hint, why || "");
  hint.hidden = !why;
}

const nearest = (steps, value) =>
  steps.reduce((best, step, i) => (Math.abs(step - value) < Math.abs(steps[best] - value) ? i : best), 0);

const KINDS = {
  heading: () => {
    let at = null;
    const box = tag("div", { class: "knb-heading" });
    return [box, node => {
      if (!at) { at = tag(`h${node.level}`); box.append(at); }
      put(at, node.text);
    }];
  },
  text: () => {
    const at = tag("p");
    return [at, node => {
      at.className = `knb-text knb-${node.tone}`;
      if (node.live) at.setAttribute("role", "status");
      put(at, node.text);
    }];
  },
  fact: () => {
    const name = tag("dt");
    const value = tag("dd", { class: "knb-value" });
    const said = tag("dd", { class: "knb-hint" });
    return [tag("dl", { class: "knb-fact" }, name, value, said), node => {
      put(name, node.label);
      put(value, node.value);
      put(said, node.said);
    }];
  },
  group: panel => {
    const id = unique();
    const name = tag("h4", { id });
    const inner = tag("div", { class: "knb-items" });
    return [tag("section", { class: "knb-group", role: "group", "aria-labelledby": id }, name, inner), node => {
      put(name, node.label);
      name.className = node.quiet ? "knb-unseen" : "";
      panel.patch(inner, node.items);
    }];
  },
  columns: panel => {
    const at = tag("div", { class: "knb-columns" });
    return [at, node => panel.patch(at, node.items)];
  },
  row: panel => {
    const at = tag("div", { class: "knb-row" });
    return [at, node => panel.patch(at, node.items)];
  },
  slider: panel => {
    const id = unique();
    const label = tag("label", { for: id });
    // Not an <output>: the slider itself says its value, and a second voice would speak over the verdict.
    const said = tag("span", { class: "knb-said" });
    const range = tag("input", { type: "range", id, "data-lm-suppress-shortcuts": "true" });
    const typed = tag("input", { type: "number", "data-lm-suppress-shortcuts": "true" });
    const hint = tag("p", { class: "knb-hint", id: `${id}-why` });
    const line = tag("div", { class: "knb-slide" }, range, typed);
    let now = null;
    const off = () => Boolean(now.disabled);
    range.addEventListener("input", () => {
      if (off()) { range.value = nearest(now.steps, now.value); return; }
      panel.choose(now.name, now.steps[Number(range.value)]);
    });
    typed.addEventListener("input", () => {
      if (!off() && typed.value !== "" && typed.validity.valid) panel.choose(now.name, Number(typed.value));
    });
    typed.addEventListener("blur", () => { if (typed.value === "" || !typed.validity.valid) typed.value = now.value; });
    return [tag("div", { class: "knb-field" }, tag("div", { class: "knb-labels" }, label, said), line, hint), node => {
      now = node;
      put(label, node.label);
      put(said, node.said);
      range.min = 0;
      range.max = node.steps.length - 1;
      range.step = 1;
      range.setAttribute("aria-valuetext", node.said);
      range.setAttribute("aria-describedby", `${id}-why`);
      off_or_on(range, node.disabled, hint);
      typed.hidden = !node.exact;
      if (node.exact) {
        typed.setAttribute("aria-label", `${node.label}, exact`);
        typed.min = node.steps[0];
        typed.max = node.steps.at(-1);
        typed.readOnly = off();
      }
      if (!panel.awaits(node.name)) {
        const at = String(nearest(node.steps, node.value));
        if (range.value !== at) range.value = at;
        if (document.activeElement !== typed && typed.value !== String(node.value)) typed.value = node.value;
      }
    }];
  },
  select: panel => {
    const id = unique();
    const label = tag("label", { for: id });
    const list = tag("select", { id, "data-lm-suppress-shortcuts": "true" });
    const hint = tag("p", { class: "knb-hint", id: `${id}-why` });
    let shown = "";
    let now = null;
    list.addEventListener("change", () => {
      if (now.disabled) list.value = now.value;
      else panel.choose(now.name, list.value);
    });
    return [tag("div", { class: "knb-field" }, label, list, hint), node => {
      now = node;
      put(label, node.label);
      const options = JSON.stringify(node.options);
      if (options !== shown) {
        shown = options;
        list.replaceChildren(...node.options.map(([value, words]) => tag("option", { value }, words)));
      }
      list.setAttribute("aria-describedby", `${id}-why`);
      off_or_on(list, node.disabled, hint);
      if (!panel.awaits(node.name)) list.value = node.value;
    }];
  },
  field: panel => {
    const id = unique();
    const label = tag("label", { for: id });
    const line = tag("input", { type: "text", id, spellcheck: "false", autocomplete: "off", "aria-describedby": `${id}-hint`, "data-lm-suppress-shortcuts": "true" });
    const hint = tag("p", { class: "knb-hint", id: `${id}-hint` });
    let now = null;
    line.addEventListener("input", () => panel.choose(now.name, line.value));
    return [tag("div", { class: "knb-field" }, label, line, hint), node => {
      now = node;
      put(label, node.label);
      put(hint, node.hint);
      hint.hidden = !node.hint;
      if (!panel.awaits(node.name) && document.activeElement !== line) line.value = node.value;
    }];
  },
  number: panel => {
    const id = unique();
    const label = tag("label", { for: id });
    const line = tag("input", { type: "number", id, "data-lm-suppress-shortcuts": "true" });
    let now = null;
    line.addEventListener("input", () => {
      if (line.value !== "" && line.validity.valid) panel.choose(now.name, Number(line.value));
    });
    line.addEventListener("blur", () => { if (line.value === "" || !line.validity.valid) line.value = now.value; });
    return [tag("div", { class: "knb-field knb-field-number" }, label, line), node => {
      now = node;
      put(label, node.label);
      line.min = node.low;
      line.max = node.high;
      line.step = node.step;
      if (!panel.awaits(node.name) && document.activeElement !== line) line.value = node.value;
    }];
  },
  area: panel => {
    const id = unique();
    const label = tag("label", { for: id });
    const lines = tag("textarea", { id, "data-lm-suppress-shortcuts": "true" });
    let now = null;
    lines.addEventListener("keydown", event => {
      if (event.key === "Enter" && now.enter && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        panel.press(now.enter);
      }
    });
    return [tag("div", { class: "knb-field" }, label, lines), node => {
      put(label, node.label);
      lines.rows = node.rows;
      lines.name = node.name;
      // What was typed after the press that is answered here is not thrown away.
      const typing = now?.enter && lines.value !== lines.knbSent;
      if (!now || (now.version !== node.version && !typing)) lines.value = node.value;
      now = node;
    }];
  },
  check: panel => {
    const id = unique();
    const box = tag("input", { type: "checkbox", id, "data-lm-suppress-shortcuts": "true" });
    const label = tag("label", { for: id });
    let now = null;
    box.addEventListener("change", () => panel.choose(now.name, box.checked));
    return [tag("div", { class: "knb-check" }, box, label), node => {
      now = node;
      put(label, node.label);
      if (!panel.awaits(node.name)) box.checked = node.value;
    }];
  },
  button: panel => {
    const at = tag("button", { type: "button", "data-lm-suppress-shortcuts": "true" });
    let now = null;
    at.addEventListener("click", () => { if (!now.disabled) panel.press(now.name, now.of); });
    return [at, node => {
      now = node;
      at.className = node.main ? "knb-button knb-main" : "knb-button";
      put(at, node.label);
      at.setAttribute("aria-disabled", node.disabled ? "true" : "false");
      const why = node.disabled || node.about;
      if (why) {
        at.title = why;
        at.setAttribute("aria-description", why);
      } else {
        at.removeAttribute("title");
        at.removeAttribute("aria-description");
      }
    }];
  },
  bar: () => {
    const id = unique();
    const name = tag("span", { class: "knb-bar-name", id });
    const said = tag("span", { class: "knb-bar-said" });
    const fill = tag("div", { class: "knb-bar", role: "img" });
    const legend = tag("ul", { class: "knb-legend", "aria-label": "Parts" });
    return [tag("div", { class: "knb-bar-box" }, tag("div", { class: "knb-labels" }, name, said), fill, legend), node => {
      put(name, node.label);
      put(said, node.said);
      said.className = `knb-bar-said knb-${node.tone}`;
      const sum = node.parts.reduce((all, part) => all + part[2], 0);
      const whole = Math.max(sum, node.limit, 1e-9);
      fill.setAttribute("aria-label", `${node.label}: ${node.said}. ${node.parts.map(part => part[1]).join(", ")}.`);
      while (fill.children.length > node.parts.length + 1) fill.lastChild.remove();
      while (fill.children.length < node.parts.length + 1) fill.append(tag("span"));
      node.parts.forEach(([kind, , size], i) => {
        fill.children[i].className = `knb-part knb-part-${kind}`;
        fill.children[i].style.width = `${(100 * size) / whole}%`;
        fill.children[i].style.left = "";
      });
      const limit = fill.lastChild;
      limit.style.width = ""; // it may have been a part before
      limit.className = sum > node.limit ? "knb-limit knb-over" : "knb-limit";
      limit.style.left = `${(100 * node.limit) / whole}%`;
      while (legend.children.length > node.parts.length) legend.lastChild.remove();
      while (legend.children.length < node.parts.length) legend.append(tag("li", {}, tag("i", { "aria-hidden": "true" }), tag("span")));
      node.parts.forEach(([kind, words], i) => {
        legend.children[i].firstChild.className = `knb-part knb-part-${kind}`;
        put(legend.children[i].lastChild, words);
      });
    }];
  },
  progress: () => {
    const id = unique();
    const label = tag("label", { for: id });
    const said = tag("span", { class: "knb-said" });
    const line = tag("progress", { id, max: 1 });
    return [tag("div", { class: "knb-field" }, tag("div", { class: "knb-labels" }, label, said), line), node => {
      put(label, node.label);
      put(said, node.said);
      if (node.fraction === null) line.removeAttribute("value");
      else line.value = node.fraction;
      line.setAttribute("aria-valuetext", node.said);
    }];
  },
  table: () => {
    const caption = tag("caption");
    const head = tag("tr");
    const body = tag("tbody");
    const frame = tag("div", { class: "knb-scroll", tabindex: "0", role: "region" },
      tag("table", {}, caption, tag("thead", {}, head), body));
    return [frame, node => {
      put(caption, node.caption);
      frame.setAttribute("aria-label", node.caption);
      head.replaceChildren(...node.head.map(words => tag("th", { scope: "col" }, words)));
      body.replaceChildren(...node.rows.map(line => tag("tr", {},
        ...line.map((words, i) => (i ? tag("td", {}, words) : tag("th", { scope: "row" }, words))))));
    }];
  },
  code: panel => {
    const id = unique();
    const name = tag("span", { id });
    const text = tag("code");
    const copy = tag("button", { type: "button", class: "knb-button", "data-lm-suppress-shortcuts": "true" }, "Copy");
    const told = tag("span", { role: "status", class: "knb-copied" });
    copy.addEventListener("click", async () => {
      put(told, (await copied(text.textContent)) ? "Copied" : "Not copied: select the text and press Ctrl+C");
      setTimeout(() => put(told, ""), 4000);
    });
    return [tag("div", { class: "knb-code" }, tag("div", { class: "knb-labels" }, name, told, copy),
      tag("pre", { tabindex: "0", role: "region", "aria-labelledby": id }, text)), node => {
      put(name, node.label);
      copy.setAttribute("aria-label", `Copy: ${node.label}`);
      put(text, node.text);
    }];
  },
  log: () => {
    const lines = tag("pre", { class: "knb-log", tabindex: "0", role: "log", "aria-live": "off" });
    return [lines, node => {
      lines.setAttribute("aria-label", node.label);
      const down = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 30;
      put(lines, node.lines.join("\n"));
      if (down) lines.scrollTop = lines.scrollHeight;
    }];
  },
  fold: panel => {
    const name = tag("summary", { "data-lm-suppress-shortcuts": "true" });
    const inner = tag("div", { class: "knb-items" });
    const at = tag("details", { class: "knb-fold" }, name, inner);
    let fresh = true;
    return [at, node => {
      if (fresh) at.open = node.opened;
      fresh = false;
      put(name, node.label);
      panel.patch(inner, node.items);
    }];
  },
  feed: panel => {
    const at = tag("div", { class: "knb-feed", role: "group", tabindex: "0" });
    let fresh = true;
    return [at, node => {
      at.setAttribute("aria-label", node.label);
      const down = fresh || at.scrollHeight - at.scrollTop - at.clientHeight < 40;
      panel.patch(at, node.items);
      if (down) at.scrollTop = at.scrollHeight;
      if (fresh) requestAnimationFrame(() => { at.scrollTop = at.scrollHeight; });
      fresh = false;
    }];
  },
  message: panel => {
    const who = tag("h4");
    const inner = tag("div", { class: "knb-items" });
    const at = tag("article", { class: "knb-message" }, who, inner);
    return [at, node => {
      at.setAttribute("aria-label", node.who);
      at.dataset.who = node.who;
      put(who, node.who);
      panel.patch(inner, node.items);
    }];
  },
};

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // No clipboard without HTTPS or a permission: the old way needs neither.
    const box = tag("textarea", { "aria-hidden": "true", style: "position:fixed;opacity:0" });
    box.value = text;
    const before = document.activeElement;
    document.body.append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    before?.focus();
    return done;
  }
}

// Apply what patches.py found; what has not changed stays the same object.
function changed(nodes, changes) {
  const top = { items: nodes };
  for (const { at, set, grow, add } of changes) {
    let node = top;
    for (const i of at) {
      node.items = [...node.items];
      node = node.items[i] = { ...node.items[i] };
    }
    Object.assign(node, set);
    for (const [key, text] of Object.entries(grow ?? {})) node[key] += text;
    if (add) node.items = [...node.items, ...add];
  }
  return top.items;
}

// Where to go on when the control that had the focus is gone: the Tab key would begin at the page's top.
// What is to be typed now comes first, then what stands where the control stood.
function next(around) {
  const turn = around.find(at => at.matches("article"));
  const area = (turn ?? around.at(-1))?.querySelector("textarea");
  if (area && (turn || around.length === 1)) return area;
  return around.map(at => at.querySelector("button, select, input, summary")).find(Boolean);
}

function render({ model, el }) {
  const me = unique();
  const name = unique();
  const gone = tag("p", { class: "knb-text knb-bad", role: "alert", hidden: true });
  const late = tag("p", { class: "knb-text knb-warn", role: "status", hidden: true });
  const body = tag("div", { class: "knb-body" });
  const root = tag("section", { class: "knb", lang: "en", "aria-labelledby": name }, gone, body, late);
  // JupyterLab takes single keys as commands: B adds a cell, the arrows go to the next one. What is typed or
  // moved here is meant for us; combinations such as Ctrl+S are still its own.
  root.addEventListener("keydown", event => {
    if (!event.ctrlKey && !event.metaKey) event.stopPropagation();
  });

  // Choices go out one message at a time: while one is under way, newer ones replace those that wait. So a
  // slider that is moved faster than the kernel answers leaves no queue behind. A message can get lost with its
  // connection: where no answer comes, what was chosen is sent again. A press is not, lest it count twice.
  let number = 0;
  let answered = 0;
  let waiting = {};
  let patience = PATIENCE_MS;
  const asked = new Map();
  const send = message => {
    number += 1;
    for (const [key, value] of Object.entries(waiting)) asked.set(key, { number, value });
    model.send({ ...message, set: waiting, from: me, number });
    waiting = {};
    const sent = number;
    setTimeout(() => {
      if (answered >= sent || root.classList.contains("knb-gone")) return;
      put(late, "Waiting for the kernel: it is busy or cannot be reached. What you chose is kept.");
      late.hidden = false;
      if (number > sent) return; // a newer message has its own patience
      for (const [key, { value }] of asked) if (!(key in waiting)) waiting[key] = value;
      patience = Math.min(2 * patience, MOST_PATIENCE_MS);
      send({});
    }, patience);
  };
  const flush = () => { if (number <= answered && Object.keys(waiting).length) send({}); };
  const panel = {
    awaits: key => key in waiting || asked.has(key),
    choose: (key, value) => { waiting[key] = value; flush(); },
    press: (key, of = "") => {
      const fields = { of };
      for (const area of root.querySelectorAll("textarea")) fields[area.name] = area.knbSent = area.value;
      send({ press: key, fields });
    },
    patch: (parent, nodes) => {
      const old = new Map([...parent.children].map(child => [child.knbKey, child]));
      const keys = nodes.map((node, i) => `${node.t}:${node.key ?? node.name ?? i}`);
      // First what is gone: what stays is then not moved, which would take the focus from it.
      const kept = new Set(keys);
      for (const [key, child] of old) if (!kept.has(key)) child.remove();
      nodes.forEach((node, i) => {
        const key = keys[i];
        let child = old.get(key);
        old.delete(key);
        if (!child) {
          const [at, update] = KINDS[node.t](panel);
          child = Object.assign(at, { knbKey: key, knbUpdate: update });
        }
        if (parent.children[i] !== child) parent.insertBefore(child, parent.children[i] ?? null);
        child.knbUpdate(node);
      });
      while (parent.children.length > nodes.length) parent.lastChild.remove();
    },
  };
  const draw = () => {
    const view = model.get("view");
    answered = Math.max(answered, view.seen?.[me] ?? 0);
    for (const [key, sent] of asked) if (sent.number <= answered) asked.delete(key);
    if (answered >= number) { patience = PATIENCE_MS; late.hidden = true; }
    const held = root.contains(document.activeElement) ? document.activeElement : null;
    const around = [];
    for (let at = held; at && at !== root; at = at.parentElement) around.push(at);
    panel.patch(body, view.nodes ?? []);
    if (held && !held.isConnected) next(around.filter(at => at.isConnected))?.focus();
    const title = body.querySelector("h2");
    if (title) title.id = name;
    root.dataset.seen = String(answered);
    flush();
  };
  model.on("change:view", draw);
  // After the first time only what has changed comes. Several views may show one model: the first of them
  // brings it up to date, and all draw.
  model.on("msg:custom", news => {
    const view = model.get("view");
    if (!news.changes || news.number <= view.number) return;
    if (news.after !== view.number) { model.send({ have: view.number }); return; }
    model.set("view", { number: news.number, seen: news.seen, nodes: changed(view.nodes, news.changes) });
  });
  model.on("comm_live_update", () => {
    put(gone, "The kernel behind this panel has gone, so its buttons do nothing. Run its cell again.");
    gone.hidden = false;
    late.hidden = true;
    root.classList.add("knb-gone");
  });
  draw();
  el.append(root);
  // What changed before anybody listened is lost: the kernel sends all of it if this is not the newest.
  model.send({ have: model.get("view").number });
}

export default { render };
