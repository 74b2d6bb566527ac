// What the page of a key does in the browser: counts sampled at every zoom, the table of units, dark colours.
"use strict";
window.summer = (() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  let chosen = -1, last = null;

  // Rates of the bins that are seen, in at most n_columns runs of whole bins.
  function sample(view) {
    last = view;
    const {raw, heat, rates, range, start, bin, n_bins, n_units, n_columns} = view;
    const counts = raw.data.counts[0], recorded = raw.data.recorded_s[0], order = raw.data.order[0];
    const first = Math.max(0, Math.floor((range.start - start) / bin));
    const stop = Math.min(n_bins, Math.ceil((range.end - start) / bin));
    const per_column = Math.max(1, Math.ceil((stop - first) / n_columns));
    const n = Math.ceil((stop - first) / per_column);
    const image = new Float32Array(n * n_units), seconds = new Float64Array(n);
    const population = new Array(n).fill(0), unit = new Array(n).fill(NaN), x = new Array(n);
    for (let column = 0; column < n; column++) {
      const from = first + column * per_column, to = Math.min(stop, from + per_column);
      for (let at = from; at < to; at++) seconds[column] += recorded[at];
      x[column] = start + (from + to) / 2 * bin;
    }
    for (let row = 0; row < n_units; row++) {
      for (let column = 0; column < n; column++) {
        const from = first + column * per_column, to = Math.min(stop, from + per_column);
        let sum = 0;
        for (let at = row * n_bins + from; at < row * n_bins + to; at++) sum += counts[at];
        const rate = sum / seconds[column];  // none where nothing was recorded
        image[row * n + column] = Math.log2(1 + rate);
        population[column] += rate / n_units;
        if (order[row] === chosen) unit[column] = rate;
      }
    }
    const ndarray = heat.data.image[0].constructor;
    const filled = new ndarray(image.buffer, [n_units, n]);
    heat.data = {image: [filled], x: [start + first * bin], dw: [n * per_column * bin]};
    rates.data = {x, population, unit};
    document.body.dataset.columns = `${n} x ${per_column}`;
  }

  function choose(number) {
    chosen = number;
    const unit = facts.units[number], table = document.getElementById("by-label");
    for (const row of document.querySelectorAll("#units tbody tr"))
      row.setAttribute("aria-selected", String(Number(row.dataset.unit) === number));
    document.getElementById("unit-title").textContent =
      `Unit ${number} (${unit.brain_region ?? ""}): ${unit.rate_hz.toFixed(2)} Hz`;
    const shown = value => value === null ? "-" : value.toFixed(2);
    table.tBodies[0].replaceChildren(...facts.labels.map((label, index) => {
      const row = document.createElement("tr");
      for (const text of [label.label, shown(facts.rates_by_label.on_hz[index][number]),
                          shown(facts.rates_by_label.off_hz[index][number])])
        row.appendChild(document.createElement("td")).textContent = text;
      return row;
    }));
    table.hidden = false;
    if (last) sample(last);
  }

  function filter() {
    const wanted = [document.getElementById("region").value, document.getElementById("type").value];
    let n = 0;
    for (const row of document.querySelectorAll("#units tbody tr")) {
      row.hidden = wanted.some((value, index) => value && row.cells[index + 1].textContent !== value);
      n += row.hidden ? 0 : 1;
    }
    document.getElementById("n-shown").textContent = `${n} of ${facts.n_units} units`;
  }

  // What is no number comes last, whichever way the others go.
  function sort(button) {
    const column = Number(button.dataset.column), head = button.parentElement;
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of document.querySelectorAll("#units thead th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = document.querySelector("#units tbody"), text = row => row.cells[column].textContent;
    const isText = column === 1 || column === 2;
    body.append(...[...body.rows].sort((a, b) => {
      const [one, two] = [text(a), text(b)];
      if (!isText && (one === "-" || two === "-")) return (one === "-") - (two === "-");
      return (down ? -1 : 1) * (isText ? one.localeCompare(two) : one - two);
    }));
  }

  function dress() {
    if (!window.matchMedia("(prefers-color-scheme: dark)").matches) return;
    const ink = "#e8e8e8", paper = "#161616";
    for (const model of Bokeh.documents[0].all_models) {
      if (model.type === "Figure") Object.assign(model, {background_fill_color: paper, border_fill_color: paper});
      if (model.type.endsWith("Axis"))
        Object.assign(model, {axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: ink});
      if (model.type === "Title") model.text_color = ink;
      if (model.type === "Grid") model.grid_line_color = "#3a3a3a";
      if (model.type === "Legend") Object.assign(model, {label_text_color: ink, background_fill_color: paper});
    }
  }

  document.getElementById("region").addEventListener("change", filter);
  document.getElementById("type").addEventListener("change", filter);
  document.getElementById("units").addEventListener("click", event => {
    const button = event.target.closest("button");
    if (button && button.dataset.column !== undefined) sort(button);
    else if (event.target.closest("tbody tr")) choose(Number(event.target.closest("tbody tr").dataset.unit));
  });
  filter();
  return {sample, choose, dress};
})();
