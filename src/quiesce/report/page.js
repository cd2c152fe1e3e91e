// Draws each chart from the JSON behind it, in the colours of the reader's choice, one after the
// other, so that the page can be read and scrolled before the last is drawn.
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

  const drawAll = async () => {
    document.documentElement.dataset.drawn = "no";
    for (const plot of document.querySelectorAll(".plot")) {
      await new Promise((next) => setTimeout(next)); // also before the first: text is there sooner
      await draw(plot);
    }
    document.documentElement.dataset.drawn = "yes";
  };

  dark.addEventListener("change", drawAll);
  drawAll();
})();
