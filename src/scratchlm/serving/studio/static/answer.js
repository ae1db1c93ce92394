// An answer of a model: its tokens, each of which tells how likely it was, and what can be done with it.
import { Busy, Failure, html, useMemo, useState } from "./parts.js";

// Drawn, since fonts without emoji are common. A cuff, and a hand with its thumb up.
const THUMB = "M3 11h3v9H3z M8.5 11.5 12 4c1.4 0 2.3 1 2.3 2.4L13.8 10H19c1.2 0 2 1 1.8 2.2l-1.2 6.2A2 2 0 0 1 17.6 20H8.5z";
const REASONS = { length: "cut off at the most tokens", stopped: "stopped" };

/** `side` has the tries of one model: `{ tries, at }`. `picked` is null where there is one model alone. */
export function Answer({ model, side, shaded, onShow, onJudge, onRetry, picked, onPick }) {
  const { tries, at } = side;
  const one = tries[at];
  const thumb = (good, name) => html`<button type="button" class="quiet thumb" aria-pressed=${String(one.good === good)}
    aria-label=${name} title=${name} onClick=${() => onJudge(good)}><svg class=${good ? "" : "down"} viewBox="0 0 24 24"
    width="20" height="20" aria-hidden="true"><path d=${THUMB} /></svg></button>`;
  return html`<article class="card answer" aria-label=${`Answer of ${model}`} aria-busy=${String(one.busy)}>
    <h2>${model}</h2>
    <${Failure} error=${one.error} />
    <${Tokens} model=${model} given=${one} shaded=${shaded} />
    ${one.busy && html`<${Busy}>Answering …<//>`}
    <div class="row tools">
      ${!one.busy && one.text.trim() && html`${thumb(true, "Good answer")}${thumb(false, "Bad answer")}`}
      ${onRetry && html`<button type="button" class="quiet" onClick=${onRetry}>Retry</button>`}
      ${tries.length > 1 && html`<span class="tries">
        <button type="button" class="quiet" aria-label="The try before" disabled=${!at} onClick=${() => onShow(at - 1)}>‹</button>
        ${at + 1} of ${tries.length}
        <button type="button" class="quiet" aria-label="The next try" disabled=${at === tries.length - 1} onClick=${() => onShow(at + 1)}>›</button>
      </span>`}
      ${picked !== null && !one.busy && one.text && html`<button type="button" class="quiet" aria-pressed=${String(picked)}
        onClick=${onPick}>Both go on from this</button>`}
      ${REASONS[one.reason] && html`<small>${REASONS[one.reason]}</small>`}
    </div>
  </article>`;
}

/** Tokens as pieces that can be read: those that are parts of a character wait for its last, or for the end. */
function pieces(tokens, ended) {
  const decoder = new TextDecoder();
  const found = [];
  let parts = [];
  for (const token of tokens) {
    parts.push(token);
    const text = decoder.decode(new Uint8Array(token.bytes), { stream: true });
    if (!text) continue;
    found.push({ text, parts });
    parts = [];
  }
  const rest = ended ? decoder.decode() : "";
  if (rest) found.push({ text: rest, parts });
  if (found.length) found[0].text = found[0].text.trimStart() || found[0].text;
  return found;
}

const chance = (token) => Math.exp(token.logprob);
const percent = (value) => `${(100 * value).toFixed(value < 0.001 ? 3 : 1)} %`;
const named = (token) => JSON.stringify(token.token);

/** 0 for a likely token, 3 for a very unlikely one. */
function shade(piece) {
  const least = Math.min(...piece.parts.map(chance));
  return [0.5, 0.2, 0.05].filter((edge) => least < edge).length;
}

function Tokens({ model, given, shaded }) {
  const [at, setAt] = useState(null);
  const shown = useMemo(() => pieces(given.tokens, !given.busy), [given.tokens, given.busy]);
  if (!shown.length) return html`<pre class="said">${given.text}</pre>`;
  function move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    setAt(Math.min(Math.max((at ?? -1) + step, 0), shown.length - 1));
  }
  return html`<div class=${`said spoken${shaded ? " shaded" : ""}`} tabindex="0" role="group" onKeyDown=${move}
      aria-label=${`What ${model} says; the arrow keys go from token to token`} onMouseLeave=${() => setAt(null)}>
      ${shown.map((piece, n) => html`<span key=${n} class=${`piece s${shade(piece)}${n === at ? " at" : ""}`}
        onMouseEnter=${() => setAt(n)}>${piece.text}</span>`)}
    </div>
    <div class="chances" aria-live="polite">
      ${shown[at] ? shown[at].parts.map((token) => html`<${Chances} token=${token} />`)
        : html`<small>Point at a token, or use the arrow keys, to see how likely it was.</small>`}
    </div>`;
}

function Chances({ token }) {
  const others = token.top_logprobs.filter((one) => one.token !== token.token);
  return html`<p><code>${named(token)}</code> <strong>${percent(chance(token))}</strong>
    ${others.length > 0 && html`<small>${" "}others: ${others.map((one, n) => html`${n > 0 && ", "}<code>${named(one)}</code> ${percent(chance(one))}`)}</small>`}
  </p>`;
}
