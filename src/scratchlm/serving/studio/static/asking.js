// Questions to documents: the answer as it comes, then its sentences, each with the places that it comes from.
import { Failure, Field, api, html, number, say, useEffect, useRef, useState } from "./parts.js";

/** `open` shows a source: it is given { name, file, start, end, quote }. */
export function Ask({ name, writers, open }) {
  const [question, setQuestion] = useState("");
  const [writer, setWriter] = useState("");
  const [turns, setTurns] = useState([]);
  const [busy, setBusy] = useState(false);
  const leaving = useRef(null);
  useEffect(() => () => leaving.current?.abort(), []);

  async function ask(event) {
    event.preventDefault();
    leaving.current = new AbortController();
    const history = turns.filter((turn) => turn.answer).map((turn) => ({ question: turn.question, answer: turn.answer.text }));
    const put = (change) => setTurns((all) => [...all.slice(0, -1), { ...all[all.length - 1], ...change }]);
    setTurns((all) => [...all, { question, text: "" }]);
    setBusy(true);
    setQuestion("");
    const asked = { name, question, history, writer: writer || null };
    let text = "";
    try {
      for await (const told of api.stream("/studio/api/documents/ask", asked, { signal: leaving.current.signal })) {
        if (told.answer) {
          put({ answer: told.answer });
          say(told.answer.text);
        } else put({ text: (text += told.text) });
      }
    } catch (error) {
      put(error.name === "AbortError" ? { stopped: true } : { error });
    }
    setBusy(false);
  }
  return html`<section class="card" aria-label="Ask">
    <h2>Ask</h2>
    ${turns.map((turn, n) => html`<${Turn} key=${n} turn=${turn} name=${name} open=${open} busy=${busy && n === turns.length - 1} />`)}
    <form onSubmit=${ask}>
      <${Field} id="question" label="Question" hint=${turns.length ? "It may follow those above." : ""}>
        <input id="question" required maxlength="2000" autocomplete="off" value=${question}
          onInput=${(event) => setQuestion(event.target.value)} />
      <//>
      <div class="row">
        <${Field} id="writer" label="Answered">
          <select id="writer" value=${writer} onChange=${(event) => setWriter(event.target.value)}>
            <option value="">in the documents' own words</option>
            ${writers.map((one) => html`<option key=${one} value=${one}>by ${one}</option>`)}
          </select>
        <//>
        ${busy
          ? html`<button type="button" onClick=${() => leaving.current.abort()}>Stop</button>`
          : html`<button class="main">Ask</button>`}
        ${turns.length > 0 && !busy && html`<button type="button" class="quiet" onClick=${() => setTurns([])}>Start anew</button>`}
      </div>
    </form>
  </section>`;
}

function Turn({ turn, name, open, busy }) {
  const { question, answer, text, error, stopped } = turn;
  return html`<article class="turn">
    <h3>${question}</h3>
    <${Failure} error=${error} />
    ${answer && answer.sentences.length > 0
      ? html`<p>${answer.sentences.map((one) => html`<${Sentence} one=${one} name=${name} open=${open} />`)}</p>
          <${Places} answer=${answer} name=${name} open=${open} />`
      : html`<p>${answer ? answer.text : text}${busy && html`<span class="spinner waits" aria-hidden="true"></span>`}</p>`}
    ${answer && html`<p class="faint">${answer.refused ? "The likeliest sentence answers" : "An answer is there"} with probability
      ${" "}${answer.confidence.toFixed(2)}; ${number(answer.timings.total / 1000, 2)} s.</p>`}
    ${answer?.refused && answer.hits.length > 0 && html`<p class="faint">What is nearest:</p><${Nearest} hits=${answer.hits} name=${name} open=${open} />`}
    ${stopped && html`<p class="faint">Stopped.</p>`}
    ${answer?.dropped.map((one) => html`<p class="faint">Left out of ${one.file} (${one.why}): ${one.text.slice(0, 120)}</p>`)}
  </article>`;
}

const asSource = (name, cited) => ({ name, file: cited.file, start: cited.start, end: cited.end });

function Sentence({ one, name, open }) {
  return html`<span class=${one.supported ? "" : "doubtful"}>${one.text}</span>
    ${one.citations.map((cited) => html` <button type="button" class="cite" title=${cited.place}
      aria-label=${`Source ${cited.number}: ${cited.place}`} onClick=${() => open(asSource(name, cited))}>${cited.number}</button>`)}
    ${!one.supported && html` <small>(not supported by what it cites)</small>`} `;
}

function Places({ answer, name, open }) {
  const places = new Map();
  for (const { citations } of answer.sentences) {
    for (const cited of citations) places.set(`${cited.number} ${cited.place}`, cited);
  }
  return html`<ul class="places">${[...places.values()].map((cited) => html`<li key=${cited.place}>
    <span class="faint">[${cited.number}]</span> <button type="button" class="link" onClick=${() => open(asSource(name, cited))}>${cited.place}</button>
  </li>`)}</ul>`;
}

function Nearest({ hits, name, open }) {
  return html`<ul class="places">${hits.map((hit) => html`<li key=${hit.id}>
    <button type="button" class="link" onClick=${() => open(asSource(name, hit))}>${hit.file}, lines ${hit.first_line}-${hit.last_line}</button>
  </li>`)}</ul>`;
}
