// Documents: collections of files, questions to them with cited answers, and the cited lines.
import { Ask } from "../asking.js";
import { Busy, Empty, Failure, Field, api, bytes, go, html, link, number, say, useApi, useEffect, useRef, useState } from "../parts.js";
import { Source } from "../source.js";
import { styles } from "../styles.js";

await styles("pages/documents.css");

export const title = "Documents";
const PATH = "/studio/api/documents/";
const NAME = "[A-Za-z0-9][A-Za-z0-9._\\-]*";

export function Page({ params }) {
  const { data, error, again } = useApi(PATH);
  const [source, setSource] = useState(null);
  if (!data) return html`<${Failure} error=${error} again=${again} />${!error && html`<${Busy} />`}`;
  const { collections } = data;
  const chosen = collections.find((one) => one.name === params.get("name")) ?? collections[0];
  const choose = (name) => go("documents", { name }, { replace: true });
  const made = (name) => (choose(name), again());
  return html`
    ${!collections.length && html`<${Empty}>There are no documents yet. Make a collection, and add files to it; or serve an
      index that is there with <code>scratchlm serve MODEL --store DIR</code>.<//>`}
    <div class="row shelf">
      ${chosen && html`<${Field} id="collection" label="Collection">
        <select id="collection" value=${chosen.name} onChange=${(event) => choose(event.target.value)}>
          ${collections.map((one) => html`<option key=${one.name} value=${one.name}>${one.name}</option>`)}
        </select>
      <//>`}
      <${Make} embedders=${data.embedders} made=${made} open=${!chosen} />
    </div>
    ${chosen && html`<${Collection} key=${chosen.name} chosen=${chosen} data=${data} open=${setSource} />`}
    <${Source} asked=${source} close=${() => setSource(null)} />`;
}

function Make({ embedders, made, open }) {
  const [name, setName] = useState("");
  const [model, setModel] = useState(embedders[0]);
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState(null);
  async function make(event) {
    event.preventDefault();
    setFailure(null);
    setBusy(true);
    try {
      await api.post(`${PATH}make`, { name, model });
      setName("");
      say(`The collection ${name} is made.`);
      made(name);
    } catch (refused) {
      setFailure(refused);
    }
    setBusy(false);
  }
  if (!embedders.length) {
    return html`<p>To make a collection, fetch a model that makes vectors, such as all-minilm-l6-v2, on the page
      ${" "}<a href=${link("models")}>Models</a>.</p>`;
  }
  return html`<details class="make" open=${open}>
    <summary>A new collection</summary>
    <${Failure} error=${failure} />
    <form class="row" onSubmit=${make}>
      <${Field} id="new-name" label="Its name">
        <input id="new-name" required pattern=${NAME} maxlength="100" title="letters, digits, '.', '_' and '-'" value=${name}
          onInput=${(event) => setName(event.target.value)} />
      <//>
      <${Field} id="new-model" label="Vectors by">
        <select id="new-model" value=${model} onChange=${(event) => setModel(event.target.value)}>
          ${embedders.map((one) => html`<option key=${one} value=${one}>${one}</option>`)}
        </select>
      <//>
      <button class="main" disabled=${busy}>Make</button>
    </form>
  </details>`;
}

function Collection({ chosen, data, open }) {
  const [quick, setQuick] = useState(false);
  const { name, own } = chosen;
  const files = useApi(`${PATH}files?name=${encodeURIComponent(name)}`, { every: quick ? 500 : 0 });
  const working = files.data?.job?.state === "running";
  useEffect(() => {
    setQuick(working);
    if (quick && !working) say("The documents are indexed.");
  }, [working]);
  return html`<div class="columns">
    <${Ask} name=${name} writers=${data.writers} open=${open} />
    <section class="card files" aria-label="Files">
      <h2>Files</h2>
      <${Failure} error=${files.error} again=${files.again} />
      ${own && html`<${Add} name=${name} piece=${data.piece} working=${working} again=${files.again} />`}
      ${files.data && html`<${Files} told=${files.data} own=${own} open=${open} again=${files.again} />`}
    </section>
  </div>`;
}

/** Takes files, sends them piece by piece, and has them indexed. */
function Add({ name, piece, working, again }) {
  const [sending, setSending] = useState(null);
  const [failures, setFailures] = useState([]);
  const [over, setOver] = useState(false);
  const leaving = useRef(new AbortController());
  useEffect(() => () => leaving.current.abort(), []);

  async function add(files) {
    const refused = [];
    const { signal } = leaving.current;
    let whole = 0;
    for (const file of files) {
      try {
        for (let at = 0; at < Math.max(file.size, 1); at += piece) {
          setSending({ file: file.name, at, total: file.size });
          const search = new URLSearchParams({ name, file: file.name, at, total: file.size });
          await api.post(`${PATH}upload?${search}`, file.slice(at, at + piece), { signal });
        }
        whole += 1;
      } catch (error) {
        if (error.name === "AbortError") return;
        refused.push(error);
      }
    }
    try {
      if (whole) await api.post(`${PATH}index`, { name });
    } catch (error) {
      refused.push(error);
    }
    setFailures(refused);
    setSending(null);
    say(`${whole} of ${files.length} files are added.`);
    again();
  }
  function chosen(event) {
    add([...event.target.files]);
    event.target.value = "";
  }
  function dropped(event) {
    event.preventDefault();
    setOver(false);
    if (!busy) add([...event.dataTransfer.files]);
  }
  const busy = working || sending !== null;
  return html`
    ${failures.map((error) => html`<${Failure} error=${error} />`)}
    <div class=${over ? "drop over" : "drop"} onDrop=${dropped} onDragLeave=${() => setOver(false)}
      onDragOver=${(event) => (event.preventDefault(), setOver(true))}>
      <label for="add">Add files</label>
      <input id="add" type="file" multiple disabled=${busy} onChange=${chosen} />
      <small>Text, Markdown, HTML, PDF, Word, PowerPoint, Excel, notebooks, code. Or drop them here.</small>
      ${sending && html`<progress max=${sending.total || 1} value=${sending.at} aria-label=${`Of ${sending.file}`}></progress>
        <small>Sending ${sending.file}, ${bytes(sending.at)} of ${bytes(sending.total)}</small>`}
    </div>`;
}

function Files({ told, own, open, again }) {
  const { files, waiting, passed_over: passed, job } = told;
  const [failure, setFailure] = useState(null);
  async function act(path, body) {
    setFailure(null);
    try {
      await api.post(PATH + path, { name: told.name, ...body });
    } catch (refused) {
      setFailure(refused);
    }
    again();
  }
  const working = job?.state === "running";
  return html`
    <${Failure} error=${failure} />
    ${working && html`<${Busy}>Indexing: ${job.said || "…"}<//>`}
    ${job?.state === "failed" && html`<${Failure} error=${{ message: job.said }} again=${() => act("index", {})} />`}
    ${waiting.length > 0 && !working && html`<p>${number(waiting.length)} not indexed yet: ${waiting.slice(0, 5).join(", ")}
      ${waiting.length > 5 && " …"} <button type="button" onClick=${() => act("index", {})}>Index</button></p>`}
    ${passed.map((one) => html`<p class="passed">${one.path} ${one.why}.</p>`)}
    ${!files.length && !working && html`<${Empty}>No files yet.<//>`}
    ${files.length > 0 && html`<div class="scroll" tabindex="0" role="group" aria-label="The files"><table>
      <thead><tr><th scope="col">File</th><th scope="col" class="figure">size</th><th scope="col" class="figure">passages</th>
        ${own && html`<th scope="col"><span class="unseen">Remove</span></th>`}</tr></thead>
      <tbody>${files.map((one) => html`<tr key=${one.path}>
        <th scope="row"><button type="button" class="link" onClick=${() => open({ name: told.name, file: one.path })}>${one.path}</button></th>
        <td class="figure">${bytes(one.size)}</td><td class="figure">${number(one.chunks)}</td>
        ${own && html`<td class="figure"><button type="button" class="quiet" disabled=${working} aria-label=${`Remove ${one.path}`}
          onClick=${() => act("remove", { file: one.path })}>✕</button></td>`}
      </tr>`)}</tbody>
    </table></div>
    <p><small>${number(told.chunks)} passages, vectors by ${told.model.split("/").pop()}</small></p>`}`;
}
