// What pages are made of: hooks and small components. Everything of Preact that a page needs comes through here.
import * as api from "./api.js";
import { html, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/preact-htm.js";

export { api, html, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState };

/** Tell a screen reader something that is only seen otherwise, such as that an answer has come. */
export function say(text) {
  const place = document.getElementById("said");
  if (place) place.textContent = text;
}

/** The address of a page, for links: `link("runs", { run: ["a", "b"] })`. */
export function link(page, params = {}) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    for (const one of [value].flat()) if (one !== undefined && one !== "") search.append(name, one);
  }
  const text = search.toString();
  return `#/${page}${text ? `?${text}` : ""}`;
}

/** Go to a page; with `replace` the way back leaves this step out. */
export function go(page, params = {}, { replace = false } = {}) {
  const to = link(page, params);
  if (to === location.hash) return;
  if (!replace) location.hash = to;
  else {
    history.replaceState(null, "", to);
    window.dispatchEvent(new HashChangeEvent("hashchange"));
  }
}

/** What a path of the API has: `{ data, error, again }`. Asked again when the path changes, when `again()` is called,
 *  and every `every` milliseconds (0: never) while the page is seen. A null path asks nothing. */
export function useApi(path, { every = 0 } = {}) {
  const [found, setFound] = useState({ path: null, data: null, error: null });
  const [turn, setTurn] = useState(0);
  const again = useCallback(() => setTurn((n) => n + 1), []);
  useEffect(() => {
    if (path === null) return undefined;
    const leaving = new AbortController();
    let timer;
    let asked = false; // a page that is opened out of sight is filled, too
    async function ask() {
      if (!asked || !document.hidden) {
        asked = true;
        try {
          const data = await api.get(path, { signal: leaving.signal });
          setFound({ path, data, error: null });
        } catch (error) {
          if (error.name === "AbortError") return;
          setFound((before) => ({ path, data: before.path === path ? before.data : null, error }));
        }
      }
      if (every && !leaving.signal.aborted) timer = setTimeout(ask, every);
    }
    ask();
    return () => {
      clearTimeout(timer);
      leaving.abort();
    };
  }, [path, every, turn]);
  const mine = found.path === path;
  return { data: mine ? found.data : null, error: mine ? found.error : null, again };
}

/** A form control with its label and, under it, a hint. The one child is the control; `id` is its id. */
export function Field({ id, label, hint, wide, children }) {
  return html`<div class=${wide ? "field wide" : "field"}>
    <label for=${id}>${label}</label>
    ${children}
    ${hint && html`<small>${hint}</small>`}
  </div>`;
}

/** What went wrong; nothing where nothing did. `again`, where given, is a button's. */
export function Failure({ error, again }) {
  if (!error) return null;
  return html`<div class="failure" role="alert">
    <span>${error.message ?? String(error)}</span>
    ${again && html`<button type="button" onClick=${again}>Try again</button>`}
  </div>`;
}

/** That something is being worked on. */
export function Busy({ children = "Loading …" }) {
  return html`<p class="busy" role="status"><span class="spinner" aria-hidden="true"></span>${children}</p>`;
}

/** Said where a list is empty. */
export function Empty({ children }) {
  return html`<p class="empty">${children}</p>`;
}

/** 1234567 -> "1.2 MB". */
export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  while (n >= 1000 && step < units.length - 1) {
    n /= 1000;
    step += 1;
  }
  return `${step ? n.toFixed(n < 10 ? 1 : 0) : n} ${units[step]}`;
}

/** A number for people: few digits, thousands apart. */
export function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(2);
  return value.toLocaleString("en", { maximumSignificantDigits: digits });
}

/** A colour of the theme as the browser computes it now, for a canvas: `colour("--text")`. */
export function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** The theme's turn: another number when the colours have changed, for what draws itself. */
export function useTheme() {
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const changed = () => setTurn((n) => n + 1);
    const system = matchMedia("(prefers-color-scheme: dark)");
    system.addEventListener("change", changed);
    window.addEventListener("scratchlm-theme", changed);
    return () => {
      system.removeEventListener("change", changed);
      window.removeEventListener("scratchlm-theme", changed);
    };
  }, []);
  return turn;
}

/** Probabilities by name: `rows` is [[name, 0 to 1]]. */
export function Chances({ rows }) {
  return html`<table><tbody>${rows.map(([name, value]) => html`<tr key=${name}>
    <th scope="row">${name}</th><td class="figure">${(100 * value).toFixed(1)} %</td>
    <td class="bar" aria-hidden="true"><span style=${{ width: `${100 * value}%` }}></span></td>
  </tr>`)}</tbody></table>`;
}

/** Tabs: `tabs` is { key: title }; the children are what the chosen one shows. Arrow keys go from tab to tab. */
export function Tabs({ label, tabs, chosen, onChoose, children }) {
  const id = useMemo(() => `tabs-${Math.random().toString(36).slice(2)}`, []);
  const keys = Object.keys(tabs);
  function move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const beside = step && keys[(keys.indexOf(chosen) + step + keys.length) % keys.length];
    const to = { Home: keys[0], End: keys[keys.length - 1] }[event.key] ?? beside;
    if (!to) return;
    event.preventDefault();
    onChoose(to);
    document.getElementById(`${id}-${to}`).focus();
  }
  return html`<div class="tabs" role="tablist" aria-label=${label} onKeyDown=${move}>
      ${keys.map((key) => {
        const here = key === chosen;
        return html`<button type="button" role="tab" key=${key} id=${`${id}-${key}`} aria-controls=${id}
          aria-selected=${String(here)} tabindex=${here ? 0 : -1} onClick=${() => onChoose(key)}>${tabs[key]}</button>`;
      })}
    </div>
    <div role="tabpanel" id=${id} aria-labelledby=${`${id}-${chosen}`}>${children}</div>`;
}
