"use strict";

// Galleries: what is left and right of the line, and where the line is
for (const gallery of document.querySelectorAll(".gallery")) {
  const tools = gallery.querySelector(".tools");
  const stages = [...gallery.querySelectorAll(".stage")];
  const show = () => {
    const sides = ["left", "right"].map((side) => [side, tools.elements[side]]);
    for (const mode of ["outlines", "errors"]) gallery.classList.toggle(mode, tools.elements.mode.value === mode);
    const names = sides.map(([, select]) => select.selectedOptions[0].textContent);
    for (const stage of stages) {
      for (const [index, [side, select]] of sides.entries()) {
        for (const layer of stage.querySelectorAll(".layer")) {
          layer.classList.toggle(side, layer.dataset.source === select.value);
        }
        stage.querySelector(`.side.${side}`).textContent = names[index];
      }
      const slider = stage.querySelector("input");
      slider.setAttribute("aria-label", `${names[0]} left of the line, ${names[1]} right of it`);
    }
  };
  tools.addEventListener("change", show);
  tools.addEventListener("submit", (event) => event.preventDefault());
  for (const stage of stages) {
    const slider = stage.querySelector("input");
    const move = () => stage.querySelector(".canvas").style.setProperty("--edge", `${slider.value}%`);
    slider.addEventListener("input", move);
    move();
  }
  show();
}

// Tables: sorted by the column whose heading is pressed, numbers from the largest on, dashes last
const read = (row, column) => {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
};
const compare = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
for (const button of document.querySelectorAll(".table thead button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const body = button.closest("table").tBodies[0];
    const column = heading.cellIndex;
    const rows = [...body.rows];
    const numbers = rows.some((row) => "value" in row.cells[column].dataset);
    const before = heading.ariaSort;
    const rising = before ? before === "descending" : !numbers;
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
    rows.sort((first, second) => {
      const [a, b] = [read(first, column), read(second, column)];
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
      return rising ? compare(a, b) : compare(b, a);
    });
    body.append(...rows);
  });
}
