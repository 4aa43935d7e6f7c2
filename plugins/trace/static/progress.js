// Follows the export that the page shows as waiting or running, and loads the panels again once it is finished.
(() => {
  const following = new Set();
  const follow = (id) => {
    following.add(id);
    const events = new EventSource(`/api/v1/jobs/${id}/events/`);
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
    for (const run of document.querySelectorAll("[data-job]")) {
      if (!following.has(run.dataset.job)) follow(run.dataset.job);
    }
  };
  new MutationObserver(look).observe(document.getElementById("status"), { childList: true, subtree: true });
  look();
})();
