"use strict";
// Text from the data reaches the page through textContent and attributes only, never as markup.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = read("data"), pictures = read("pictures");
  const faces = data.faces, names = data.names;
  const overlays = ["", "predicted", "true"];
  const colours = { true: [86, 180, 233], predicted: [230, 110, 0] };
  const titles = { "": "none", predicted: "predicted class", true: "true class" };
  const genders = { f: "female", m: "male", "": "unknown" };

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // Pictures share one header, which is stored once.
  const header = pictures.header ? atob(pictures.header) : "";
  function address(number) {
    const scan = pictures.scans ? pictures.scans[number] : null;
    return scan ? "data:image/jpeg;base64," + btoa(header + atob(scan)) : null;
  }

  function photograph(number) {
    const source = number === null ? null : address(number);
    if (!source) return null;
    const image = new Image();
    image.decoding = "async";
    image.alt = "";
    image.src = source;
    return image;
  }

  // A saliency map is a few cells; the browser smooths it while it enlarges the canvas.
  function drawMap(canvas, text, grid, colour) {
    const [height, width] = grid, cells = atob(text);
    canvas.width = width;
    canvas.height = height;
    const image = new ImageData(width, height);
    for (let k = 0; k < width * height; k++) image.data.set([...colour, 0.65 * cells.charCodeAt(k)], 4 * k);
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  function overlayOf(face) {
    const kind = form.elements.overlay.value;
    const text = kind && faces[kind + "_map"][face];
    if (!text) return null;
    const canvas = make("canvas", "overlay");
    canvas.setAttribute("aria-hidden", "true");
    drawMap(canvas, text, data.grids[faces.model[face]], colours[kind]);
    return canvas;
  }

  function fillPhoto(photo, face) {
    photo.replaceChildren(...[photograph(faces.picture[face]), overlayOf(face)].filter(Boolean));
  }

  const percent = (thousandths) => (thousandths / 10).toFixed(1) + " %";
  const classOf = (k, face) =>
    (k === faces.label[face] ? "is-true " : "") + (k === faces.prediction[face] ? "is-predicted" : "");

  const answer = (face) => `${names[faces.label[face]]} → ${names[faces.prediction[face]]}`;
  const rounded = (face) => Math.round(faces.confidence[face] / 10) + " %";

  // What a screen reader says of a tile; it begins with what the tile shows.
  function describe(face) {
    const where = `${faces.path[face]}, ${data.models[faces.model[face]]}`;
    return `${answer(face)} ${rounded(face)}, ${genders[faces.gender[face]]}, ${where}`;
  }

  // The filter, which the address carries.
  const form = document.getElementById("filter");
  const defaults = {};
  let hits = [], selected = 0;

  const orders = {
    sure: (a, b) => faces.confidence[b] - faces.confidence[a],
    unsure: (a, b) => faces.confidence[a] - faces.confidence[b] || b - a,
    distance: (a, b) => distance(b) - distance(a) || faces.confidence[b] - faces.confidence[a],
    years: (a, b) => Math.abs(faces.years[b]) - Math.abs(faces.years[a]),
    true: (a, b) => faces.label[a] - faces.label[b] || faces.prediction[a] - faces.prediction[b],
    path: (a, b) => (faces.path[a] < faces.path[b] ? -1 : faces.path[a] > faces.path[b] ? 1 : 0),
  };
  const distance = (face) => Math.abs(faces.label[face] - faces.prediction[face]);
  const distances = { wrong: (d) => d > 0, near: (d) => d === 1, far: (d) => d > 1, right: (d) => d === 0 };

  function settings() {
    return Object.fromEntries([...new FormData(form)]);
  }

  function select() {
    const s = settings(), wanted = s.search.trim().toLowerCase();
    const low = 10 * (Number(s.low) || 0), high = s.high === "" ? 1000 : 10 * Number(s.high);
    const near = distances[s.distance] || distances.wrong;
    hits = [];
    for (let face = 0; face < faces.path.length; face++) {
      if (!near(distance(face))) continue;
      if (s.true !== "" && faces.label[face] !== Number(s.true)) continue;
      if (s.predicted !== "" && faces.prediction[face] !== Number(s.predicted)) continue;
      if (s.model !== "" && faces.model[face] !== Number(s.model)) continue;
      if (s.gender !== "" && (faces.gender[face] || "unknown") !== s.gender) continue;
      if (faces.confidence[face] < low || faces.confidence[face] > high) continue;
      if (wanted && !faces.path[face].toLowerCase().includes(wanted)) continue;
      hits.push(face);
    }
    hits.sort(orders[s.sort] || orders.sure);
  }

  function update(remember = true) {
    select();
    selected = 0;
    const kind = form.elements.distance.value === "right" ? "right answers" : "mistakes";
    document.getElementById("count").textContent =
      hits.length ? `${hits.length.toLocaleString("en")} ${kind}` : `No ${kind} fit this filter.`;
    grid.scrollTop = 0;
    forget();
    draw();
    pressCells();
    if (remember) writeAddress();
  }

  function writeAddress() {
    const changed = Object.entries(settings()).filter(([name, value]) => value !== defaults[name]);
    const text = "#gallery" + (changed.length ? "?" + new URLSearchParams(changed) : "");
    if (location.hash !== text && (changed.length || location.hash.startsWith("#gallery"))) {
      history.replaceState(null, "", text);
    }
  }

  function readAddress() {
    if (!location.hash.startsWith("#gallery?")) return false;
    form.reset();
    for (const [name, value] of new URLSearchParams(location.hash.slice("#gallery?".length))) {
      if (!(name in defaults)) continue;
      const field = form.elements[name], before = field.value;
      field.value = value;
      if (field.value !== value) field.value = before; // no such choice
    }
    return true;
  }

  // The grid holds only the tiles in view, so that it scrolls alike with ten faces and with twenty thousand.
  const grid = document.getElementById("grid"), floor = make("div", "floor"), tiles = new Map();
  const layout = { columns: 1, width: 0, height: 0 };

  function measure() {
    const room = grid.clientWidth - 12;
    layout.columns = Math.max(2, Math.floor(room / 148));
    layout.width = Math.floor(room / layout.columns);
    layout.height = layout.width + 62;
  }

  function forget() {
    for (const tile of tiles.values()) tile.remove();
    tiles.clear();
  }

  function draw() {
    const rows = Math.ceil(hits.length / layout.columns);
    floor.style.height = rows * layout.height + 12 + "px";
    const first = Math.max(0, Math.floor(grid.scrollTop / layout.height) - 1) * layout.columns;
    const last = Math.min(hits.length, (Math.ceil((grid.scrollTop + grid.clientHeight) / layout.height) + 1) * layout.columns);
    for (const [position, tile] of tiles) {
      if (position < first || position >= last) { tile.remove(); tiles.delete(position); }
    }
    const added = document.createDocumentFragment();
    for (let position = first; position < last; position++) {
      if (!tiles.has(position)) { tiles.set(position, makeTile(position)); added.append(tiles.get(position)); }
    }
    grid.append(added);
    for (const [position, tile] of tiles) tile.setAttribute("aria-selected", String(position === selected));
    if (tiles.has(selected)) grid.setAttribute("aria-activedescendant", "tile-" + selected);
    else grid.removeAttribute("aria-activedescendant");
  }

  function makeTile(position) {
    const face = hits[position], tile = make("div", "tile");
    tile.id = "tile-" + position;
    tile.dataset.position = position;
    tile.setAttribute("role", "option");
    tile.setAttribute("aria-setsize", hits.length);
    tile.setAttribute("aria-posinset", position + 1);
    tile.setAttribute("aria-label", describe(face));
    tile.style.width = layout.width + "px";
    tile.style.height = layout.height + "px";
    const x = 6 + (position % layout.columns) * layout.width, y = 6 + Math.floor(position / layout.columns) * layout.height;
    tile.style.transform = `translate(${x}px, ${y}px)`;
    const photo = make("div", "photo"), words = make("div", "words"), spark = make("div", "spark");
    fillPhoto(photo, face);
    words.append(make("span", "", answer(face)), " ", make("span", "", rounded(face)));
    faces.probabilities[face].forEach((p, k) => {
      const bar = make("i", classOf(k, face));
      bar.style.height = p / 10 + "%";
      spark.append(bar);
    });
    tile.append(photo, words, spark);
    return tile;
  }

  function move(position) {
    if (!hits.length) return;
    selected = Math.max(0, Math.min(hits.length - 1, position));
    const top = Math.floor(selected / layout.columns) * layout.height;
    if (top < grid.scrollTop) grid.scrollTop = top;
    const below = top + layout.height + 12 - grid.clientHeight;
    if (below > grid.scrollTop) grid.scrollTop = below;
    draw();
  }

  function switchOverlay() {
    const field = form.elements.overlay;
    field.value = overlays[(overlays.indexOf(field.value) + 1) % overlays.length];
    showOverlay();
  }

  function showOverlay() {
    for (const [position, tile] of tiles) fillPhoto(tile.firstChild, hits[position]);
    if (large.open) fillLarge();
    writeAddress();
  }

  const steps = () => {
    const page = layout.columns * Math.max(1, Math.floor(grid.clientHeight / layout.height));
    return { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -layout.columns, ArrowDown: layout.columns, PageUp: -page,
      PageDown: page, Home: -Infinity, End: Infinity };
  };

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = steps()[event.key];
    if (step !== undefined) move(selected + step);
    else if (event.key === " ") switchOverlay();
    else if (event.key === "Enter") enlarge(selected);
    else return;
    event.preventDefault();
  }

  // The large view of one face.
  const large = document.getElementById("large");

  function enlarge(position) {
    if (!hits.length) return;
    move(position);
    fillLarge();
    if (!large.open) large.showModal();
    large.focus(); // not its first button, so that space switches the overlay
  }

  function fillLarge() {
    const face = hits[selected];
    fillPhoto(document.getElementById("large-photo"), face);
    document.getElementById("large-title").textContent =
      `${names[faces.label[face]]}, predicted ${names[faces.prediction[face]]}`;
    const yaw = faces.yaw[face];
    const facts = [["Photograph", faces.path[face]], ["Album", faces.album[face]], ["Person", faces.person[face]],
      ["Gender", genders[faces.gender[face]]], ["Head turned", yaw === null ? "unknown" : yaw + "°"],
      ["Age", faces.age[face] && data.about + faces.age[face]], ["Model", data.models[faces.model[face]]], ["Label in", faces.reference[face]]];
    document.getElementById("large-facts").replaceChildren(...facts.filter(([, text]) => text !== "").map(([term, text]) => {
      const row = make("div"), value = make("dd");
      value.append(make("bdi", "", text));
      row.append(make("dt", "", term), value);
      return row;
    }));
    document.getElementById("large-bars").replaceChildren(...faces.probabilities[face].map((p, k) => {
      const row = make("div", "bar"), bar = make("i", classOf(k, face));
      bar.style.width = p / 10 + "%";
      row.append(make("span", "", names[k]), bar, make("span", "", percent(p)));
      return row;
    }));
    document.getElementById("overlay-name").textContent = titles[form.elements.overlay.value];
  }

  function onLargeKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step) { enlarge(selected + step); event.preventDefault(); }
    else if (event.key === " " && event.target.tagName !== "BUTTON") { switchOverlay(); event.preventDefault(); }
  }

  function onLargeClick(event) {
    const button = event.target.closest("button");
    if (event.target === large || (button && "close" in button.dataset)) large.close();
    else if (button && "overlay" in button.dataset) switchOverlay();
    else if (button && button.dataset.step) {
      enlarge(selected + Number(button.dataset.step));
      button.focus();
    }
  }

  // The confusion matrix.
  const cells = [...document.querySelectorAll(".matrix button")];

  function pressCells() {
    const { true: label, predicted } = settings();
    for (const cell of cells) {
      cell.setAttribute("aria-pressed", String(cell.dataset.true === label && cell.dataset.predicted === predicted));
    }
  }

  function showCell(cell) {
    form.reset();
    form.elements.true.value = cell.dataset.true;
    form.elements.predicted.value = cell.dataset.predicted;
    form.elements.distance.value = cell.dataset.true === cell.dataset.predicted ? "right" : "wrong";
    update();
    document.getElementById("gallery").scrollIntoView();
    grid.focus({ preventScroll: true });
  }

  function startGallery() {
    data.models.forEach((name, k) => form.elements.model.append(new Option(name, k)));
    Object.assign(defaults, settings());
    grid.append(floor);
    measure();
    const linked = readAddress();
    update(false);
    if (linked) document.getElementById("gallery").scrollIntoView();
    let wait = 0;
    const changed = (event) => {
      clearTimeout(wait);
      if (event.target.name === "overlay") showOverlay();
      else wait = setTimeout(update, event.target.type === "search" ? 120 : 0);
    };
    form.addEventListener("input", changed);
    form.addEventListener("change", changed);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(update));
    window.addEventListener("hashchange", () => {
      if (!readAddress()) return;
      update(false);
      document.getElementById("gallery").scrollIntoView();
    });
    let asked = false;
    grid.addEventListener("scroll", () => {
      if (!asked) requestAnimationFrame(() => { asked = false; draw(); });
      asked = true;
    }, { passive: true });
    new ResizeObserver(() => {
      const before = layout.width;
      measure();
      if (layout.width !== before) forget();
      draw();
    }).observe(grid);
    grid.addEventListener("keydown", onKey);
    grid.addEventListener("click", (event) => {
      const tile = event.target.closest(".tile");
      if (tile) enlarge(Number(tile.dataset.position));
    });
    large.addEventListener("keydown", onLargeKey);
    large.addEventListener("click", onLargeClick);
    large.addEventListener("close", () => grid.focus({ preventScroll: true }));
    for (const cell of cells) cell.addEventListener("click", () => showCell(cell));
  }

  // Thumbnails of the tables, once they come near the window.
  function startThumbnails() {
    const watcher = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((seen) => seen.isIntersecting)) {
        watcher.unobserve(entry.target);
        const image = photograph(Number(entry.target.dataset.picture));
        if (image) entry.target.append(image);
      }
    }, { rootMargin: "400px" });
    document.querySelectorAll("[data-picture]").forEach((thumb) => watcher.observe(thumb));
  }

  function startMeanMaps() {
    const canvases = [...document.querySelectorAll("canvas[data-map]")];
    for (const canvas of canvases) drawMap(canvas, canvas.dataset.map, canvas.dataset.grid.split(",").map(Number), colours.predicted);
    const box = document.getElementById("means-overlay");
    if (box) box.addEventListener("input", () => canvases.forEach((canvas) => { canvas.hidden = !box.checked; }));
  }

  function startDownload() {
    const button = document.getElementById("download");
    if (!button) return;
    button.addEventListener("click", () => {
      const link = make("a");
      link.href = URL.createObjectURL(new Blob([data.suspects], { type: "text/csv" }));
      link.download = "suspects.csv";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }

  // Which section is being read.
  function startContents() {
    const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
    const watcher = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const link = links.get(entry.target.id);
        link.classList.toggle("here", entry.isIntersecting);
        if (entry.isIntersecting) link.setAttribute("aria-current", "location");
        else link.removeAttribute("aria-current");
      }
    }, { rootMargin: "-20% 0px -75% 0px" });
    document.querySelectorAll("section").forEach((section) => watcher.observe(section));
  }

  if (form && faces) startGallery();
  startThumbnails();
  startMeanMaps();
  startDownload();
  startContents();
})();
