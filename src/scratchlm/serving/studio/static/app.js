// The frame: which page is shown, the way between them, the theme, and the key where the server wants one.
import { keepKey } from "./api.js";
import { Busy, Failure, html, useEffect, useLayoutEffect, useRef, useState } from "./parts.js";
import { render } from "./vendor/preact-htm.js";

const PAGES = {
  chat: "Chat",
  runs: "Runs",
  attention: "Attention",
  tokens: "Tokens",
  documents: "Documents",
  agents: "Agents",
  models: "Models",
};
const FIRST = "chat";

/** The page and what it is asked to show: `#/runs?run=a` -> { name: "runs", params }. */
function place() {
  const [name, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { name: name in PAGES ? name : FIRST, params: new URLSearchParams(search) };
}

function usePlace() {
  const [where, setWhere] = useState(place);
  useEffect(() => {
    // A link within the page, such as "Skip to the content", is no other page.
    const moved = () => (location.hash === "" || location.hash.startsWith("#/")) && setWhere(place());
    window.addEventListener("hashchange", moved);
    return () => window.removeEventListener("hashchange", moved);
  }, []);
  return where;
}

const THEMES = { system: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };

function ThemeButton() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme ?? "system");
  function next() {
    const names = Object.keys(THEMES);
    const to = names[(names.indexOf(theme) + 1) % names.length];
    if (to === "system") {
      delete document.documentElement.dataset.theme;
      localStorage.removeItem("scratchlm-theme");
    } else {
      document.documentElement.dataset.theme = to;
      localStorage.setItem("scratchlm-theme", to);
    }
    setTheme(to);
    window.dispatchEvent(new Event("scratchlm-theme")); // canvases draw themselves anew
  }
  const sign = { system: "◐", light: "☀", dark: "☾" }[theme];
  return html`<button type="button" class="quiet" onClick=${next} aria-label=${THEMES[theme]} title=${THEMES[theme]}>
    <span aria-hidden="true">${sign}</span>
  </button>`;
}

/** Asks for the key when the server has refused a request without one. */
function KeyDialog({ onKey }) {
  const dialog = useRef(null);
  useEffect(() => {
    const open = () => dialog.current.open || dialog.current.showModal();
    window.addEventListener("scratchlm-key-needed", open);
    return () => window.removeEventListener("scratchlm-key-needed", open);
  }, []);
  function enter(event) {
    event.preventDefault();
    keepKey(new FormData(event.target).get("key").trim());
    event.target.reset();
    dialog.current.close();
    onKey();
  }
  return html`<dialog ref=${dialog} aria-labelledby="key-title">
    <form onSubmit=${enter}>
      <h2 id="key-title">This server asks for a key</h2>
      <div class="field">
        <label for="key">One of its keys</label>
        <input id="key" name="key" type="password" autocomplete="off" required />
        <small>Kept in this tab alone, until it is closed.</small>
      </div>
      <button class="main">Enter</button>
    </form>
  </dialog>`;
}

function Shown({ where, moves }) {
  const [page, setPage] = useState({ name: null, module: null, error: null });
  useEffect(() => {
    let left = false;
    import(`./pages/${where.name}.js`).then(
      (module) => left || setPage({ name: where.name, module, error: null }),
      (error) => left || setPage({ name: where.name, module: null, error }),
    );
    return () => {
      left = true;
    };
  }, [where.name]);
  const heading = useRef(null);
  const here = page.name === where.name;
  const title = (here && page.module?.title) || PAGES[where.name];
  useLayoutEffect(() => {
    document.title = `${title} · scratchlm studio`;
    if (moves > 0 && here) heading.current.focus(); // not at the first page: focus stays where a visit begins
  }, [where.name, here]);
  return html`<main id="content" tabindex="-1">
    <h1 ref=${heading} tabindex="-1">${title}</h1>
    ${here && html`<${Failure} error=${page.error && { message: `This page cannot be loaded: ${page.error.message}` }} />`}
    ${here ? page.module && html`<${page.module.Page} key=${where.name} params=${where.params} />` : html`<${Busy} />`}
  </main>`;
}

function App() {
  const where = usePlace();
  const [turn, setTurn] = useState(0);
  const [moves, setMoves] = useState(-1);
  useEffect(() => setMoves((n) => n + 1), [where.name]);
  const skip = (event) => {
    event.preventDefault();
    document.getElementById("content").focus();
  };
  return html`
    <a class="skip" href="#content" onClick=${skip}>Skip to the content</a>
    <header>
      <a class="brand" href="#/"><img src="/studio/static/icon.svg" alt="" width="24" height="24" />scratchlm</a>
      <nav aria-label="Pages">
        ${Object.entries(PAGES).map(
          ([name, title]) =>
            html`<a key=${name} href=${`#/${name}`} aria-current=${name === where.name ? "page" : undefined}>${title}</a>`,
        )}
      </nav>
      <${ThemeButton} />
    </header>
    <${Shown} key=${turn} where=${where} moves=${moves} />
    <div id="said" class="unseen" role="status" aria-live="polite"></div>
    <${KeyDialog} onKey=${() => setTurn((n) => n + 1)} />
  `;
}

render(html`<${App} />`, document.getElementById("app"));
