// The panels behind native tabs. Which tab is open is each browser's own affair; nothing else is decided here.

let made = 0;

function tag(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };

async function render({ model, el }) {
  const me = `knb-dash-${Date.now().toString(36)}-${made++}`;
  const list = tag("div", { role: "tablist", "aria-label": "Panels", class: "knb-tabs" });
  const root = tag("div", { class: "knb-dashboard", lang: "en" }, list);
  el.append(root);
  const names = model.get("names");
  const open = chosen => tabs.forEach(({ tab, sheet }, i) => {
    tab.setAttribute("aria-selected", String(i === chosen));
    tab.tabIndex = i === chosen ? 0 : -1;
    sheet.hidden = i !== chosen;
  });
  const tabs = names.map((name, i) => {
    const said = tag("span", { class: "knb-tab-said" });
    const tab = tag("button", {
      type: "button", role: "tab", id: `${me}-tab-${i}`, "aria-controls": `${me}-sheet-${i}`,
      class: "knb-tab", "data-lm-suppress-shortcuts": "true",
    }, tag("span", { class: "knb-tab-name" }, name), said);
    const sheet = tag("div", { role: "tabpanel", id: `${me}-sheet-${i}`, "aria-labelledby": `${me}-tab-${i}` });
    tab.addEventListener("click", () => open(i));
    list.append(tab);
    root.append(sheet);
    return { tab, said, sheet };
  });
  // The arrows go from tab to tab, and not to the next cell, which is where JupyterLab would take them.
  list.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    event.stopPropagation();
    const now = tabs.findIndex(({ tab }) => tab === event.target.closest("[role=tab]"));
    const to = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined || now < 0) return;
    event.preventDefault();
    const next = (to + tabs.length) % tabs.length;
    open(next);
    tabs[next].tab.focus();
  });
  const say = () => model.get("said").forEach((words, i) => put(tabs[i].said, words));
  model.on("change:said", say);
  say();
  open(0);
  const views = await Promise.all(model.get("panels").map(async (reference, i) => {
    const inner = await model.widget_manager.get_model(reference.slice("IPY_MODEL_".length));
    const view = await model.widget_manager.create_view(inner);
    tabs[i].sheet.append(view.el);
    return view;
  }));
  return () => {
    model.off("change:said", say);
    views.forEach(view => view.remove());
  };
}

export default { render };
