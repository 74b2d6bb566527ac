// Tables of our pages are sorted by a click on a column's head; what is no number comes last either way.
"use strict";
document.addEventListener("click", event => {
  const button = event.target.closest("thead button");
  if (!button) return;
  const column = Number(button.dataset.column), head = button.parentElement, table = head.closest("table");
  const down = head.getAttribute("aria-sort") === "ascending", body = table.tBodies[0];
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const text = row => row.cells[column].textContent, isNone = value => value === "-" || value === "n/a";
  const isText = [...body.rows].some(row => !isNone(text(row)) && Number.isNaN(parseFloat(text(row))));
  body.append(...[...body.rows].sort((a, b) => {
    const [one, two] = [text(a), text(b)];
    if (isNone(one) || isNone(two)) return isNone(one) - isNone(two);
    return (down ? -1 : 1) * (isText ? one.localeCompare(two) : parseFloat(one) - parseFloat(two));
  }));
});
