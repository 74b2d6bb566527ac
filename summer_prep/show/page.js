// What the page of a key does in the browser: counts sampled at every zoom, units filtered and chosen.
(() => {
  const {facts, model, shown, columns_in_view} = window.summer;
  let chosen = -1;

  // Rates of the bins that are seen, in at most n_columns runs of whole bins.
  function sample() {
    const heat = model("heat"), raw = model("counts").data;
    const {start_min: start, bin_min: bin, n_bins, n_units, n_columns} = facts.film;
    const counts = raw.counts[0], recorded = raw.recorded_s[0], order = raw.order[0];
    const {first, stop, per_column, n} = columns_in_view(start, bin, n_bins, n_columns);
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
    model("rates").data = {x, population, unit};
    document.body.dataset.columns = `${n} x ${per_column}`;
  }

  function choose(number) {
    chosen = number;
    const unit = facts.units[number], table = document.getElementById("by-label");
    for (const row of document.querySelectorAll("#units tbody tr"))
      row.classList.toggle("chosen", Number(row.dataset.unit) === number);
    document.getElementById("unit-title").textContent =
      `Unit ${number} (${unit.brain_region ?? ""}): ${shown(unit.rate_hz, 2)} Hz`;
    table.tBodies[0].replaceChildren(...facts.labels.map((label, index) => {
      const row = document.createElement("tr");
      for (const text of [label.label, ...rates_by_label(index, number)])
        row.appendChild(document.createElement("td")).textContent = text;
      row.cells[0].className = "text";
      return row;
    }));
    table.hidden = false;
    sample();
  }

  // On, off and their ratio, as `inspect --unit` shows them.
  function rates_by_label(label, number) {
    const [on, off] = [facts.rates_by_label.on_hz[label][number], facts.rates_by_label.off_hz[label][number]];
    return [shown(on, 2), shown(off, 2), shown(on !== null && off ? on / off : null, 2)];
  }

  // Columns of one label beside the units, which sort by them.
  function show_label() {
    const value = document.getElementById("label").value, table = document.getElementById("units");
    const rows = [table.tHead.rows[0], ...table.tBodies[0].rows];
    for (const row of rows) while (row.cells.length > 6) row.deleteCell(6);
    if (value === "") return;
    const name = facts.labels[Number(value)].label;
    [`${name} on (Hz)`, "off (Hz)", "ratio"].forEach((text, index) => {
      const head = rows[0].appendChild(document.createElement("th")), button = document.createElement("button");
      head.scope = "col";
      button.dataset.column = String(6 + index);
      button.textContent = text;
      head.append(button);
    });
    for (const row of rows.slice(1))
      for (const text of rates_by_label(Number(value), Number(row.dataset.unit)))
        row.appendChild(document.createElement("td")).textContent = text;
  }

  function choose_row(y) {
    const row = Math.floor(y), order = model("counts").data.order[0];
    if (row >= 0 && row < order.length) choose(order[row]);
  }

  function filter() {
    const wanted = ["region", "type"].map(name => {
      const value = document.getElementById(name).value;
      return value === "" ? null : facts.choices[name][Number(value)];
    });
    let n = 0;
    for (const row of document.querySelectorAll("#units tbody tr")) {
      row.hidden = wanted.some((value, index) => value !== null && row.cells[index + 1].textContent !== value);
      n += row.hidden ? 0 : 1;
    }
    document.getElementById("n-shown").textContent = `${n} of ${facts.n_units} units`;
  }

  // What may be chosen, by number: browsers change the white space of a value.
  const choices = {...facts.choices, label: facts.labels.map(label => label.label)};
  for (const [name, values] of Object.entries(choices))
    document.getElementById(name).append(...values.map((value, number) => new Option(value || "(none)", number)));
  document.getElementById("label").addEventListener("change", show_label);
  document.getElementById("region").addEventListener("change", filter);
  document.getElementById("type").addEventListener("change", filter);
  document.querySelector("#units tbody").addEventListener("click", event => {
    const row = event.target.closest("tr");
    if (row) choose(Number(row.dataset.unit));
  });
  filter();
  Object.assign(window.summer, {sample, choose_row, begin: sample});
})();
