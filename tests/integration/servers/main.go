// The answers by Go's net/http.
package main

import (
	"compress/gzip"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	text := strings.Repeat("a line of text\n", 40)
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		path := strings.Trim(r.URL.Path, "/")
		switch path {
		case "chunked", "slow":
			for at := 0; at < len(text); at += 150 {
				if path == "slow" {
					time.Sleep(20 * time.Millisecond)
				}
				io.WriteString(w, text[at:min(at+150, len(text))])
				w.(http.Flusher).Flush()
			}
		case "gzip":
			w.Header().Set("Content-Encoding", "gzip")
			packed := gzip.NewWriter(w)
			io.WriteString(packed, text)
			packed.Close()
		case "none":
			w.WriteHeader(204)
		case "close":
			w.Header().Set("Connection", "close")
			io.WriteString(w, text)
		case "unavailable":
			w.WriteHeader(503)
			io.WriteString(w, "later")
		case "echo":
			body, _ := io.ReadAll(r.Body)
			w.Write(body)
		case "cut":
			w.Header().Set("Content-Length", "9999")
			io.WriteString(w, text)
		case "hints":
			w.Header().Set("Link", "</a>; rel=preload")
			w.WriteHeader(103)
			io.WriteString(w, text)
		case "trailers":
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, text)
			w.(http.Flusher).Flush()
			w.Header().Set("X-Sum", "1")
		case "early":
			w.WriteHeader(413)
			io.WriteString(w, "too much")
		default:
			io.WriteString(w, text)
		}
	})
	http.ListenAndServe("127.0.0.1:"+os.Args[1], nil)
}
