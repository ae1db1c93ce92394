// The heads of a layer: small maps of all, and of the chosen one where each token looks.
import { colour, html, useEffect, useMemo, useRef, useState, useTheme } from "./parts.js";
import { shown } from "./token.js";

const SHOWN = 3; // tokens that are named

/** `found` as /studio/api/attention/maps tells it. */
export function Heads({ found }) {
  const [chosen, setChosen] = useState({ layer: 0, head: 0 });
  const [at, setAt] = useState(null);
  const maps = useMemo(() => unpacked(found), [found]);
  useEffect(() => {
    setChosen({ layer: 0, head: 0 });
    setAt(null);
  }, [found]);
  const { layers, heads } = found;
  const [layer, head] = [Math.min(chosen.layer, layers - 1), Math.min(chosen.head, heads - 1)];
  return html`
    <div class="field layer">
      <label for="layer">Layer ${layer + 1} of ${layers}</label>
      <input id="layer" type="range" min="1" max=${layers} value=${layer + 1} aria-valuetext=${`Layer ${layer + 1} of ${layers}`}
        onInput=${(event) => setChosen({ head, layer: event.target.valueAsNumber - 1 })} />
    </div>
    <ul class="heads" aria-label=${`Heads of layer ${layer + 1}`}>
      ${Array.from({ length: heads }, (_, n) => html`<li key=${n}>
        <button type="button" aria-pressed=${String(n === head)} onClick=${() => setChosen({ layer, head: n })}>
          <${HeatMap} map=${maps.of(layer, n)} size=${found.tokens.length} />
          <span>Head ${n + 1}</span><small>${habit(maps.of(layer, n), found)}</small>
        </button>
      </li>`)}
    </ul>
    <${Head} map=${maps.of(layer, head)} found=${found} at=${at} setAt=${setAt} name=${`head ${head + 1} of layer ${layer + 1}`} />`;
}

/** The maps as numbers from 0 to 1: `of(layer, head)` is T rows of T, one after the other. */
function unpacked({ maps, layers, heads, tokens, whole }) {
  const packed = atob(maps);
  const bytes = new Uint8Array(packed.length);
  for (let n = 0; n < packed.length; n += 1) bytes[n] = packed.charCodeAt(n);
  const numbers = new DataView(bytes.buffer);
  const shares = new Float32Array(packed.length / 2);
  for (let n = 0; n < shares.length; n += 1) shares[n] = numbers.getUint16(2 * n, true) / whole;
  const size = tokens.length ** 2;
  return {
    of(layer, head) {
      const from = (layer * heads + head) * size;
      return shares.subarray(from, from + size);
    },
  };
}

/** What a head does with most of its attention, over all tokens but the first, which often has no choice. */
function habit(map, { tokens, causal }) {
  const size = tokens.length;
  const places = { "the first token": () => 0, itself: (t) => t, "the token before": (t) => t - 1 };
  if (!causal) Object.assign(places, { "the token after": (t) => t + 1, "the last token": () => size - 1 });
  let best = ["", 0];
  for (const [name, place] of Object.entries(places)) {
    let total = 0;
    for (let t = 1; t < size; t += 1) total += place(t) < size ? map[t * size + place(t)] : 0;
    if (total / (size - 1) > best[1]) best = [name, total / (size - 1)];
  }
  return best[1] < 0.3 ? "many tokens" : `${best[0]}, ${percent(best[1])}`;
}

/** A map as a picture: a row for each token, in it a column for each that it looks at. */
function HeatMap({ map, size, at = null, onPoint }) {
  const canvas = useRef(null);
  const theme = useTheme();
  useEffect(() => {
    const [red, green, blue] = colour("--accent").match(/\d+/g).map(Number);
    const picture = new ImageData(size, size);
    // Square roots, so that a share of a few per cent, which is much among many tokens, can be seen.
    for (let n = 0; n < map.length; n += 1) picture.data.set([red, green, blue, 255 * Math.sqrt(map[n])], 4 * n);
    canvas.current.getContext("2d").putImageData(picture, 0, 0);
  }, [map, size, theme]);
  function point(event) {
    const box = canvas.current.getBoundingClientRect();
    onPoint(Math.min(Math.floor(((event.clientY - box.top) / box.height) * size), size - 1));
  }
  const row = at !== null && html`<span class="pointed" style=${{ top: `${(100 * at) / size}%`, height: `${100 / size}%` }}></span>`;
  return html`<span class="map" aria-hidden="true">
    <canvas ref=${canvas} width=${size} height=${size} onMouseMove=${onPoint && point}></canvas>${row}
  </span>`;
}

function Head({ map, found, at, setAt, name }) {
  const { tokens } = found;
  const size = tokens.length;
  const row = at === null ? null : map.subarray(at * size, (at + 1) * size);
  function move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    setAt((now) => Math.min(Math.max((now ?? -1) + step, 0), size - 1));
  }
  const most = row && [...row.entries()].sort((one, other) => other[1] - one[1]).slice(0, SHOWN).filter(([, share]) => share > 0);
  return html`<section class="card chosen" aria-label=${`Where ${name} looks`}>
    <div>
      <h2>Where ${name} looks</h2>
      <div class="tokens looked" tabindex="0" role="group" onKeyDown=${move}
        aria-label="Tokens; the arrow keys go from one to the next">
        ${tokens.map((one, n) => html`<span key=${n} class=${`token${n === at ? " at" : ""}`} onMouseEnter=${() => setAt(n)}
          style=${{ "--share": row ? Math.sqrt(row[n]) : 0 }}>${shown(one)}</span>`)}
      </div>
      <p class="detail" aria-live="polite">
        ${row
          ? html`Token ${at + 1}, <strong>${shown(tokens[at])}</strong>, looks at
              ${most.map(([n, share], place) => html`${place ? ", " : " "}${n === at ? "itself" : html`<strong>${shown(tokens[n])}</strong>`} ${percent(share)}`)}`
          : html`<span class="faint">Point at a token, or focus the text and use the arrow keys.</span>`}
      </p>
    </div>
    <figure>
      <${HeatMap} map=${map} size=${size} at=${at} onPoint=${setAt} />
      <figcaption><small>A row for each token, in it a column for each that it looks at.</small></figcaption>
    </figure>
  </section>`;
}

const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
