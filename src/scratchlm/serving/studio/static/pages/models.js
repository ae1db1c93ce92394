// Models: what is here and how large, fetching more, serving it, writing it for other programs.
import { Busy, Failure, Field, api, bytes, html, link, number, say, useApi, useEffect, useRef, useState } from "../parts.js";
import { styles } from "../styles.js";

await styles("pages/models.css");

export const title = "Models";
const HUB_ID = String.raw`[\w.\-]+\/[\w.\-]+`; // organisation/name

export function Page() {
  const [quick, setQuick] = useState(false);
  const { data, error, again } = useApi("/studio/api/models/", { every: quick ? 700 : 5000 });
  const [failure, setFailure] = useState(null);
  useEffect(() => setQuick(Boolean(data?.jobs.some((job) => job.state === "running"))), [data]);

  /** Ask for something, and look at what has come of it. */
  async function act(path, body, told) {
    setFailure(null);
    try {
      await api.post(`/studio/api/models/${path}`, body);
      say(told);
      again();
    } catch (refused) {
      setFailure(refused);
    }
  }

  if (!data) return html`<${Failure} error=${error} again=${again} />${!error && html`<${Busy} />`}`;
  return html`<${Failure} error=${failure ?? error} />
    <${Jobs} jobs=${data.jobs} />
    <${Served} data=${data} />
    <${Here} data=${data} act=${act} />
    <${Export} data=${data} act=${act} />
    <${Catalogue} data=${data} act=${act} />`;
}

const STATES = { running: "under way", done: "done", failed: "failed" };

function Jobs({ jobs }) {
  const told = useRef(new Map());
  useEffect(() => {
    for (const job of jobs) {
      const before = told.current.get(job.number);
      if (before === "running" && job.state !== "running") say(`${job.name}: ${STATES[job.state]}`);
      told.current.set(job.number, job.state);
    }
  }, [jobs]);
  if (!jobs.length) return null;
  return html`<section class="card"><h2>Under way, and lately</h2><ul class="jobs">
    ${jobs.map((job) => html`<li key=${job.number}>
      <strong>${job.what === "pull" ? "Fetching" : "Exporting"} ${job.name}</strong>: ${STATES[job.state]}
      ${job.state === "running" && html`<${Progress} job=${job} />`}
      ${job.state === "failed" ? html`<${Failure} error=${{ message: job.said }} />` : html` <small>${job.said}</small>`}
      ${job.path && html`<code>${job.path}</code>`}
    </li>`)}
  </ul></section>`;
}

function Progress({ job }) {
  const label = `Of ${job.name}`;
  if (!job.total) return html`<progress aria-label=${label}></progress>`;
  return html`<progress max=${job.total} value=${job.done} aria-label=${label}></progress>
    ${bytes(job.done)} of ${bytes(job.total)}${" "}`;
}

function Served({ data }) {
  const share = data.budget ? data.used / data.budget : 0;
  return html`<section class="card scroll" tabindex="0" aria-label="Served">
    <h2>Served</h2>
    <p class="memory"><meter min="0" max="1" value=${share} aria-label="Memory of models in use">${Math.round(100 * share)} %</meter>
      ${bytes(data.used)} of ${bytes(data.budget)} that models may take</p>
    <table>
      <thead><tr><th scope="col">Model</th><th scope="col">kind</th><th scope="col" class="figure">parameters</th>
        <th scope="col" class="figure">on disk</th><th scope="col" class="figure">memory at most</th>
        <th scope="col" class="figure">context</th><th scope="col">licence</th><th scope="col">in memory</th></tr></thead>
      <tbody>${data.served.map((one) => html`<tr key=${one.name}>
        <th scope="row">${chats(one) ? html`<a href=${link("chat", { model: one.name })}>${one.name}</a>` : one.name}
          <small class="path">${one.path}</small></th>
        <td>${one.family} ${one.architecture}, ${one.kind}${one.base ? html` of ${one.base}` : null}</td>
        <td class="figure">${number(one.parameters)}</td><td class="figure">${bytes(one.bytes)}</td>
        <td class="figure">${bytes(one.memory)}</td><td class="figure">${number(one.context)}</td>
        <td>${one.licence ?? "not stated"}</td><td>${one.loaded ? "yes" : "when asked"}</td>
      </tr>`)}</tbody>
    </table>
  </section>`;
}

const chats = (one) => one.chat_template && one.architecture === "decoder";

/** What is on this machine and could be served: fetched models, and runs. */
function Here({ data, act }) {
  const fetched = data.catalogue.filter((row) => row.here && row.here !== "damaged" && !row.served);
  const rows = [...fetched, ...data.runs];
  const serve = (name) => act("serve", { name }, `${name} is served`);
  if (!rows.length) return null;
  return html`<section class="card scroll" tabindex="0" aria-label="On this machine">
    <h2>On this machine</h2>
    <table>
      <thead><tr>
        <th scope="col">Model</th><th scope="col" class="figure">on disk</th>
        <th scope="col"><span class="unseen">Serve</span></th>
      </tr></thead>
      <tbody>${rows.map((row) => html`<tr key=${row.name}>
        <th scope="row">${row.name}</th><td class="figure">${bytes(row.bytes)}</td>
        <td class="figure"><button type="button" aria-label=${`Serve ${row.name}`} onClick=${() => serve(row.name)}>Serve</button></td>
      </tr>`)}</tbody>
    </table>
  </section>`;
}

function Export({ data, act }) {
  const fetched = data.catalogue.filter((row) => row.here && row.here !== "damaged" && !row.served);
  const names = [...data.served, ...fetched, ...data.runs].map((one) => one.name);
  const [model, setModel] = useState(names[0]);
  const [form, setForm] = useState("gguf-f16");
  const [name, setName] = useState("");
  function submit(event) {
    event.preventDefault();
    const [to, kind = "f16"] = form.split("-");
    act("export", { model, to, kind, name: name || proposed }, `${model} is being written`);
  }
  const proposed = model.split("/").pop();
  return html`<section class="card">
    <h2>Write a model for other programs</h2>
    <p>An adapter is worked into its base. What is written lies in <code>${data.exports}</code>.</p>
    <form class="row" onSubmit=${submit}>
      <${Field} id="export-model" label="Model">
        <select id="export-model" value=${model} onChange=${(event) => setModel(event.target.value)}>
          ${names.map((one) => html`<option value=${one}>${one}</option>`)}
        </select>
      <//>
      <${Field} id="export-form" label="As">
        <select id="export-form" value=${form} onChange=${(event) => setForm(event.target.value)}>
          <option value="gguf-f16">GGUF, 16 bits</option>
          <option value="gguf-q8_0">GGUF, 8 bits</option>
          <option value="huggingface">Hugging Face folder</option>
        </select>
      <//>
      <${Field} id="export-name" label="By the name">
        <input id="export-name" value=${name} placeholder=${proposed}
          onInput=${(event) => setName(event.target.value)} />
      <//>
      <button class="main">Export</button>
    </form>
  </section>`;
}

function Catalogue({ data, act }) {
  const [hub, setHub] = useState("");
  const pull = (name) => act("pull", { name }, `${name} is being fetched`);
  const pulling = data.jobs.filter((job) => job.what === "pull" && job.state === "running").map((job) => job.name);
  const row = (one, size) => html`<tr key=${one.name}>
    <th scope="row">${one.name}
      <small class="path">${one.purpose}; ${one.licence}${one.gated ? ", to be accepted on the hub" : ""}</small></th>
    <td class="figure">${size}</td>
    <td class="figure">
      ${one.here === "damaged" ? "damaged " : one.here && bytes(one.bytes)}
      ${(!one.here || one.here === "damaged") && html`<button type="button" disabled=${pulling.includes(one.name)}
        aria-label=${`Fetch ${one.name}`} onClick=${() => pull(one.name)}>Fetch</button>`}
    </td>
  </tr>`;
  const head = (what, size) => html`<thead><tr>
    <th scope="col">${what}</th><th scope="col" class="figure">${size}</th>
    <th scope="col" class="figure">here</th>
  </tr></thead>`;
  return html`<section class="card scroll" tabindex="0" aria-label="Models to fetch">
      <h2>Models to fetch</h2>
      <table>${head("Model", "parameters")}<tbody>${data.catalogue.map((one) => row(one, one.size))}</tbody></table>
      <form class="row hub" onSubmit=${(event) => (event.preventDefault(), pull(hub.trim()))}>
        <${Field} id="hub" label="Or any model of the hub" hint="organisation/name; only safetensors are fetched">
          <input id="hub" value=${hub} required pattern=${HUB_ID} onInput=${(event) => setHub(event.target.value)} />
        <//>
        <button>Fetch</button>
      </form>
    </section>
    <section class="card scroll" tabindex="0" aria-label="Data sets to fetch">
      <h2>Data sets to fetch</h2>
      <table>${head("Data set", "rows")}<tbody>${data.data.map((one) => row(one, number(one.rows)))}</tbody></table>
    </section>`;
}
