// Runs: the curves of several over one another, their settings side by side, samples, and what each is.
import { Chart, Line, smoothed } from "../chart.js";
import { Empty, Failure, Field, Busy, Tabs, api, go, html, number, useApi, useEffect, useMemo, useState } from "../parts.js";
import { Samples } from "../samples.js";
import { styles } from "../styles.js";

await styles("pages/runs.css");

export const title = "Runs";
const EVERY = 2500; // milliseconds between looks at the list
const MOST = 12; // runs over one another
const VIEWS = { curves: "Curves", compare: "Compare", samples: "Samples", about: "About" };
const NAMES = {
  loss: "Loss (nats a label)",
  learning_rate: "Learning rate",
  gradient_norm: "Length of the gradient",
  tokens_per_second: "Tokens a second",
};
const GROUPS = {
  report: "What was measured",
  made_of: "What it was made of",
  settings: "How it is trained",
  model: "The model",
};
const STATES = { training: "training", finished: "finished", stopped: "stopped", damaged: "damaged" };

export function Page({ params }) {
  const { data, error, again } = useApi("/studio/api/runs/", { every: EVERY });
  const runs = data?.runs;
  const asked = params.getAll("run");
  const known = runs?.filter((run) => run.state !== "damaged") ?? [];
  const there = known.map((run) => run.name);
  const chosen = asked.length ? asked.filter((name) => there.includes(name)) : there.slice(0, 1);
  const view = params.get("view") in VIEWS ? params.get("view") : "curves";
  const show = (change) => go("runs", { run: chosen, view, ...change }, { replace: true });

  if (!data) return html`<${Failure} error=${error} again=${again} />${!error && html`<${Busy} />`}`;
  if (!runs.length) {
    return html`<${Empty}>There are no runs in <code>${data.folder}</code> yet. Train one, and watch it here:
      <code>scratchlm train tinygpt --out ${data.folder}/tinygpt</code>. Runs elsewhere: <code>scratchlm serve … --runs DIR</code>.<//>`;
  }
  const shown = chosen.map((name) => runs.find((run) => run.name === name));
  return html`<${Failure} error=${error} />
    <div class="side">
      <${List} runs=${runs} chosen=${chosen} onChange=${(run) => show({ run })} />
      <div>
        <${Tabs} label="What is shown of the runs" tabs=${VIEWS} chosen=${view} onChoose=${(to) => show({ view: to })}>
          ${!shown.length && html`<${Empty}>Choose a run.<//>`}
          ${shown.length > 0 && view === "curves" && html`<${Curves} runs=${shown} />`}
          ${shown.length > 0 && view === "compare" && html`<${Compare} runs=${shown} />`}
          ${shown.length > 0 && view === "samples" && html`<${Samples} runs=${shown} about=${useAbout} />`}
          ${shown.length > 0 && view === "about" && html`<${About} runs=${shown} />`}
        <//>
      </div>
    </div>`;
}

function List({ runs, chosen, onChange }) {
  const [sought, setSought] = useState("");
  const found = runs.filter((run) => run.name.toLowerCase().includes(sought.toLowerCase()));
  function flip(name) {
    onChange(chosen.includes(name) ? chosen.filter((one) => one !== name) : [...chosen, name].slice(-MOST));
  }
  return html`<div class="card runs">
    ${runs.length > 8 && html`<${Field} id="sought" label="Find">
      <input id="sought" type="search" value=${sought} onInput=${(event) => setSought(event.target.value)} />
    <//>`}
    <fieldset class="plain">
      <legend>Runs, the newest first</legend>
      <ul>
        ${found.map((run) => html`<li key=${run.name}>
          <label class="check">
            <input type="checkbox" checked=${chosen.includes(run.name)} disabled=${run.state === "damaged"}
              onChange=${() => flip(run.name)} />
            <span class="name">${run.name}</span>
            ${chosen.includes(run.name) && html`<${Line} n=${chosen.indexOf(run.name)} />`}
          </label>
          <small><span class=${`state ${run.state}`}>${STATES[run.state]}</span>${" "}${inShort(run)}</small>
        </li>`)}
      </ul>
    </fieldset>
  </div>`;
}

function inShort(run) {
  if (run.error) return run.error;
  const parts = [run.verb === "train" ? run.preset : `${run.verb} ${run.preset}`];
  if (run.last.step !== null) parts.push(`step ${number(run.last.step)} of ${number(run.steps)}`);
  if (run.last.loss !== null) parts.push(`loss ${number(run.last.loss)}`);
  return parts.join(" · ");
}

/** The curves of runs, fetched again when a run's stamp says that there is more: { name: columns }. */
function useCurves(runs) {
  const [found, setFound] = useState({ error: null });
  useEffect(() => {
    const leaving = new AbortController();
    for (const { name, stamp } of runs) {
      if (found[name]?.stamp === stamp) continue;
      api.get(`/studio/api/runs/curves?run=${encodeURIComponent(name)}`, { signal: leaving.signal }).then(
        (data) => setFound((before) => ({ ...before, [name]: data, error: null })),
        (error) => error.name !== "AbortError" && setFound((before) => ({ ...before, error })),
      );
    }
    return () => leaving.abort();
  }, [runs.map((run) => run.name + run.stamp).join("|")]);
  return found;
}

function Curves({ runs }) {
  const found = useCurves(runs);
  const [axis, setAxis] = useState("step");
  const [log, setLog] = useState(false);
  const [keep, setKeep] = useState(0);
  const here = runs.map((run, n) => ({ run, n, columns: found[run.name]?.columns })).filter((one) => one.columns?.step);
  const panels = useMemo(() => panelsOf(here, axis, keep), [found, axis, keep, runs.map((run) => run.name).join("|")]);
  if (!here.length) {
    if (found.error) return html`<${Failure} error=${found.error} />`;
    if (!runs.every((run) => found[run.name])) return html`<${Busy} />`;
    return html`<${Empty}>Nothing has been logged yet; it will appear here.<//>`;
  }
  return html`<${Failure} error=${found.error} />
    <div class="row controls">
      <${Field} id="axis" label="Along">
        <select id="axis" value=${axis} onChange=${(event) => setAxis(event.target.value)}>
          <option value="step">steps</option>
          <option value="seconds">seconds of training</option>
        </select>
      <//>
      <${Field} id="keep" label=${`Smoothed by ${keep}`}>
        <input id="keep" type="range" min="0" max="0.98" step="0.02" value=${keep}
          onInput=${(event) => setKeep(Number(event.target.value))} />
      <//>
      <label class="check">
        <input type="checkbox" checked=${log} onChange=${(event) => setLog(event.target.checked)} /> logarithmic
      </label>
    </div>
    <div class="columns panels">
      ${panels.map(({ name, series }, at) => html`<section class="card" key=${name}>
        <h2>${NAMES[name] ?? name.replaceAll("_", " ")}</h2>
        <${Chart} series=${series} label=${NAMES[name] ?? name} xLabel=${axis === "step" ? "step" : "seconds"}
          log=${log && positive(series)} height=${at ? 200 : 340} />
      </section>`)}
    </div>
    <section class="card scroll" tabindex="0" aria-label="The last figures">
      <h2>The last figures</h2>
      <${LastFigures} here=${here} />
    </section>`;
}

const positive = (series) => series.every((one) => one.y.every((value) => value === null || value > 0));

/** One panel a quantity, the losses in one, in the order in which they are logged. */
function panelsOf(here, axis, keep) {
  const names = [...new Set(here.flatMap(({ columns }) => Object.keys(columns)))];
  const own = names.filter((name) => !["step", "seconds", "validation_loss"].includes(name));
  function line({ run, n, columns }, name, more = {}) {
    return { label: run.name, x: columns[axis], y: smoothed(columns[name], more.points ? 0 : keep), n, ...more };
  }
  return own.map((name) => {
    const having = here.filter(({ columns }) => columns[name]);
    const series = having.map((one) => line(one, name));
    if (name === "loss") {
      const held = here.filter(({ columns }) => columns.validation_loss);
      series.push(...held.map((one) => line(one, "validation_loss", { label: `${one.run.name}, held out`, points: true })));
    }
    return { name, series };
  });
}

function LastFigures({ here }) {
  const names = [...new Set(here.flatMap(({ columns }) => Object.keys(columns)))];
  const last = (values) => (values ?? []).findLast((value) => value !== null) ?? null;
  const least = (values) => values.filter((value) => value !== null).reduce((a, b) => Math.min(a, b), Infinity);
  return html`<table>
    <thead><tr>
      <th scope="col">Run</th>
      ${names.map((name) => html`<th scope="col" class="figure">${name.replaceAll("_", " ")}</th>`)}
      <th scope="col" class="figure">best held out</th>
    </tr></thead>
    <tbody>${here.map(({ run, n, columns }) => html`<tr key=${run.name}>
      <th scope="row"><${Line} n=${n} /> ${run.name}</th>
      ${names.map((name) => html`<td class="figure">${number(last(columns[name]))}</td>`)}
      <td class="figure">${columns.validation_loss ? number(least(columns.validation_loss)) : "–"}</td>
    </tr>`)}</tbody>
  </table>`;
}

/** Everything about runs, by name; asked once for each state of a run. */
function useAbout(runs) {
  const [found, setFound] = useState({});
  const [error, setError] = useState(null);
  useEffect(() => {
    const leaving = new AbortController();
    const ask = (name) => api.get(`/studio/api/runs/about?run=${encodeURIComponent(name)}`, { signal: leaving.signal });
    Promise.all(runs.map(async ({ name }) => [name, await ask(name)])).then(
      (all) => {
        setFound(Object.fromEntries(all));
        setError(null);
      },
      (failed) => failed.name !== "AbortError" && setError(failed),
    );
    return () => leaving.abort();
  }, [runs.map((run) => run.name + run.state).join("|")]);
  return { found, error };
}

function Compare({ runs }) {
  const { found, error } = useAbout(runs);
  const [differing, setDiffering] = useState(runs.length > 1);
  const here = runs.filter((run) => found[run.name]);
  if (!here.length) return error ? html`<${Failure} error=${error} />` : html`<${Busy} />`;
  return html`<${Failure} error=${error} />
    ${runs.length > 1 && html`<label class="check controls">
      <input type="checkbox" checked=${differing} onChange=${(event) => setDiffering(event.target.checked)} /> only what differs
    </label>`}
    ${Object.entries(GROUPS).map(([part, heading]) => {
      const all = [...new Set(here.flatMap((run) => Object.keys(found[run.name][part] ?? {})))];
      if (!all.length) return null;
      const rows = all.map((name) => ({ name, values: here.map((run) => found[run.name][part]?.[name]) }));
      const differ = ({ values }) => values.some((value) => String(value) !== String(values[0]));
      const shown = rows.filter((row) => !differing || here.length < 2 || differ(row));
      return html`<section class="card scroll" key=${part} tabindex="0" aria-label=${heading}>
        <h2>${heading}</h2>
        ${!shown.length && html`<${Empty}>Nothing differs.<//>`}
        ${shown.length > 0 && html`<table>
          <thead><tr><th scope="col">Setting</th>${here.map((run) => html`<th scope="col">${run.name}</th>`)}</tr></thead>
          <tbody>${shown.map((row) => html`<tr key=${row.name}>
            <th scope="row"><code>${row.name}</code></th>
            ${row.values.map((value) => html`<td class=${here.length > 1 && differ(row) ? "differs" : ""}>${shownValue(value)}</td>`)}
          </tr>`)}</tbody>
        </table>`}
      </section>`;
    })}`;
}

const shownValue = (value) => (typeof value === "number" ? number(value, 6) : (value ?? "–").toString());

function About({ runs }) {
  const { found, error } = useAbout(runs);
  const here = runs.filter((run) => found[run.name]);
  if (!here.length) return error ? html`<${Failure} error=${error} />` : html`<${Busy} />`;
  return html`<${Failure} error=${error} />${here.map((run) => {
    const about = found[run.name];
    return html`<section class="card" key=${run.name}>
      <h2>${run.name}</h2>
      <p><code>${about.path}</code></p>
      ${run.state === "stopped" && html`<p>It stopped before its end. Go on with: <code>${about.resume}</code></p>`}
      ${about.card && html`<h3>Its card</h3><pre class="text">${about.card}</pre>`}
      ${!about.card && html`<${Empty}>Its card is written when the training ends.<//>`}
    </section>`;
  })}`;
}
