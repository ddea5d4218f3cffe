// The page: it asks its backend (/demo/…) for reports, and shows what their events tell.

import { Follower } from "./follow.js";
import { nodesOf } from "./report.js";

const TENANT = 42;
const POOR_TENANT = 43;
const MOST_ROWS = 12;
const MOST_EVENTS = 100;
const EXAMPLES = [
  { name: "Tuesday in a coffee shop", period: "Tuesday", rows: [["coffees", 320, 960], ["teas", 85, 212], ["cakes", 41, 164]] },
  { name: "A week in a bakery", period: "last week", rows: [["loaves", 1240, 3720], ["rolls", 5100, 2040], ["birthday cakes", 18, 630], ["sandwiches", 310, 1395]] },
  { name: "A slow month in a bookshop", period: "February", rows: [["novels", 96, 1440], ["cookbooks", 11, 319], ["calendars", 2, 18]] },
];
const SAYS = {
  queued: "Queued: a worker takes it when it is its turn.",
  processing: "Processing: the model is writing.",
  complete: "Complete.",
  failed: "Failed.",
  cancelled: "Cancelled.",
};

const $ = (id) => document.getElementById(id);
/** By tenant, what resolves once its events are followed. */
const followers = new Map();
const connections = new Map();
/** The report under way or shown last: `{tenant, jobId, early, first, isOver}`. */
let run = null;

// What the backend is asked.

class Refused extends Error {}

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(`/demo${path}`, options);
  const told = await answer.json();
  if (!answer.ok) throw new Refused(told.message);
  return told;
}

/** Returns what follows a tenant's events, once it does. */
function following(tenant) {
  if (!followers.has(tenant)) {
    const follower = new Follower({
      getToken: async () => (await ask("/token", { tenant_id: tenant })).token,
      onEvent: (event, position) => take(tenant, event, position),
      onState: (state) => {
        connections.set(tenant, state);
        if (tenant === run?.tenant) showConnection(state);
      },
      onGap: () => tenant === run?.tenant && run.jobId && readAnew(run),
    });
    const opened = follower.open();
    followers.set(tenant, opened);
    // Where it could not be begun, the next try begins anew.
    opened.catch(() => followers.delete(tenant));
  }
  return followers.get(tenant);
}

// A report, from the button to its end.

async function generate(tenant) {
  if (run && !run.isOver) return;
  if (!$("form").reportValidity()) return;
  run = { tenant, jobId: null, early: [], first: null, isOver: false };
  begin();
  const mine = run;
  try {
    // Followed before it is asked for, so that its first event is not missed.
    await following(tenant);
    showConnection(connections.get(tenant));
    const { job_id } = await ask("/reports", { tenant_id: tenant, period: $("period").value, sales: sales() });
    mine.jobId = job_id;
    mine.early.splice(0).forEach(([event, position]) => take(tenant, event, position));
  } catch (error) {
    end("failed", error instanceof Refused ? error.message : "The demo does not answer; is it still running?");
  }
}

function take(tenant, event, position) {
  if (run?.tenant !== tenant) return;
  if (run.jobId === null) {
    run.early.push([event, position]);
    return;
  }
  logEvent(event, position);
  if (event.subject !== run.jobId || run.isOver) return;
  run.first ??= Date.parse(event.time);
  showState(event.data.status, Date.parse(event.time) - run.first);
  if (["complete", "failed", "cancelled"].includes(event.data.status)) finish(run);
}

async function finish(mine) {
  mine.isOver = true;
  try {
    const told = await ask(`/reports/${mine.tenant}/${mine.jobId}`);
    if (mine === run) showResult(told);
  } catch (error) {
    end("failed", error.message);
  }
}

/** Reads where a report is, when events that told of it may have been missed. */
async function readAnew(mine) {
  const told = await ask(`/reports/${mine.tenant}/${mine.jobId}`);
  if (mine !== run || mine.isOver) return;
  showState(told.status, null);
  if (told.text !== undefined || told.error) finish(mine);
}

// What is shown.

function begin() {
  $("result").setAttribute("aria-busy", "true");
  for (const button of [$("generate"), $("generate-poor")]) button.setAttribute("aria-disabled", "true");
  $("events").replaceChildren();
  $("receipt").hidden = true;
  $("report").replaceChildren(paragraph("empty", "It will stand here."));
  $("end").textContent = "Complete";
  for (const when of document.querySelectorAll(".steps .when")) when.textContent = "–";
  $("steps").dataset.state = "asking";
  say("Asking for it.");
  startClock();
  const isInView = $("progress").getBoundingClientRect().top < window.innerHeight * 0.6;
  if (!isInView) $("progress").scrollIntoView({ block: "start" });
}

function showState(state, afterMs) {
  const step = { queued: "queued", processing: "processing" }[state] ?? "over";
  $("steps").dataset.state = state;
  const when = document.querySelector(`[data-step=${step}] .when`);
  when.textContent = afterMs === null ? "" : seconds(afterMs);
  if (step === "over") $("end").textContent = state[0].toUpperCase() + state.slice(1);
  say(SAYS[state]);
}

function showResult(told) {
  showBudget(told.budget);
  if (told.text === undefined) {
    end(told.status, told.message, told);
    return;
  }
  $("report").replaceChildren(...nodesOf(told.text));
  const row = told.receipt;
  showReceipt([
    ["Cost", row.cost, "the ledger’s, to the billionth of a dollar"],
    ["Tokens", `${row.input_tokens} read, ${row.output_tokens} written`, told.model],
    ["Tries", told.attempts, "each try asks under the same key, and is paid once"],
    ["Left", `${told.budget.left} of ${told.budget.cap}`, `${told.budget.name}’s budget of this month`],
    ["Ledger row", `no. ${row.row}, ${row.status}`, `hash ${row.row_hash.slice(0, 16)}…, of ${row.request_id}`],
  ]);
  stop();
  say(`Complete. It cost ${row.cost}.`);
}

/** Shows why there is no report. */
function end(state, message, told) {
  run.isOver = true;
  $("steps").dataset.state = state;
  $("report").replaceChildren(paragraph("problem", told?.error ? `${told.error}: ${message}` : message));
  if (told) {
    showReceipt([
      ["Cost", "$0.00", "no call was made, so that the ledger has no row of it"],
      ["Calls", told.calls, `${told.budget.name}’s, of this month, to any model`],
      ["Tries", told.attempts, "a refusal for the budget is final"],
      ["Left", `${told.budget.left} of ${told.budget.cap}`, `${told.budget.name}’s budget of this month`],
    ]);
  }
  stop();
  say(told?.error === "ai_budget_exceeded" ? "Failed: it does not fit what is left of the budget." : "Failed.");
}

function stop() {
  stopClock();
  $("result").setAttribute("aria-busy", "false");
  for (const button of [$("generate"), $("generate-poor")]) button.removeAttribute("aria-disabled");
}

function showReceipt(lines) {
  $("receipt").replaceChildren(...lines.flatMap(([name, value, note]) => {
    const [term, description, small] = ["dt", "dd", "small"].map((each) => document.createElement(each));
    term.textContent = name;
    small.textContent = note;
    description.append(`${value} `, small);
    return [term, description];
  }));
  $("receipt").hidden = false;
}

function logEvent(event, position) {
  const line = document.createElement("li");
  const [number, type, status] = ["code", "b", "span"].map((each) => document.createElement(each));
  number.textContent = `id ${position}`;
  type.textContent = event.type;
  status.textContent = event.data.status ?? "";
  line.append(number, " ", type, " ", status);
  $("events").append(line);
  while ($("events").childElementCount > MOST_EVENTS) $("events").firstElementChild.remove();
  $("events").scrollTop = $("events").scrollHeight;
}

function showConnection(state) {
  $("connection").dataset.state = state;
  $("connection").textContent = { connecting: "connecting", live: "live", resuming: "reconnecting" }[state];
}

async function showBudgets() {
  for (const each of await ask("/budgets")) showBudget(each);
}

function showBudget({ tenant_id, name, cap, left, part_left }) {
  const id = `budget-${tenant_id}`;
  const box = $(id) ?? $("budgets").appendChild(document.createElement("div"));
  const [title, amount, meter] = ["b", "span", "meter"].map((each) => document.createElement(each));
  title.id = `${id}-name`;
  title.textContent = name;
  amount.textContent = `${left} of ${cap}`;
  meter.value = part_left;
  meter.setAttribute("aria-labelledby", title.id);
  box.id = id;
  box.replaceChildren(title, amount, meter);
}

function say(text) {
  $("status").textContent = text;
}

let ticking = null;
function startClock() {
  const from = performance.now();
  ticking = setInterval(() => { $("clock").textContent = seconds(performance.now() - from); }, 100);
}
function stopClock() {
  clearInterval(ticking);
  $("clock").textContent = "";
}

function seconds(ms) {
  return `${(ms / 1000).toFixed(1)} s`;
}

function paragraph(name, text) {
  const node = document.createElement("p");
  node.className = name;
  node.textContent = text;
  return node;
}

// The data.

function addRow([item, sold, revenue] = ["", "", ""]) {
  const row = $("row").content.firstElementChild.cloneNode(true);
  const inputs = row.querySelectorAll("input");
  [item, sold, revenue].forEach((value, index) => { inputs[index].value = value; });
  row.querySelector(".remove").addEventListener("click", () => {
    const next = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    next.querySelector(".remove").focus();
    boundRows();
  });
  $("rows").append(row);
  boundRows();
  return row;
}

function boundRows() {
  const count = $("rows").childElementCount;
  $("add").disabled = count >= MOST_ROWS;
  for (const button of document.querySelectorAll(".remove")) button.disabled = count <= 1;
}

function sales() {
  return [...$("rows").children].map((row) => {
    const [item, sold, revenue] = [...row.querySelectorAll("input")].map((input) => input.value);
    return { item: item.trim(), sold: Number(sold), revenue: Number(revenue) };
  });
}

function showExample({ period, rows }) {
  $("period").value = period;
  $("rows").replaceChildren();
  rows.forEach(addRow);
}

EXAMPLES.forEach(({ name }) => $("example").append(new Option(name)));
$("example").addEventListener("change", () => showExample(EXAMPLES[$("example").selectedIndex]));
$("add").addEventListener("click", () => addRow().querySelector("input").focus());
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  generate(TENANT);
});
$("generate-poor").addEventListener("click", () => generate(POOR_TENANT));
showExample(EXAMPLES[0]);
showBudgets();
