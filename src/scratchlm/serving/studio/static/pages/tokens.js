// Tokens: how the tokenizer of each model cuts a text.
import { Busy, Empty, Failure, Field, api, go, html, number, useApi, useEffect, useState } from "../parts.js";
import { styles } from "../styles.js";
import { shown } from "../token.js";

await styles("pages/tokens.css");

export const title = "Tokens";
const MOST = 8;
const WAIT = 250; // milliseconds after the last key
const EXAMPLE = "The quick brown fox jumps over 13 lazy dogs. Größe, naïve, 你好, 🙂!\n    def f(x): return x ** 2";
const VIEWS = { pieces: "text", ids: "numbers", spelled: "as the vocabulary spells them" };

export function Page({ params }) {
  const { data, error, again } = useApi("/studio/api/tokens/");
  const [text, setText] = useState(EXAMPLE);
  const [special, setSpecial] = useState(false);
  const [view, setView] = useState("pieces");
  const asked = params.getAll("model");
  const names = data?.models ?? [];
  const chosen = asked.length ? asked.filter((name) => names.includes(name)) : names.slice(0, 2);
  const { cuts, failure, busy } = useCuts(text, chosen, special);

  if (!data) return html`<${Failure} error=${error} again=${again} />${!error && html`<${Busy} />`}`;
  const flip = (name) => {
    const model = chosen.includes(name) ? chosen.filter((one) => one !== name) : [...chosen, name].slice(-MOST);
    go("tokens", { model: model.length ? model : "-" }, { replace: true });
  };
  return html`
    <div class="side">
      <fieldset class="card names">
        <legend class="unseen">Whose tokenizers</legend>
        ${names.map((name) => html`<label class="check" key=${name}>
          <input type="checkbox" checked=${chosen.includes(name)} onChange=${() => flip(name)} /> ${name}
        </label>`)}
      </fieldset>
      <div>
        <${Field} id="text" label="Text">
          <textarea id="text" maxlength="20000" spellcheck="false" value=${text}
            onInput=${(event) => setText(event.target.value)}></textarea>
        <//>
        <div class="row controls">
          <${Field} id="view" label="Show tokens as">
            <select id="view" value=${view} onChange=${(event) => setView(event.target.value)}>
              ${Object.entries(VIEWS).map(([key, name]) => html`<option value=${key}>${name}</option>`)}
            </select>
          <//>
          <label class="check">
            <input type="checkbox" checked=${special} onChange=${(event) => setSpecial(event.target.checked)} />
            special tokens, as the model reads it
          </label>
        </div>
        <${Failure} error=${failure} />
        ${!chosen.length && html`<${Empty}>Choose a tokenizer.<//>`}
        <${Summary} cuts=${cuts} />
        ${busy && !cuts.length && html`<${Busy}>Cutting …<//>`}
        ${cuts.map((cut) => html`<${Cut} key=${cut.model} cut=${cut} view=${view} />`)}
      </div>
    </div>`;
}

/** The cuts of a text, asked for when no key was pressed for a moment. */
function useCuts(text, models, special) {
  const [found, setFound] = useState({ cuts: [], failure: null, busy: false });
  useEffect(() => {
    if (!models.length) {
      setFound({ cuts: [], failure: null, busy: false });
      return undefined;
    }
    const leaving = new AbortController();
    setFound((before) => ({ ...before, busy: true }));
    const timer = setTimeout(async () => {
      try {
        const { cuts } = await api.post("/studio/api/tokens/cut", { text, models, special }, { signal: leaving.signal });
        setFound({ cuts, failure: null, busy: false });
      } catch (failure) {
        if (failure.name !== "AbortError") setFound({ cuts: [], failure, busy: false });
      }
    }, WAIT);
    return () => {
      clearTimeout(timer);
      leaving.abort();
    };
  }, [text, models.join("|"), special]);
  return found;
}

function Summary({ cuts }) {
  const good = cuts.filter((cut) => !cut.error);
  if (!good.length) return null;
  const least = Math.min(...good.map((cut) => cut.tokens.length));
  const each = (cut, n) => (cut.tokens.length ? number(n / cut.tokens.length, 3) : "–");
  return html`<section class="card scroll" tabindex="0" aria-label="Side by side"><table>
    <thead><tr><th scope="col">Tokenizer</th><th scope="col">kind</th><th scope="col" class="figure">vocabulary</th>
      <th scope="col" class="figure">tokens</th><th scope="col" class="figure">characters a token</th>
      <th scope="col" class="figure">bytes a token</th><th scope="col">comes back</th></tr></thead>
    <tbody>${good.map((cut) => html`<tr key=${cut.model}>
      <th scope="row">${cut.model}</th><td>${cut.kind}</td><td class="figure">${number(cut.vocabulary)}</td>
      <td class=${`figure ${cut.tokens.length === least && good.length > 1 ? "least" : ""}`}>${number(cut.tokens.length)}</td>
      <td class="figure">${each(cut, cut.characters)}</td><td class="figure">${each(cut, cut.bytes)}</td>
      <td>${cut.exact ? "exactly" : "changed"}</td>
    </tr>`)}</tbody>
  </table></section>`;
}

/** A token in the way that is asked for. */
function seen(token, view) {
  if (view === "ids") return String(token.id);
  return view === "spelled" ? token.spelled : shown(token);
}

function Cut({ cut, view }) {
  const [at, setAt] = useState(null);
  const token = at === null ? null : cut.tokens?.[at];
  if (cut.error) {
    return html`<section class="card"><h2>${cut.model}</h2><${Failure} error=${{ message: cut.error }} /></section>`;
  }
  function move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    setAt(Math.min(Math.max((at ?? -1) + step, 0), cut.tokens.length - 1));
  }
  return html`<section class="card">
    <h2>${cut.model} <small>${number(cut.tokens.length)} tokens</small></h2>
    <div class=${`tokens ${view}`} tabindex="0" role="group" onKeyDown=${move} onMouseLeave=${() => setAt(null)}
      aria-label=${`Tokens by ${cut.model}; the arrow keys go from one to the next`}>
      ${cut.tokens.map((one, n) => {
        const name = `token t${n % 5}${one.special ? " special" : ""}${n === at ? " at" : ""}`;
        return html`<span key=${n} class=${name} onMouseEnter=${() => setAt(n)}>${seen(one, view)}</span>`;
      })}
    </div>
    <p class="detail" aria-live="polite">
      ${token && html`Token ${at + 1}: number <strong>${token.id}</strong>, spelled <code>${token.spelled}</code>`}
      ${token?.bytes && html`, the bytes <code>${token.bytes}</code>: a part of a character`}
      ${token?.special && ", special"}
      ${!token && html`<span class="faint">Point at a token, or focus the text and use the arrow keys.</span>`}
    </p>
  </section>`;
}
