// Samples of runs: what each model writes now, side by side, and what its training kept.
import { Busy, Chances, Empty, Failure, Field, api, html, number, say, useEffect, useRef, useState } from "./parts.js";

/** `about` is the hook that has what is known of the runs. */
export function Samples({ runs, about }) {
  const [text, setText] = useState("");
  const [tokens, setTokens] = useState(100);
  const [heat, setHeat] = useState(0.8);
  const [answers, setAnswers] = useState({});
  const leaving = useRef(null);
  useEffect(() => () => leaving.current?.abort(), []);
  const busy = Object.values(answers).some((one) => one.busy);

  async function write(event) {
    event.preventDefault();
    leaving.current?.abort();
    const mine = (leaving.current = new AbortController());
    function put(name, change) {
      if (mine === leaving.current) setAnswers((all) => ({ ...all, [name]: { ...all[name], ...change } }));
    }
    setAnswers(Object.fromEntries(runs.map((run) => [run.name, { busy: true, text: "" }])));
    const asked = { text, max_tokens: tokens, temperature: heat };
    await Promise.all(
      runs.map(async (run) => {
        try {
          for await (const change of sample(run, asked, mine.signal)) put(run.name, change);
          put(run.name, { busy: false });
        } catch (error) {
          put(run.name, { busy: false, error: error.name === "AbortError" ? null : error });
        }
      }),
    );
    if (mine === leaving.current) say("The samples are written.");
  }

  return html`
    <form class="card" onSubmit=${write}>
      <${Field} id="text" label="A text to begin with" hint=${HINTS[runs[0].use]}>
        <textarea id="text" value=${text} onInput=${(event) => setText(event.target.value)}></textarea>
      <//>
      <div class="row">
        <${Field} id="tokens" label="Tokens at most">
          <input id="tokens" type="number" min="1" max="2048" value=${tokens} onInput=${(event) => setTokens(Number(event.target.value))} />
        <//>
        <${Field} id="heat" label="Temperature">
          <input id="heat" type="number" min="0" max="2" step="0.1" value=${heat} onInput=${(event) => setHeat(Number(event.target.value))} />
        <//>
        ${busy
          ? html`<button type="button" key="stop" onClick=${() => leaving.current.abort()}>Stop</button>`
          : html`<button class="main" key="write">Write</button>`}
      </div>
    </form>
    <div class="columns">
      ${runs.map((run) => answers[run.name] && html`<section class="card" key=${run.name} aria-label=${`What ${run.name} says`}>
        <h2>${run.name}</h2>
        <${Failure} error=${answers[run.name].error} />
        <${Answer} given=${answers[run.name]} />
      </section>`)}
    </div>
    <${Kept} runs=${runs} about=${about} />`;
}

const HINTS = {
  write: "The model writes on from here; it may be empty where the model knows a beginning.",
  answer: "The model answers it.",
  fill: "The model fills each [MASK].",
  judge: "The model says what it is.",
  vectors: "",
};

/** Changes of an answer as they come. */
async function* sample(run, { text, max_tokens, temperature }, signal) {
  if (run.use !== "write") {
    yield await api.post("/studio/api/runs/sample", { run: run.name, text, max_tokens }, { signal });
    return;
  }
  const { model } = await api.post("/studio/api/runs/serve", { run: run.name }, { signal });
  let written = text;
  yield { kind: "text", text: written };
  const asked = { model, prompt: text, max_tokens, temperature, stream: true };
  for await (const event of api.stream("/v1/completions", asked, { signal })) {
    written += event.choices[0]?.text ?? "";
    yield { text: written };
  }
}

function Answer({ given }) {
  const { busy, kind } = given;
  return html`
    ${kind === "text" && html`<pre class="text">${given.text}</pre>`}
    ${kind === "gaps" && given.gaps.map((words, at) => html`
      <h3>Gap ${at + 1}</h3>
      <${Chances} rows=${words.map((one) => [one.word, one.probability])} />`)}
    ${kind === "judged" && html`<${Judged} found=${given.judged} />`}
    ${busy && html`<${Busy}>Writing …<//>`}`;
}

function Judged({ found }) {
  if (found.probabilities) return html`<${Chances} rows=${Object.entries(found.probabilities)} />`;
  if (found.words) {
    const tagged = (word) => html`<span class="tagged">${word.text} <small>${word.label}</small></span> `;
    return html`<p>${found.words.map(tagged)}</p>`;
  }
  return html`<p>Reward: <strong>${found.reward === null ? "none" : found.reward.toFixed(3)}</strong></p>`;
}

function Kept({ runs, about }) {
  const { found, error } = about(runs);
  const here = runs.filter((run) => found[run.name]);
  const having = here.filter((run) => found[run.name].samples.length);
  if (here.length && !having.length) {
    return html`<${Empty}>The trainings kept no samples: a fine-tuning keeps those of its report, PPO and GRPO those of
      their rollouts.<//>`;
  }
  return html`<${Failure} error=${error} />${having.map((run) => {
    const { samples } = found[run.name];
    return html`<section class="card" key=${run.name}>
      <h2>What the training of ${run.name} kept</h2>
      ${samples.map((one) => html`<details>
        <summary>${one.when}: ${one.prompt.slice(0, 80)}
          ${one.reward !== undefined && html` <small>reward ${number(one.reward)}</small>`}</summary>
        <h3>Prompt</h3><pre class="text">${one.prompt}</pre>
        <h3>Output</h3><pre class="text">${one.output}</pre>
        ${one.reference && html`<h3>Reference</h3><pre class="text">${one.reference}</pre>`}
      </details>`)}
    </section>`;
  })}`;
}
