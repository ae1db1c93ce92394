// Agents: a task, a model and tools; the trace as it grows, and leave for calls that ask for it.
import { Busy, Empty, Failure, Field, api, go, html, link, number, say, useApi, useEffect, useRef, useState } from "../parts.js";
import { styles } from "../styles.js";

await styles("pages/agents.css");

export const title = "Agents";
const EXAMPLE = "What is 17.5 % of 2480?";
const ASKS = { effects: "that change something, or ask the web", always: "of every kind", never: "never" };

export function Page({ params }) {
  const { data, error, again } = useApi("/studio/api/agents/");
  if (!data) return html`<${Failure} error=${error} again=${again} />${!error && html`<${Busy} />`}`;
  if (!data.models.length) {
    return html`<${Empty}>No model here can call tools: that takes a decoder with a chat template. Fetch one on the page of${" "}
      <a href=${link("models")}>models</a>.<//>`;
  }
  const wanted = params.get("model");
  const chosen = data.models.find((one) => one.name === wanted) ?? data.models[0];
  return html`<${Work} models=${data.models} chosen=${chosen} tools=${data.tools} trace=${params.get("trace")} />`;
}

const NEW = { busy: false, id: null, task: null, steps: [], end: null, error: null, cancelled: false };

function Work({ models, chosen, tools, trace }) {
  const [asked, setAsked] = useState({
    task: EXAMPLE,
    tools: tools.filter((one) => one.safe).map((one) => one.name),
    ...{ system: "", max_steps: 10, max_new_tokens: 512, temperature: 0, ask: "effects" },
  });
  const [run, setRun] = useState(null);
  const earlier = useApi("/studio/api/agents/traces");
  const leaving = useRef(null);
  useEffect(() => () => leaving.current?.abort(), []);
  useEffect(() => {
    if (!trace) return;
    leaving.current?.abort();
    const mine = (leaving.current = new AbortController());
    api.get(`/studio/api/agents/traces/${encodeURIComponent(trace)}`, { signal: mine.signal }).then(
      ({ task, events }) => setRun(events.reduce((one, news) => ({ ...one, ...grown(one, news) }), { ...NEW, task })),
      (error) => error.name !== "AbortError" && setRun({ ...NEW, error }),
    );
  }, [trace]);
  const busy = run?.busy ?? false;

  async function begin(event) {
    event.preventDefault();
    const mine = (leaving.current = new AbortController());
    if (trace) go("agents", { model: chosen.name }, { replace: true });
    setRun({ ...NEW, busy: true });
    const put = (change) => mine === leaving.current && setRun((one) => ({ ...one, ...change(one) }));
    try {
      if (!chosen.served) await api.post("/studio/api/models/serve", { name: chosen.name }, { signal: mine.signal });
      const body = { model: chosen.name, ...asked };
      for await (const news of api.stream("/studio/api/agents/run", body, { signal: mine.signal })) {
        put((one) => grown(one, news));
        if (news.kind === "ask") say(`${news.call.name} asks for leave.`);
        if (news.kind === "end") say(news.answer ? "The agent has answered." : "The agent has ended.");
      }
    } catch (error) {
      put(() => (error.name === "AbortError" ? { cancelled: true } : { error }));
    } finally {
      put(() => ({ busy: false }));
      earlier.again();
    }
  }

  const change = (changes) => setAsked({ ...asked, ...changes });
  const flip = (name) =>
    change({ tools: asked.tools.includes(name) ? asked.tools.filter((one) => one !== name) : [...asked.tools, name] });
  const numeric = (name, label, more) => html`<${Field} id=${name} label=${label}>
    <input id=${name} type="number" ...${more} required value=${asked[name]}
      onInput=${(event) => change({ [name]: event.target.value === "" ? "" : Number(event.target.value) })} />
  <//>`;
  return html`<div class="side agents">
    <form class="card" onSubmit=${begin}>
      <${Field} id="model" label="Model">
        <select id="model" value=${chosen.name} disabled=${busy} onChange=${(event) => go("agents", { model: event.target.value }, { replace: true })}>
          ${models.map(({ name, served }) => html`<option key=${name} value=${name}>${name}${served ? "" : " (not served yet)"}</option>`)}
        </select>
      <//>
      <${Field} id="task" label="Task">
        <textarea id="task" required value=${asked.task} onInput=${(event) => change({ task: event.target.value })}></textarea>
      <//>
      <fieldset>
        <legend>Tools</legend>
        ${tools.map((one) => html`<label class="check" key=${one.name}>
          <input type="checkbox" checked=${asked.tools.includes(one.name)} onChange=${() => flip(one.name)} />
          <span>${one.name} <small>${one.about}</small></span>
        </label>`)}
      </fieldset>
      <${Field} id="ask" label="Ask before calls">
        <select id="ask" value=${asked.ask} onChange=${(event) => change({ ask: event.target.value })}>
          ${Object.entries(ASKS).map(([key, name]) => html`<option key=${key} value=${key}>${name}</option>`)}
        </select>
      <//>
      <details>
        <summary>Settings</summary>
        <${Field} id="system" label="System message">
          <textarea id="system" value=${asked.system} onInput=${(event) => change({ system: event.target.value })}></textarea>
        <//>
        ${numeric("max_steps", "Turns at most", { min: 1, max: 50 })}
        ${numeric("max_new_tokens", "Tokens of each turn", { min: 1, max: 8192 })}
        ${numeric("temperature", "Temperature", { min: 0, max: 2, step: 0.1 })}
      </details>
      ${busy /* two buttons by their keys: one that became the other while it is pressed would begin anew */
        ? html`<button type="button" key="cancel" onClick=${() => leaving.current.abort()}>Cancel</button>`
        : html`<button class="main" key="begin" disabled=${!asked.task.trim()}>Begin</button>`}
    </form>
    <div>
      ${run ? html`<${Trace} run=${run} />` : html`<${Empty}>The trace is shown here as it grows.<//>`}
      ${!busy && html`<${Earlier} runs=${earlier.data?.traces ?? []} error=${earlier.error} model=${chosen.name} chosen=${trace} />`}
    </div>
  </div>`;
}

/** The runs that were before, each a link to its trace. */
function Earlier({ runs, error, model, chosen }) {
  if (error) return html`<${Failure} error=${error} />`;
  if (!runs.length) return null;
  return html`<details class="card earlier" open=${chosen !== null}>
    <summary>Earlier runs (${runs.length})</summary>
    <ul>${runs.map((one) => html`<li key=${one.run}>
      ${one.error
        ? html`<code>${one.run}</code> <small>${one.error}</small>`
        : html`<a href=${link("agents", { model, trace: one.run })} aria-current=${one.run === chosen ? "true" : undefined}>${one.task}</a>
            ${" "}<small>${one.model}, ${new Date(1000 * one.changed).toLocaleString()}, ${one.turns} ${one.turns === 1 ? "turn" : "turns"},
            ${" "}${one.status}${one.answer && `: ${one.answer}`}</small>`}
    </li>`)}</ul>
  </details>`;
}

/** A run after one more event. */
function grown(run, news) {
  if (news.kind === "start") return { id: news.run };
  if (news.kind === "end") return { end: news };
  const steps = [...run.steps];
  let at = steps.findIndex((one) => one.number === news.step);
  if (at < 0) at = steps.push({ number: news.step, text: "", calls: [], reply: null, summary: null }) - 1;
  const step = { ...steps[at] };
  const called = (changes) => step.calls.map((one) => (one.id === news.call.id ? { ...one, ...changes } : one));
  if (news.kind === "text") step.text += news.text;
  if (news.kind === "summary") step.summary = news.text;
  if (news.kind === "reply") Object.assign(step, { text: news.text, calls: news.calls, reply: news });
  if (news.kind === "ask") step.calls = called({ state: "asks", why: news.why });
  if (news.kind === "call") step.calls = called({ state: "runs" });
  if (news.kind === "result") step.calls = called({ ...news.call, state: "ended" });
  steps[at] = step;
  return { steps };
}

function Trace({ run }) {
  return html`
    <${Failure} error=${run.error} />
    ${run.task && html`<section class="card" aria-label="The task"><pre class="said">${run.task}</pre></section>`}
    <ol class="trace" aria-label="The trace">${run.steps.map((step) => html`<li class="card" key=${step.number}>
      <h2>Turn ${step.number} ${step.reply && html`<small>${number(step.reply.prompt_tokens)} tokens read,
        ${" "}${number(step.reply.completion_tokens)} written, ${step.reply.seconds.toFixed(1)} s</small>`}</h2>
      ${step.summary && html`<details><summary>Older turns were summed up</summary><pre class="said">${step.summary}</pre></details>`}
      ${step.text && html`<pre class="said">${step.text}</pre>`}
      ${step.calls.map((call) => html`<${Call} key=${call.id} run=${run} call=${call} />`)}
    </li>`)}</ol>
    ${run.busy && html`<${Busy}>At work …<//>`}
    ${run.cancelled && html`<p role="status">Cancelled.</p>`}
    ${run.task && !run.end && html`<p>This run was broken off.</p>`}
    ${run.end && html`<${End} end=${run.end} />`}`;
}

function Call({ run, call }) {
  const state = { asks: "asks for leave", runs: "runs …", ended: call.made ? `${call.seconds?.toFixed(2)} s` : "not made" }[call.state];
  return html`<div class=${`call${call.failed ? " failed" : ""}`}>
    <p><code>${call.fault ? "unreadable call" : `${call.name}(${call.arguments})`}</code> <small>${state}</small></p>
    ${call.state === "asks" && run.busy && html`<${Leave} run=${run} call=${call} />`}
    ${call.result !== undefined && call.result !== null && html`<pre class="result">${call.failed && html`<strong>failed: </strong>`}${call.result}</pre>`}
  </div>`;
}

/** Asks whether a call may be made. */
function Leave({ run, call }) {
  const [said, setSaid] = useState("");
  const [error, setError] = useState(null);
  const [sent, setSent] = useState(false);
  async function answer(allow) {
    setSent(true);
    try {
      await api.post("/studio/api/agents/answer", { run: run.id, call: call.id, allow, said });
    } catch (failed) {
      setError(failed);
      setSent(false);
    }
  }
  const id = `said-${call.id}`;
  return html`<div class="leave" role="group" aria-label=${`May ${call.name} be called?`}>
    <${Failure} error=${error} />
    <p><strong>May ${call.name} be called?</strong>
      ${call.why === "again" && " It had begun when the run was broken off; whether it took effect is not known."}</p>
    <div class="row">
      <button type="button" class="main" disabled=${sent} onClick=${() => answer(true)}>Allow</button>
      <button type="button" disabled=${sent} onClick=${() => answer(false)}>Refuse</button>
      <${Field} id=${id} label="If refused, tell the model" wide>
        <input id=${id} maxlength="2000" value=${said} onInput=${(event) => setSaid(event.target.value)} />
      <//>
    </div>
  </div>`;
}

const STATES = {
  answered: "answered",
  length: "the answer was cut at the tokens of a turn",
  steps: "the turns were used up",
  loop: "it went round in circles",
  empty: "it said nothing",
  cancelled: "cancelled",
};

function End({ end }) {
  return html`<section class="card end" aria-label="The answer">
    <h2>${end.status === "done" ? "Answer" : "Ended without an answer of its own"}</h2>
    ${end.answer && html`<pre class="said">${end.answer}</pre>`}
    <p><small>${STATES[end.reason] ?? end.reason}; ${number(end.prompt_tokens)} tokens read, ${number(end.completion_tokens)} written,
      ${" "}${end.seconds.toFixed(1)} s; the trace is kept in <code>${end.trace}</code></small></p>
  </section>`;
}
