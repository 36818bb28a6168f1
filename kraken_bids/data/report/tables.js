// Tables that can be sorted and filtered, and pictures to choose from. Without this script, pages
// hold the same: all rows in their order, and all pictures one below the other.
"use strict";
(function () {
  // What a cell is sorted by: a number where it is one, else its text; nothing where it is n/a.
  function keyOf(row, index) {
    const text = row.cells[index].textContent.trim();
    if (text === "" || text === "n/a") return null;
    const number = Number(text.replace(/,/g, ""));
    return Number.isNaN(number) ? text : number;
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a === typeof b) return a.localeCompare(b, "en", { numeric: true });
    return typeof a === "number" ? -1 : 1; // numbers before words
  }

  function sortBy(table, index, descending) {
    const body = table.tBodies[0];
    const keyed = Array.from(body.rows, (row) => [keyOf(row, index), row]);
    keyed.sort(function (one, other) {
      if (one[0] === null || other[0] === null) return (one[0] === null) - (other[0] === null);
      return (descending ? -1 : 1) * compare(one[0], other[0]); // n/a stays last in either
    });
    for (const [, row] of keyed) body.append(row);
    Array.from(table.tHead.rows[0].cells).forEach(function (cell, place) {
      if (place === index) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
  }

  function makeSortable(table) {
    Array.from(table.tHead.rows[0].cells).forEach(function (cell, index) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...cell.childNodes);
      cell.append(button);
      button.addEventListener("click", function () {
        sortBy(table, index, cell.getAttribute("aria-sort") === "ascending");
      });
    });
  }

  function makeFilterable(table, name) {
    const rows = Array.from(table.tBodies[0].rows);
    const label = document.createElement("label");
    const input = document.createElement("input");
    const count = document.createElement("span");
    label.className = "filter";
    label.append("Show rows with ", input);
    input.type = "search";
    input.setAttribute("aria-label", "Show rows of " + name + " with these words");
    count.className = "soft";
    count.setAttribute("role", "status");
    input.addEventListener("input", function () {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      count.textContent = words.length ? shown + " of " + rows.length + " rows" : "";
    });
    const line = document.createElement("p");
    line.append(label, " ", count);
    table.parentElement.before(line);
  }

  // One picture of several at a time, chosen by its name.
  function makeChoice(box) {
    const parts = Array.from(box.children);
    const label = document.createElement("label");
    const select = document.createElement("select");
    label.className = "choice";
    label.append(box.dataset.choice + " ", select);
    for (const part of parts) select.append(new Option(part.dataset.name));
    function show() {
      parts.forEach((part, index) => part.classList.toggle("away", index !== select.selectedIndex));
    }
    select.addEventListener("change", show);
    show();
    box.before(label);
  }

  for (const box of document.querySelectorAll(".scroll")) {
    const table = box.querySelector("table");
    if (!table || !table.tHead || table.tBodies[0].rows.length < 2) continue;
    makeSortable(table);
    if (table.tBodies[0].rows.length > 5) makeFilterable(table, box.getAttribute("aria-label"));
  }
  for (const box of document.querySelectorAll("[data-choice]")) {
    if (box.children.length > 1) makeChoice(box);
  }
})();
