// Curves, drawn by uPlot in the theme's colours.
import { colour, html, number, useEffect, useRef, useTheme } from "./parts.js";
import { styles } from "./styles.js";
import uPlot from "./vendor/uplot.js";

await styles("vendor/uplot.css");

const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 5], [1, 4]];
export const COLOURS = 6;

/** The line of number `n` in a key: its colour and its dashes, so that none is told by colour alone. */
export function Line({ n }) {
  const dash = DASHES[Math.floor(n / COLOURS) % DASHES.length];
  return html`<svg class="line" width="28" height="10" aria-hidden="true">
    <line x1="1" y1="5" x2="27" y2="5" style=${{ stroke: `var(--${(n % COLOURS) + 1})` }} stroke-width="3"
      stroke-dasharray=${dash.join(" ") || undefined} />
  </svg>`;
}

/** Running mean of numbers between which some may be missing; `keep` is the share of the mean before, 0 to 1. */
export function smoothed(values, keep) {
  if (!keep) return values;
  let mean = null;
  return values.map((value) => {
    if (value === null) return null;
    mean = mean === null ? value : keep * mean + (1 - keep) * value;
    return mean;
  });
}

/** Curves over one another. `series`: [{ label, x, y, n, points }], where x grows, y may have nulls, n chooses colour and
 *  dashes, and `points` marks each value. Drag over it to look closer, double-click to see all again. */
export function Chart({ series, xLabel, label, log = false, height = 320 }) {
  const place = useRef(null);
  const theme = useTheme();
  useEffect(() => {
    let plot = null;
    function draw() {
      plot?.destroy();
      plot = new uPlot(options(place.current, series, { xLabel, log, height }), uPlot.join(series.map((s) => [s.x, s.y])), place.current);
    }
    const sized = new ResizeObserver(() => plot?.setSize({ width: place.current.clientWidth, height }));
    draw();
    sized.observe(place.current);
    return () => {
      sized.disconnect();
      plot.destroy();
    };
  }, [series, xLabel, log, height, theme]);
  return html`<div class="chart" ref=${place} role="img" aria-label=${`${label}. ${summary(series)}`}></div>`;
}

function options(place, series, { xLabel, log, height }) {
  const [text, line] = [colour("--faint"), colour("--line")];
  const axis = { stroke: text, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui" };
  const values = (_plot, all) => all.map((value) => (value === null ? "" : number(value)));
  return {
    width: place.clientWidth,
    height,
    scales: { x: { time: false }, y: { distr: log ? 3 : 1 } },
    axes: [
      { ...axis, label: xLabel, labelFont: "12px system-ui", labelSize: 20, labelGap: 0, size: 36, values },
      { ...axis, size: 64, values },
    ],
    cursor: { y: false },
    series: [
      { label: xLabel, value: (_plot, value) => number(value) },
      ...series.map((one) => ({
        label: one.label,
        stroke: colour(`--${(one.n % COLOURS) + 1}`),
        width: one.points ? 1 : 2,
        dash: DASHES[Math.floor(one.n / COLOURS) % DASHES.length],
        spanGaps: true,
        points: { show: Boolean(one.points), size: 6, fill: colour(`--${(one.n % COLOURS) + 1}`) },
        value: (_plot, value) => number(value),
      })),
    ],
  };
}

/** What a curve does, in words: for who does not see it. */
function summary(series) {
  const told = series.map(({ label, x, y }) => {
    const seen = y.map((value, at) => [x[at], value]).filter(([, value]) => value !== null);
    if (!seen.length) return `${label}: nothing yet`;
    const [[, first], [at, last]] = [seen[0], seen[seen.length - 1]];
    return `${label}: from ${number(first)} to ${number(last)} at ${number(at)}`;
  });
  return `${told.join("; ")}.`;
}
