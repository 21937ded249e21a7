// Open a finalbell sealed paper, in a browser or in Node 24: node sealed_paper.ts EXAM VERSION KEY < sealed > paper.json

/** Returns the paper as GetPaper answers it. Throws for another paper, another key, or a single byte that differs. */
export async function openSealedPaper(sealed: Uint8Array<ArrayBuffer>, exam: string, version: number, key: string): Promise<unknown> {
  const end = sealed.indexOf(10) + 1; // the first line, its newline too
  const line = sealed.slice(0, end);
  const about = JSON.parse(new TextDecoder().decode(line));
  if (about.format !== "finalbell-sealed-paper/1" || about.examId !== exam || about.version !== version) {
    throw new Error("this is not the sealed paper of that exam and version");
  }
  const opener = await crypto.subtle.importKey("raw", bytes(key), "AES-GCM", false, ["decrypt"]);
  const how = { name: "AES-GCM", iv: bytes(about.nonce), additionalData: line };
  const packed = await crypto.subtle.decrypt(how, opener, sealed.slice(end));
  const text = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(text).json();
}

/** Reads base64, the URL's alphabet too. */
function bytes(base64: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(base64.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
}

declare const process: { argv: string[]; stdin: AsyncIterable<Uint8Array<ArrayBuffer>> };
if (typeof process !== "undefined" && process.argv[1]?.endsWith("sealed_paper.ts")) {
  const pieces: Uint8Array<ArrayBuffer>[] = [];
  for await (const piece of process.stdin) pieces.push(piece);
  const sealed = new Uint8Array(await new Blob(pieces).arrayBuffer());
  const [exam, version, key] = process.argv.slice(2);
  console.log(JSON.stringify(await openSealedPaper(sealed, exam, Number(version), key)));
}
