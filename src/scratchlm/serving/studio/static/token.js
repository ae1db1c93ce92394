// How a token is written where it is looked at.

const VISIBLE = { "\n": "↵\n", "\t": "⇥", "\r": "␍" };

/** A token as it is shown: spaces stay, what cannot be seen gets a sign, a part of a character is told in bytes. */
export function shown(token) {
  if (token.bytes) return token.bytes.split(" ").map((byte) => `‹${byte}›`).join("");
  return token.text.replace(/[\n\t\r]/g, (sign) => VISIBLE[sign]);
}

/** The same in one line, for a table: a space at either end gets a sign, too, and nothing is told as such. */
export function inLine(token) {
  const text = shown(token).replace("\n", "").replace(/^ | $/g, "␣");
  return text === "" ? "∅" : text;
}
