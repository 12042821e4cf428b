// The answers by Node's http.
const http = require("http"), zlib = require("zlib");
const text = "a line of text\n".repeat(40);
http.createServer((request, response) => {
  const path = request.url.slice(1).split("?")[0], chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", async () => {
    if (path === "gzip") return response.writeHead(200, { "Content-Encoding": "gzip" }).end(zlib.gzipSync(text));
    if (path === "none") return response.writeHead(204).end();
    if (path === "close") return response.writeHead(200, { Connection: "close" }).end(text);
    if (path === "unavailable") return response.writeHead(503).end("later");
    if (path === "echo") return response.end(Buffer.concat(chunks));
    if (path === "cut") return response.writeHead(200, { "Content-Length": 9999 }).write(text, () => response.destroy());
    if (path === "hints") { response.writeEarlyHints({ link: "</a>; rel=preload" }); return response.end(text); }
    if (path === "trailers" && request.method !== "HEAD") {
      response.writeHead(200, { Trailer: "X-Sum" });
      response.write(text); response.addTrailers({ "X-Sum": "1" }); return response.end();
    }
    if (path === "early") return response.writeHead(413).end("too much");
    if (path !== "chunked" && path !== "slow") return response.setHeader("Content-Length", text.length).end(text);
    for (let at = 0; at < text.length; at += 150) {
      if (path === "slow") await new Promise((next) => setTimeout(next, 20));
      response.write(text.slice(at, at + 150));
    }
    response.end();
  });
}).listen(Number(process.argv[2]), "127.0.0.1");
