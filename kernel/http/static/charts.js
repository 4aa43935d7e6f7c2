// Charts: shows the values below the pointer, and zooms to the span that is dragged over, by ?start= and &end=.
(() => {
  const svgElement = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);
  const LEFT = 58, RIGHT = 470, TOP = 12, BOTTOM = 170, WIDTH = 480; // of kernel/http/charts.py
  const attach = (figure) => {
    const plot = figure.querySelector(".plot");
    const names = [...figure.querySelectorAll("th")].map((cell) => cell.textContent);
    const rows = [...figure.querySelectorAll("tbody tr")].map((row) => [...row.cells].map((cell) => cell.textContent));
    const first = Date.parse(figure.dataset.start);
    const stepMs = Number(figure.dataset.stepS) * 1000;
    if (!plot || !rows.length || !stepMs) return;
    const values = document.createElement("output");
    const cross = svgElement("path");
    const brush = svgElement("rect");
    cross.setAttribute("class", "cross");
    brush.setAttribute("class", "brush");
    brush.setAttribute("y", TOP);
    brush.setAttribute("height", BOTTOM - TOP);
    values.hidden = true;
    figure.append(values);
    let from = null;
    const stepAt = (event) => {
      const box = plot.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * WIDTH;
      return Math.min(rows.length - 1, Math.max(0, Math.floor(((x - LEFT) / (RIGHT - LEFT)) * rows.length)));
    };
    const edge = (step) => LEFT + ((RIGHT - LEFT) * step) / rows.length;
    const clear = () => {
      values.hidden = true;
      cross.remove();
      brush.remove();
      from = null;
    };
    plot.addEventListener("pointermove", (event) => {
      const step = stepAt(event);
      cross.setAttribute("d", `M${edge(step + 0.5)} ${TOP}V${BOTTOM}`);
      plot.append(cross);
      values.className = step < rows.length / 2 ? "at-right" : "at-left";
      values.textContent = rows[step].map((value, column) => (column ? `${names[column]}: ${value}` : `${value} UTC`)).join("\n");
      values.hidden = false;
      if (from === null) return;
      const [low, high] = [Math.min(from, step), Math.max(from, step) + 1];
      brush.setAttribute("x", edge(low));
      brush.setAttribute("width", edge(high) - edge(low));
      plot.append(brush);
    });
    plot.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.pointerType === "touch") return;
      from = stepAt(event);
      plot.setPointerCapture(event.pointerId);
    });
    plot.addEventListener("pointerup", (event) => {
      if (from === null) return;
      const [low, high] = [from, stepAt(event)].sort((a, b) => a - b);
      clear();
      if (low === high) return;
      const url = new URL(location.href);
      url.searchParams.delete("last");
      url.searchParams.set("start", new Date(first + low * stepMs).toISOString());
      url.searchParams.set("end", new Date(first + (high + 1) * stepMs - 1).toISOString());
      location.assign(url);
    });
    plot.addEventListener("pointerleave", clear);
    plot.addEventListener("pointercancel", clear);
  };
  const attachAll = (root) => root.querySelectorAll("figure.chart:not([data-attached])").forEach((figure) => {
    figure.dataset.attached = "";
    attach(figure);
  });
  document.addEventListener("DOMContentLoaded", () => {
    attachAll(document);
    // Those of panels that are loaded later.
    new MutationObserver(() => attachAll(document)).observe(document.getElementById("content"), { childList: true, subtree: true });
  });
})();
