// The logit lens: what each layer would say at each token, had it the last word.
import { Chances, html, useEffect, useLayoutEffect, useRef, useState } from "./parts.js";
import { inLine } from "./token.js";

/** `found` as /studio/api/attention/lens tells it. */
export function Lens({ found }) {
  const { tokens, layers } = found;
  const [at, setAt] = useState({ layer: layers.length - 1, token: 0 });
  const grid = useRef(null);
  const moved = useRef(false);
  useEffect(() => setAt({ layer: layers.length - 1, token: 0 }), [found]);
  useLayoutEffect(() => {
    if (moved.current) grid.current.querySelector('[tabindex="0"]')?.focus();
    moved.current = false;
  }, [at]);
  const here = { layer: Math.min(at.layer, layers.length - 1), token: Math.min(at.token, tokens.length - 1) };
  function move(event) {
    const [up, right] = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key] ?? [0, 0];
    if (!up && !right) return;
    event.preventDefault();
    moved.current = true;
    setAt((now) => ({ layer: within(now.layer + up, layers.length), token: within(now.token + right, tokens.length) }));
  }
  const rows = layers.map((_, layer) => layer).reverse(); // the last layer, which the model says, on top
  return html`
    <p>${found.next
      ? "In each field the token that a layer would say next, after the token above it; the top row is what the model says."
      : "In each field the token that a layer would put in the place of the one above it; the top row is what the model says."}
    ${" "}The fuller the colour, the likelier.</p>
    <${Field} found=${found} at=${here} />
    <div class="card scroll lens" ref=${grid} onKeyDown=${move}>
      <table role="grid" aria-label="What each layer would say at each token">
        <thead><tr><th scope="col"><span class="unseen">Layer</span></th>
          ${tokens.map((token, n) => html`<th scope="col" key=${n}>${inLine(token)}</th>`)}</tr></thead>
        <tbody>${rows.map((layer) => html`<tr key=${layer}>
          <th scope="row">${layerName(layer)}</th>
          ${layers[layer].map((guess, n) => html`<${Cell} key=${n} guess=${guess} chosen=${layer === here.layer && n === here.token}
            choose=${() => setAt({ layer, token: n })} />`)}
        </tr>`)}</tbody>
      </table>
    </div>`;
}

const within = (n, count) => Math.min(Math.max(n, 0), count - 1);
const layerName = (layer) => (layer ? `layer ${layer}` : "embeddings");

function Cell({ guess, chosen, choose }) {
  const [best] = guess.best;
  return html`<td role="gridcell" tabindex=${chosen ? 0 : -1} aria-selected=${String(chosen)} onClick=${choose}
    class=${guess.rank === 1 ? "agrees" : ""} style=${{ "--share": best.probability }}>${inLine(best)}</td>`;
}

/** The chosen field: the likeliest tokens, and where the one that the model says stands among them. */
function Field({ found, at }) {
  const guess = found.layers[at.layer][at.token];
  const [said] = found.layers[found.layers.length - 1][at.token].best;
  const where = `${found.next ? "After" : "In place of"} token ${at.token + 1}, ${inLine(found.tokens[at.token])}`;
  const percent = (100 * guess.probability).toFixed(guess.probability < 0.01 ? 3 : 1);
  return html`<section class="card" aria-label="The chosen field" aria-live="polite">
    <h2>${where}, ${layerName(at.layer)}</h2>
    <${Chances} rows=${guess.best.map((one) => [inLine(one), one.probability])} />
    <p class="detail">The model says <strong>${inLine(said)}</strong>; here it is number ${guess.rank.toLocaleString("en")}${" "}
      with ${percent} %.</p>
  </section>`;
}
