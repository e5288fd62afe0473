// Answers questions from a saved page: node embedded.mjs PAGE.html QUESTIONS.json prints a JSON line for each.

import { readFileSync } from "node:fs";
import { embeddedTransport } from "../../../pellucid/viewer/page/embedded.js";

const [page, questions] = process.argv.slice(2).map((path) => readFileSync(path, "utf-8"));
const held = page.match(/<script type="application\/json" id="pellucid-answers">(.*?)<\/script>/s)[1];
const ask = embeddedTransport(JSON.parse(held).answers);
for (const { path, query } of JSON.parse(questions)) {
  const { status, headers, bytes } = await ask(path, query);
  console.log(JSON.stringify({ status, headers, body: Buffer.from(bytes).toString("base64") }));
}
