// What a Go team writes: franz-go and net/http, a goroutine a miss, results awaited, then the commit of the poll.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/singleflight"
)

const inFlight = 256

type request struct {
	ID     string          `json:"id"`
	URL    string          `json:"url"`
	Checks json.RawMessage `json:"checks"`
}

type asked struct {
	Method string `json:"method"`
	URL    string `json:"url"`
}

type check struct {
	Name  string         `json:"name"`
	Args  map[string]any `json:"args,omitempty"`
	Value any            `json:"value"`
}

type result struct {
	ID       string          `json:"id"`
	Outcome  string          `json:"outcome"`
	Request  asked           `json:"request"`
	Status   int             `json:"status"`
	Document json.RawMessage `json:"document"`
	Checks   []check         `json:"checks,omitempty"`
	Cache    string          `json:"cache"`
	Age      float64         `json:"age"`
}

type document struct {
	body    json.RawMessage
	fetched time.Time
	checks  []check
}

type worker struct {
	client   *kgo.Client
	upstream *http.Client
	results  string
	known    sync.Map
	flights  singleflight.Group
	slots    chan struct{}
}

// fetch returns the document of a URL, with the results of its checks if the request has any.
func (w *worker) fetch(ctx context.Context, r request) (*document, error) {
	call, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL, nil)
	if err != nil {
		return nil, err
	}
	response, err := w.upstream.Do(call)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	found := &document{body: body, fetched: time.Now()}
	if r.Checks != nil {
		var members map[string]any
		if err := json.Unmarshal(body, &members); err != nil {
			return nil, err
		}
		sorted, _ := json.Marshal(members) // Go sorts the keys of a map
		sum := sha256.Sum256(sorted)
		found.checks = []check{
			{Name: "sha256", Value: hex.EncodeToString(sum[:])},
			{Name: "length", Args: map[string]any{"high": 9}, Value: len(members) <= 9},
		}
	}
	w.known.Store(r.URL, found)
	return found, nil
}

func (w *worker) publish(ctx context.Context, record *kgo.Record, r request, found *document, cache string, done *sync.WaitGroup) {
	if r.ID == "" {
		r.ID = fmt.Sprintf("%s-%d-%d", record.Topic, record.Partition, record.Offset)
	}
	value, err := json.Marshal(result{r.ID, "ok", asked{"GET", r.URL}, 200, found.body, found.checks, cache,
		math.Round(time.Since(found.fetched).Seconds()*10) / 10})
	if err != nil {
		log.Fatal(err)
	}
	out := &kgo.Record{Topic: w.results, Partition: record.Partition, Key: record.Key, Value: value,
		Headers: []kgo.RecordHeader{{Key: "ce_specversion", Value: []byte("1.0")}, {Key: "ce_type", Value: []byte("millrace.result")},
			{Key: "ce_source", Value: []byte("/go")}, {Key: "content-type", Value: []byte("application/json")}, {Key: "ce_id", Value: []byte(r.ID)}}}
	w.client.Produce(ctx, out, func(_ *kgo.Record, err error) {
		if err != nil {
			log.Fatal(err)
		}
		done.Done()
	})
}

func (w *worker) answer(ctx context.Context, record *kgo.Record, done *sync.WaitGroup) {
	var r request
	if err := json.Unmarshal(record.Value, &r); err != nil {
		log.Fatal(err)
	}
	if found, ok := w.known.Load(r.URL); ok {
		w.publish(ctx, record, r, found.(*document), "hit", done)
		return
	}
	w.slots <- struct{}{}
	go func() {
		defer func() { <-w.slots }()
		found, err, shared := w.flights.Do(r.URL, func() (any, error) { return w.fetch(ctx, r) })
		if err != nil {
			log.Fatal(err)
		}
		cache := "miss"
		if shared {
			cache = "coalesced"
		}
		w.publish(ctx, record, r, found.(*document), cache, done)
	}()
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	client, err := kgo.NewClient(kgo.SeedBrokers(os.Getenv("KAFKA_BOOTSTRAP_SERVERS")),
		kgo.ConsumerGroup(os.Getenv("MILLRACE_GROUP")), kgo.ConsumeTopics(os.Getenv("MILLRACE_REQUESTS_TOPIC")),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(5*time.Millisecond),
		kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		log.Fatal(err)
	}
	defer client.CloseAllowingRebalance()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, inFlight
	w := &worker{client: client, upstream: &http.Client{Transport: transport, Timeout: 30 * time.Second},
		results: os.Getenv("MILLRACE_RESULTS_TOPIC"), slots: make(chan struct{}, inFlight)}
	for ctx.Err() == nil {
		fetches := client.PollRecords(ctx, 10_000)
		if fetches.IsClientClosed() || ctx.Err() != nil {
			return
		}
		var done sync.WaitGroup
		done.Add(fetches.NumRecords())
		fetches.EachRecord(func(record *kgo.Record) { w.answer(context.Background(), record, &done) })
		done.Wait()
		if err := client.CommitUncommittedOffsets(context.Background()); err != nil {
			log.Fatal(err)
		}
		client.AllowRebalance()
	}
}
