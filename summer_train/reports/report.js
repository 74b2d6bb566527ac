// What the page of a report does in the browser: a row that is chosen shows its curves, confusion, film and models.
(() => {
  const {facts, model, shown, columns_in_view} = window.summer;
  const N_COLUMNS = 1500;
  const colors = facts.colors;
  let chosen = 0;

  function lines(name, all) {
    if (model(name)) model(name).data = {
      xs: all.map(one => one.x), ys: all.map(one => one.y), color: all.map(one => one.color),
      dash: all.map(one => one.dash ?? "solid"), what: all.map(one => one.what),
    };
  }

  function draw_curves(group) {
    lines("curve_lines", group.models.flatMap(one => ["train", "val"].map(part => ({
      x: one.curve.map((_, epoch) => epoch + 1), y: one.curve.map(epoch => epoch[part] ?? NaN),
      color: colors[part], what: part === "train" ? "training" : "validation",
    }))));
  }

  function draw_ranks(group) {
    const chance = {x: [0, 1], y: [0, 1], color: colors.quiet, dash: "dashed", what: "chance"};
    const of_fold = (x, y) => one => ({x: one[x], y: one[y], color: colors.main, what: "folds"});
    lines("roc_lines", [...group.rank_curves.map(of_fold("fpr", "tpr")), chance]);
    lines("recall_lines", [
      ...group.rank_curves.map(of_fold("tpr", "precision")),
      ...group.rank_curves.map(one => ({...chance, y: [one.base_rate, one.base_rate]})),
    ]);
  }

  function draw_confusion(group) {
    const rows = document.getElementById("confusion").tBodies[0].rows;
    group.confusion?.forEach((row, truth) => {
      const total = row[0] + row[1];
      row.forEach((n, call) => {
        rows[truth].cells[call + 1].textContent = `${n.toLocaleString("en")} (${(100 * n / total).toFixed(1)} %)`;
      });
    });
    document.getElementById("confusion-box").hidden = group.confusion === null;
  }

  function draw_models(group) {
    const table = document.getElementById("models"), names = Object.keys(group.mean);
    const filled = (tag, texts) => {
      const row = document.createElement("tr");
      for (const text of texts) row.appendChild(document.createElement(tag)).textContent = text;
      return row;
    };
    const words = names.map(name => facts.score_names[name] ?? name.replaceAll("_", " "));
    const head = filled("th", ["fold", "seed", ...words, "best epoch", "epochs", "train", "val", "test", "id", "data"]);
    for (const cell of head.cells) cell.scope = "col";
    table.tHead.replaceChildren(head);
    table.tBodies[0].replaceChildren(...group.models.map(one => filled("td", [
      one.fold, one.seed, ...names.map(name => shown(one.scores[name], 4, "n/a")), one.best_epoch, one.curve.length,
      ...["train", "val", "test"].map(part => one.n_samples[part] ?? 0), one.id, one.data_digest,
    ])));
    document.getElementById("why").textContent = group.models.filter(one => one.why_undefined)
      .map(one => `Undefined${one.fold === "" ? "" : ` in fold ${one.fold}`}: ${one.why_undefined}.`).join(" ");
  }

  function draw_units(group) {
    if (!model("unit_dots")) return;
    document.getElementById("units").hidden = !group.units.length;
    model("unit_dots").data = {
      x: group.units.map(one => Math.max(1e-3, one.rate_hz)), y: group.units.map(one => one.r2 ?? NaN),
      unit: group.units.map(one => one.unit),
    };
  }

  // Means of the bins in view, in at most N_COLUMNS runs of whole bins; columns without one are gaps.
  function sample() {
    const track = model(`track_${chosen}`)?.data, columns = model("film_columns");
    if (!columns) return;
    if (!track) { columns.data = {x: [], on: [], probability: [], width: []}; return; }
    const bin = track.bin_s[0] / 60, film_s = track.film_s[0], start = film_s[0] / 60;
    const {first, per_column, n} = columns_in_view(start, bin, Infinity, N_COLUMNS);
    const number = new Float64Array(n), on = new Float64Array(n), sum = new Float64Array(n);
    for (let at = 0; at < film_s.length; at++) {
      const column = Math.floor((Math.round((film_s[at] / 60 - start) / bin) - first) / per_column);
      if (column < 0 || column >= n) continue;
      number[column] += 1; on[column] += track.on[0][at]; sum[column] += track.probability[0][at];
    }
    const mean = total => Array.from(total, (value, column) => number[column] ? value / number[column] : NaN);
    const x = Array.from(number, (_, column) => start + (first + (column + 0.5) * per_column) * bin);
    columns.data = {x, on: mean(on), probability: mean(sum), width: x.map(() => per_column * bin)};
    document.body.dataset.columns = `${n} x ${per_column}`;
  }

  function draw_film() {
    const spans = model("spans")?.data, has_film = Boolean(model(`track_${chosen}`));
    document.getElementById("no-film").hidden = has_film || facts.groups[chosen].task !== "label";
    document.getElementById("film")?.toggleAttribute("hidden", !has_film);
    document.getElementById("how-to-move")?.toggleAttribute("hidden", !has_film);
    if (!spans) return;
    const own = [...spans.group.keys()].filter(at => spans.group[at] === chosen);
    model("shown_spans").data = Object.fromEntries(
      Object.entries(spans).map(([name, values]) => [name, own.map(at => values[at])]));
    sample();
  }

  function choose(number) {
    chosen = number;
    const group = facts.groups[number];
    for (const row of document.querySelectorAll("tr[data-group]"))
      row.classList.toggle("chosen", Number(row.dataset.group) === number);
    document.getElementById("group-title").textContent = facts.group_names[number];
    draw_curves(group);
    draw_ranks(group);
    draw_confusion(group);
    draw_models(group);
    draw_units(group);
    for (const box of document.querySelectorAll(".ranks")) box.hidden = !group.rank_curves.length;
    draw_film();
    document.body.dataset.columns ??= "no film";
  }

  document.addEventListener("click", event => {
    const row = event.target.closest("tr[data-group]");
    if (!row) return;
    choose(Number(row.dataset.group));
    document.getElementById("group-title").scrollIntoView({behavior: "smooth"});
  });
  Object.assign(window.summer, {choose, sample, begin: () => choose(0)});
})();
