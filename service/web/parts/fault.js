// What a part of a page shows when the API refuses: the message itself, in place, and the command where it names one.

import { emptiness, h } from "./dom.js";
import { go } from "./router.js";

/** A refusal as an empty state; a command in backquotes is shown apart so that it can be copied. `repeat()` asks again where the server is away. */
export function refusal(fault, action, repeat = () => go(location.pathname + location.search)) {
  if (fault.code === "unreachable") {
    const again = h("button", { onclick: repeat }, "Try again");
    return emptiness("The server does not answer", "Is it still running? It is started by:", "mlpl serve", again);
  }
  const command = /`(mlpl [^`]+)`/.exec(fault.message)?.[1];
  const sentence = fault.message.charAt(0).toUpperCase() + fault.message.slice(1);
  const title = fault.status === 404 ? "Not found" : command ? "Nothing to show yet" : "This did not work";
  return emptiness(title, sentence, command, action);
}
