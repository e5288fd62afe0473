// The page of records in a cell of a notebook.

import { openPage } from "./app.js";
import { renderCell } from "./cell.js";

/**
 * @param {{model: import("./cell.js").WidgetModel, el: HTMLElement}} context
 * @returns {() => void}
 */
export function renderWidget(context) {
  return renderCell(context, openPage);
}
