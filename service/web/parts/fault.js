// What a part of a page shows when the API refuses: the message itself, in place, and where it names a command, that command.

import { emptiness } from "./dom.js";

/** A refusal as an empty state; a command in backquotes is shown apart so that it can be copied. */
export function refusal(fault, action) {
  const command = /`(mlpl [^`]+)`/.exec(fault.message)?.[1];
  return emptiness(fault.status === 422 || fault.status === 409 ? "Nothing to show yet" : "This did not work", fault.message, command, action);
}
