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
      for (const text of [label.label, shown(facts.rates_by_label.on_hz[index][number], 2),
                          shown(facts.rates_by_label.off_hz[index][number], 2)])
        row.appendChild(document.createElement("td")).textContent = text;
      row.cells[0].className = "text";
      return row;
    }));
    table.hidden = false;
    sample();
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

  document.getElementById("region").addEventListener("change", filter);
  document.getElementById("type").addEventListener("change", filter);
  document.querySelector("#units tbody").addEventListener("click", event => {
    const row = event.target.closest("tr");
    if (row) choose(Number(row.dataset.unit));
  });
  filter();
  Object.assign(window.summer, {sample, begin: sample});
})();
