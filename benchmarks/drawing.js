// Each way makes its picture of the numbers so far, and gives what takes the next ones. benchmarks/drawing.py has it run.

const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
const words = { line: "", point: "", table: "", table_title: "", png: "PNG", svg: "SVG", save: "{format}", line_said: "{name} {first} {last} {low} {high}", points_said: "{n}" };
const colours = ["#0072b2", "#d55e00"];
window.numbers = (n) => [0, 1].map((k) => Array.from({ length: n }, (_, i) => 2 + k * 0.1 + Math.sin(i / 9 + k) * Math.exp(-i / 300) + 0.1 * Math.sin(i * 7919)));
const traces = (series) => series.map((y, k) => ({ x: [...y.keys()], y, mode: "lines", name: `line ${k}`, line: { color: colours[k], width: 1.8 } }));
const layout = { width: 600, height: 250, margin: { l: 56, r: 12, t: 26, b: 44 }, xaxis: { range: [0, 1024] }, yaxis: { range: [0, 4] }, hovermode: "x" };
const config = { displayModeBar: false, responsive: false };
const plotted = async (host, series, next) => {
  await Plotly.newPlot(host, traces(series), layout, config);
  return next;
};
window.ways = {
  nothing: async () => () => 0,
  live: async (host, series) => {
    const { Chart } = await import("/static/chart.js");
    host.style.width = "600px";
    const look = { text: "#222", background: "#fff", font: "sans-serif", grid: "#ddd", faint: "#777" };
    const chart = new Chart({ Plotly, words, look, run: { live: true }, id: "a" }, "loss", host);
    const draw = (all) => {
      chart.measure();
      chart.draw(traces(all), { xaxis: { range: [0, 1024] }, yaxis: { range: [0, 4] }, hovermode: "x" }, 250);
    };
    draw(series);
    return draw;
  },
  react: (host, series) => plotted(host, series, (all) => Plotly.react(host, traces(all), layout, config)),
  restyle: (host, series) => plotted(host, series, (all) => Plotly.restyle(host, { x: all.map((y) => [...y.keys()]), y: all })),
  extendTraces: (host, series) => plotted(host, series, (all) => Plotly.extendTraces(host,
    { x: all.map((y) => [y.length - 1]), y: all.map((y) => [y.at(-1)]) }, [0, 1])),
  canvas: async (host, series) => {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: 600, height: 250 });
    host.append(canvas);
    const paint = (all) => {
      const pen = canvas.getContext("2d");
      pen.clearRect(0, 0, 600, 250);
      pen.fillText("0", 40, 210); // the axes of a chart have some ten texts and lines
      for (let i = 0; i < 10; i++) pen.fillText(String(100 * i), 56 + 53 * i, 225);
      all.forEach((y, k) => {
        pen.strokeStyle = colours[k];
        pen.beginPath();
        y.forEach((value, i) => pen.lineTo(56 + (i / 1024) * 532, 206 - (value / 4) * 180));
        pen.stroke();
      });
    };
    paint(series);
    return paint;
  },
  uPlot: async (host, series) => {
    const axis = { range: [0, 4] };
    const data = (all) => [[...all[0].keys()], ...all];
    const plot = new uPlot({ width: 600, height: 250, scales: { x: { time: false, range: [0, 1024] }, y: axis },
      series: [{}, ...colours.map((stroke) => ({ stroke, width: 1.8 }))] }, data(series), host);
    return (all) => plot.setData(data(all), false) ?? plot.redraw();
  },
};
window.run = async (name, from, updates) => {
  const host = document.createElement("div");
  document.body.replaceChildren(host);
  const next = await ways[name](host, numbers(from));
  const all = Array.from({ length: updates + 8 }, (_, i) => numbers(from + i + 1));
  let i = 0;
  const some = async (count) => {
    for (let k = 0; k < count; k++) {
      await next(all[i++]);
      await frame();
    }
  };
  await some(8);
  return (window.go = () => some(updates));
};
