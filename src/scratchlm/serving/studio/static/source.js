// A document as its index has it, in a dialog, at the lines that are cited.
import { Busy, Failure, html, number, useApi, useEffect, useRef, useState } from "./parts.js";

/** `asked`: { name, file } and perhaps { start, end }, the cited characters; null for nothing to show. */
export function Source({ asked, close }) {
  const dialog = useRef(null);
  const [line, setLine] = useState(null);
  const search = asked && new URLSearchParams(line === null ? asked : { name: asked.name, file: asked.file, line });
  const { data, error } = useApi(search && `/studio/api/documents/source?${search}`);
  useEffect(() => {
    setLine(null);
    if (asked) dialog.current.showModal();
  }, [asked]);
  useEffect(() => {
    if (!data) return;
    const place = dialog.current.querySelector("mark") ?? (line !== null && dialog.current.querySelector(`[data-line="${line}"]`));
    if (place) place.scrollIntoView({ block: "center" });
    else dialog.current.querySelector(".source").scrollTop = 0;
  }, [data]);
  const shown = data?.lines ?? [];
  const [first, last] = [shown[0]?.line, shown[shown.length - 1]?.line];
  return html`<dialog ref=${dialog} class="source-dialog" aria-labelledby="source-title" onClose=${close}>
    <div class="row head">
      <h2 id="source-title">${asked?.file}</h2>
      <button type="button" onClick=${() => dialog.current.close()}>Close</button>
    </div>
    <${Failure} error=${error} />
    ${asked && !data && !error && html`<${Busy} />`}
    ${data && html`<p class="faint">Lines ${number(first)} to ${number(last)} of ${number(data.last)}, as the index has them.
        ${first > data.first && html` <button type="button" class="link" onClick=${() => setLine(first)}>Earlier lines</button>`}
        ${last < data.last && html` <button type="button" class="link" onClick=${() => setLine(last)}>Later lines</button>`}</p>
      <div class="source scroll" tabindex="0" role="group" aria-label=${`Text of ${asked.file}`}>
        ${shown.map((one) => html`<div class="line" key=${one.line} data-line=${one.line}>
          <span class="line-number" aria-hidden="true">${one.line}</span>
          <span class="line-text">${one.parts.map(([text, cited]) => (cited ? html`<mark>${text}</mark>` : text))}</span>
        </div>`)}
      </div>`}
  </dialog>`;
}
