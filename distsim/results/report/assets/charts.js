"use strict";
// The figures. Each function takes a study, the state of the page and a width in pixels, and returns
// {figure: an element, caption: a sentence}. Colours come from style sheet variables, so that themes change them.

// Okabe and Ito's colours, which people with colour blindness can tell apart; symbols differ too. As in the PNG figures.
const LOOKS = {
  svcca: ["var(--blue)", "circle"], pwcca: ["var(--sky)", "square"], cka: ["var(--vermilion)", "triangle"],
  nbs: ["var(--orange)", "diamond"], cosine: ["var(--green)", "wye"],
};
const MORE_LOOKS = [["var(--purple)", "cross"], ["var(--ink)", "star"], ["var(--muted)", "square2"], ["var(--yellow)", "times"]];
const KINDS = {
  conv: ["circle", "convolution"], conv_res: ["triangle", "convolution in a residual branch"], add: ["diamond", "residual sum"],
  pool: ["square", "pooling"], fc: ["cross", "linear"], out: ["star", "output"],
};
const BASE = { style: { fontSize: "12px", fontFamily: "inherit", overflow: "visible" } };
const ALONG = { label: "iteration", labelAnchor: "center", labelArrow: "none", labelOffset: 34, tickFormat: "d" };
const SPREAD = { mean: "one standard deviation on either side", median: "the middle half of the runs" };

/** Colour and symbol of each metric of a study. */
function looks(study) {
  const more = study.metrics.filter((metric) => !(metric.name in LOOKS));
  return (name) => LOOKS[name] ?? MORE_LOOKS[more.findIndex((metric) => metric.name === name) % MORE_LOOKS.length];
}

/** Colour of an iteration: from far from the page's background (the last) to nearer to it (the first). */
function shade(study, dark) {
  const last = study.iterations.length - 1;
  return (step) => d3.interpolateViridis(dark ? 0.3 + 0.65 * (step / (last || 1)) : 0.82 * (1 - step / (last || 1)));
}

/** Limits of an axis of similarities: as far as the values go, or from 0. */
function limits(metric, values, axis) {
  const [low, high] = d3.extent(values.filter((value) => !Number.isNaN(value)));
  if (low === undefined) return [0, 1];
  const most = metric?.bounds[1] ?? null;
  const top = most !== null && high > most - 0.15 * Math.max(high - low, 0.05) ? Math.max(most, high) : high + 0.06 * (high - low || 1);
  if (axis === "zero") return [Math.min(0, low), most ?? top];
  return [low - 0.06 * (high - low || 0.1), top];
}

/** Text of a tick: the end of a long name, which tells layers of one network apart. */
const tick = (name) => (name.length > 14 ? `…${name.slice(-13)}` : name);

/** The axis of layers: names turned where they are too long for their room, and left out where there are too many. */
function layerAxis(study, width) {
  const domain = study.layers.map((layer) => layer.name), longest = d3.max(domain, (name) => tick(name).length) ?? 0;
  const room = (width - 60) / Math.max(1, domain.length), turned = 7 * longest + 8 > room, upright = room < 18;
  const every = Math.max(1, Math.ceil(12 / room));
  return {
    x: {
      type: "point", domain, label: null, padding: 0.3, tickFormat: tick, tickSize: 4,
      ticks: domain.filter((_, place) => place % every === 0), tickRotate: turned ? (upright ? -90 : -50) : 0,
    },
    marginBottom: turned ? (upright ? 16 + 7 * longest : 24 + 5.4 * longest) : 34,
    marginLeft: 44, marginRight: 16, marginTop: 14,
  };
}

/** Lines over the layers, one for each iteration. focus: the iteration that is drawn heavily, with its band. */
function layerPlot(study, metric, state, width, height, focus) {
  const all = cells(study, metric, state.statistic), colour = shade(study, state.dark);
  const chance = chanceOf(study, metric), shown = focus === null ? [] : all.filter((row) => row.iteration === focus);
  const about = study.metrics.find((one) => one.name === metric);
  const seen = [...all.map((row) => row.value), ...shown.flatMap((row) => [row.low, row.high])];
  const domain = limits(about, seen, state.axis);
  const place = study.iterations.indexOf(focus ?? study.iterations.at(-1)), m = study.metrics.indexOf(about);
  const references = Object.entries(study.references).map(([name, values]) =>
    study.layers.map((layer, l) => ({ name, layer: layer.name, value: at(values, m, l, place) })));
  const figure = Plot.plot({
    ...BASE, ...layerAxis(study, width), width, height, ariaLabel: `${about?.label} by layer`,
    y: { domain, label: null, grid: true, ticks: height < 220 ? 4 : 6 },
    symbol: { domain: Object.keys(KINDS), range: Object.values(KINDS).map(([symbol]) => symbol) },
    marks: [
      Plot.areaY(chance, { x: "layer", y1: "low", y2: "high", fill: "var(--chance)", stroke: "var(--chance)", strokeWidth: 3, clip: true }),
      Plot.line(all, {
        x: "layer", y: "value", z: "iteration", stroke: (row) => colour(row.step), strokeWidth: 1.4,
        strokeOpacity: focus === null ? 1 : 0.85, clip: true,
      }),
      Plot.areaY(shown, { x: "layer", y1: "low", y2: "high", fill: "var(--ink)", fillOpacity: 0.13, clip: true }),
      ...references.map((rows) => Plot.line(rows, { x: "layer", y: "value", stroke: CONTROLS[rows[0].name].colour, strokeDasharray: CONTROLS[rows[0].name].dash, strokeWidth: 2, clip: true })),
      Plot.line(shown, { x: "layer", y: "value", stroke: "var(--ink)", strokeWidth: 2.6 }),
      Plot.dot(shown, {
        x: "layer", y: "value", symbol: "kind", r: 4.5, stroke: "var(--ink)", strokeWidth: 1.5,
        fill: (row) => (row.warned > 0 ? "var(--paper)" : "var(--ink)"),
      }),
      focus === null ? null : Plot.tip(all, Plot.pointer({ x: "layer", y: "value", title: (row) => tipOf(study, row, metric), ...TIP })),
    ],
  });
  return { figure, chance, domain, all, shown, references };
}

/** How the lines of controls look, and what they are. */
const CONTROLS = {
  retrain: { colour: "var(--vermilion)", dash: "6 4", said: "retrained without pruning" },
  random: { colour: "var(--purple)", dash: "2 3", said: "pruned at random" },
};

/** What names the lines of controls; nothing if the study has none. names: those that are drawn */
function controlsKey(study, names = Object.keys(study.references)) {
  const items = names.map((name) => {
    const { colour, dash, said } = CONTROLS[name];
    const svg = d3.create("svg").attr("width", 28).attr("height", 14).attr("aria-hidden", "true");
    svg.append("path").attr("d", "M0 7H28").attr("stroke", colour).attr("stroke-width", 2).attr("stroke-dasharray", dash);
    return element("span", { class: "key" }, svg.node(), said);
  });
  return items.length ? element("p", { class: "legend" }, ...items) : "";
}

/** The sentence about the lines of controls. */
function controlsSaid(study, when) {
  return Object.keys(study.references).length ? ` Dashed and dotted: controls at ${when}.` : "";
}

const TIP = { fill: "var(--paper)", stroke: "var(--line)", maxRadius: 60, fontSize: 12 };

/** What a point says when it is pointed at. */
function tipOf(study, row, metric) {
  const beside = { null: "by chance", calibrated: "above chance", z: "z", se: "se over examples" };
  const lines = [
    `${row.layer} (${KINDS[row.kind]?.[1] ?? row.kind}), iteration ${row.iteration}`,
    `${labelOf(study, metric)}: mean ${said(row.mean)}, median ${said(row.median)}`,
    row.count > 1 ? `sd ${said(row.sd)}, ${row.count} runs` : `${row.count} run`,
    ...Object.entries(row.beside).filter(([, value]) => !Number.isNaN(value)).map(([name, value]) => `${beside[name]} ${said(value)}`),
  ];
  if (row.warned > 0) lines.push(`${row.warned} to be read with care`);
  if (row.missing > 0) lines.push(`${row.missing} missing`);
  return lines.join("\n");
}

/** A sentence on the chance level: what the grey band is, or where it lies. */
function chanceSaid(chance, domain) {
  if (!chance.length) return " The chance level was not measured.";
  const [low, high] = [d3.min(chance, (row) => row.low), d3.max(chance, (row) => row.high)];
  const range = low.toFixed(2) === high.toFixed(2) ? `at ${said(low, 2)}` : `from ${said(low, 2)} to ${said(high, 2)}`;
  const where = high < domain[0] ? `lies below the axis, ${range}` : `is the grey band, ${range}`;
  return ` The chance level (one network’s examples shuffled) ${where}.`;
}

/** The papers' figure: a panel for each of the four metrics. */
function overview(study, state, width) {
  const names = study.metrics.filter((metric) => metric.panel).map((metric) => metric.name);
  const shown = names.length ? names : study.metrics.slice(0, 4).map((metric) => metric.name);
  const columns = width > 520 && shown.length > 1 ? 2 : 1, gap = 20;
  const each = Math.floor((width - gap * (columns - 1)) / columns);
  const figure = element("div", { class: "panels", style: `grid-template-columns: repeat(${columns}, 1fr); gap: 12px ${gap}px` });
  let last = null;
  for (const name of shown) {
    last = layerPlot(study, name, { ...state, axis: "fit" }, each, 236, null);
    figure.append(element("div", {}, element("h3", {}, labelOf(study, name)), last.figure));
  }
  figure.prepend(element("div", { class: "keys", style: "grid-column: 1 / -1" }, iterationLegend(study, state), controlsKey(study)));
  const seen = shown.filter((name) => chanceOf(study, name).length);
  const chance = seen.length ? " The chance level is a grey band where it lies within a panel; the figure of one metric below says where it is." : "";
  const caption = `${capital(state.statistic)} of runs. Each panel has an axis of its own, as far as its values go.${controlsSaid(study, "the last iteration")}${chance}`;
  return { figure, caption };
}

/** Colours of iterations, as a row of swatches. */
function iterationLegend(study, state) {
  const colour = shade(study, state.dark);
  const swatches = study.iterations.map((_, step) => element("i", { style: `background:${colour(step)}` }));
  const [first, last] = [study.iterations[0], study.iterations.at(-1)];
  return element("p", { class: "legend" }, "Iteration ", String(first ?? ""), element("span", { class: "ramp" }, ...swatches), String(last ?? ""));
}

/** Accuracy and the similarity of the hidden layers along the iterations. */
function course(study, state, width) {
  const look = looks(study), accuracy = accuracyRows(study, state.statistic).filter((row) => !Number.isNaN(row.value));
  const names = study.metrics.filter((metric) => metric.panel).map((metric) => metric.name);
  const lines = names.flatMap((name) => {
    const rows = d3.group(cells(study, name, state.statistic).filter((row) => row.kind !== "out"), (row) => row.iteration);
    return Array.from(rows, ([iteration, of]) => ({ name, iteration, value: median(of.map((row) => row.value)) ?? NaN }));
  });
  const entries = [["accuracy", "var(--ink)", "circle", "test accuracy"], ...names.map((name) => [name, ...look(name), labelOf(study, name)])];
  const values = [...accuracy, ...lines].map((row) => row.value);
  const figure = Plot.plot({
    ...BASE, width, height: 420, marginLeft: 44, marginRight: 16, marginBottom: 40, ariaLabel: "Accuracy and similarity by iteration",
    x: { ...ALONG, ticks: d3.ticks(0, d3.max(study.iterations) ?? 1, 8).filter(Number.isInteger) },
    y: { label: null, grid: true, domain: [Math.min(0.95, d3.min(values) - 0.03), Math.max(1, d3.max(values))] },
    symbol: { domain: entries.map(([name]) => name), range: entries.map(([, , symbol]) => symbol) },
    marks: [
      Plot.line(lines, { x: "iteration", y: "value", z: "name", stroke: (row) => look(row.name)[0], strokeWidth: 1.6 }),
      Plot.dot(lines, { x: "iteration", y: "value", symbol: "name", stroke: (row) => look(row.name)[0], fill: (row) => look(row.name)[0], r: 3 }),
      Plot.line(accuracy, { x: "iteration", y: "value", stroke: "var(--ink)", strokeWidth: 2.8 }),
      Plot.dot(accuracy.slice(0, 1), { x: "iteration", y: "value", symbol: "diamond", r: 6, fill: "var(--paper)", stroke: "var(--ink)", strokeWidth: 2 }),
      Plot.tip([...lines, ...accuracy.map((row) => ({ ...row, name: "accuracy" }))], Plot.pointer({
        x: "iteration", y: "value", ...TIP,
        title: (row) => `${entries.find(([name]) => name === row.name)[3]}: ${said(row.value)}\niteration ${row.iteration}`,
      })),
    ],
  });
  const caption = `${capital(state.statistic)} of runs; similarities are the median over hidden layers. The diamond is the complete network.`;
  return { figure: element("div", {}, legend(entries.map(([, colour, symbol, text]) => [colour, symbol, text])), figure), caption };
}

/** A legend of symbols in their colours. */
function legend(entries) {
  const items = entries.map(([colour, symbol, text]) => {
    const path = d3.symbol(SYMBOLS[symbol], 42)();
    const svg = d3.create("svg").attr("width", 16).attr("height", 14).attr("viewBox", "-8 -7 16 14").attr("aria-hidden", "true");
    svg.append("path").attr("d", path).attr("fill", colour).attr("stroke", colour);
    return element("span", { class: "key" }, svg.node(), text);
  });
  return element("p", { class: "legend" }, ...items);
}

const SYMBOLS = {
  circle: d3.symbolCircle, square: d3.symbolSquare, triangle: d3.symbolTriangle, diamond: d3.symbolDiamond, wye: d3.symbolWye,
  cross: d3.symbolCross, star: d3.symbolStar, times: d3.symbolTimes, square2: d3.symbolSquare2,
};

/** Ticks for shares of parameters, as logarithms: 100 %, 50 %, 20 %, ... as far down as the rows go. */
function shares(rows, few) {
  const least = d3.min(rows, (row) => row.remaining), steps = few ? [1, 3] : [1, 2, 3, 5, 7];
  const every = d3.range(-5, 1).flatMap((power) => steps.map((step) => step * 10 ** power));
  return every.filter((share) => share <= 1 && share >= least * 0.98).map(Math.log10);
}

/** Accuracy against what is left, with every run behind. */
function accuracyPlot(study, state, width) {
  const rows = accuracyRows(study, state.statistic), along = state.x === "remaining" ? "logarithm" : "iteration", left = new Map(rows.map((row) => [row.iteration, row.remaining]));
  const runs = study.runs.flatMap((run, r) => study.iterations.map((iteration, i) => ({
    run: runName(study, run), iteration, remaining: left.get(iteration), logarithm: Math.log10(left.get(iteration)), value: at(study.accuracy.runs, r, i),
  })));
  const complete = rows.filter((row) => row.iteration === 0 && !Number.isNaN(row.value));
  const ends = d3.extent([...rows.flatMap((row) => [row.value, row.low, row.high]), ...runs.map((row) => row.value)].filter((value) => !Number.isNaN(value)));
  const figure = Plot.plot({
    ...BASE, width, height: 360, marginLeft: 52, marginRight: 24, marginBottom: 40, x: alongAxis(rows, state, width), ariaLabel: "Test accuracy",
    y: { label: null, grid: true, domain: [ends[0] - 0.005, Math.min(1, ends[1] + 0.005)], tickFormat: (value) => `${(100 * value).toFixed(1)} %` },
    marks: [
      Plot.line(runs, { x: along, y: "value", z: "run", stroke: "var(--muted)", strokeOpacity: 0.35, strokeWidth: 1 }),
      Plot.areaY(rows, { x: along, y1: "low", y2: "high", fill: "var(--blue)", fillOpacity: 0.18 }),
      Plot.ruleY(complete, { y: "value", stroke: "var(--ink)", strokeDasharray: "2 4" }),
      Plot.line(rows, { x: along, y: "value", stroke: "var(--blue)", strokeWidth: 2.4 }),
      Plot.dot(rows.slice(1), { x: along, y: "value", fill: "var(--blue)", r: 3.5 }),
      Plot.dot(complete, { x: along, y: "value", symbol: "diamond", r: 6, fill: "var(--paper)", stroke: "var(--ink)", strokeWidth: 2 }),
      Plot.dot(rows.filter((row) => row.iteration === state.iteration), { x: along, y: "value", r: 7, stroke: "var(--ink)", strokeWidth: 2 }),
      Plot.tip([...rows, ...runs], Plot.pointer({
        x: along, y: "value", ...TIP,
        title: (row) => [row.run ?? (row.iteration ? `${state.statistic} of ${row.count} runs` : "complete network"),
          `iteration ${row.iteration}, ${perCent(row.remaining)} left`, `accuracy ${said(row.value, 4)}`].join("\n"),
      })),
    ],
  });
  const spread = state.statistic === "median" ? "the middle half of the runs" : "two standard deviations on either side";
  const bands = rows.some((row) => !Number.isNaN(row.low)) ? `; band: ${spread}` : "; one run, so there is no band";
  return { figure, caption: `Line: ${state.statistic} of runs${bands}. Thin lines: each run. Diamond and dotted line: the complete network. Ring: the chosen iteration.` };
}

/** One metric by layer, with the chosen iteration in front. */
function layersPlot(study, state, width) {
  const { figure, chance, domain, shown, references } = layerPlot(study, state.metric, state, width, 420, state.iteration);
  const kinds = [...new Set(study.layers.map((layer) => layer.kind))];
  const key = legend(kinds.filter((kind) => KINDS[kind]).map((kind) => ["var(--ink)", KINDS[kind][0], KINDS[kind][1]]));
  const bands = shown.some((row) => !Number.isNaN(row.low)) ? `Band: ${SPREAD[state.statistic]}.` : "One run, so there is no band.";
  const hollow = shown.some((row) => row.warned > 0) ? " Hollow: some run’s value is to be read with care; the table and the part “missing” say why." : "";
  const lost = shown.some((row) => row.missing > 0) ? " Some values are missing here." : "";
  const one = study.metrics.find((metric) => metric.name === state.metric)?.bounds[1] === 1 ? " At 1 the metric finds no difference." : "";
  const dashed = references.length ? controlsSaid(study, "that iteration") : "";
  const caption = `${labelOf(study, state.metric)}, ${state.statistic} of runs. Heavy line: iteration ${state.iteration}. ${bands}${dashed}${chanceSaid(chance, domain)}${hollow}${lost}${one}`;
  return { figure: element("div", {}, element("div", { class: "keys" }, iterationLegend(study, state), key, controlsKey(study)), figure), caption };
}

/** The chosen metric as a map of layers and iterations. */
function mapPlot(study, state, width) {
  const rows = cells(study, state.metric, state.statistic), known = rows.filter((row) => !Number.isNaN(row.value));
  const [low, high] = d3.extent(known, (row) => row.value), deep = (low + high) / 2;
  const longest = d3.max(study.layers, (layer) => tick(layer.name).length) ?? 0;
  const margin = 16 + 6.6 * longest, room = (width - margin - 12) / Math.max(1, study.iterations.length);
  const figure = Plot.plot({
    ...BASE, width, height: 76 + 26 * study.layers.length, marginBottom: 44, marginLeft: margin, marginRight: 12, ariaLabel: "Map of layers and iterations",
    x: { type: "band", domain: study.iterations, ...ALONG, padding: 0, tickSize: 0, ticks: room < 18 ? study.iterations.filter((one) => one % 5 === 0) : undefined },
    y: { type: "band", domain: study.layers.map((layer) => layer.name), label: null, padding: 0, tickFormat: tick, tickSize: 0 },
    color: { type: "linear", domain: [low, high], interpolate: d3.interpolateViridis },
    marks: [
      Plot.cell(rows, { x: "iteration", y: "layer", fill: "var(--chance)", inset: 0.5 }),
      Plot.cell(known, { x: "iteration", y: "layer", fill: "value", inset: 0.5 }),
      Plot.text(rows.filter((row) => Number.isNaN(row.value)), { x: "iteration", y: "layer", text: () => "–", fill: "var(--ink)" }),
      room < 34 ? null : Plot.text(known, { x: "iteration", y: "layer", text: (row) => said(row.value, 2), fill: (row) => (row.value > deep ? "#111" : "#fff"), fontSize: 11 }),
      Plot.cell(rows.filter((row) => row.iteration === state.iteration), { x: "iteration", y: "layer", fill: "none", stroke: "var(--ink)", strokeWidth: 2 }),
      Plot.tip(rows, Plot.pointer({ x: "iteration", y: "layer", title: (row) => tipOf(study, row, state.metric), ...TIP, maxRadius: 30 })),
    ],
  });
  const stops = d3.range(0, 1.01, 0.1).map((part) => d3.interpolateViridis(part)).join(",");
  const ramp = element("p", { class: "legend" }, said(low, 2), element("span", { class: "gradient", style: `background:linear-gradient(to right,${stops})` }), said(high, 2));
  const caption = `${labelOf(study, state.metric)}, ${state.statistic} of runs. Grey with a dash: no value.`;
  return { figure: element("div", {}, ramp, figure), caption };
}

/** Similarity of the output layer, by every metric that has it. */
function outputPlot(study, state, width) {
  const look = looks(study);
  const rows = study.metrics.flatMap((metric) => cells(study, metric.name, "mean").filter((row) => row.kind === "out").map((row) => ({ ...row, name: metric.name })))
    .filter((row) => !Number.isNaN(row.value));
  if (!rows.length) return { figure: element("p", {}, "The output layer was not compared."), caption: "" };
  const names = [...new Set(rows.map((row) => row.name))];
  const figure = Plot.plot({
    ...BASE, width, height: 360, marginLeft: 44, marginRight: 16, marginBottom: 40, ariaLabel: "Similarity of the output layer",
    x: { ...ALONG, ticks: study.iterations.filter((one) => study.iterations.length < 9 || one === 1 || one % 5 === 0) },
    y: { label: null, grid: true, domain: limits({ bounds: [null, 1] }, rows.flatMap((row) => [row.value, row.low, row.high]), state.axis) },
    symbol: { domain: names, range: names.map((name) => look(name)[1]) },
    marks: [
      Plot.areaY(rows, { x: "iteration", y1: "low", y2: "high", z: "name", fill: (row) => look(row.name)[0], fillOpacity: 0.12 }),
      Plot.line(rows, { x: "iteration", y: "value", z: "name", stroke: (row) => look(row.name)[0], strokeWidth: 1.8 }),
      Plot.dot(rows, { x: "iteration", y: "value", symbol: "name", stroke: (row) => look(row.name)[0], fill: (row) => look(row.name)[0], r: 3.4 }),
      Plot.tip(rows, Plot.pointer({ x: "iteration", y: "value", title: (row) => tipOf(study, row, row.name), ...TIP })),
    ],
  });
  const bands = rows.some((row) => !Number.isNaN(row.low)) ? `band: ${SPREAD.mean}` : "one run, so there is no band";
  return {
    figure: element("div", {}, legend(names.map((name) => [...look(name), labelOf(study, name)])), figure),
    caption: `Mean of runs; ${bands}, ended at the metric’s bounds.`,
  };
}

const PREDICTIONS = {
  agreement: ["agreement", "Share of the test images for which the prediction is the complete network’s"],
  churn: ["churn", "Share of the test images for which the prediction is another than the complete network’s"],
  jsd: ["Jensen–Shannon divergence", "Mean Jensen–Shannon divergence of the softmax outputs, in bits: 0 for equal outputs, at most 1"],
};

/** The axis of what is left of the network, or of iterations, for figures along them. */
function alongAxis(rows, state, width) {
  if (state.x !== "remaining") return ALONG;
  return { ...ALONG, reverse: true, label: "parameters left", ticks: shares(rows, width < 500), tickFormat: (power) => perCent(10 ** power) };
}

/** A measure of predictions against what is left: all images, each class behind, and the controls. */
function predictionsPlot(study, state, width) {
  const [name, what] = PREDICTIONS[state.measure], along = state.x === "remaining" ? "logarithm" : "iteration";
  const every = predictionRows(study, state.measure, state.statistic), whole = every.filter((row) => row.class === "" && !Number.isNaN(row.value));
  const classes = every.filter((row) => row.class !== "" && !Number.isNaN(row.value)), controls = predictionControls(study, state.measure);
  const values = [...whole.flatMap((row) => [row.value, row.low, row.high]), ...classes.map((row) => row.value), ...controls.flat().map((row) => row.value)];
  const [low, high] = d3.extent(values.filter((value) => !Number.isNaN(value))), percent = state.measure !== "jsd";
  const domain = state.measure === "agreement" ? [Math.max(0, low - 0.01), 1] : [0, Math.min(1, 1.06 * high + 0.002)];
  const tell = (value) => (percent ? `${(100 * value).toFixed(1)} %` : said(value, 4));
  const figure = Plot.plot({
    ...BASE, width, height: 360, marginLeft: 56, marginRight: 24, marginBottom: 40, x: alongAxis(every, state, width), ariaLabel: `Predictions: ${name}`,
    y: { label: null, grid: true, domain, tickFormat: percent ? (value) => `${(100 * value).toFixed(high - low < 0.05 ? 1 : 0)} %` : undefined },
    marks: [
      Plot.line(classes, { x: along, y: "value", z: "class", stroke: "var(--muted)", strokeOpacity: 0.4, strokeWidth: 1 }),
      Plot.areaY(whole, { x: along, y1: "low", y2: "high", fill: "var(--blue)", fillOpacity: 0.18 }),
      ...controls.map((rows) => Plot.line(rows, { x: along, y: "value", stroke: CONTROLS[rows[0]?.name]?.colour, strokeDasharray: CONTROLS[rows[0]?.name]?.dash, strokeWidth: 2 })),
      Plot.line(whole, { x: along, y: "value", stroke: "var(--blue)", strokeWidth: 2.4 }),
      Plot.dot(whole, { x: along, y: "value", fill: "var(--blue)", r: 3.5 }),
      Plot.dot(whole.filter((row) => row.iteration === state.iteration), { x: along, y: "value", r: 7, stroke: "var(--ink)", strokeWidth: 2 }),
      Plot.tip([...whole, ...classes, ...controls.flat()], Plot.pointer({
        x: along, y: "value", ...TIP,
        title: (row) => [row.name ? CONTROLS[row.name].said : row.class ? `images of class ${row.class}` : "all test images",
          `iteration ${row.iteration}, ${perCent(row.remaining)} left`, `${name} ${tell(row.value)}`].join("\n"),
      })),
    ],
  });
  const bands = whole.some((row) => !Number.isNaN(row.low)) ? `Band: ${SPREAD[state.statistic]}.` : "One run, so there is no band.";
  const behind = classes.length ? " Thin lines: the images of each class." : "";
  const beside = controls.length ? " Dashed and dotted: controls, medians of runs, placed by iteration." : "";
  const caption = `${what}, ${state.statistic} of runs. ${bands}${behind}${beside} Ring: the chosen iteration.`;
  return { figure: element("div", {}, controlsKey(study, Object.keys(study.predictions.references)), figure), caption };
}

/** Every run at the chosen iteration, layer by layer. */
function runsPlot(study, state, width) {
  const m = study.metrics.findIndex((metric) => metric.name === state.metric), i = study.iterations.indexOf(state.iteration);
  const last = Math.max(1, study.runs.length - 1);
  const rows = study.layers.flatMap((layer, l) => study.runs.map((run, r) => ({
    layer: layer.name, at: l + (study.runs.length > 1 ? 0.56 * (r / last - 0.5) : 0), run: runName(study, run), complete: String(run.complete), value: at(study.values, m, l, i, r),
  })));
  const middle = study.layers.map((layer, l) => ({ x1: l - 0.34, x2: l + 0.34, value: at(study.summary.median, m, l, i) }));
  const axis = layerAxis(study, width), complete = [...new Set(rows.map((row) => row.complete))];
  const symbols = ["circle", "square", "triangle", "diamond", "star", "wye"], colours = ["var(--blue)", "var(--vermilion)", "var(--green)", "var(--purple)", "var(--orange)", "var(--sky)"];
  const colour = (row) => colours[complete.indexOf(row.complete) % colours.length];
  const figure = Plot.plot({
    ...BASE, ...axis, width, height: 360, ariaLabel: "Runs by layer",
    x: { domain: [-0.5, study.layers.length - 0.5], ticks: axis.x.ticks.map((name) => axis.x.domain.indexOf(name)), tickFormat: (l) => tick(study.layers[l].name), label: null, tickRotate: axis.x.tickRotate },
    y: { label: null, grid: true, domain: limits(study.metrics[m], rows.map((row) => row.value), state.axis) },
    symbol: { domain: complete, range: complete.map((_, place) => symbols[place % symbols.length]) },
    marks: [
      Plot.ruleY(middle, { y: "value", x1: "x1", x2: "x2", stroke: "var(--ink)", strokeWidth: 2 }),
      Plot.dot(rows, { x: "at", y: "value", symbol: "complete", r: 3.6, stroke: colour, fill: colour, fillOpacity: 0.55 }),
      Plot.tip(rows, Plot.pointer({ x: "at", y: "value", title: (row) => `${row.layer}\n${row.run}: ${said(row.value)}`, ...TIP })),
    ],
  });
  const key = complete.length > 1 ? legend(complete.map((name, place) => [colours[place % colours.length], symbols[place % symbols.length], `from complete network ${name}`])) : "";
  const caption = `${labelOf(study, state.metric)} of each run at iteration ${state.iteration}, in the order of the runs. Bars: medians.`;
  return { figure: element("div", {}, key, figure), caption };
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);

/** An element with attributes and children; texts become text nodes, so nothing in them is markup. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

const CHARTS = { overview, course, accuracy: accuracyPlot, layers: layersPlot, map: mapPlot, output: outputPlot, predictions: predictionsPlot, runs: runsPlot };
