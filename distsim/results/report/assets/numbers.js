"use strict";
// The numbers of the page: they are written into it as typed arrays, and read here.

const DATA = JSON.parse(document.getElementById("data").textContent);
const studies = new Map(DATA.problems.map((study) => [study.problem, decoded(study)]));

/** An array as {shape, values}. Its bytes are little-endian, as those of every processor with a browser are. */
function array({ dtype, shape, data }) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const values = dtype === "uint16" ? new Uint16Array(bytes.buffer) : new Float32Array(bytes.buffer);
  return { shape, values };
}

/** The same tree with every packed array in it unpacked. */
function decoded(tree) {
  if (tree === null || typeof tree !== "object") return tree;
  if ("dtype" in tree) return array(tree);
  if (Array.isArray(tree)) return tree.map(decoded);
  return Object.fromEntries(Object.entries(tree).map(([name, value]) => [name, decoded(value)]));
}

/** The number at a place of an array, NaN if there is no such array. */
function at(array, ...place) {
  if (!array) return NaN;
  return array.values[place.reduce((sum, index, axis) => sum * array.shape[axis] + index, 0)];
}

/** A row for each layer and iteration of a metric: everything that is known of it. */
function cells(study, metric, statistic) {
  const m = study.metrics.findIndex((one) => one.name === metric);
  return study.layers.flatMap((layer, l) =>
    study.iterations.map((iteration, i) => {
      const of = (name) => at(study.summary[name], m, l, i);
      const beside = Object.fromEntries(Object.entries(study.beside).map(([name, values]) => [name, at(values, m, l, i)]));
      const [low, high] = band(study.metrics[m], statistic, of);
      return {
        layer: layer.name, kind: layer.kind, place: l, iteration, step: i, value: of(statistic), low, high,
        mean: of("mean"), median: of("median"), sd: of("sd"), q25: of("q25"), q75: of("q75"),
        ciLow: of("ci_low"), ciHigh: of("ci_high"),
        count: of("count"), missing: of("missing"), warned: of("warned"), beside,
      };
    }),
  );
}

/** The band of a row: the middle half of the runs about a median, one standard deviation about a mean. */
function band(metric, statistic, of) {
  if (of("count") < 2) return [NaN, NaN];
  const ends = statistic === "median" ? [of("q25"), of("q75")] : [of("mean") - of("sd"), of("mean") + of("sd")];
  const [least, most] = metric ? metric.bounds : [0, 1];
  return [least === null ? ends[0] : Math.max(least, ends[0]), most === null ? ends[1] : Math.min(most, ends[1])];
}

/** The median of the numbers among some values. */
const median = (values) => d3.median(values.filter((value) => !Number.isNaN(value)));

/** What the layers of a metric are by chance: {low, median, high} by layer, or nothing. */
function chanceOf(study, metric) {
  const m = study.metrics.findIndex((one) => one.name === metric);
  if (!study.chance.low) return [];
  const rows = study.layers.map((layer, l) => ({
    layer: layer.name,
    ...Object.fromEntries(["low", "median", "high"].map((name) => [name, at(study.chance[name], m, l)])),
  }));
  return rows.filter((row) => !Number.isNaN(row.low));
}

/** A row for each iteration of the accuracy, 0 first. */
function accuracyRows(study, statistic) {
  return [0, ...study.iterations].map((iteration, i) => {
    const of = (name) => at(study.accuracy[name], i);
    const half = statistic === "median" ? null : 2 * of("sd");
    const [low, high] = half === null ? [of("q25"), of("q75")] : [of("mean") - half, of("mean") + half];
    const several = of("count") > 1 && iteration > 0;
    return {
      iteration, remaining: of("remaining"), logarithm: Math.log10(of("remaining")), value: of(statistic), mean: of("mean"), median: of("median"), sd: of("sd"),
      count: of("count"), low: several ? Math.max(0, low) : NaN, high: several ? Math.min(1, high) : NaN,
    };
  });
}

/** A row for each class and iteration of a measure of predictions. The class "" is all images. */
function predictionRows(study, measure, statistic) {
  const { measures, classes, summary } = study.predictions, m = measures.indexOf(measure);
  return classes.flatMap((name, c) => study.iterations.map((iteration, i) => {
    const of = (column) => at(summary[column], m, c, i), remaining = at(study.accuracy.remaining, i + 1);
    const [low, high] = band({ bounds: [0, 1] }, statistic, of);
    return {
      class: name, iteration, remaining, logarithm: Math.log10(remaining), value: of(statistic), low, high,
      mean: of("mean"), median: of("median"), sd: of("sd"), q25: of("q25"), q75: of("q75"), count: of("count"),
    };
  }));
}

/** The medians of each control, of all images: a list of rows for each. They stand where the pruned networks do. */
function predictionControls(study, measure) {
  const m = study.predictions.measures.indexOf(measure);
  return Object.entries(study.predictions.references).map(([name, values]) => study.iterations.map((iteration, i) => {
    const remaining = at(study.accuracy.remaining, i + 1);
    return { name, iteration, remaining, logarithm: Math.log10(remaining), value: at(values, m, i) };
  }).filter((row) => !Number.isNaN(row.value)));
}

/** Text of a number for a reader: ".871" as 0.871; a missing one as a dash. */
const said = (value, digits = 3) => (value === null || Number.isNaN(value) ? "–" : value.toFixed(digits));
/** A share in per cent, with two digits that count. */
const perCent = (share) => `${share >= 0.0995 ? Math.round(100 * share) : Number((100 * share).toPrecision(2))} %`;

/** A run in words. */
function runName(study, run) {
  const several = new Set(study.runs.map((one) => one.complete)).size > 1;
  return several ? `run ${run.run} from complete network ${run.complete}` : `run ${run.run}`;
}

const labelOf = (study, name) => study.metrics.find((metric) => metric.name === name)?.label ?? name;
