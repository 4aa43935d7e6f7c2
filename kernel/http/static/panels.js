// Loads single panels of a page again: on "Try again", and every data-refresh-s seconds while the page is visible,
// except those with the attribute data-live, which another script keeps up to date.
// What the server has left out, as it would take too long, is loaded at once.
// A script that changes the address, as for filters, dispatches "panelschange" on the document to load all of them, or
// the one that its detail names.
(() => {
  const loading = new Map();
  const due = new Map();
  const note = (section, text) => {
    const place = section.querySelector("[data-panel-note]");
    if (place) place.textContent = text;
  };
  const retryLink = () => {
    const link = document.createElement("a");
    link.href = "";
    link.dataset.panelRetry = "";
    link.textContent = "Try again";
    return link;
  };
  const schedule = (section) => {
    const seconds = Number(section.dataset.refreshS);
    if (seconds > 0) due.set(section.dataset.panel, Date.now() + seconds * 1000);
    else due.delete(section.dataset.panel);
  };
  const load = async (section) => {
    const name = section.dataset.panel;
    loading.get(name)?.abort();
    const controller = new AbortController();
    loading.set(name, controller);
    section.setAttribute("aria-busy", "true");
    try {
      const url = location.pathname + location.search;
      const headers = { Accept: "text/html", "X-Panel": name };
      const response = await fetch(url, { headers, signal: controller.signal });
      if (!response.ok) throw new Error(String(response.status));
      const parsed = new DOMParser().parseFromString(await response.text(), "text/html");
      const fresh = parsed.querySelector("[data-panel]");
      if (fresh?.dataset.panel !== name) throw new Error("no panel");
      const focused = section.contains(document.activeElement) ? document.activeElement : null;
      const isFirst = "deferred" in section.dataset;
      delete section.dataset.deferred;
      section.replaceChildren(...fresh.childNodes);
      section.dataset.refreshS = fresh.dataset.refreshS ?? "";
      section.dispatchEvent(new Event("panelload", { bubbles: true }));
      if (isFirst) return;
      note(section, `updated ${new Date().toLocaleTimeString([], { hour12: false })}`);
      if (focused) {
        const same = focused.id && document.getElementById(focused.id);
        if (!same) section.tabIndex = -1;
        (same || section).focus({ preventScroll: true });
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      note(section, "could not be updated");
      const place = section.querySelector("[data-loading]");
      if (place) place.replaceChildren("Could not be loaded. ", retryLink());
    } finally {
      if (loading.get(name) === controller) {
        loading.delete(name);
        section.removeAttribute("aria-busy");
        schedule(section);
      }
    }
  };
  const sections = () => document.querySelectorAll("[data-panel]");
  document.addEventListener("click", (event) => {
    const retry = event.target.closest("[data-panel-retry]");
    if (!retry || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    load(retry.closest("[data-panel]"));
  });
  document.addEventListener("panelschange", (event) => {
    for (const section of sections()) if (!event.detail || event.detail === section.dataset.panel) load(section);
  });
  // Tells the server that it need not wait for slow panels; it takes the cookie back whenever it does not.
  document.cookie = "scripts=on; Path=/; SameSite=Lax; Max-Age=86400";
  sections().forEach((section) => ("deferred" in section.dataset ? load(section) : schedule(section)));
  setInterval(() => {
    if (document.hidden) return;
    for (const section of sections()) {
      const name = section.dataset.panel;
      if (!loading.has(name) && !("live" in section.dataset) && due.get(name) <= Date.now()) load(section);
    }
  }, 1000);
})();
