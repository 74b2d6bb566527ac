// What our pages share in the browser: facts, film time by keys, tables that sort, dark colours.
"use strict";
window.summer = (() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const model = name => Bokeh.documents[0].get_model_by_name(name);
  const shown = (value, digits, none = "-") => value === null || Number.isNaN(value) ? none : value.toFixed(digits);

  // Arrow keys move through the film and zoom in and out of it; Home shows all of it.
  function film_keys(event) {
    const range = model("film"), [first, last] = range.bounds, width = range.end - range.start;
    const views = {
      ArrowLeft: [-0.2, -0.2], ArrowRight: [0.2, 0.2], ArrowUp: [0.25, -0.25], ArrowDown: [-0.5, 0.5],
      "+": [0.25, -0.25], "-": [-0.5, 0.5], Home: [-Infinity, Infinity],
    };
    if (!(event.key in views) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    let [start, end] = [range.start + views[event.key][0] * width, range.end + views[event.key][1] * width];
    if (end - start < Math.min(width, range.min_interval)) return;
    if (start < first) [start, end] = [first, Math.min(last, end + first - start)];
    if (end > last) [start, end] = [Math.max(first, start + last - end), last];
    range.setv({start, end});
  }

  // The whole bins in view, in at most n_columns runs of equal length.
  function columns_in_view(start_min, bin_min, n_bins, n_columns) {
    const range = model("film"), place = minutes => (minutes - start_min) / bin_min;
    const first = Math.max(0, Math.floor(place(range.start) + 1e-6));
    const stop = Math.min(n_bins, Math.ceil(place(range.end) - 1e-6));
    const per_column = Math.max(1, Math.ceil((stop - first) / n_columns));
    return {first, stop, per_column, n: Math.max(0, Math.ceil((stop - first) / per_column))};
  }

  // What is no number comes last, whichever way the others go.
  function sort(button) {
    const column = Number(button.dataset.column), head = button.parentElement, table = head.closest("table");
    const down = head.getAttribute("aria-sort") === "ascending", body = table.tBodies[0];
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const text = row => row.cells[column].textContent, isNone = value => value === "-" || value === "n/a";
    const isText = [...body.rows].some(row => !isNone(text(row)) && Number.isNaN(parseFloat(text(row))));
    body.append(...[...body.rows].sort((a, b) => {
      const [one, two] = [text(a), text(b)];
      if (isNone(one) || isNone(two)) return isNone(one) - isNone(two);
      return (down ? -1 : 1) * (isText ? one.localeCompare(two) : parseFloat(one) - parseFloat(two));
    }));
  }

  function dress() {
    if (!window.matchMedia("(prefers-color-scheme: dark)").matches) return;
    const ink = "#e8e8e8", line = "#6a6a6a", paper = "#161616";
    for (const one of Bokeh.documents[0].all_models) {
      if (one.type === "Figure")
        Object.assign(one, {background_fill_color: paper, border_fill_color: paper, outline_line_color: line});
      if (one.type.endsWith("Axis"))
        Object.assign(one, {
          axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: line,
          major_tick_line_color: line, minor_tick_line_color: line,
        });
      if (one.type === "Title") one.text_color = ink;
      if (one.type.endsWith("Grid")) one.grid_line_color = "#3a3a3a";
      if (one.type === "Legend") Object.assign(one, {label_text_color: ink, background_fill_color: paper});
    }
  }

  // Each page has its own `begin`, which draws what is drawn first.
  function start() {
    dress();
    document.getElementById("film")?.addEventListener("keydown", film_keys);
    window.summer.begin();
  }

  document.addEventListener("click", event => {
    const button = event.target.closest("thead button");
    if (button) sort(button);
  });
  return {facts, model, shown, columns_in_view, start};
})();
