// Sortable tables that fit, read-outs on points, curves on demand. Without it the page shows the same numbers: tables as
// written, SVG titles.
(function () {
  "use strict";

  function keyOf(row, column) {
    var cell = row.cells[column];
    var raw = cell.dataset.key;
    return raw === undefined ? cell.textContent.trim() : Number(raw);
  }

  function compare(a, b) {
    var numbers = typeof a === "number" && typeof b === "number";
    if (numbers) return a - b;
    if (typeof a === "number") return -1;
    if (typeof b === "number") return 1;
    return a.localeCompare(b, "en", { numeric: true });
  }

  function sortBy(table, heads, column) {
    var body = table.tBodies[0];
    var falling = heads[column].getAttribute("aria-sort") === "ascending";
    var unknown = function (key) { return key === "–" || key === ""; };
    Array.from(body.rows)
      .map(function (row) { return { row: row, key: keyOf(row, column) }; })
      .sort(function (a, b) {
        // What is unknown stays last in both directions.
        if (unknown(a.key) !== unknown(b.key)) return unknown(a.key) ? 1 : -1;
        return (falling ? -1 : 1) * compare(a.key, b.key);
      })
      .forEach(function (item) { body.appendChild(item.row); });
    heads.forEach(function (head) { head.removeAttribute("aria-sort"); });
    heads[column].setAttribute("aria-sort", falling ? "descending" : "ascending");
  }

  document.querySelectorAll("table.sortable").forEach(function (table) {
    var heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach(function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.textContent = "";
      head.appendChild(button);
      button.addEventListener("click", function () { sortBy(table, heads, column); });
    });
  });

  // A table that is wider than its place is shown row by row; measured as a table, again when the place changes.
  var places = Array.from(document.querySelectorAll(".scroll"));
  function fit() {
    places.forEach(function (place) { place.classList.remove("stacked"); });
    places
      .filter(function (place) { return place.scrollWidth > place.clientWidth; })
      .forEach(function (place) { place.classList.add("stacked"); });
  }
  window.addEventListener("resize", fit);
  window.addEventListener("beforeprint", fit);
  document.querySelectorAll("details").forEach(function (part) { part.addEventListener("toggle", fit); });
  fit();

  document.querySelectorAll("input[data-shows]").forEach(function (input) {
    var figure = input.closest("figure");
    function show() {
      figure.querySelectorAll("g.option").forEach(function (curve) {
        if (curve.dataset.option === input.dataset.shows) curve.classList.toggle("shown", input.checked);
      });
    }
    input.addEventListener("change", show);
    show();
  });

  var box = document.createElement("div");
  box.id = "read-out";
  box.hidden = true;
  document.body.appendChild(box);

  document.querySelectorAll("g.tip").forEach(function (mark) {
    var title = mark.querySelector("title");
    var text = title.textContent;
    // The browser's own, slower read-out would lie over ours.
    title.remove();
    mark.setAttribute("aria-label", text);
    mark.addEventListener("pointermove", function (event) {
      box.textContent = text;
      box.hidden = false;
      var right = Math.min(event.clientX + 14, window.innerWidth - box.offsetWidth - 8);
      var above = event.clientY - box.offsetHeight - 12;
      box.style.left = Math.max(8, right) + "px";
      box.style.top = (above < 8 ? event.clientY + 18 : above) + "px";
    });
    mark.addEventListener("pointerleave", function () { box.hidden = true; });
  });
})();
