"use strict";
// Draws the figures that the page holds as JSON, in the colours of its theme.
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 40rem)");

function themed(figure, place) {
  const ink = dark.matches ? "#e8e8ea" : "#1d1d1f";
  const line = dark.matches ? "#45464a" : "#d0d0d5";
  const { data, layout } = structuredClone(figure);
  for (const trace of data) {
    // the colours that a dark page swallows
    if (trace.marker?.color === "#000000") trace.marker.color = ink;
    if (trace.line?.color === "#555555") trace.line.color = ink;
  }
  Object.assign(layout, {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, size: narrow.matches ? 11 : 13 },
    hoverlabel: { bgcolor: dark.matches ? "#222326" : "#ffffff", font: { color: ink } },
    title: { text: "" },
    autosize: true,
    width: place.clientWidth,
    margin: { l: 50, r: 10, t: 30, b: 60 },
    legend: { orientation: "h", y: -0.25 },
    dragmode: narrow.matches ? false : "zoom",
  });
  for (const key of Object.keys(layout)) {
    if (/^[xy]axis/.test(key)) {
      Object.assign(layout[key], { gridcolor: line, zerolinecolor: line, automargin: true });
    }
  }
  return { data, layout };
}

function draw() {
  for (const [id, figure] of Object.entries(figures)) {
    const place = document.getElementById(id);
    // a closed <details> has no width to draw in; opening it draws
    if (!place || !figure || !place.clientWidth) continue;
    const { data, layout } = themed(figure, place);
    Plotly.react(place, data, layout, { displaylogo: false, displayModeBar: false });
    if (place.dataset.listens) continue;
    place.dataset.listens = "yes";
    place.on("plotly_click", (event) => {
      const link = event.points[0].customdata;
      if (typeof link === "string" && link.startsWith("/")) location.assign(link);
    });
  }
}

dark.addEventListener("change", draw);
addEventListener("resize", draw);
addEventListener("toggle", draw, true);
draw();
