// The page's own part of the proof check: fetch the bundle, ask a node, tell each stage and the result in plain words.

import { Refused, askNode, missing, questionsOf, readBundle, verifyBundle } from "./verify.js";

const panel = document.getElementById("proof");
const words = JSON.parse(panel.dataset.words);
const steps = document.getElementById("proof-steps");
const result = document.getElementById("proof-result");
const facts = document.getElementById("proof-facts");
const form = document.getElementById("proof-form");
const button = document.getElementById("proof-run");
const tile = document.getElementById("evidence-tile");
const STAGES = ["fetch", "node", "anchor", "checkpoint", "entries", "records", "histories", "signatures"];

const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");

function show(stage, state) {
  let row = steps.querySelector(`[data-stage=${stage}]`);
  if (!row) {
    row = document.createElement("li");
    row.dataset.stage = stage;
    row.textContent = words[stage];
    steps.append(row);
  }
  row.dataset.state = state;
}

function fact(name, value) {
  const [term, text] = [document.createElement("dt"), document.createElement("dd")];
  term.textContent = name;
  text.textContent = value;
  facts.append(term, text);
}

function end(tone, title, lines) {
  result.className = `note ${tone}`;
  result.dataset.outcome = tone;
  result.replaceChildren(...[title, ...lines].map((line, at) => {
    const part = document.createElement(at ? "span" : "strong");
    part.textContent = at ? ` ${line}` : line;
    return part;
  }));
  result.hidden = false;
  tile.className = tone;
  tile.textContent = title;
}

async function fetchBundle() {
  const response = await fetch(panel.dataset.bundle, { credentials: "same-origin", cache: "no-store" });
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Refused(problem.code ?? "no_bundle", problem.detail ?? words.no_bundle);
  }
  return new Uint8Array(await response.arrayBuffer());
}

/** How many entries the log has beyond a size, by the operator's newest checkpoint; 0 when it does not say. */
async function grownBy(size) {
  const note = await fetch("/log/checkpoint", { credentials: "omit", cache: "no-store" }).then((answer) => (answer.ok ? answer.text() : ""), () => "");
  return Math.max(0, Number(/^[^\n]+\n([0-9]{1,15})\n/.exec(note)?.[1] ?? 0) - size);
}

function tell(report, { lacksEd25519, newer }) {
  const time = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "medium" }).format(new Date(report.time * 1000));
  const lines = [];
  lines.push(report.completeness === "cosigned" ? fill(words.cosigned, { mirrors: report.mirrors.join(", "), time }) : fill(words.operator, { time }));
  if (lacksEd25519) lines.push(words.no_ed25519);
  const strangers = report.cosigners.filter((name) => !report.mirrors.includes(name));
  if (strangers.length) lines.push(fill(words.strangers, { names: strangers.join(", ") }));
  if (newer) lines.push(fill(words.older, { count: newer }));
  if (report.coverage !== "whole") lines.push(words[`coverage_${report.coverage}`]);
  for (const [number, size] of report.predecessors) lines.push(fill(words.predecessor, { number, size }));
  if (report.other_logs > 0) lines.push(fill(words.other_logs, { count: report.other_logs }));
  const suspects = report.events.filter((event) => event.is_suspect).length;
  if (suspects) lines.push(fill(words.suspects, { count: suspects }));
  if (report.hidden) lines.push(fill(words.hidden, { count: report.hidden }));
  if (report.hidden_related) lines.push(fill(words.hidden_related, { count: report.hidden_related }));
  if (report.unnamed) lines.push(fill(words.unnamed, { count: report.unnamed }));
  facts.replaceChildren();
  fact(words.fact_events, String(report.events.length));
  fact(words.fact_log, `${report.origin} · ${report.size}`);
  fact(words.fact_root, report.root);
  fact(words.fact_contract, `${report.contract} · ${report.chain_id}`);
  if (report.block) fact(words.fact_block, `${report.block.number} · ${report.block.hash.slice(0, 18)}…`);
  fact(words.fact_time, time);
  facts.hidden = false;
  end(suspects ? "warn" : "good", words.passed, lines);
}

async function check() {
  button.disabled = true;
  steps.replaceChildren();
  result.hidden = facts.hidden = true;
  let stage = "fetch";
  try {
    const lack = await missing();
    if (lack === "insecure") { end("warn", words.lack_insecure, []); return; }
    const lacksEd25519 = lack === "ed25519";
    show(stage, "busy");
    const bundle = readBundle(await fetchBundle());
    const asked = questionsOf(bundle);
    show(stage, "done");
    stage = "node";
    show(stage, "busy");
    const answers = await askNode(form.node.value.trim() || panel.dataset.node, asked);
    show(stage, "done");
    stage = "anchor";
    show(stage, "busy");
    const policy = { log_contract: panel.dataset.contract, mirrors: panel.dataset.mirrors.split(" ").filter(Boolean), lacks_ed25519: lacksEd25519 };
    const report = await verifyBundle(bundle, answers, policy, (passed) => {
      if (!STAGES.includes(passed)) return;
      show(passed, "done");
      stage = STAGES[STAGES.indexOf(passed) + 1] ?? passed;
      if (stage !== passed) show(stage, "busy");
    });
    show("signatures", "done");
    tell(report, { lacksEd25519, newer: await grownBy(report.size) });
  } catch (error) {
    show(stage, "failed");
    if (error instanceof Refused && !["node_away", "node_error"].includes(error.code)) {
      const waits = ["not_anchored_yet", "no_bundle", "unavailable"].includes(error.code);
      end(waits ? "warn" : "bad", waits ? words.waiting : words.failed, [words[`code_${error.code}`] ?? error.message, `[${error.code}]`]);
    } else end("warn", words.unreachable, [error.message]);
  } finally {
    button.disabled = false;
    button.textContent = words.again;
  }
}

panel.hidden = false;
form.addEventListener("submit", (event) => { event.preventDefault(); check(); });
check();
