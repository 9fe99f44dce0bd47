"use strict";
// What the page shows, and how that is chosen: by the controls, or by the part of the address after #.

const state = { problem: "", metric: "", iteration: NaN, statistic: "mean", axis: "fit", x: "remaining", measure: "agreement", view: "", dark: false };
const PAPER = 680; // pixels between the margins of a page
const KEPT = ["problem", "metric", "iteration", "statistic", "axis", "x"]; // in a permalink
const has = (name) => Object.keys(study()[name]).length > 0; // whether the study has what some parts need
const find = (id) => document.getElementById(id);
const study = () => studies.get(state.problem);
const views = [...document.querySelectorAll(".view")];
const dark = matchMedia("(prefers-color-scheme: dark)");
let chosenTheme = null; // by the button; null: the system's
let onPaper = false; // while it is printed

/** Take over what an address asks for, as far as there is such a thing. */
function read(address) {
  const asked = Object.fromEntries(new URLSearchParams(address.replace(/^#/, "")));
  state.problem = studies.has(asked.problem) ? asked.problem : state.problem || studies.keys().next().value;
  const { metrics, iterations, statistic, first } = study();
  const known = (name, among, otherwise) => (among.includes(asked[name]) ? asked[name] : otherwise);
  const names = metrics.map((metric) => metric.name);
  state.metric = known("metric", names, names.includes(state.metric) ? state.metric : first);
  const iteration = Number(asked.iteration ?? state.iteration);
  state.iteration = iterations.includes(iteration) ? iteration : (iterations.at(-1) ?? 0);
  state.statistic = known("statistic", ["mean", "median"], state.statistic ?? statistic);
  state.axis = known("axis", ["fit", "zero"], state.axis);
  state.x = known("x", ["remaining", "iteration"], state.x);
  state.measure = known("measure", Object.keys(PREDICTIONS), state.measure);
  state.view = known("view", views.map((view) => view.dataset.view), "");
}

/** The address of what is shown; view: of one figure. */
function address(view = "") {
  const parts = new URLSearchParams([...KEPT, ...(has("predictions") ? ["measure"] : [])].map((name) => [name, state[name]]));
  if (view) parts.set("view", view);
  return `#${parts}`;
}

/** Bring the controls, the texts and the figures in line with the state. */
function show() {
  for (const part of document.querySelectorAll("[data-problem]")) part.hidden = part.dataset.problem !== state.problem;
  for (const part of document.querySelectorAll("[data-needs]")) part.hidden = !has(part.dataset.needs);
  fill(find("problem"), [...studies.values()].map((one) => [one.problem, `${one.problem}: ${one.title}`]), state.problem);
  document.querySelector("[data-control=problem]").hidden = studies.size < 2;
  fill(find("metric"), study().metrics.map((metric) => [metric.name, metric.label]), state.metric);
  find("statistic").value = state.statistic;
  const slider = find("iteration"), { iterations } = study();
  slider.max = iterations.length;
  slider.value = iterations.indexOf(state.iteration) + 1;
  const left = at(study().accuracy.remaining, iterations.indexOf(state.iteration) + 1);
  find("iteration-said").textContent = Number.isNaN(left) ? state.iteration : `${state.iteration} · ${perCent(left)} left`;
  slider.setAttribute("aria-valuetext", find("iteration-said").textContent);
  for (const radio of document.querySelectorAll("input[type=radio]")) radio.checked = state[radio.name] === radio.value;
  draw();
}

/** Set the choices of a menu, and which of them is chosen. */
function fill(menu, choices, chosen) {
  menu.replaceChildren(...choices.map(([value, text]) => element("option", { value }, text)));
  menu.value = chosen;
}

function draw() {
  state.dark = !onPaper && (chosenTheme ?? (dark.matches ? "dark" : "light")) === "dark";
  document.documentElement.dataset.theme = state.dark ? "dark" : "light";
  find("theme").textContent = state.dark ? "Light" : "Dark";
  find("theme").setAttribute("aria-pressed", String(state.dark));
  for (const view of views) if (!view.hidden) drawView(view);
}

function drawView(view) {
  const name = view.dataset.view, place = view.querySelector(".plot");
  const empty = !study().metrics.length && !["accuracy", "course", "predictions"].includes(name);
  const width = onPaper ? PAPER : Math.max(240, Math.floor(place.clientWidth)); // narrower, axes would have no room
  const { figure, caption } = empty ? { figure: element("p", {}, "Nothing was compared yet."), caption: "" } : CHARTS[name](study(), state, width);
  place.replaceChildren(figure);
  view.querySelector("figcaption").textContent = caption;
  view.querySelector(".permalink").href = address(name);
  const table = view.querySelector("details");
  if (table.open) tableOf(view, table);
}

/** Write the table behind a figure, which is made when it is opened. */
function tableOf(view, details) {
  details.querySelector(".scroll").replaceChildren(tableElement(TABLES[view.dataset.view](study(), state)));
}

function download(view) {
  const name = view.dataset.view;
  const url = URL.createObjectURL(new Blob([csv(TABLES[name](study(), state))], { type: "text/csv" }));
  const link = element("a", { href: url, download: `${state.problem}-${name}.csv` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Give each view its figure, caption, table and links. */
function build() {
  for (const view of views) {
    const title = view.querySelector("h2").textContent;
    const save = element("button", { type: "button" }, "Download CSV");
    const details = element("details", { class: "data" }, element("summary", {}, "Table"),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Table: ${title}` }), save);
    details.addEventListener("toggle", () => details.open && tableOf(view, details));
    save.addEventListener("click", () => download(view));
    const link = element("a", { class: "permalink", href: "#" }, "Link to this view");
    view.append(element("figure", {}, element("div", { class: "plot" }), element("figcaption", {})), element("div", { class: "foot" }, link, details));
  }
}

/** Change the state, the address with it, and show it. */
function choose(change) {
  Object.assign(state, change);
  history.replaceState(null, "", address());
  read(location.hash);
  show();
}

function listen() {
  for (const name of ["problem", "metric", "statistic"]) find(name).addEventListener("change", (event) => choose({ [name]: event.target.value }));
  find("iteration").addEventListener("input", (event) => choose({ iteration: study().iterations[event.target.value - 1] }));
  for (const radio of document.querySelectorAll("input[type=radio]")) radio.addEventListener("change", () => choose({ [radio.name]: radio.value }));
  find("controls").addEventListener("submit", (event) => event.preventDefault());
  find("theme").addEventListener("click", () => { chosenTheme = state.dark ? "light" : "dark"; draw(); });
  dark.addEventListener("change", draw);
  addEventListener("hashchange", arrive);
  let width = document.querySelector("main").clientWidth;
  new ResizeObserver(([{ target }]) => { if (target.clientWidth !== width) { width = target.clientWidth; draw(); } }).observe(document.querySelector("main"));
  // On paper the page is light, and figures are as wide as the paper.
  const paper = (on) => () => { onPaper = on; draw(); };
  addEventListener("beforeprint", paper(true));
  addEventListener("afterprint", paper(false));
}

/** Show what the address asks for, and go to its figure. An address like #claims only goes there. */
function arrive() {
  if (location.hash.includes("=")) {
    read(location.hash);
    show();
    if (state.view) find(state.view).scrollIntoView();
  }
}

build();
state.statistic = null; // the first study's own, until one is chosen
read(location.hash.includes("=") ? location.hash : "");
show();
listen();
if (state.view) find(state.view).scrollIntoView();
