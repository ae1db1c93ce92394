// Attention: where each head of a model looks in a text, and what each layer would say of it.
import { Heads } from "../heads.js";
import { Lens } from "../lens.js";
import { Busy, Failure, Field, Tabs, api, go, html, say, useApi, useEffect, useState } from "../parts.js";
import { styles } from "../styles.js";

await styles("pages/tokens.css");
await styles("pages/attention.css");

export const title = "Attention";
const EXAMPLE = "The keys to the old wooden cabinet by the door are on the kitchen table.";
const TABS = { maps: "Where heads look", lens: "What layers would say" };
const VIEWS = { maps: Heads, lens: Lens };

export function Page({ params }) {
  const { data, error, again } = useApi("/studio/api/attention/");
  const [text, setText] = useState(EXAMPLE);
  const [asked, setAsked] = useState(null);
  const names = data?.models ?? [];
  const model = names.includes(params.get("model")) ? params.get("model") : (names[0] ?? "");
  const view = params.get("view") === "lens" ? "lens" : "maps";
  const move = (change) => go("attention", { model, view, ...change }, { replace: true });

  if (!data) return html`<${Failure} error=${error} again=${again} />${!error && html`<${Busy} />`}`;
  function look(event) {
    event.preventDefault();
    setAsked({ model, text });
  }
  return html`
    <form class="card" onSubmit=${look}>
      <${Field} id="text" label="Text" hint="[MASK] is the mask token of an encoder that fills gaps.">
        <textarea id="text" maxlength="20000" spellcheck="false" required value=${text}
          onInput=${(event) => setText(event.target.value)}></textarea>
      <//>
      <div class="row">
        <${Field} id="model" label="Read by">
          <select id="model" value=${model} onChange=${(event) => move({ model: event.target.value })}>
            ${names.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
          </select>
        <//>
        <button class="main">Look</button>
      </div>
    </form>
    ${asked && html`<${Tabs} label="What to look at" tabs=${TABS} chosen=${view} onChoose=${(key) => move({ view: key })}>
      <${Found} asked=${asked} view=${view} />
    <//>`}`;
}

/** What the server finds; asked once for each view of what is asked. */
function Found({ asked, view }) {
  const [kept, setKept] = useState({ asked });
  const mine = kept.asked === asked ? kept[view] : undefined;
  useEffect(() => {
    if (mine) return undefined;
    const leaving = new AbortController();
    const keep = (result) => setKept((all) => ({ ...(all.asked === asked ? all : { asked }), [view]: result }));
    api.post(`/studio/api/attention/${view}`, asked, { signal: leaving.signal }).then(
      (found) => {
        keep({ found });
        say(`${asked.model} has read ${found.tokens.length} tokens.`);
      },
      (error) => error.name === "AbortError" || keep({ error }),
    );
    return () => leaving.abort();
  }, [asked, view]);
  if (!mine) return html`<${Busy}>${asked.model} reads …<//>`;
  if (mine.error) return html`<${Failure} error=${mine.error} />`;
  const { found } = mine;
  return html`
    ${found.tokens.length < found.total && html`<p class="faint">The first ${found.tokens.length} of ${found.total} tokens are looked at.</p>`}
    <${VIEWS[view]} found=${found} />`;
}
