// Charts: shows the values below the pointer, and zooms to the span that is dragged over, by ?start= and &end=. A finger
// drags sideways. With the keyboard, arrows move, with Shift they select, Enter zooms, and Escape ends the selection.
(() => {
  const svgElement = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);
  const LEFT = 58, RIGHT = 470, TOP = 12, BOTTOM = 170, WIDTH = 480; // of kernel/http/charts.py
  const HINT = "Arrow keys move, with Shift they select a span, Enter zooms in.";
  const attach = (figure) => {
    const plot = figure.querySelector(".plot");
    const steps = Number(figure.dataset.steps);
    const stepMs = Number(figure.dataset.stepS) * 1000;
    if (!plot || !steps || !stepMs) return;
    // A heat map has no values of a step: its cells say theirs.
    const table = figure.querySelector("table.values");
    const names = [...(table?.querySelectorAll("th") ?? [])].map((cell) => cell.textContent);
    const rows = [...(table?.tBodies[0].rows ?? [])].map((row) => [...row.cells].map((cell) => cell.textContent));
    const first = Date.parse(figure.dataset.start);
    const at = (step) => new Date(first + step * stepMs).toISOString();
    const values = document.createElement("output");
    const cross = svgElement("path");
    const brush = svgElement("rect");
    cross.setAttribute("class", "cross");
    brush.setAttribute("class", "brush");
    brush.setAttribute("y", TOP);
    brush.setAttribute("height", BOTTOM - TOP);
    values.hidden = true;
    figure.append(values);
    let from = null; // the step where a selection begins
    let current = steps - 1;
    let zoomed = false;
    const stepAt = (event) => {
      const box = plot.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * WIDTH;
      return Math.min(steps - 1, Math.max(0, Math.floor(((x - LEFT) / (RIGHT - LEFT)) * steps)));
    };
    const edge = (step) => LEFT + ((RIGHT - LEFT) * step) / steps;
    const selection = () => [Math.min(from, current), Math.max(from, current) + 1];
    const textOf = (step) =>
      rows.length
        ? rows[step].map((value, column) => (column ? `${names[column]}: ${value}` : `${value} UTC`)).join("\n")
        : `${at(step).slice(0, 16).replace("T", " ")} UTC`;
    const clear = () => {
      values.hidden = true;
      cross.remove();
      brush.remove();
      from = null;
    };
    const show = (step) => {
      current = step;
      cross.setAttribute("d", `M${edge(step + 0.5)} ${TOP}V${BOTTOM}`);
      plot.append(cross);
      if (rows.length) {
        values.className = step < steps / 2 ? "at-right" : "at-left";
        values.textContent = textOf(step);
        values.hidden = false;
      }
      plot.setAttribute("aria-valuenow", step);
      plot.setAttribute("aria-valuetext", textOf(step));
      if (from === null || from === step) return brush.remove();
      const [low, high] = selection();
      brush.setAttribute("x", edge(low));
      brush.setAttribute("width", edge(high) - edge(low));
      plot.append(brush);
    };
    const zoom = () => {
      const [low, high] = selection();
      const url = new URL(location.href);
      for (const name of ["last", "time_after", "time_before"]) url.searchParams.delete(name);
      url.searchParams.set("start", at(low));
      url.searchParams.set("end", new Date(first + high * stepMs - 1).toISOString());
      clear();
      location.assign(url);
    };
    plot.addEventListener("pointermove", (event) => {
      const step = stepAt(event);
      // Not before it moves: a click on a cell of a heat map is one on a link.
      if (from !== null && step !== from) plot.setPointerCapture(event.pointerId);
      show(step);
    });
    plot.addEventListener("pointerdown", (event) => {
      zoomed = false;
      if (event.button !== 0) return;
      from = stepAt(event);
      show(from);
    });
    plot.addEventListener("pointerup", (event) => {
      if (from === null) return;
      const step = stepAt(event);
      if (step === from) {
        from = null;
        return;
      }
      zoomed = true;
      current = step;
      zoom();
    });
    // A cell is a link, which is not followed, or dragged away, by dragging over it.
    plot.addEventListener("dragstart", (event) => event.preventDefault());
    plot.addEventListener("click", (event) => zoomed && event.preventDefault(), true);
    plot.addEventListener("pointerleave", clear);
    plot.addEventListener("pointercancel", clear);
    plot.addEventListener("blur", clear);
    plot.addEventListener("focus", () => {
      // Not by a click, which shows what is below it.
      if (plot.matches(":focus-visible")) show(current);
    });
    plot.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10, Home: -steps, End: steps };
      if (event.key in moves) {
        const begun = event.shiftKey ? (from ?? current) : null;
        from = begun;
        show(Math.min(steps - 1, Math.max(0, current + moves[event.key])));
      } else if (event.key === "Enter" && from !== null && from !== current) {
        zoom();
      } else if (event.key === "Escape") {
        clear();
      } else {
        return;
      }
      event.preventDefault();
    });
    plot.tabIndex = 0;
    if (rows.length) {
      // What it is with a script: something that is set to a step, and says what that has.
      plot.setAttribute("role", "slider");
      plot.setAttribute("aria-valuemin", 0);
      plot.setAttribute("aria-valuemax", steps - 1);
      plot.setAttribute("aria-valuenow", current);
      plot.setAttribute("aria-valuetext", textOf(current));
    }
    plot.setAttribute("aria-label", `${plot.getAttribute("aria-label")} ${HINT}`);
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
