// Runs before anything is drawn, so that no page flashes up in the other theme.
(() => {
  const kept = localStorage.getItem("scratchlm-theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
