// What all pages have: times in the zone of the browser, in their titles; and buttons that copy. Panels that are loaded
// later dispatch "panelload".
(() => {
  const enhance = (part) => {
    for (const time of part.querySelectorAll("time[datetime]")) {
      time.title = new Date(time.dateTime).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
    }
    for (const button of part.querySelectorAll("[data-copy]")) button.hidden = !navigator.clipboard;
  };
  document.addEventListener("DOMContentLoaded", () => enhance(document));
  document.addEventListener("panelload", (event) => enhance(event.target));
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
})();
