// One run of a job while it runs: its events say when its panels are out of date. Without them, as while all streams of
// the service are taken, the panels refresh by themselves.
document.addEventListener("DOMContentLoaded", () => {
  const heading = document.querySelector("[data-job-events]");
  const log = document.getElementById("log");
  if (!heading || !log || !window.EventSource) return;
  const LINES_MAX = 2000;
  const lines = () => log.querySelectorAll("[data-line]");
  const lastLine = () => [...lines()].at(-1)?.dataset.line ?? "0";
  const reload = (name) => document.dispatchEvent(new CustomEvent("panelschange", { detail: name }));
  // At most once in so many ms, the last time included.
  const throttled = (call, ms) => {
    let timer = null;
    return () => {
      timer ??= setTimeout(() => {
        timer = null;
        call();
      }, ms);
    };
  };
  // The lines after those that are shown, as the service renders them.
  const appendLines = async () => {
    const body = log.querySelector("tbody");
    if (!body) return reload("log");
    const url = new URL(location.href);
    url.searchParams.set("log", lastLine());
    const response = await fetch(url, { headers: { Accept: "text/html", "X-Panel": "log" } });
    if (!response.ok) return;
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    const region = body.closest(".scroll");
    const isAtEnd = region.scrollHeight - region.scrollTop - region.clientHeight < 40;
    const last = Number(lastLine());
    body.append(...[...fresh.querySelectorAll("[data-line]")].filter((each) => Number(each.dataset.line) > last));
    for (const old of [...lines()].slice(0, -LINES_MAX)) old.remove();
    if (isAtEnd) region.scrollTop = region.scrollHeight;
  };
  const region = log.querySelector(".scroll");
  if (region) region.scrollTop = region.scrollHeight;
  const refreshRun = throttled(() => reload("run"), 300);
  const refreshLog = throttled(appendLines, 300);
  const events = new URL(heading.dataset.jobEvents, location.href);
  events.searchParams.set("log", lastLine());
  const stream = new EventSource(events);
  stream.addEventListener("open", () => {
    log.dataset.live = "";
  });
  stream.addEventListener("error", () => {
    delete log.dataset.live;
  });
  stream.addEventListener("progress", refreshRun);
  stream.addEventListener("log", refreshLog);
  stream.addEventListener("state", (event) => {
    refreshRun();
    if (JSON.parse(event.data).finished_at === null) return;
    stream.close();
    delete log.dataset.live;
    // Its last lines may have come with the end.
    refreshLog();
  });
});
