// The page's one stream of events, and whether it is there. Events: every message of the server by its name, and
// `state` when the connection comes, is lost, or is paused; `woken` when the page is seen again after a rest.
const QUIET = 5000; // ms without a word, of a stream that speaks every second, after which it counts as lost
const AGAIN = 2000; // ms between tries
// ms after which a hidden page gives its connection back: over HTTP/1.1 a browser has six for all pages of a host.
const HIDDEN = 10_000;

class Stream extends EventTarget {
  #source = null;
  #received = 0;
  #query = "";
  #falling = 0; // the timer that lets the stream rest
  #resting = false;
  lostSince = null;
  paused = false;
  known = false; // whether anything was received yet

  get state() {
    if (this.lostSince) return "lost";
    return this.paused ? "paused" : "live";
  }

  connect(query = "") {
    this.#query = query;
    this.#open();
    if (this.#received === 0) {
      setInterval(() => this.#watch(), 1000);
      document.addEventListener("visibilitychange", () => this.#seen());
      this.#seen();
    }
    this.#received = Date.now();
  }

  pause(paused) {
    this.paused = paused;
    this.#tell();
  }

  #open() {
    this.#source?.close();
    const source = new EventSource(`/events${this.#query}`);
    this.#source = source;
    source.onerror = () => this.#lost();
    for (const name of ["overview", "alive", "results", "dropped"]) {
      source.addEventListener(name, (event) => {
        this.#received = Date.now();
        if (!this.known || this.lostSince !== null) this.#found();
        this.dispatchEvent(new MessageEvent(name, { data: JSON.parse(event.data) }));
      });
    }
  }

  #seen() {
    clearTimeout(this.#falling);
    if (document.visibilityState === "hidden") {
      this.#falling = setTimeout(() => { this.#resting = true; this.#source.close(); }, HIDDEN);
    } else if (this.#resting) {
      this.#resting = false;
      this.#received = Date.now();
      this.#open();
      this.dispatchEvent(new Event("woken"));
    }
  }

  #watch() {
    if (this.#resting) return;
    const silent = Date.now() - this.#received > QUIET;
    if (silent) this.#lost();
    if (this.#source.readyState === EventSource.CLOSED || silent) {
      this.#received = Date.now() - QUIET + AGAIN;
      this.#open();
    }
  }

  #lost() {
    if (this.lostSince !== null) return;
    this.lostSince = new Date();
    this.#tell();
  }

  #found() {
    this.lostSince = null;
    this.known = true;
    this.#tell();
  }

  #tell() {
    this.dispatchEvent(new Event("state"));
  }
}

export const stream = new Stream();
