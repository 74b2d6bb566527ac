// What the page of a key does in the browser: counts sampled at every zoom, units filtered and chosen, dark colours.
window.summer = (() => {
  const element = id => document.getElementById(id), model = name => Bokeh.documents[0].get_model_by_name(name);
  const facts = JSON.parse(element("facts").textContent);
  const shown = value => value === null || Number.isNaN(value) ? "-" : value.toFixed(2);
  let chosen = -1;

  // Rates of the bins in view, in at most n_columns runs of whole bins.
  function sample() {
    const {start_min: start, bin_min: bin, n_bins, n_columns} = facts.film, n_units = facts.n_units;
    const range = model("film"), heat = model("heat"), raw = model("counts").data;
    const first = Math.max(0, Math.floor((range.start - start) / bin + 1e-6));
    const stop = Math.min(n_bins, Math.ceil((range.end - start) / bin - 1e-6));
    const per_column = Math.max(1, Math.ceil((stop - first) / n_columns));
    const n = Math.max(0, Math.ceil((stop - first) / per_column));
    const edges = Array.from({length: n + 1}, (_, column) => Math.min(stop, first + column * per_column));
    const sums = (values, offset) => Float64Array.from({length: n}, (_, column) => {
      let sum = 0;
      for (let at = offset + edges[column]; at < offset + edges[column + 1]; at++) sum += values[at];
      return sum;
    });
    const seconds = sums(raw.recorded_s[0], 0), image = new Float32Array(n * n_units);
    const population = new Array(n).fill(0), unit = new Array(n).fill(NaN);
    for (let row = 0; row < n_units; row++)
      sums(raw.counts[0], row * n_bins).forEach((sum, column) => {
        const rate = sum / seconds[column];  // NaN where nothing was recorded
        image[row * n + column] = Math.log2(1 + rate);
        population[column] += rate / n_units;
        if (raw.order[0][row] === chosen) unit[column] = rate;
      });
    const ndarray = heat.data.image[0].constructor;
    heat.data = {
      image: [new ndarray(image.buffer, [n_units, n])], x: [start + first * bin], dw: [n * per_column * bin],
    };
    const x = population.map((_, column) => start + (edges[column] + edges[column + 1]) / 2 * bin);
    model("rates").data = {x, population, unit};
    for (const {target} of facts.features) {
      const source = model(`features ${target}`), {codes: [codes], step: [step], mean: [mean]} = source.data;
      const means = Float32Array.from({length: codes.length / n_bins * n}, (_, at) => {
        const row = Math.floor(at / n) * n_bins;
        let sum = 0, n_defined = 0;
        for (let place = row + edges[at % n]; place < row + edges[at % n + 1]; place++)
          if (codes[place] !== -128) [sum, n_defined] = [sum + codes[place], n_defined + 1];
        return mean + step * sum / n_defined;  // NaN where nothing is defined
      });
      const image = [new ndarray(means.buffer, [means.length / n, n])];
      source.data = {...source.data, image, x: heat.data.x, dw: heat.data.dw, xs: [x], ys: [[...means.subarray(0, n)]]};
    }
    document.body.dataset.columns = `${n} x ${per_column}`;
  }

  // Arrow keys move through the film and zoom in and out of it; Home shows all of it.
  const views = {
    ArrowLeft: [-0.2, -0.2], ArrowRight: [0.2, 0.2], ArrowUp: [0.25, -0.25], ArrowDown: [-0.5, 0.5],
    "+": [0.25, -0.25], "-": [-0.5, 0.5], Home: [-Infinity, Infinity],
  };
  element("film").addEventListener("keydown", event => {
    const range = model("film"), [first, last] = range.bounds, width = range.end - range.start;
    if (!(event.key in views) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    let [start, end] = [range.start + views[event.key][0] * width, range.end + views[event.key][1] * width];
    if (end - start < Math.min(width, range.min_interval)) return;
    if (start < first) [start, end] = [first, Math.min(last, end + first - start)];
    if (end > last) [start, end] = [Math.max(first, start + last - end), last];
    range.setv({start, end});
  });

  // On, off and their ratio, as `inspect --unit` shows them.
  function add_rates(row, label, unit) {
    const on = facts.on_hz[label][unit], off = facts.off_hz[label][unit];
    for (const value of [on, off, on === null || !(off > 0) ? null : on / off])
      row.insertCell().textContent = shown(value);
  }

  // Rates of the chosen unit around the onsets of the chosen label: means over onsets, as `summer-prep responses` has.
  function respond() {
    const label = element("label").value, [step, side, n_errors, of_labels] = model("response").tags;
    element("response").hidden = chosen < 0 || label === "";
    if (element("response").hidden) return;
    const onsets = of_labels[label], n = onsets.length, raw = model("counts").data, {n_bins, bin_min} = facts.film;
    const text = `${facts.labels[label].label}: mean rate around ${n} onsets, 95 % interval`;
    element("response-title").textContent = n < 2 ? `${text}: at least 2 are needed` : text;
    const row = raw.order[0].indexOf(chosen) * n_bins, data = {x: [], rate: [], low: [], high: []};
    const mean_of = values => values.reduce((sum, one) => sum + one, 0) / n;
    for (let at = -side; n > 1 && at < side; at += step) {
      const sums = (values, offset) => onsets.map(bin => {
        let sum = 0;
        for (let place = offset + bin + at; place < offset + bin + at + step; place++) sum += values[place];
        return sum;
      });
      const seconds = mean_of(sums(raw.recorded_s[0], 0)), spikes = sums(raw.counts[0], row), mean = mean_of(spikes);
      const around = n_errors * Math.sqrt(mean_of(spikes.map(one => (one - mean) ** 2)) / (n - 1));
      data.x.push((at + step / 2) * bin_min * 60);
      for (const [name, value] of Object.entries({rate: mean, low: mean - around, high: mean + around}))
        data[name].push(value / seconds);
    }
    model("response").data = data;
  }

  function choose(number) {
    chosen = number;
    const unit = facts.units[number], table = element("by-label");
    for (const row of document.querySelectorAll("#units tbody tr"))
      row.classList.toggle("chosen", Number(row.dataset.unit) === number);
    element("unit-title").textContent = `Unit ${number} (${unit.brain_region ?? ""}): ${shown(unit.rate_hz)} Hz`;
    table.tBodies[0].replaceChildren(...facts.labels.map((label, index) => {
      const row = document.createElement("tr");
      row.insertCell().textContent = label.label;
      add_rates(row, index, number);
      return row;
    }));
    element("of-unit").hidden = false;
    respond();
    sample();
  }

  function choose_row(y) {
    const number = model("counts").data.order[0][Math.floor(y)];
    if (number !== undefined) choose(number);
  }

  // Columns of one label beside the units, which sort by them.
  element("label").addEventListener("change", ({target: {value}}) => {
    respond();
    const table = element("units"), [head, ...rows] = [table.tHead.rows[0], ...table.tBodies[0].rows];
    for (const row of [head, ...rows]) while (row.cells.length > 6) row.deleteCell(6);
    if (value === "") return;
    for (const text of [`${facts.labels[value].label} on (Hz)`, "off (Hz)", "ratio"]) {
      const cell = head.appendChild(document.createElement("th")), button = document.createElement("button");
      cell.scope = "col";
      button.dataset.column = String(cell.cellIndex);
      button.textContent = text;
      cell.append(button);
    }
    for (const row of rows) add_rates(row, value, Number(row.dataset.unit));
  });

  function filter() {
    const wanted = ["region", "type"].map(name => choices[name][element(name).value]);
    const rows = [...document.querySelectorAll("#units tbody tr")];
    for (const row of rows)
      row.hidden = wanted.some((value, index) => value !== undefined && row.cells[index + 1].textContent !== value);
    element("n-shown").textContent = `${rows.filter(row => !row.hidden).length} of ${facts.n_units} units`;
  }

  // Choices have numbers for values: browsers change the white space of a value.
  const all = column => [...new Set(facts.units.map(unit => unit[column] ?? ""))].sort();
  const choices = {region: all("brain_region"), type: all("cell_type"), label: facts.labels.map(label => label.label)};
  for (const [name, values] of Object.entries(choices))
    element(name).append(...values.map((value, number) => new Option(value || "(none)", number)));
  element("region").addEventListener("change", filter);
  element("type").addEventListener("change", filter);
  document.querySelector("#units tbody").addEventListener("click", event => {
    const row = event.target.closest("tr");
    if (row) choose(Number(row.dataset.unit));
  });
  filter();

  // Figures are drawn on canvases, which the style of the page does not reach.
  function start() {
    const ink = "#e8e8e8", line = "#6a6a6a", paper = "#161616";
    const dark = {
      Figure: {background_fill_color: paper, border_fill_color: paper, outline_line_color: line},
      Axis: {
        axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: line,
        major_tick_line_color: line, minor_tick_line_color: line,
      },
      Title: {text_color: ink}, Grid: {grid_line_color: "#3a3a3a"},
      Legend: {label_text_color: ink, background_fill_color: paper},
      ColorBar: {title_text_color: ink, major_label_text_color: ink, background_fill_color: paper},
    };
    if (window.matchMedia("(prefers-color-scheme: dark)").matches)
      for (const one of Bokeh.documents[0].all_models)
        for (const [type, colors] of Object.entries(dark)) if (one.type.endsWith(type)) one.setv(colors);
    sample();
  }

  return {model, sample, choose_row, start};
})();
