"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colours = {
    light: {
      ink: "#1b1f24", faint: "#767676", rule: "#e2e6ea", paper: "#ffffff",
      lines: ["#0072b2", "#d55e00", "#00795a", "#aa4499", "#8a6d00", "#2f7fb8", "#222222", "#882255", "#785ef0", "#767676"],
      fifths: ["#08306b", "#2166ac", "#6096c9", "#93b9dd", "#c2d5ea"],
    },
    dark: {
      ink: "#e6e9ec", faint: "#8b949e", rule: "#333a42", paper: "#14171b",
      lines: ["#56b4e9", "#f28e4b", "#3ccf9f", "#e59ac4", "#f0e442", "#9db8ff", "#ffffff", "#ff8fa3", "#b9a5ff", "#a0a0a0"],
      fifths: ["#eaf3ff", "#a9cdf3", "#6f9fd0", "#46709c", "#2c4a69"],
    },
  };

  // Colours have names in the charts: @ink, @1 (of the lines), @s1 (of the fifths).
  function coloured(value, scheme, key) {
    if (Array.isArray(value)) return value.map((one) => coloured(one, scheme, key));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, coloured(one, scheme, name)]));
    }
    if (typeof value !== "string" || !value.startsWith("@") || !/color$/.test(key || "")) return value;
    const name = value.slice(1);
    if (/^\d+$/.test(name)) return scheme.lines[(Number(name) - 1) % scheme.lines.length];
    if (/^s\d$/.test(name)) return scheme.fifths[Number(name.slice(1)) - 1];
    return scheme[name];
  }

  function axis(own, scheme) {
    const plain = { automargin: true, exponentformat: "power", minexponent: 5, gridcolor: scheme.rule, linecolor: scheme.faint, zerolinecolor: scheme.rule, ticks: "outside", tickcolor: scheme.faint };
    return { ...plain, ...own, title: { standoff: 10, ...(own || {}).title } };
  }

  function layout(own, scheme) {
    const made = coloured(own, scheme);
    return {
      margin: { l: 56, r: 16, t: 34, b: 48 },
      hovermode: "closest",
      ...made,
      font: { family: "system-ui, sans-serif", size: 12, color: scheme.ink },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: scheme.faint, activecolor: scheme.ink },
      hoverlabel: { bgcolor: scheme.paper, bordercolor: scheme.faint, font: { color: scheme.ink } },
      legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", ...made.legend },
      xaxis: axis(made.xaxis, scheme),
      yaxis: axis(made.yaxis, scheme),
    };
  }

  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const config = { displaylogo: false, responsive: true, doubleClick: "reset+autosize", modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] };

  function draw(chart) {
    const scheme = dark.matches ? colours.dark : colours.light;
    const own = layout(chart.layout, scheme);
    if (still.matches) own.transition = { duration: 0 };
    return Plotly.react(chart.id, coloured(chart.data, scheme), own, config);
  }

  async function unpacked(text) {
    const signs = atob(text.trim()), packed = new Uint8Array(signs.length);
    for (let i = 0; i < signs.length; i++) packed[i] = signs.charCodeAt(i);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  async function drawAll() {
    const charts = JSON.parse(document.getElementById("charts-data").textContent);
    if (!charts.length) return document.documentElement.setAttribute("data-charts", "none");
    try {
      const script = document.createElement("script");
      script.textContent = await unpacked(document.getElementById("plotly").textContent);
      document.head.append(script);
      // those in sight first: a page may have many
      const waiting = new Map(charts.map((chart) => [chart.id, chart]));
      const shown = [];
      const watch = new IntersectionObserver((entries) => {
        for (const entry of entries) {
          const chart = waiting.get(entry.target.id);
          if (!entry.isIntersecting || !chart) continue;
          waiting.delete(entry.target.id);
          watch.unobserve(entry.target);
          shown.push(chart);
          draw(chart).then(() => entry.target.setAttribute("data-drawn", ""));
        }
      }, { rootMargin: "600px" });
      for (const chart of charts) watch.observe(document.getElementById(chart.id));
      dark.addEventListener("change", () => shown.forEach(draw));
      addEventListener("beforeprint", () => {
        for (const chart of waiting.values()) { shown.push(chart); draw(chart); }
        waiting.clear();
      });
      document.documentElement.setAttribute("data-charts", "ready");
    } catch (error) {
      const said = document.getElementById("no-charts");
      said.hidden = false;
      said.append(` (${error})`);
    }
  }

  // A word is looked for in the whole row; column=value, column<value and column>value in one column.
  function test(token, names) {
    const parts = token.match(/^(.+?)(<=|>=|=|<|>)(.*)$/);
    const place = parts ? names.indexOf(parts[1].toLowerCase()) : -1;
    if (place < 0) return (row) => row.words.includes(token.toLowerCase());
    const [, , sign, wanted] = parts;
    const number = Number(wanted);
    return (row) => {
      const cell = row.cells[place];
      if (sign === "=") return cell.text.toLowerCase() === wanted.toLowerCase() || (wanted !== "" && cell.number === number);
      if (Number.isNaN(cell.number) || wanted === "") return false;
      return { "<": cell.number < number, ">": cell.number > number, "<=": cell.number <= number, ">=": cell.number >= number }[sign];
    };
  }

  function compared(a, b) {
    const empty = [a, b].map((cell) => cell.text === "" && Number.isNaN(cell.number));
    if (empty[0] || empty[1]) return { last: empty[0] - empty[1] };
    const numbers = [!Number.isNaN(a.number), !Number.isNaN(b.number)];
    if (numbers[0] && numbers[1]) return { order: a.number - b.number };
    if (numbers[0] !== numbers[1]) return { order: numbers[0] ? -1 : 1 };
    return { order: a.text.localeCompare(b.text, "en", { numeric: true }) };
  }

  function alive(box) {
    const heads = [...box.querySelectorAll("thead th")];
    const body = box.querySelector("tbody");
    const rows = [...body.rows].map((element, place) => ({
      element, place,
      words: element.textContent.toLowerCase(),
      cells: [...element.cells].map((cell) => ({
        text: cell.textContent.trim(),
        number: cell.dataset.sort === undefined || cell.dataset.sort === "" ? NaN : Number(cell.dataset.sort),
      })),
    }));
    heads.forEach((head, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const way = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", way);
        const sign = way === "ascending" ? 1 : -1;
        rows.sort((a, b) => {
          const { last, order } = compared(a.cells[place], b.cells[place]);
          return last || sign * (order || 0) || a.place - b.place; // what has nothing to sort by comes last
        });
        body.append(...rows.map((row) => row.element));
      });
    });
    const tools = box.querySelector(".tools"), input = tools.querySelector("input"), count = tools.querySelector("output");
    const names = heads.map((head) => (head.dataset.name || "").toLowerCase());
    const counted = count.textContent;
    tools.hidden = false;
    input.addEventListener("input", () => {
      const tests = input.value.trim().split(/\s+/).filter(Boolean).map((token) => test(token, names));
      let left = 0;
      for (const row of rows) {
        const shown = tests.every((one) => one(row));
        row.element.hidden = !shown;
        left += shown;
      }
      count.textContent = tests.length ? `${left} of ${counted}` : counted;
    });
  }

  async function copy(button) {
    const text = button.parentElement.querySelector("code").textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector("code"));
      button.textContent = "Selected"; // no clipboard for a file in this browser
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }

  document.querySelectorAll("[data-table]").forEach(alive);
  document.querySelectorAll("[data-copy]").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  });
  drawAll();
})();
