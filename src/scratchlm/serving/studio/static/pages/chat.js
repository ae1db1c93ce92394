// Chat: one or two models answer; tokens tell how likely they were; thumbs become rows that alignment learns from.
import { Answer } from "../answer.js";
import { Busy, Empty, Failure, Field, api, go, html, link, number, say, useApi, useEffect, useRef, useState } from "../parts.js";
import { styles } from "../styles.js";

await styles("pages/chat.css");

export const title = "Chat";
const TOP = 5; // tokens that are told beside each
const START = { system: "", max_tokens: 256 }; // temperature and top_p are the first model's, unless changed here

export function Page({ params }) {
  const { data, error, again } = useApi("/studio/api/chat/");
  if (!data) return html`<${Failure} error=${error} again=${again} />${!error && html`<${Busy} />`}`;
  const names = data.models.map((one) => one.name);
  if (!names.length) {
    return html`<${Empty}>No model here can be talked with: that takes a decoder with a chat template. Fetch one on the page
      of <a href=${link("models")}>models</a>.<//>`;
  }
  const asked = params.getAll("model").filter((name) => names.includes(name));
  return html`<${Talk} models=${data.models} chosen=${asked.length ? asked.slice(0, 2) : names.slice(0, 1)} first=${data.kept} />`;
}

let numbers = 0;

function Talk({ models, chosen, first }) {
  const [turns, setTurns] = useState([]);
  const [changed, setChanged] = useState(START);
  const settings = { ...models.find((one) => one.name === chosen[0]).drawn, ...changed };
  const [shaded, setShaded] = useState(false);
  const [kept, setKept] = useState(first);
  const [failure, setFailure] = useState(null);
  const going = useRef(new Map()); // what is being answered -> how to stop it
  useEffect(() => () => going.current.forEach((one) => one.abort()), []);
  const busy = turns.some((turn) => turn.sides.some((side) => side.tries.some((one) => one.busy)));
  const stop = () => going.current.forEach((one) => one.abort());

  /** Change one try of an answer. */
  function put(number, side, at, change) {
    const tried = (one, n) => (n === at ? { ...one, ...(typeof change === "function" ? change(one) : change) } : one);
    const sided = (one, n) => (n === side ? { ...one, tries: one.tries.map(tried) } : one);
    setTurns((all) => all.map((turn) => (turn.number === number ? { ...turn, sides: turn.sides.map(sided) } : turn)));
  }

  async function answer(turn, side, at, model, messages) {
    const leaving = new AbortController();
    going.current.set(leaving, leaving);
    const { system: _, ...drawn } = settings;
    try {
      if (!models.find((one) => one.name === model).served) await api.post("/studio/api/models/serve", { name: model });
      const body = { model, messages, ...drawn, stream: true, logprobs: true, top_logprobs: TOP };
      for await (const event of api.stream("/v1/chat/completions", body, { signal: leaving.signal })) {
        const choice = event.choices[0];
        const tokens = choice?.logprobs?.content ?? [];
        const more = choice?.delta.content ?? "";
        put(turn.number, side, at, (one) => ({
          text: one.text + more,
          tokens: tokens.length ? [...one.tokens, ...tokens] : one.tokens,
          reason: choice?.finish_reason ?? one.reason,
        }));
      }
      say(`${model} has answered.`);
    } catch (error) {
      put(turn.number, side, at, error.name === "AbortError" ? { reason: "stopped" } : { error });
    } finally {
      going.current.delete(leaving);
      put(turn.number, side, at, { busy: false });
    }
  }

  /** Ask every model: after the turns `before`. */
  function send(text, before) {
    const begun = () => ({ tries: [blank()], at: 0 });
    const turn = { number: ++numbers, asked: text, models: chosen, sides: chosen.map(begun), picked: null };
    setTurns([...before, turn]);
    setFailure(null);
    chosen.forEach((model, side) => answer(turn, side, 0, model, messagesOf(settings.system, before, side, text)));
  }

  function retry(turn, side) {
    const at = turn.sides[side].tries.length;
    const sided = (one, n) => (n === side ? { tries: [...one.tries, blank()], at } : one);
    setTurns((all) => all.map((one) => (one === turn ? { ...one, sides: one.sides.map(sided) } : one)));
    const before = turns.slice(0, turns.indexOf(turn));
    answer(turn, side, at, turn.models[side], messagesOf(settings.system, before, side, turn.asked));
  }

  const change = (turn, changes) => setTurns((all) => all.map((one) => (one === turn ? { ...one, ...changes } : one)));
  const show = (turn, side, at) =>
    change(turn, { sides: turn.sides.map((one, n) => (n === side ? { ...one, at } : one)) });

  async function judge(turn, side, good) {
    const { tries, at } = turn.sides[side];
    const label = tries[at].good === good ? null : good;
    const messages = messagesOf(settings.system, turns.slice(0, turns.indexOf(turn)), side, turn.asked);
    try {
      const told = { messages, completion: tries[at].text, good: label, model: turn.models[side] };
      const counts = await api.post("/studio/api/chat/judge", told);
      put(turn.number, side, at, { good: label });
      setKept(counts);
      setFailure(null);
      say(label === null ? "Taken back." : `Kept as ${label ? "good" : "bad"}.`);
    } catch (error) {
      setFailure(error);
    }
  }

  return html`
    <${Chosen} models=${models} chosen=${chosen} busy=${busy} />
    <${Settings} settings=${settings} onChange=${(more) => setChanged({ ...changed, ...more })} shaded=${shaded} onShade=${setShaded} />
    <div role="log" aria-live="off" aria-label="The conversation">
      ${turns.map((turn, n) => html`<section class="turn" key=${turn.number} aria-label=${`Turn ${n + 1}`}>
        <${Asked} text=${turn.asked} busy=${busy} onEdit=${(text) => send(text, turns.slice(0, n))} />
        <div class="columns">
          ${turn.sides.map((side, at) => html`<${Answer} key=${at} model=${turn.models[at]} side=${side} shaded=${shaded}
            onShow=${(number) => show(turn, at, number)} onJudge=${(good) => judge(turn, at, good)}
            onRetry=${n === turns.length - 1 && !busy ? () => retry(turn, at) : null}
            picked=${turn.sides.length > 1 ? turn.picked === at : null}
            onPick=${() => change(turn, { picked: turn.picked === at ? null : at })} />`)}
        </div>
      </section>`)}
    </div>
    <${Failure} error=${failure} />
    <${Composer} busy=${busy} onSend=${(text) => send(text, turns)} onStop=${stop} />
    <div class="row below">
      <button type="button" disabled=${busy || !turns.length} onClick=${() => setTurns([])}>New conversation</button>
      <${Kept} kept=${kept} />
    </div>`;
}

const blank = () => ({ text: "", tokens: [], busy: true, error: null, reason: null, good: null });

/** What a side is asked: its own answers before, or those that were picked for both. Turns without an answer are left
 *  out, as models know none. */
function messagesOf(system, before, side, text) {
  const messages = system.trim() ? [{ role: "system", content: system }] : [];
  for (const turn of before) {
    const one = turn.sides[turn.picked ?? side] ?? turn.sides[0];
    const said = one.tries[one.at].text;
    if (said) messages.push({ role: "user", content: turn.asked }, { role: "assistant", content: said });
  }
  return [...messages, { role: "user", content: text }];
}

function Chosen({ models, chosen, busy }) {
  const to = (model) => go("chat", { model: model.filter(Boolean) }, { replace: true });
  const option = ({ name, served }) => html`<option key=${name} value=${name}>${name}${served ? "" : " (not served yet)"}</option>`;
  return html`<div class="row choice">
    <${Field} id="model" label="Model">
      <select id="model" value=${chosen[0]} disabled=${busy} onChange=${(event) => to([event.target.value, chosen[1]])}>
        ${models.map(option)}
      </select>
    <//>
    <${Field} id="beside" label="Beside it">
      <select id="beside" value=${chosen[1] ?? ""} disabled=${busy} onChange=${(event) => to([chosen[0], event.target.value])}>
        <option value="">no other</option>
        ${models.map(option)}
      </select>
    <//>
  </div>`;
}

function Settings({ settings, onChange, shaded, onShade }) {
  const numeric = (name, label, more) => html`<${Field} id=${name} label=${label}>
    <input id=${name} type="number" ...${more} value=${settings[name]}
      onInput=${(event) => event.target.validity.valid && event.target.value && onChange({ [name]: Number(event.target.value) })} />
  <//>`;
  return html`<details class="settings">
    <summary>Settings</summary>
    <${Field} id="system" label="System message" wide>
      <textarea id="system" value=${settings.system} onInput=${(event) => onChange({ system: event.target.value })}></textarea>
    <//>
    <div class="row">
      ${numeric("temperature", "Temperature", { min: 0, max: 2, step: 0.1 })}
      ${numeric("top_p", "Top p", { min: 0, max: 1, step: 0.05 })}
      ${numeric("max_tokens", "Tokens at most", { min: 1, max: 8192 })}
      <label class="check"><input type="checkbox" checked=${shaded} onChange=${(event) => onShade(event.target.checked)} />
        shade unlikely tokens</label>
    </div>
  </details>`;
}

function Asked({ text, busy, onEdit }) {
  const [draft, setDraft] = useState(null);
  const place = useRef(null);
  useEffect(() => place.current?.focus(), [draft === null]);
  function enter(event) {
    event.preventDefault();
    if (!draft.trim()) return;
    setDraft(null);
    onEdit(draft);
  }
  if (draft !== null) {
    return html`<form class="asked" onSubmit=${enter}>
      <textarea aria-label="Your message, to be edited" value=${draft} onInput=${(event) => setDraft(event.target.value)}
        ref=${place}></textarea>
      <div class="row"><button class="main" disabled=${busy}>Ask again</button>
        <button type="button" onClick=${() => setDraft(null)}>Cancel</button>
        <small>What came after it goes.</small></div>
    </form>`;
  }
  return html`<div class="asked"><pre class="said">${text}</pre>
    <button type="button" class="quiet" disabled=${busy} onClick=${() => setDraft(text)}>Edit</button></div>`;
}

function Composer({ busy, onSend, onStop }) {
  const [text, setText] = useState("");
  function enter(event) {
    event.preventDefault();
    if (busy || !text.trim()) return;
    setText("");
    onSend(text);
  }
  const key = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && enter(event);
  return html`<form class="card composer" onSubmit=${enter}>
    <${Field} id="message" label="Message" wide hint="Enter sends, Shift and Enter begin a new line.">
      <textarea id="message" rows="3" value=${text} onKeyDown=${key} onInput=${(event) => setText(event.target.value)}></textarea>
    <//>
    ${busy
      ? html`<button type="button" key="stop" onClick=${onStop}>Stop</button>`
      : html`<button class="main" key="send" disabled=${!text.trim()}>Send</button>`}
  </form>`;
}

function Kept({ kept }) {
  if (!kept.judged) return html`<small>Thumbs are kept as rows for <code>scratchlm align dpo</code>.</small>`;
  return html`<small class="kept" role="status">
    ${number(kept.judged)} judged ${kept.judged === 1 ? "answer" : "answers"}, ${number(kept.pairs)} ${kept.pairs === 1 ? "pair" : "pairs"}${" "}
    ${kept.pairs
      ? html`in <code>${kept.files.pairs}</code>, for <code>scratchlm align dpo MODEL --data ${kept.files.pairs}</code>`
      : "so far: a pair takes a good and a bad answer to the same messages, of two models or of two tries"}.
  </small>`;
}
