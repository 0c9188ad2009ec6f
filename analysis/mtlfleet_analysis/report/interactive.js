// Draws each specification of the data block with Vega: no menu, no editor link, nothing loaded.
const refuse = { load: () => Promise.reject(new Error("nothing is loaded")), sanitize: () => Promise.reject(new Error("no links")) };
const numeric = (layer) => ["x", "y"].every((axis) => layer.encoding?.[axis]?.type === "quantitative" && layer.encoding[axis].axis !== null);
for (const [index, { spec }] of JSON.parse(document.getElementById("figures").textContent).entries()) {
  const given = structuredClone(spec);
  given.config.mark = { tooltip: { content: "data" } };
  if (given.layer && !given.facet && given.layer.some(numeric))
    given.layer[given.layer.findIndex(numeric)].params = [{ name: "zoom", select: "interval", bind: "scales" }];
  const plain = { actions: false, defaultStyle: false, tooltip: false, renderer: "svg", mode: "vega-lite", loader: refuse };
  vegaEmbed(document.getElementById(`view-${index}`), given, plain);
}
