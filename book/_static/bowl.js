// A two-dimensional bowl whose minimum wanders, and LODO, Adam, gradient descent and Newton's method following it.
// Everything is computed here, anew whenever a slider moves; lodo_experiments/report/bowl.py has the same in Python.
(() => {
  "use strict";
  const EIGENVALUES = [1, 0.05], ANGLE = Math.PI / 6, WANDER = 0.3, START = [-4, 2.5], STEPS = 4000, SEED = 1;
  const NAMES = ["LODO", "Adam", "Gradient descent", "Newton"];
  const CLASSES = ["lodo", "adam", "descent", "newton"];
  const SVG = "http://www.w3.org/2000/svg";

  // 2×2 matrices are [a, b, c, d], row by row.
  const times = (A, v) => [A[0] * v[0] + A[1] * v[1], A[2] * v[0] + A[3] * v[1]];
  const product = (A, B) => [
    A[0] * B[0] + A[1] * B[2], A[0] * B[1] + A[1] * B[3], A[2] * B[0] + A[3] * B[2], A[2] * B[1] + A[3] * B[3]];
  const symmetric = (first, second, angle) => {
    const c = Math.cos(angle), s = Math.sin(angle);
    const off = (first - second) * c * s;
    return [first * c * c + second * s * s, off, off, first * s * s + second * c * c];
  };
  const H = symmetric(...EIGENVALUES, ANGLE);
  const INVERSE = symmetric(1 / EIGENVALUES[0], 1 / EIGENVALUES[1], ANGLE);

  // mulberry32, and normal numbers by Box and Muller: the same in every browser, and in Python.
  function normals(seed) {
    const uniform = () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
    return () => {
      const radius = Math.sqrt(-2 * Math.log(1 - uniform())), turn = 2 * Math.PI * uniform();
      return [radius * Math.cos(turn), radius * Math.sin(turn)];
    };
  }

  function adam(size, rate) {
    const first = new Array(size).fill(0), second = new Array(size).fill(0);
    let t = 0;
    return (gradient) => {
      t += 1;
      return gradient.map((g, i) => {
        first[i] = 0.9 * first[i] + 0.1 * g;
        second[i] = 0.999 * second[i] + 0.001 * g * g;
        return (-rate * (first[i] / (1 - 0.9 ** t))) / (Math.sqrt(second[i] / (1 - 0.999 ** t)) + 1e-8);
      });
    };
  }

  // G = α₀ TᵀT with one 2×2 block T, which starts as the identity.
  function lodo(alpha0, rate, beta) {
    let T = [1, 0, 0, 1], m = [0, 0];
    const meta = adam(4, rate);
    const G = () => product([T[0], T[2], T[1], T[3]], T).map((entry) => alpha0 * entry);
    return {
      G,
      step(g) {
        // ∇ℓ = −α₀ T (g mᵀ + m gᵀ)
        const outer = [2 * g[0] * m[0], g[0] * m[1] + m[0] * g[1], g[0] * m[1] + m[0] * g[1], 2 * g[1] * m[1]];
        const change = meta(product(T, outer).map((entry) => -alpha0 * entry));
        T = T.map((entry, i) => entry + change[i]);
        m = m.map((entry, i) => beta * entry + (1 - beta) * g[i]);
        return times(G(), m).map((entry) => -entry);
      },
    };
  }

  function simulate(alpha0, rate, beta) {
    const ours = lodo(alpha0, rate, beta), theirs = adam(2, 0.1), draw = normals(SEED);
    const rules = [ours.step, theirs, (g) => g.map((entry) => -entry), (g) => times(INVERSE, g).map((entry) => -entry)];
    const offsets = NAMES.map(() => [START]), losses = NAMES.map(() => []), matrices = [ours.G()];
    let diverged = 0;
    for (let t = 0; t < STEPS && !diverged; t += 1) {
      const wander = draw().map((entry) => WANDER * entry);
      rules.forEach((rule, i) => {
        const last = offsets[i][t], here = [last[0] - wander[0], last[1] - wander[1]];
        const gradient = times(H, here), step = rule(gradient);
        losses[i].push(0.5 * (here[0] * gradient[0] + here[1] * gradient[1]));
        offsets[i].push([here[0] + step[0], here[1] + step[1]]);
      });
      matrices.push(ours.G());
      if (!(Math.abs(losses[0][t]) < 1e6)) diverged = t + 1;
    }
    return { offsets, losses, matrices, diverged, steps: losses[0].length };
  }

  const make = (name, attributes, parent) => {
    const element = document.createElementNS(SVG, name);
    Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
    parent.append(element);
    return element;
  };

  // The ellipse of all A^½ u with |u| = 1; y points up.
  function ellipse(A) {
    const mean = (A[0] + A[3]) / 2, half = Math.hypot((A[0] - A[3]) / 2, A[1]);
    const turn = 0.5 * Math.atan2(2 * A[1], A[0] - A[3]);
    return { rx: Math.sqrt(Math.max(mean + half, 0)), ry: Math.sqrt(Math.max(mean - half, 0)), turn: (-turn * 180) / Math.PI };
  }

  function start(box) {
    const value = (name) => Number(box.querySelector(`[name=${name}]`).value);
    const out = (name, text) => { box.querySelector(`[data-out=${name}]`).textContent = text; };
    const paths = box.querySelector("svg.paths"), shape = box.querySelector("svg.shape");
    const play = box.querySelector("button"), at = box.querySelector("[name=at]");
    let run, timer = 0;

    function draw() {
      const t = Math.min(value("at"), run.steps), from = Math.max(0, t - 40);
      paths.querySelectorAll("polyline, circle.now").forEach((element) => element.remove());
      NAMES.map((_, i) => i).reverse().forEach((i) => {
        const points = run.offsets[i].slice(from, t + 1).map(([x, y]) => `${x.toFixed(3)},${(-y).toFixed(3)}`);
        make("polyline", { points: points.join(" "), class: CLASSES[i] }, paths);
        const [x, y] = run.offsets[i][t];
        make("circle", { cx: x.toFixed(3), cy: (-y).toFixed(3), r: 0.09, class: `now ${CLASSES[i]}` }, paths);
      });
      const { rx, ry, turn } = ellipse(run.matrices[t]);
      const learned = shape.querySelector(".learned");
      learned.setAttribute("rx", rx.toFixed(3));
      learned.setAttribute("ry", ry.toFixed(3));
      learned.setAttribute("transform", `rotate(${turn.toFixed(2)})`);
      const GH = product(run.matrices[t], H);
      box.querySelectorAll("td[data-entry]").forEach((cell) => {
        const entry = GH[Number(cell.dataset.entry)];
        cell.textContent = entry.toFixed(2);
        cell.style.setProperty("--share", `${Math.min(40, Math.abs(entry) * 24).toFixed(0)}%`);
      });
      out("error", Math.sqrt(((1 - GH[0]) ** 2 + GH[1] ** 2 + GH[2] ** 2 + (1 - GH[3]) ** 2) / 2).toFixed(2));
      const recent = (losses) => {
        const last = losses.slice(Math.max(0, t - 500), t);
        return last.length ? (last.reduce((a, b) => a + b, 0) / last.length).toPrecision(3) : "–";
      };
      CLASSES.forEach((name, i) => out(name, recent(run.losses[i])));
      out("at", `${t} of ${run.steps}`);
      out("said", run.diverged && t >= run.diverged ? `LODO diverged at step ${run.diverged}: its steps grew too long. Lower α₀ or α.` : "");
    }

    function compute() {
      const alpha0 = 10 ** value("alpha0"), rate = value("alpha") <= -4.5 ? 0 : 10 ** value("alpha"), beta = value("beta");
      out("alpha0", alpha0.toPrecision(2));
      out("alpha", rate ? rate.toPrecision(2) : "0");
      out("beta", beta.toFixed(2));
      run = simulate(alpha0, rate, beta);
      box.dataset.final = run.offsets[0][run.steps].map((entry) => entry.toPrecision(10)).join(" ");
      draw();
    }

    function stop() {
      cancelAnimationFrame(timer);
      timer = 0;
      play.textContent = "Play";
    }
    function tick() {
      at.value = Math.min(Number(at.value) + 4, run.steps);
      draw();
      if (Number(at.value) >= run.steps) stop();
      else timer = requestAnimationFrame(tick);
    }
    play.addEventListener("click", () => {
      if (timer) { stop(); return; }
      if (Number(at.value) >= run.steps) at.value = 0;
      play.textContent = "Pause";
      timer = requestAnimationFrame(tick);
    });
    at.addEventListener("input", () => { stop(); draw(); });
    ["alpha0", "alpha", "beta"].forEach((name) => box.querySelector(`[name=${name}]`).addEventListener("input", compute));
    compute();
    box.querySelectorAll("[hidden]").forEach((element) => { element.hidden = false; });
    box.classList.add("live");
  }

  const all = () => document.querySelectorAll(".lodo-bowl").forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", all);
  else all();
})();
