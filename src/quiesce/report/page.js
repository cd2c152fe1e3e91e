// Draws each chart from the JSON behind it, in the colours of the reader's choice. The page can be
// read first: plotly, which takes a browser a second to compile, waits until it is open, and the
// charts come one after the other.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const partners = JSON.parse(document.getElementById("partners").textContent);
  const options = { displayModeBar: false, responsive: true };

  const recolored = (tree) => {
    if (typeof tree === "string") return partners[tree] ?? tree;
    if (Array.isArray(tree)) return tree.map(recolored);
    if (tree === null || typeof tree !== "object") return tree;
    return Object.fromEntries(Object.entries(tree).map(([key, value]) => [key, recolored(value)]));
  };

  const draw = (plot) => {
    const read = JSON.parse(plot.nextElementSibling.textContent);
    const { data, layout } = dark.matches ? recolored(read) : read;
    layout.dragmode = touch ? false : "zoom"; // a finger scrolls the page, not the chart
    return Plotly.react(plot, data, layout, options);
  };

  const shown = (plot) => !plot.closest("details:not([open])"); // a folded chart has no width

  let drawing = 0;
  const drawAll = async (part = document) => {
    drawing += 1;
    document.documentElement.dataset.drawn = "no";
    for (const plot of [...part.querySelectorAll(".plot")].filter(shown)) {
      await draw(plot);
      await new Promise((next) => setTimeout(next));
    }
    drawing -= 1;
    if (!drawing) document.documentElement.dataset.drawn = "yes";
  };

  // a link to a folded section opens it
  const reveal = () => {
    const wanted = document.getElementById(location.hash.slice(1))?.querySelector("details");
    if (wanted) {
      wanted.open = true;
      wanted.parentElement.scrollIntoView();
    }
  };

  const start = () => {
    const plotly = document.createElement("script");
    plotly.textContent = document.getElementById("plotly").textContent;
    document.body.append(plotly);
    dark.addEventListener("change", () => drawAll());
    for (const fold of document.querySelectorAll("details")) {
      fold.addEventListener("toggle", () => fold.open && drawAll(fold));
    }
    document.getElementById("open-all").addEventListener("click", () => {
      document.querySelectorAll("details").forEach((fold) => { fold.open = true; });
    });
    addEventListener("hashchange", reveal);
    reveal();
    drawAll();
  };

  addEventListener("load", () => setTimeout(start));
})();
