"use strict";
// The table behind each figure: for screen readers, for copying, and as CSV.

const STATISTIC_HEADS = ["mean", "median", "sd", "q25", "q75", "interval low", "interval high", "runs", "missing", "with care"];

/** Cells of a row's statistics, as in STATISTIC_HEADS. */
const statistics = (row) => [row.mean, row.median, row.sd, row.q25, row.q75, row.ciLow, row.ciHigh, row.count, row.missing, row.warned];

function similarityTable(study, metric, keep, caption) {
  const beside = Object.keys(study.beside);
  const names = { null: "by chance", calibrated: "above chance", z: "z", se: "se over examples" };
  return {
    caption,
    head: ["metric", "layer", "kind", "iteration", ...STATISTIC_HEADS, ...beside.map((name) => names[name])],
    rows: [metric].flat().flatMap((name) => cells(study, name, "mean").filter(keep)
      .map((row) => [name, row.layer, row.kind, row.iteration, ...statistics(row), ...beside.map((key) => row.beside[key])])),
  };
}

const TABLES = {
  overview: (study) => {
    const panels = study.metrics.filter((metric) => metric.panel);
    const names = (panels.length ? panels : study.metrics.slice(0, 4)).map((metric) => metric.name);
    return similarityTable(study, names, () => true, "Similarity by metric, layer and iteration, over runs");
  },
  course: (study, state) => {
    const names = study.metrics.filter((metric) => metric.panel).map((metric) => metric.name);
    const levels = names.map((name) => d3.rollup(cells(study, name, state.statistic).filter((row) => row.kind !== "out"), (rows) => median(rows.map((row) => row.value)) ?? NaN, (row) => row.iteration));
    const rows = accuracyRows(study, state.statistic).map((row) => [row.iteration, row.remaining, row.value, ...levels.map((level) => level.get(row.iteration) ?? NaN)]);
    return { caption: `Accuracy and similarity by iteration, ${state.statistic} of runs, median over hidden layers`, head: ["iteration", "parameters left", "accuracy", ...names], rows };
  },
  accuracy: (study, state) => ({
    caption: "Accuracy by iteration, over runs and of each run",
    head: ["iteration", "parameters left", "mean", "median", "sd", "runs", ...study.runs.map((run) => runName(study, run))],
    rows: accuracyRows(study, state.statistic).map((row, i) => [row.iteration, row.remaining, row.mean, row.median, row.sd, row.count,
      ...study.runs.map((_, r) => (i ? at(study.accuracy.runs, r, i - 1) : NaN))]),
  }),
  layers: (study, state) => similarityTable(study, state.metric, (row) => row.iteration === state.iteration, `${labelOf(study, state.metric)} by layer at iteration ${state.iteration}`),
  map: (study, state) => {
    const rows = d3.group(cells(study, state.metric, state.statistic), (row) => row.layer);
    return {
      caption: `${labelOf(study, state.metric)} by layer and iteration, ${state.statistic} of runs`,
      head: ["layer", ...study.iterations.map((iteration) => `iteration ${iteration}`)],
      rows: study.layers.map((layer) => [layer.name, ...rows.get(layer.name).map((row) => row.value)]),
    };
  },
  output: (study) => similarityTable(study, study.metrics.map((metric) => metric.name), (row) => row.kind === "out" && row.count + row.missing > 0, "Similarity of the output layer, over runs"),
  predictions: (study) => ({
    caption: "Predictions for the test images, beside the complete network’s, over runs; of controls medians",
    head: ["of", "class", "measure", "iteration", "parameters left", "mean", "median", "sd", "q25", "q75", "runs"],
    rows: study.predictions.measures.flatMap((measure) => [
      ...predictionRows(study, measure, "mean").filter((row) => row.count > 0)
        .map((row) => ["pruned networks", row.class || "all", measure, row.iteration, row.remaining, row.mean, row.median, row.sd, row.q25, row.q75, row.count]),
      ...predictionControls(study, measure).flat()
        .map((row) => [CONTROLS[row.name].said, "all", measure, row.iteration, NaN, NaN, row.value, NaN, NaN, NaN, NaN]),
    ]),
  }),
  runs: (study, state) => {
    const m = study.metrics.findIndex((metric) => metric.name === state.metric), i = study.iterations.indexOf(state.iteration);
    return {
      caption: `${labelOf(study, state.metric)} of each run at iteration ${state.iteration}`,
      head: ["layer", ...study.runs.map((run) => runName(study, run))],
      rows: study.layers.map((layer, l) => [layer.name, ...study.runs.map((_, r) => at(study.values, m, l, i, r))]),
    };
  },
};

/** A table as an element. The first column heads its rows. */
function tableElement({ caption, head, rows }) {
  const cell = (value) => (typeof value === "number" ? (Number.isInteger(value) ? String(value) : said(value, 4)) : value);
  const body = rows.map(([first, ...rest]) => element("tr", {}, element("th", { scope: "row" }, cell(first)), ...rest.map((value) => element("td", {}, cell(value)))));
  return element("table", {}, element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...head.map((name) => element("th", { scope: "col" }, name)))), element("tbody", {}, ...body));
}

/** A table as CSV. Texts that a spreadsheet would take for a formula get an apostrophe in front, as in distsim's files. */
function csv({ head, rows }) {
  const cell = (value) => {
    if (typeof value === "number") return Number.isNaN(value) ? "" : String(Number(value.toPrecision(7)));
    const text = /^[=+\-@]/.test(value) ? `'${value}` : value;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [head, ...rows].map((row) => `${row.map(cell).join(",")}\n`).join("");
}
