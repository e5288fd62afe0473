// The page of a profile in a cell of a notebook.

import { renderCell } from "./cell.js";
import { openProfile } from "./profilepage.js";

/**
 * @param {{model: import("./cell.js").WidgetModel, el: HTMLElement}} context
 * @returns {() => void}
 */
export function renderProfileWidget(context) {
  return renderCell(context, openProfile);
}
