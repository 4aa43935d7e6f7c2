// The live tail: shows requests as they arrive, the latest first. Pausing ends the stream; resuming goes on after it.
(() => {
  const tail = document.getElementById("tail");
  const body = tail.querySelector("tbody");
  const button = document.getElementById("pause");
  const clear = document.getElementById("empty");
  const state = document.getElementById("state");
  const rate = document.getElementById("rate");
  const rowsMax = Number(tail.dataset.rowsMax);
  const retryMs = 5000;
  // What a page must not show as it is: control characters, and what turns the direction of writing round.
  const unsafe = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;
  const shown = (text) => String(text).replace(unsafe, (each) => `\\u${each.charCodeAt(0).toString(16).padStart(4, "0")}`);
  let source = null;
  let position = null;
  let paused = false;
  let retry = null;
  let waiting = [];
  let scheduled = false;
  const ids = new Set([...body.rows].map((row) => row.dataset.id));
  const arrivals = []; // of the last ten seconds

  const cell = (row, content, className) => {
    const made = row.insertCell();
    if (className) made.className = className;
    if (content instanceof Node) made.append(content);
    else {
      const isolated = document.createElement("bdi");
      isolated.textContent = content;
      made.append(isolated);
    }
  };
  const requestRow = (event) => {
    const row = document.createElement("tr");
    row.dataset.id = event.id;
    const code = event.status_code;
    row.className = code >= 500 ? "bad" : code >= 400 ? "warn" : "";
    const link = document.createElement("a");
    link.href = `/requests/events/${event.id}/`;
    link.className = "value";
    const time = document.createElement("time");
    time.dateTime = event.time;
    time.textContent = event.time.slice(0, 19).replace("T", " ");
    time.title = new Date(event.time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
    link.append(time);
    cell(row, link);
    const badge = document.createElement("span");
    badge.className = `badge ${code >= 500 ? "bad" : code >= 400 ? "warn" : code < 300 ? "good" : ""}`;
    badge.textContent = code;
    cell(row, badge);
    cell(row, shown(event.method));
    cell(row, shown(event.endpoint), "endpoint");
    cell(row, shown(event.service), "endpoint");
    cell(row, event.latency_ms === null ? "–" : `${event.latency_ms.toLocaleString("en")} ms`, "number");
    return row;
  };
  const noteRow = (text) => {
    const row = document.createElement("tr");
    row.className = "note";
    row.insertCell().colSpan = 6;
    row.cells[0].textContent = text;
    return row;
  };
  const draw = () => {
    scheduled = false;
    const rows = waiting.slice(-rowsMax).map((each) => (each.note ? noteRow(each.note) : requestRow(each)));
    waiting = [];
    body.prepend(...rows.reverse());
    while (body.rows.length > rowsMax) {
      ids.delete(body.lastElementChild.dataset.id);
      body.lastElementChild.remove();
    }
  };
  const add = (each) => {
    waiting.push(each);
    // Of a hidden page, nothing is drawn: only what would be seen is kept.
    if (waiting.length > 2 * rowsMax) waiting = waiting.slice(-rowsMax);
    if (!scheduled) {
      scheduled = true;
      requestAnimationFrame(draw);
    }
  };
  const leftOut = ({ count, reason }) => {
    const many = count === null ? "An unknown number of requests" : `${count.toLocaleString("en")} requests`;
    const why = { rate: "more arrived than can be shown", volume: "too much was stored at once to look at each", gap: "away for too long" };
    return `${many} left out: ${why[reason] ?? reason}`;
  };
  const connect = () => {
    clearTimeout(retry);
    const url = new URL(tail.dataset.stream, location.href);
    if (position !== null) url.searchParams.set("after", position);
    state.textContent = "connecting…";
    source = new EventSource(url);
    source.addEventListener("open", () => { state.textContent = "live"; });
    source.addEventListener("position", (event) => { position = event.lastEventId; });
    source.addEventListener("request", (event) => {
      const request = JSON.parse(event.data);
      // After an interruption, the last ones may come again.
      if (ids.has(request.id)) return;
      ids.add(request.id);
      arrivals.push(Date.now());
      add(request);
    });
    source.addEventListener("left-out", (event) => add({ note: leftOut(JSON.parse(event.data)) }));
    source.addEventListener("error", () => {
      // The browser connects again by itself, unless it was refused.
      state.textContent = "interrupted, connecting again…";
      if (source.readyState === EventSource.CLOSED) retry = setTimeout(connect, retryMs);
    });
  };
  const disconnect = () => {
    clearTimeout(retry);
    source?.close();
    source = null;
  };
  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Resume" : "Pause";
    if (paused) {
      disconnect();
      state.textContent = "paused";
    } else connect();
  });
  clear.addEventListener("click", () => {
    body.replaceChildren();
    waiting = [];
    ids.clear();
  });
  setInterval(() => {
    while (arrivals.length && arrivals[0] < Date.now() - 10000) arrivals.shift();
    rate.textContent = paused ? "" : `${(arrivals.length / 10).toLocaleString("en", { maximumFractionDigits: 1 })} a second`;
  }, 1000);
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", (event) => { if (event.persisted && !paused) connect(); });
  button.hidden = clear.hidden = false;
  connect();
})();
