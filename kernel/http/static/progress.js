// Follows the runs that a page shows with ui.run, and loads its panels again once one is finished.
(() => {
  const following = new Set();
  const follow = (id, url) => {
    following.add(id);
    const events = new EventSource(url);
    // Panels are replaced meanwhile: what is shown is found anew each time.
    const show = (state, progress) => {
      const run = document.querySelector(`[data-job="${id}"]`);
      if (!run) return;
      if (state) run.querySelector("[data-job-state]").textContent = state;
      if (progress?.message) run.querySelector("[data-job-message]").textContent = progress.message;
      const bar = run.querySelector("progress");
      if (progress?.total) {
        bar.max = progress.total;
        bar.value = progress.done;
      }
    };
    events.addEventListener("progress", (event) => show(null, JSON.parse(event.data)));
    events.addEventListener("state", (event) => {
      const record = JSON.parse(event.data);
      show(record.state, record.progress);
      if (record.state === "waiting" || record.state === "running") return;
      events.close();
      document.dispatchEvent(new Event("panelschange"));
    });
    addEventListener("pagehide", () => events.close());
  };
  const look = () => {
    for (const { dataset } of document.querySelectorAll("[data-job]")) {
      if (!following.has(dataset.job)) follow(dataset.job, dataset.events);
    }
  };
  new MutationObserver(look).observe(document.querySelector("main"), { childList: true, subtree: true });
  look();
})();
