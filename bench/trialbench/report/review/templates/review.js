// The blind review: one pair at a time. Judgments stay in this browser until they are saved as a file.
{
  const main = document.getElementById("main");
  const told = document.getElementById("told");
  const pairs = [...document.querySelectorAll("section.pair")];
  const place = `trialbench review ${main.dataset.run} ${main.dataset.review}`;
  const words = { first: "Reply 1 is better", second: "Reply 2 is better", same: "No difference" };
  const keys = { 1: "first", 2: "second", 0: "same" };
  const reviewer = document.getElementById("reviewer");
  const again = document.getElementById("again");
  const id = (pair) => pair.dataset.pair;
  // A name for who gives none; it never changes, so that saving twice makes no second reviewer.
  const made = () => `reviewer-${[...crypto.getRandomValues(new Uint8Array(3))].map((one) => one.toString(16).padStart(2, "0")).join("")}`;
  let state = { name: "", made: made(), at: 0, answers: {} };
  const total = `${pairs.length} ${pairs.length === 1 ? "pair" : "pairs"}`;
  let asked = false;

  const kept = () => {
    try {
      const found = JSON.parse(localStorage.getItem(place));
      if (found === null) return;
      for (const pair of pairs) if (found.answers?.[id(pair)] in words) state.answers[id(pair)] = found.answers[id(pair)];
      if (typeof found.name === "string") state.name = found.name;
      if (/^reviewer-[0-9a-f]{6}$/.test(found.made)) state.made = found.made;
      if (pairs[found.at]) state.at = found.at;
    } catch {
      // Nothing usable was kept.
    }
  };
  const keep = () => {
    try {
      localStorage.setItem(place, JSON.stringify(state));
    } catch {
      document.getElementById("kept").textContent = "This browser keeps nothing for this page: save before you close it.";
    }
  };
  const done = () => pairs.filter((pair) => id(pair) in state.answers).length;
  const open = (from) => {
    const turns = pairs.map((_, step) => (from + step) % pairs.length);
    return turns.find((at) => !(id(pairs[at]) in state.answers));
  };
  const draw = () => {
    pairs.forEach((pair, at) => {
      pair.hidden = at !== state.at;
      for (const button of pair.querySelectorAll("[data-answer]"))
        button.setAttribute("aria-pressed", String(state.answers[id(pair)] === button.dataset.answer));
    });
    // A picture lies on the page once, and goes where it is looked at.
    const slot = pairs[state.at].querySelector(".picture");
    if (slot) slot.append(document.getElementById(slot.dataset.picture));
    document.getElementById("done").textContent = `${done()} of ${total} judged`;
    document.getElementById("progress").value = done();
    document.getElementById("back").disabled = state.at === 0;
    document.getElementById("on").disabled = state.at === pairs.length - 1;
    document.getElementById("open").disabled = open(0) === undefined;
  };
  const go = (at, said = "") => {
    if (!pairs[at]) return;
    state.at = at;
    keep();
    draw();
    told.textContent = said;
    pairs[at].querySelector("h2").focus();
  };
  const judge = (answer) => {
    state.answers[id(pairs[state.at])] = answer;
    const next = open(state.at + 1);
    const said = `${words[answer]}. ${done()} of ${total} judged.`;
    if (next !== undefined) return go(next, said);
    keep();
    draw();
    told.textContent = `${said} Save judgements.json.`;
    document.getElementById("h-save").focus();
  };
  const write = () => {
    const judgments = pairs
      .filter((pair) => id(pair) in state.answers)
      .map((pair) => ({ pair: id(pair), answer: state.answers[id(pair)] }));
    const saved = {
      format: 1,
      run: main.dataset.run,
      review: main.dataset.review,
      reviewer: state.name.trim() || state.made,
      saved: new Date().toISOString(),
      judgments,
    };
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${JSON.stringify(saved, null, 1)}\n`], { type: "application/json" }));
    link.download = "judgements.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    told.textContent = `Saved the judgments of ${judgments.length} of ${total} as judgements.json.`;
  };
  const startOver = () => {
    if (!asked) {
      asked = true;
      again.textContent = told.textContent = "Press again to forget all judgments of this page";
      return;
    }
    asked = false;
    again.textContent = "Start over";
    state = { name: "", made: made(), at: 0, answers: {} };
    reviewer.value = "";
    go(0, "Started over.");
  };

  document.getElementById("off").hidden = true;
  kept();
  reviewer.value = state.name;
  draw();
  reviewer.addEventListener("input", () => {
    state.name = reviewer.value;
    keep();
  });
  for (const button of document.querySelectorAll("[data-answer]"))
    button.addEventListener("click", () => judge(button.dataset.answer));
  document.getElementById("back").addEventListener("click", () => go(state.at - 1));
  document.getElementById("on").addEventListener("click", () => go(state.at + 1));
  document.getElementById("open").addEventListener("click", () => go(open(state.at)));
  document.getElementById("write").addEventListener("click", write);
  again.addEventListener("click", startOver);
  again.addEventListener("blur", () => {
    asked = false;
    again.textContent = "Start over";
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.target === reviewer) return;
    if (event.key in keys) judge(keys[event.key]);
    else if (event.key === "ArrowLeft") go(state.at - 1);
    else if (event.key === "ArrowRight") go(state.at + 1);
    else return;
    event.preventDefault();
  });
}
