// What the parser of the TypeScript clients makes of streams of events.
//
//     events.mjs FILE
//
// FILE is JSON, a list of streams in base64. Prints a list with the events of each: [type, id, data].

import { readFileSync } from "node:fs";
import { createParser } from "eventsource-parser";

const streams = JSON.parse(readFileSync(process.argv[1], "utf8"));
const events = streams.map((stream) => {
  const found = [];
  const parser = createParser({ onEvent: (event) => found.push([event.event ?? "", event.id ?? "", event.data]) });
  // As the clients decode it: a BOM is taken off, what is not UTF-8 is replaced.
  const decoder = new TextDecoder();
  const bytes = Buffer.from(stream, "base64");
  for (let at = 0; at < bytes.length; at += 5) parser.feed(decoder.decode(bytes.subarray(at, at + 5), { stream: true }));
  parser.feed(decoder.decode());
  return found;
});
console.log(JSON.stringify(events));
