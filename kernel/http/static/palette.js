// The palette: Ctrl-K, Cmd-K or "Search" ask for pages and whatever else /search/ finds. "/" goes to the filters of a page.
(() => {
  const link = document.querySelector("[data-palette]");
  const WAIT_MS = 120;
  let dialog, input, list, status, controller, timer, came;
  let options = [];
  let chosen = -1;

  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const choose = (number) => {
    options[chosen]?.setAttribute("aria-selected", "false");
    chosen = number;
    const option = options[chosen];
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) input.setAttribute("aria-activedescendant", option.id);
    else input.removeAttribute("aria-activedescendant");
  };
  const show = (groups) => {
    options = [];
    list.replaceChildren(
      ...groups.map(({ name, results, error }, number) => {
        const heading = element("div", { class: "palette-group", id: `palette-${number}` }, name);
        const made = element("div", { role: "group", "aria-labelledby": heading.id }, heading);
        if (error) heading.append(`: ${error}`);
        for (const { title, detail, path } of results) {
          const id = `palette-option-${options.length}`;
          const option = element("a", { role: "option", "aria-selected": "false", tabindex: "-1", href: path, id });
          option.append(element("bdi", {}, title));
          if (detail) option.append(element("small", { class: "muted" }, element("bdi", {}, detail)));
          options.push(option);
          made.append(option);
        }
        return made;
      }),
    );
    chosen = -1;
    choose(options.length ? 0 : -1);
  };
  // Nothing was entered: the menu, which is in the page already.
  const showMenu = () => {
    status.textContent = "";
    show(
      [...document.querySelectorAll(".menu .group")].map((group) => ({
        name: group.querySelector("summary").textContent,
        results: [...group.querySelectorAll("a")].map((a) => ({ title: a.textContent, path: a.getAttribute("href") })),
      })),
    );
  };
  const find = async () => {
    controller?.abort();
    const text = input.value.trim();
    if (!text) return showMenu();
    controller = new AbortController();
    const { signal } = controller;
    try {
      const url = `${link.pathname}?${new URLSearchParams({ q: text })}`;
      const response = await fetch(url, { headers: { Accept: "application/json" }, signal });
      if (!response.ok) throw new Error(response.status === 401 ? "You are signed out." : "The search failed.");
      const { groups } = await response.json();
      show(groups);
      status.textContent = options.length ? `${options.length} found` : "Nothing was found.";
    } catch (error) {
      if (signal.aborted) return;
      show([]);
      status.textContent = error instanceof TypeError ? "The service cannot be reached." : error.message;
    }
  };
  const onKey = (event) => {
    const last = options.length - 1;
    const moves = { ArrowDown: chosen < last ? chosen + 1 : 0, ArrowUp: chosen > 0 ? chosen - 1 : last };
    if (event.isComposing) return;
    if (event.key in moves && options.length) choose(moves[event.key]);
    else if (event.key === "Enter" && options[chosen]) options[chosen].click();
    // Of its own, a field for searches would only be emptied by the first Escape.
    else if (event.key === "Escape") dialog.close();
    else return;
    event.preventDefault();
  };
  const build = () => {
    input = element("input", {
      type: "search", role: "combobox", "aria-label": "Search", "aria-expanded": "true", "aria-controls": "palette-list",
      "aria-autocomplete": "list", autocomplete: "off", maxlength: "200",
      placeholder: "Pages, applications, services, endpoints, trace ids",
    });
    list = element("div", { role: "listbox", id: "palette-list", "aria-label": "What was found" });
    status = element("p", { role: "status", class: "muted" });
    dialog = element("dialog", { class: "palette", "aria-label": "Search" }, input, list, status);
    document.body.append(dialog);
    input.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(find, WAIT_MS);
    });
    input.addEventListener("keydown", onKey);
    // A click beside the dialog is one on its backdrop.
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("close", () => {
      controller?.abort();
      clearTimeout(timer);
      came?.focus();
    });
  };
  const open = () => {
    if (!dialog) build();
    if (dialog.open) return dialog.close();
    came = document.activeElement;
    input.value = "";
    showMenu();
    dialog.showModal();
    input.focus();
  };
  const isTyping = (target) => target.closest("input, select, textarea, [contenteditable]");

  if (link) {
    const key = link.querySelector("kbd");
    key.hidden = false;
    if (/Mac|iPhone|iPad/.test(navigator.platform)) key.textContent = "⌘ K";
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
      event.preventDefault();
      open();
    });
  }
  document.addEventListener("keydown", (event) => {
    if (link && (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey && event.key.toLowerCase() === "k") {
      event.preventDefault();
      open();
    } else if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey && !isTyping(event.target)) {
      const filters = document.querySelector("details.filters");
      const field = (filters ?? document.getElementById("content")).querySelector("input:not([type=hidden]), select");
      if (!field || dialog?.open) return;
      event.preventDefault();
      if (filters) filters.open = true;
      field.focus();
    }
  });
  document.querySelector(".menu [aria-current]")?.scrollIntoView({ block: "nearest" });
  // The lists of the bar close like menus do.
  document.addEventListener("click", (event) => {
    for (const each of document.querySelectorAll(".menu[open], .switch[open]")) {
      if (!each.contains(event.target)) each.open = false;
    }
  });
  document.addEventListener("keydown", (event) => {
    const opened = event.key === "Escape" && document.querySelector(".menu[open], .switch[open]");
    if (!opened) return;
    opened.open = false;
    opened.querySelector("summary").focus();
  });
})();
